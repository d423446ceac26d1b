"""`--exec` and `--webhook` get each alert at least once, in order within a stream, and delay no other."""

import http.server
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from holdover.apps.broker import Broker
from holdover.apps.subscribe import main
from holdover.apps.subscriber import errands as errands_module
from holdover.apps.subscriber.errands import Errands
from holdover.apps.subscriber.hook import Hook
from holdover.apps.subscriber.inbox import Errand, Inbox, Letter
from holdover.apps.subscriber.webhook import Webhook
from holdover.runtime.errors import UsageError
from tests.brokers import Subscriber, mosquitto, publish, wait_until


@pytest.fixture
def broker() -> Iterator[Broker]:
    with mosquitto() as running:
        yield running


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errands_module, "BACKOFF_S", (0.02, 0.05))


def tell(broker: Broker, *ids: str, stream: str = "ecg", **more: Any) -> None:
    for event_id in ids:
        content = {"event_id": event_id, "label": "pause", "priority": "high"} | more
        publish(broker, f"holdover/pi/streams/{stream}/alert", json.dumps(content).encode())


def waiting(folder: Path) -> list[str]:
    with closing(Inbox(folder / "alerts.db")) as inbox:
        return [f"{inbox.content(errand.alert)['event_id']} for {errand.hook}" for errand in inbox.errands()]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


class Server(http.server.ThreadingHTTPServer):
    """A web server that keeps what is posted, and answers as it is told."""

    def __init__(self, answer: Callable[[str], int] = lambda _: 204, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Poster)
        self.answer, self.posts = answer, list[tuple[str, dict[str, str], Any]]()
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.port = int(self.server_address[1])

    @property
    def keys(self) -> list[str]:
        return [headers["Idempotency-Key"] for _, headers, _ in self.posts]

    def handle_error(self, *_: Any) -> None:
        """A client that leaves is none of the test's business."""


class Poster(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posts.append((self.path, dict(self.headers), body))
        status = self.server.answer(body["event_id"])
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def serving(*args: Any) -> Iterator[Server]:
    with Server(*args) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_command_that_fails_is_run_again_while_the_next_of_its_stream_waits(broker: Broker, tmp_path: Path) -> None:
    log, fine = tmp_path / "hook.log", tmp_path / "fine"
    hook = f'read line; echo "$HOLDOVER_EVENT_ID ${{#line}}" >> {log}; test $HOLDOVER_EVENT_ID != a || test -e {fine}'
    with Subscriber(broker, tmp_path, "--exec", hook) as subscriber:
        subscriber.listening()
        tell(broker, "a", "b")
        tell(broker, "c", stream="bed")
        wait_until(lambda: len(lines(log)) >= 3, "a has failed twice, c is done")
        words = [line.split()[0] for line in lines(log)]
        assert "c" in words
        assert "b" not in words
        assert len(subscriber.alerts()) == 3, "what fails delays no receipt"
        assert "--exec failed once for a of pi/ecg: exit status 1; it is tried again" in subscriber.talk()
        fine.touch()
        wait_until(lambda: "b" in lines(log)[-1], "b comes after a")
        assert subscriber.stop() == 0
    words = [line.split()[0] for line in lines(log)]
    assert sorted(set(words)) == ["a", "b", "c"]
    assert words[-2:] == ["a", "b"]
    assert all(int(line.split()[1]) > 40 for line in lines(log))
    assert waiting(tmp_path) == []


def test_what_failed_is_done_at_the_next_start(broker: Broker, tmp_path: Path) -> None:
    log, fine = tmp_path / "hook.log", tmp_path / "fine"
    hook = f"echo $HOLDOVER_EVENT_ID >> {log}; test -e {fine}"
    with Subscriber(broker, tmp_path, "--exec", hook, "--count", "2", "--wait", "20") as subscriber:
        subscriber.listening()
        tell(broker, "a", "b")
        assert subscriber.end() == 0
        assert "2 wait for the next start" in subscriber.talk().splitlines()[-1]
    assert waiting(tmp_path) == ["a for exec", "b for exec"]
    fine.touch()
    for _ in range(2):
        with Subscriber(broker, tmp_path, "--exec", hook, "--wait", "0.3") as subscriber:
            assert subscriber.end() == 0
        assert lines(log)[-2:] == ["a", "b"]
    assert lines(log).count("b") == 1
    assert waiting(tmp_path) == []


def test_alerts_from_before_there_was_a_hook_are_not_handled_later(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--count", "1", "--wait", "20") as subscriber:
        subscriber.listening()
        tell(broker, "a")
        assert subscriber.end() == 0
    with Subscriber(broker, tmp_path, "--exec", f"touch {tmp_path}/ran", "--wait", "0.5") as subscriber:
        assert subscriber.end() == 0
    assert not (tmp_path / "ran").exists()


def test_hooks_get_what_passes_the_filter_and_the_store_gets_all(broker: Broker, tmp_path: Path) -> None:
    log = tmp_path / "hook.log"
    hook = ("--exec", f"echo $HOLDOVER_EVENT_ID >> {log}", "--priority", "medium", "--stream", "pi/e*")
    with Subscriber(broker, tmp_path, *hook, "--count", "2", "--wait", "20") as subscriber:
        subscriber.listening()
        tell(broker, "low", priority="low")
        tell(broker, "other", stream="bed")
        tell(broker, "medium", priority="medium")
        tell(broker, "unknown", priority="grave")
        assert subscriber.end() == 0
        assert [alert["event_id"] for alert in subscriber.alerts()] == ["medium", "unknown"]
        assert subscriber.talk().splitlines()[-1] == "2 alerts, 2 not shown"
    assert lines(log) == ["medium", "unknown"]
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        assert inbox.db.execute("SELECT count(*) FROM alert").fetchone() == (4,)


def test_a_command_that_hangs_does_not_outlive_the_subscriber(broker: Broker, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with Subscriber(broker, tmp_path, "--exec", f"touch {mark}; sleep 50; touch {mark}-later") as subscriber:
        subscriber.listening()
        tell(broker, "a")
        wait_until(mark.exists, "it runs")
        tell(broker, "b")
        wait_until(lambda: len(subscriber.alerts()) == 2, "b is received meanwhile")
        began = time.monotonic()
        assert subscriber.stop() == 0
        assert time.monotonic() - began < 8
    assert waiting(tmp_path) == ["a for exec", "b for exec"]


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started() -> None:
    began = time.monotonic()
    assert Hook("sleep 30 & sleep 30; true", limit_s=0.2).run({"event_id": "a"}) == "killed after 0.2 s"
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("soon")
def test_a_hook_that_cannot_be_started_is_a_failure_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOO_LONG", "x" * 200_000)
    said: list[str] = []
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        inbox.store([Letter("a", "pi", "ecg", 1, {"event_id": "a"})], 0.0, lambda _: ("exec",))
        errands = Errands(inbox, {"exec": Hook("true")}, said.append)
        wait_until(lambda: errands.turn() or len(said) > 1, "it has failed twice")
        assert "cannot be started (Argument list too long)" in said[0]
        assert [errand.hook for errand in inbox.errands()] == ["exec"]
        monkeypatch.delenv("TOO_LONG")
        wait_until(lambda: errands.turn() or not errands.waiting, "it is done")
        assert inbox.errands() == []
        errands.close(1.0)


@pytest.mark.usefixtures("soon")
def test_what_always_fails_is_given_up_and_what_follows_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    log = tmp_path / "hook.log"
    letters = [Letter(key, "pi", "ecg", n, {"event_id": key, "label": "af"}) for n, key in enumerate("abc", 1)]
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        inbox.store(letters, 1.7e9, lambda _: ("exec",))
        hook = Hook(f"echo $HOLDOVER_EVENT_ID >> {log}; test $HOLDOVER_EVENT_ID != b")
        errands = Errands(inbox, {"exec": hook}, said.append, tries=3)
        given_up: list[Errand] = []
        wait_until(lambda: given_up.extend(errands.turn()) or not errands.waiting, "all are dealt with")
        assert [inbox.content(errand.alert)["event_id"] for errand in given_up] == ["b"]
        assert inbox.errands() == []
        errands.close(1.0)
    assert lines(log) == ["a", "b", "b", "b", "c"], "in order, and three times"
    assert said[-1].startswith("--exec failed 3 times for b of pi/ecg: exit status 1; it is given up")
    assert main(["--no-follow", "--store", str(tmp_path / "alerts.db")]) == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == 3
    assert err.splitlines() == ["given up for b: --exec: exit status 1", "3 alerts, 1 hook failed"]


@pytest.mark.usefixtures("soon")
def test_without_a_limit_nothing_is_given_up_and_what_is_ended_has_not_failed(tmp_path: Path) -> None:
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        inbox.store([Letter("a", "pi", "ecg", 1, {"event_id": "a"})], 0.0, lambda _: ("exec",))
        said: list[str] = []
        errands = Errands(inbox, {"exec": Hook("false")}, said.append, tries=0)
        wait_until(lambda: errands.turn() or "failed 16 times" in "".join(said), "it is tried on")
        errands.close(1.0)
        last = Errands(inbox, {"exec": Hook("sleep 60")}, said.append, tries=1)
        last.turn()
        last.close(0.3)
        assert [errand.hook for errand in inbox.errands()] == ["exec"]


def test_a_subscriber_says_and_counts_what_a_hook_was_given_up_for(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--exec", "false", "--hook-tries", "1", "--wait", "20") as subscriber:
        subscriber.listening()
        tell(broker, "a", "b")
        wait_until(lambda: subscriber.talk().count("it is given up") == 2, "both are given up")
        assert subscriber.stop() == 0
        assert subscriber.talk().splitlines()[-1] == "2 alerts, 2 hook failed"
    assert waiting(tmp_path) == []


@pytest.mark.usefixtures("soon")
def test_each_stream_keeps_its_order_whatever_fails(tmp_path: Path) -> None:
    done: dict[str, list[str]] = {}
    tries: dict[str, int] = {}

    class Moody:
        """A hook of one's own: every third attempt succeeds, and one raises."""

        def run(self, content: dict[str, Any]) -> str:
            key = content["event_id"]
            tries[key] = tries.get(key, 0) + 1
            if tries[key] == 1 and key.endswith("3"):
                raise RuntimeError("a defect of the hook's")
            if tries[key] % 3:
                return "not now"
            done.setdefault(key.split()[0], []).append(key)
            return ""

        def close(self) -> None: ...

    letters = [
        Letter(f"s{n % 5} {n // 5}", "pi", f"s{n % 5}", None, {"event_id": f"s{n % 5} {n // 5}"}) for n in range(40)
    ]
    with closing(Inbox(tmp_path / "alerts.db")) as inbox:
        inbox.store(letters, 0.0, lambda _: ("webhook",))
        errands = Errands(inbox, {"webhook": Moody()}, lambda _: None)
        wait_until(lambda: errands.turn() or not errands.waiting, "all are done", 30)
        assert inbox.errands() == []
    assert done == {f"s{k}": [f"s{k} {n}" for n in range(8)] for k in range(5)}


def test_a_webhook_is_posted_each_alert_until_it_answers(broker: Broker, tmp_path: Path) -> None:
    bad = {"a": 2, "b": 1}

    def answer(key: str) -> int:
        bad[key] = bad.get(key, 0) - 1
        return 503 if bad[key] >= 0 else 200

    with serving(answer) as server:
        url = f"localhost:{server.port}/alerts?x=1"
        (tmp_path / "token").write_text("secret\n")
        token = ("--webhook-token-file", str(tmp_path / "token"))
        with Subscriber(broker, tmp_path, "--webhook", url, *token) as subscriber:
            subscriber.listening()
            tell(broker, "a", "b", "c")
            wait_until(lambda: "c" in server.keys, "all are posted")
            assert subscriber.stop() == 0
            assert "--webhook failed once for a of pi/ecg: answered 503" in subscriber.talk()
            assert "secret" not in subscriber.talk()
        assert server.keys == ["a", "a", "a", "b", "b", "c"]
        path, headers, body = server.posts[0]
        assert path == "/alerts?x=1"
        assert headers["Content-Type"] == "application/json"
        assert headers["Authorization"] == "Bearer secret"
        assert headers["Host"] == f"localhost:{server.port}"
        assert body == {"event_id": "a", "label": "pause", "priority": "high"}
    assert waiting(tmp_path) == []


def test_a_webhook_that_hangs_delays_no_receipt_and_gets_its_alert_after_a_kill(broker: Broker, tmp_path: Path) -> None:
    release = threading.Event()

    def answer(_key: str) -> int:
        release.wait(30)
        return 200

    with serving(answer) as server:
        url = f"http://127.0.0.1:{server.port}/"
        with Subscriber(broker, tmp_path, "--webhook", url) as subscriber:
            subscriber.listening()
            tell(broker, "a", "b", "c")
            wait_until(lambda: len(subscriber.alerts()) == 3 and server.keys, "received while the first hangs")
            subscriber.process.send_signal(signal.SIGKILL)
            subscriber.process.wait()
        release.set()
        assert waiting(tmp_path) == ["a for webhook", "b for webhook", "c for webhook"]
        with Subscriber(broker, tmp_path, "--webhook", url, "--wait", "0.3") as subscriber:
            assert subscriber.end() == 0
        assert server.keys == ["a", "a", "b", "c"]


def test_both_hooks_are_done_apart_from_each_other(broker: Broker, tmp_path: Path) -> None:
    with serving(lambda _: 500) as server:
        log = tmp_path / "hook.log"
        both = ("--webhook", f"http://127.0.0.1:{server.port}/", "--exec", f"echo $HOLDOVER_EVENT_ID >> {log}")
        with Subscriber(broker, tmp_path, *both, "--count", "2", "--wait", "20") as subscriber:
            subscriber.listening()
            tell(broker, "a", "b")
            assert subscriber.end() == 0
    assert lines(log) == ["a", "b"]
    assert waiting(tmp_path) == ["a for webhook", "b for webhook"]
    with Subscriber(broker, tmp_path, "--wait", "0.3") as subscriber:
        assert subscriber.end() == 0
        assert "2 alerts of an earlier run still wait for --webhook, which is not given now" in subscriber.talk()


def test_what_a_web_server_may_answer_is_told_in_words(tmp_path: Path) -> None:
    alert = {"event_id": "a \n\u00e9"}
    with serving(lambda _: 302) as server:
        assert Webhook(f"localhost:{server.port}").run(alert) == "answered 302 Found"
        assert [path for path, *_ in server.posts] == ["/"], "a redirect is not followed"
        assert server.keys == ["a %0A%C3%A9"]
    assert "cannot reach localhost" in Webhook(f"localhost:{server.port}").run(alert)
    assert "cannot reach nowhere.invalid" in Webhook("nowhere.invalid").run(alert)
    for said, words in (
        (b"SSH-2.0\r\n\r\n", "is no web server"),
        (b"", "is no web server"),
        (b"x" * 200_000, "is no web"),
    ):
        with _talking(said) as port:
            assert words in Webhook(f"localhost:{port}").run(alert)
    with _talking(b"SSH-2.0\r\n") as port:
        assert "cannot reach" in Webhook(f"https://localhost:{port}").run(alert)
    (tmp_path / "token").write_text("secret")
    hook = Webhook("localhost", token_file=str(tmp_path / "token"))
    (tmp_path / "token").unlink()
    assert "cannot be read" in hook.run(alert)


@contextmanager
def _talking(said: bytes, pause_s: float = 0.0) -> Iterator[int]:
    """A port at which each caller is told this, a byte at a time where there is a pause."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            try:
                caller = server.accept()[0]
            except OSError:
                return
            with caller:
                caller.settimeout(5.0)
                # All of the request, or the hello of TLS: to close on what is unread would reset the connection.
                heard = caller.recv(100_000)
                while not heard.startswith(b"\x16") and not heard.endswith(b"}"):
                    heard += caller.recv(100_000)
                try:
                    for part in [said[i : i + 1] for i in range(len(said))] if pause_s else [said]:
                        caller.sendall(part)
                        time.sleep(pause_s)
                except OSError:
                    return

        thread = threading.Thread(target=talk, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join(10)


DRIPS = {"http": b"HTTP/1.1 200 OK\r\n" * 50, "https": b"\x16\x03\x03\x3f\xff" + bytes(500)}


@pytest.mark.parametrize("scheme", DRIPS)
def test_a_web_server_that_drips_is_cut_off(scheme: str) -> None:
    with _talking(DRIPS[scheme], 0.05) as port:
        began = time.monotonic()
        assert Webhook(f"{scheme}://localhost:{port}", limit_s=0.5).run({"event_id": "a"}) == "no answer within 0.5 s"
        assert time.monotonic() - began < 3


CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out cert.pem -days 2 "
    "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
)


def test_https_posts_to_whom_it_trusts_and_to_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed (apt install openssl)")
    subprocess.run(CERTIFICATE.split(), cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(lambda _: 200, tls) as server:
        hook = Webhook(f"https://localhost:{server.port}/alerts")
        assert "the certificate of localhost is not trusted" in hook.run({"event_id": "a"})
        assert server.posts == []
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert hook.run({"event_id": "a"}) == ""
        assert "mismatch" in Webhook(f"https://127.0.0.1:{server.port}").run({"event_id": "b"})
        assert server.keys == ["a"]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("example.org/alerts", ("https", "example.org", 443, "/alerts")),
        ("localhost:8123/x?y=1", ("http", "localhost", 8123, "/x?y=1")),
        ("http://127.0.0.1", ("http", "127.0.0.1", 80, "/")),
        ("https://[::1]:9/a", ("https", "::1", 9, "/a")),
    ],
)
def test_another_machine_is_called_by_https(url: str, place: tuple[str, str, int, str]) -> None:
    hook = Webhook(url)
    assert (hook.scheme, hook.host, hook.port, hook.path) == place


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.org/", "in clear: use https://"),
        ("ftp://example.org/", "is no web address"),
        ("https://pi:secret@example.org/", "put a token into a file"),
        ("https://", "is no web address"),
        ("", "is no web address"),
        ("https://example.org/a b", "is no web address"),
        ("https://example.org/\r\nX: y", "is no web address"),
        ("https://example.org:port/", "expected such as"),
        ("https://example.org:99999/", "expected such as"),
        ("https://[::1/", "expected such as"),
        ("https://b\u00fccher.example/", "is no web address"),
    ],
)
def test_web_addresses_that_cannot_be_are_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Webhook(url)


def test_a_plain_address_elsewhere_must_be_asked_for(broker: Broker, tmp_path: Path) -> None:
    assert Webhook("http://example.org", allow_plain=True).port == 80
    for args, words in (
        (("--webhook", "http://example.org"), "--allow-plain-webhook if the network is yours alone"),
        (("--allow-plain-webhook",), "belong to --webhook URL"),
        (("--webhook", "localhost", "--webhook-token-file", str(tmp_path / "none")), "cannot be read"),
    ):
        with Subscriber(broker, tmp_path, *args) as subscriber:
            assert subscriber.end() == UsageError.exit_code
            assert words in subscriber.talk()
            assert len(subscriber.talk().splitlines()) == 1
