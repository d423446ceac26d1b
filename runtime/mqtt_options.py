"""Which MQTT broker, how to speak to it, and what may stand in a topic."""

import ipaddress
import re
from pathlib import Path
from typing import Literal

import msgspec

from holdover.runtime.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_LEVELS = 16


class MqttOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which broker, and how to speak to it.

    Attributes
    ----------
    base
        First level of all topics.
    client_id
        None: made from the node's name.
    password_file
        A file whose first line is the password.
    tls
        None: on for any host that is not this one.
    ca_file, cert_file, key_file
        PEM files: whom to trust instead of the system's list, and who we are to a broker that asks.
    version
        Of MQTT.
    keepalive_s
        A broker that is silent for twice as long counts as gone.
    will_delay_s
        With MQTT 5, a node that is gone for longer is called offline; a quick restart is not told.
    allow_plain_password
        Send a password to another host without TLS.
    confirm
        An alert is done only when a subscriber says that it has stored it (`holdover alerts --confirm`); until then it
        is sent again after each reconnect, since a broker may lose what it has acknowledged.
    """

    host: str = "localhost"
    port: int = 1883
    base: str = "holdover"
    client_id: str | None = None
    username: str | None = None
    password_file: str | None = None
    tls: bool | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    version: Literal["5", "3.1.1"] = "5"
    keepalive_s: int = 30
    will_delay_s: int = 10
    allow_plain_password: bool = False
    confirm: bool = False

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.tls if self.tls is not None else not is_this_host(self.host)

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"

    def check(self) -> None:
        """Refuse what cannot be.

        Raises
        ------
        ConfigError
            A missing file, an impossible port, base or keepalive, or a password that would travel in clear.
        """
        if not 0 < self.port < 65536:
            raise ConfigError(f"mqtt port is {self.port}, expected 1 to 65535 (usually 1883, or 8883 with TLS)")
        if not 1 <= self.keepalive_s < 65536:
            raise ConfigError(f"mqtt keepalive_s is {self.keepalive_s}, expected 1 to 65535 seconds")
        if not 0 <= self.will_delay_s <= 3600:
            raise ConfigError(f"mqtt will_delay_s is {self.will_delay_s}, expected 0 to 3600 seconds")
        levels = self.base.split("/")
        if len(levels) > MOST_LEVELS:
            raise ConfigError(f"mqtt base has {len(levels)} levels, expected at most {MOST_LEVELS}")
        for level in levels:
            check_name("each level of mqtt base", level)
        for what in ("password_file", "ca_file", "cert_file", "key_file"):
            path = getattr(self, what)
            if path is not None and not Path(path).is_file():
                raise ConfigError(f"mqtt {what}: no file {path}; correct the path or remove the option")
        if self.password_file and not self.username:
            raise ConfigError("mqtt password_file is given without a username: give both")
        if self.password_file and not (self.uses_tls or is_this_host(self.host) or self.allow_plain_password):
            raise ConfigError(
                f"the password would travel to {self.host} in clear: set tls = true, "
                "or allow_plain_password = true if the network is yours alone"
            )

    def password(self) -> str | None:
        """The password, read anew; None without a file.

        Raises
        ------
        ConfigError
            The file cannot be read.
        """
        if self.password_file is None:
            return None
        try:
            return Path(self.password_file).read_text().split("\n", 1)[0].rstrip("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"mqtt password_file {self.password_file} cannot be read: {error}") from error


def check_name(what: str, name: str) -> None:
    """Refuse a name that cannot stand in a topic.

    Raises
    ------
    ConfigError
        It is not 1 to 64 of A-Z a-z 0-9 _ -.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(f"{what} is {name!r}, expected 1 to 64 letters (A-Z, a-z), digits, _ or -")


def is_this_host(host: str) -> bool:
    """Whether a host name or address means this machine.

    Examples
    --------
    >>> is_this_host("127.0.0.2"), is_this_host("::1"), is_this_host("broker.example")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "localhost.")
