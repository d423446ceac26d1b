"""A web address of the user's to which each alert is posted."""

import http.client
import socket
import ssl
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from holdover import __version__
from holdover.runtime.errors import UsageError
from holdover.runtime.mqtt_options import is_this_host

PORTS = {"http": 80, "https": 443}
EXAMPLE = "https://example.org/alerts"


class Webhook:
    """Posts an alert as JSON, with its event id as the header Idempotency-Key; any status of 200 to 299 is a success.

    Parameters
    ----------
    url
        Without a scheme: https, and http for this machine.
    token_file
        Its first line is sent as a bearer token.
    allow_plain
        Send also to another machine without TLS.
    limit_s
        For all of it, from the connection to the answer.

    Raises
    ------
    UsageError
        A URL that cannot be, carries a password, or would send alerts through a network in clear.
    """

    def __init__(
        self, url: str, *, token_file: str | None = None, allow_plain: bool = False, limit_s: float = 15.0
    ) -> None:
        self.scheme, self.host, self.port, self.path = _parsed(url, allow_plain)
        self.limit_s = limit_s
        self._token_file = Path(token_file) if token_file else None
        if self._token_file:
            self._token()

    def run(self, content: dict[str, Any]) -> str:
        """Post it and wait for the answer; "" or what went wrong, in words."""
        try:
            return self._post(msgspec.json.encode(content), content["event_id"])
        except ssl.SSLCertVerificationError as error:
            return f"the certificate of {self.host} is not trusted ({error.verify_message})"
        except TimeoutError:
            return f"no answer within {self.limit_s:g} s"
        except http.client.HTTPException as error:
            return f"what answers at {self.host}:{self.port} is no web server ({type(error).__name__})"
        except OSError as error:
            return f"cannot reach {self.host}:{self.port} ({error.strerror or error})"
        except UsageError as error:
            return str(error)

    def close(self) -> None:
        """Do nothing: what is under way has its limit, and ends with the process."""

    def _post(self, body: bytes, event_id: str) -> str:
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": quote(event_id, safe="!#$&'()*+,/:;=?@[]-._~ "),
            "User-Agent": f"holdover/{__version__}",
        }
        if self._token_file:
            headers["Authorization"] = f"Bearer {self._token()}"
        cut = threading.Event()
        sock = socket.create_connection((self.host, self.port), timeout=self.limit_s)
        # The copy stays valid when TLS takes the socket over, so that a peer that drips can be cut off at any time.
        with sock.dup() as handle:
            timer = threading.Timer(self.limit_s, _cut, (handle, cut))
            timer.daemon = True
            timer.start()
            try:
                return self._ask(sock, body, headers)
            except (OSError, http.client.HTTPException) as error:
                if cut.is_set():
                    raise TimeoutError from error
                raise
            finally:
                timer.cancel()
                timer.join()
                sock.close()

    def _ask(self, sock: socket.socket, body: bytes, headers: dict[str, str]) -> str:
        if self.scheme == "https":
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=self.host)
        with sock, closing(http.client.HTTPConnection(self.host, self.port)) as connection:
            connection.default_port = PORTS[self.scheme]
            connection.sock = sock
            connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            return "" if 200 <= answer.status < 300 else f"answered {answer.status} {answer.reason[:100]}".rstrip()

    def _token(self) -> str:
        """The token, read anew each time, so that it can be changed."""
        path = self._token_file
        assert path
        try:
            token = path.read_text("ascii").split("\n", 1)[0].strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--webhook-token-file {path} cannot be read ({error}): correct the path") from error
        if not token or not token.isprintable():
            raise UsageError(f"--webhook-token-file {path} has no token in its first line: write it there")
        return token


def _cut(sock: socket.socket, cut: threading.Event) -> None:
    cut.set()
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _parsed(url: str, allow_plain: bool) -> tuple[str, str, int, str]:
    """Scheme, host, port and path."""
    given = url if "://" in url else f"//{url}"
    try:
        parts = urlsplit(given)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--webhook {url!r}: {error}; expected such as {EXAMPLE}") from error
    if not host or parts.scheme not in ("", *PORTS) or not url.isprintable() or not url.isascii() or " " in url:
        raise UsageError(f"--webhook {url!r} is no web address: expected such as {EXAMPLE}")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "--webhook: a password in the address can be seen by all users of this machine: "
            "put a token into a file and name it with --webhook-token-file"
        )
    scheme = parts.scheme or ("http" if is_this_host(host) else "https")
    if scheme == "http" and not is_this_host(host) and not allow_plain:
        raise UsageError(
            f"--webhook: alerts would travel to {host} in clear: use https://, "
            "or --allow-plain-webhook if the network is yours alone"
        )
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return scheme, host, PORTS[scheme] if port is None else port, path
