"""`holdover service`: run the daemon under systemd, shut in, watched, and started again."""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdover.runtime.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from holdover.apps.config import Config

NAME = "holdover"
UNIT = Path("/etc/systemd/system/holdover.service")
CONFIG = Path("/etc/holdover/holdover.toml")
PASSWORD = Path("/etc/holdover/mqtt-password")
HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
HIDDEN = (*HOMES, Path("/tmp"), Path("/var/tmp"))
"""Places of which the service sees only what is named."""
CREDENTIALS = {"mqtt-password": "password_file", "mqtt-key": "key_file"}
"""What systemd hands over that no other user may read, and the options in whose place it comes."""
GROUPS = {"tty": "dialout", "i2c": "i2c", "spidev": "spi", "gpiochip": "gpio", "video": "video"}
"""Who owns a device on Raspberry Pi OS, by the beginning of its name; used where it is not plugged in."""
WIRES: dict[str, tuple[str, dict[str, Any]]] = {
    "ads1115": ("/dev/i2c-{bus}", {"bus": 1}),
    "ads1292r": ("/dev/spidev{bus}.{device}", {"bus": 0, "device": 0}),
    "max30003": ("/dev/spidev{bus}.{device}", {"bus": 0, "device": 0}),
}
"""The devices of chips, which are configured by number, and the numbers that are usual."""
CALLERS, ANYWHERE = ("tcp", "mqtt"), ("udp", "lsl", "brainflow")
"""Sources that call the host they name, and those whose addresses are not known beforehand."""
HOT = ("ttyUSB", "ttyACM")
"""Devices that come and go: allowed by their kind, since a node that is not there yet cannot be."""

EPILOG = """\
install    write the unit; it runs once you say: systemctl enable --now holdover
status     what systemd says of it; 'holdover status' asks the daemon itself
logs       its log; with --follow as it comes
uninstall  stop it and remove the unit; the ledger in /var/lib/holdover stays

The password is read from a file that root alone may read, as a credential;
CONFIG itself must be readable by all, and holds none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover service`."""
    parser.add_argument("action", choices=list(ACTIONS), help="what to do, see below")
    parser.add_argument(
        "config", nargs="?", type=Path, default=CONFIG, metavar="CONFIG.toml", help=f"to run with (default: {CONFIG})"
    )
    parser.add_argument("--device", action="append", default=[], metavar="/dev/...", help="that a source needs, too")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--root", type=Path, metavar="DIR", help="write below DIR, as for an image; asks no systemd")
    parser.add_argument("--follow", action="store_true", help="logs: go on as they come")


def run(args: argparse.Namespace) -> int:
    """Do it; returns the exit code.

    Raises
    ------
    UsageError
        This is not root, or the machine does not run systemd.
    ConfigError
        The configuration cannot be read, or cannot be run as a service.
    """
    return ACTIONS[args.action](args)


def settle(config: "Config", folder: Path, environ: Mapping[str, str]) -> None:
    """Put into a configuration what systemd gives a service: the folder of the ledger, and credentials.

    Parameters
    ----------
    folder
        Of the configuration: a ledger below it lies in the state folder instead.
    environ
        With STATE_DIRECTORY and CREDENTIALS_DIRECTORY, or neither.

    Raises
    ------
    ConfigError
        The password would travel in clear.
    """
    ledger = Path(config.ledger.path)
    if (state := environ.get("STATE_DIRECTORY", "").partition(":")[0]) and ledger.is_relative_to(folder):
        config.ledger.path = str(Path(state) / ledger.name)
    given = environ.get("CREDENTIALS_DIRECTORY")
    for name, option in CREDENTIALS.items() if given else ():
        wanted = config.mqtt.username if option == "password_file" else config.mqtt.cert_file
        if wanted and (file := Path(given or "", name)).is_file():
            setattr(config.mqtt, option, str(file))
    config.mqtt.check()


@dataclass(frozen=True)
class Needs:
    """What a configuration needs of the machine.

    Attributes
    ----------
    command
        That runs the daemon.
    credentials
        By name, the file that systemd reads.
    devices
        Nodes in /dev.
    hosts
        Addresses that are spoken to or listened on; None: any, as names must be looked up.
    seen
        Files and folders to be read that the service would not see.
    """

    command: Sequence[str]
    credentials: Mapping[str, Path]
    devices: Sequence[Path]
    hosts: Sequence[str] | None
    seen: Sequence[Path]


def needs(config: "Config", path: Path, python: Path, trees: Iterable[Path] = (), devices: Iterable[str] = ()) -> Needs:
    """What a configuration at `path` needs, run by `python` whose files lie in `trees`.

    Raises
    ------
    ConfigError
        It cannot be run as a service.
    """
    m = config.mqtt
    for stream in config.streams:
        if stream.source["kind"] == "stdin":
            raise ConfigError(f"stream {stream.id} reads standard input, and a service has none: choose another source")
    credentials: dict[str, Path] = {}
    if m.username:
        credentials["mqtt-password"] = Path(m.password_file or PASSWORD).absolute()
    if m.key_file:
        credentials["mqtt-key"] = Path(m.key_file).absolute()
    for name, file in credentials.items():
        if _is_below(file, HIDDEN):
            raise ConfigError(
                f"{CREDENTIALS[name]} {file} cannot be seen by a service: move it to /etc/holdover/{name}"
            )
    sources = [stream.source for stream in config.streams]
    read = [path, *trees, *map(Path, (f for f in (m.ca_file, m.cert_file) if f))]
    read += [Path(str(s["path"])).expanduser().parent for s in sources if "path" in s]
    read += [Path(config.model)] if config.model and "/" in config.model else []
    return Needs(
        (str(python), "-I", "-m", "holdover", "run", str(path)),
        credentials,
        sorted({Path(str(d)) for d in (*devices, *(v for s in sources for v in _named(s))) if _is_device(d)}),
        None
        if any(s["kind"] in ANYWHERE for s in sources)
        else _hosts([m.host, *(str(s.get("host", "127.0.0.1")) for s in sources if s["kind"] in CALLERS)]),
        sorted({tree.absolute() for tree in read if _is_below(tree.absolute(), HIDDEN)}),
    )


def _named(source: dict[str, Any]) -> Iterator[object]:
    """What of a source may be a device: its options, and the wires that its numbers mean."""
    yield from source.values()
    if source["kind"] in WIRES:
        path, usual = WIRES[source["kind"]]
        yield path.format(**(usual | source))
    if "ready_line" in source:
        yield f"/dev/gpiochip{source.get('gpio_chip', 0)}"


def _is_device(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/dev/")


def _is_below(path: Path, places: Iterable[Path]) -> bool:
    return any(path.is_relative_to(place) for place in places)


def _hosts(hosts: Iterable[str]) -> list[str] | None:
    found = {"localhost" if host == "localhost" else host for host in hosts}
    try:
        numbers = {host: ip_address(host) for host in found - {"localhost"}}
    except ValueError:
        return None
    if any(number.is_unspecified for number in numbers.values()):
        return None
    return ["localhost", *sorted(host for host, number in numbers.items() if not number.is_loopback)]


def unit(needs: Needs) -> str:
    """The unit: the text of `service/holdover.service`, with what these needs change in it."""
    changes = _changes(needs)
    said: list[str] = []
    for line in (files("holdover.apps") / "service" / "holdover.service").read_text().splitlines():
        said += changes.get(line.partition("=")[0], [line])
    return "\n".join(said) + "\n"


def _changes(needs: Needs) -> dict[str, list[str]]:
    """Lines in the place of others, by their keys."""
    families = "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"
    changes = {
        "ExecStart": ["ExecStart=" + " ".join(map(_word, needs.command))],
        "LoadCredential": [f"LoadCredential={name}:{_escaped(file)}" for name, file in needs.credentials.items()],
    }
    if needs.hosts is not None:
        changes["RestrictAddressFamilies"] = [
            families, "IPAddressDeny=any", f"IPAddressAllow={' '.join(needs.hosts)}"
        ]  # fmt: skip
    if needs.seen:
        home = "tmpfs" if any(_is_below(path, HOMES) for path in needs.seen) else "yes"
        changes["ProtectHome"] = [f"ProtectHome={home}", *(f"BindReadOnlyPaths={_word(path)}" for path in needs.seen)]
    if needs.devices:
        groups = _groups(needs.devices)
        changes["PrivateUsers"] = []  # or the groups of the devices would not count
        changes["PrivateDevices"] = ["PrivateDevices=no"]
        changes["DevicePolicy"] = [
            "DevicePolicy=closed", *dict.fromkeys(f"DeviceAllow={_escaped(_kind(d))} rw" for d in needs.devices),
            *([f"SupplementaryGroups={' '.join(groups)}"] if groups else []),
        ]  # fmt: skip
    return changes


def _kind(device: Path) -> Path | str:
    """How a device is allowed: by its node, or by its kind if it comes and goes."""
    name = device.resolve().name
    return next((f"char-{kind}" for kind in HOT if name.startswith(kind)), device)


def _groups(devices: Iterable[Path]) -> list[str]:
    return sorted({group for device in devices if (group := _group(device))})


def _is_group(name: str) -> bool:
    import grp

    return any(entry.gr_name == name for entry in grp.getgrall())


def _group(device: Path) -> str | None:
    import grp

    try:
        group = grp.getgrgid(device.stat().st_gid).gr_name
    except (OSError, KeyError):
        group = next((group for name, group in GROUPS.items() if device.name.startswith(name)), "root")
    return None if group == "root" else group


def _escaped(text: object) -> str:
    said = str(text)
    if not said.isprintable():
        raise UsageError(f"{said!r} cannot stand in a unit: rename it")
    return said.replace("%", "%%")


def _word(text: object) -> str:
    """A word of a command line in a unit, as systemd.syntax(7) has it.

    >>> _word("/etc/holdover.toml"), _word("/srv/100% $mine/h.toml")
    ('/etc/holdover.toml', '"/srv/100%% $$mine/h.toml"')
    """
    said = _escaped(text).replace("$", "$$")
    if not set(said) & set(" \"'\\;"):
        return said
    return '"' + said.replace("\\", r"\\").replace('"', r"\"") + '"'


def _install(args: argparse.Namespace) -> int:
    from holdover.apps.config import read_config

    path = args.config.absolute()
    config = read_config(path)
    found = needs(config, path, Path(sys.executable), _trees(), args.device)
    text = unit(found)
    if args.dry_run:
        print(f"# would be written to {_place(args)}\n{text}", end="")
        print("\n".join(_explained(config, found)), file=sys.stderr)
        return 0
    _demand_root(args)
    _check_readable(path)
    place = _place(args)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o644)
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror}") from error
    print(f"wrote {place}")
    print("\n".join(_explained(config, found)))
    if args.root is None:
        _systemctl("daemon-reload")
    print("\n".join(_next_steps(found)))
    return 0


def _explained(config: "Config", found: Needs) -> Iterator[str]:
    yield f"runs     {' '.join(found.command)}"
    yield "as       a user that exists while it runs; it may write /var/lib/holdover alone"
    yield f"devices  {', '.join(map(str, found.devices)) or 'none'}"
    yield f"network  {'any host' if found.hosts is None else ', '.join(found.hosts)}; broker {config.mqtt.address}"
    for name, file in found.credentials.items():
        yield f"secret   {name} from {file}"
    for path in found.seen:
        yield f"reads    {path}"


def _next_steps(found: Needs) -> Iterator[str]:
    yield "next:"
    for file in found.credentials.values():
        if not file.exists():
            yield f"  sudo install -m 600 /dev/stdin {file}   # type it, then Ctrl-D"
    for group in _groups(found.devices):
        if not _is_group(group):
            yield f"  sudo groupadd --system {group}   # or the unit does not start: the device's owner is missing"
    yield f"  sudo systemctl enable --now {NAME}"
    yield "  holdover service status; sudo holdover status"


def _uninstall(args: argparse.Namespace) -> int:
    place = _place(args)
    if not place.exists():
        print(f"there is no {place}: nothing to do")
        return 0
    if args.dry_run:
        print(f"would stop {NAME} and remove {place}; /var/lib/{NAME} would stay")
        return 0
    _demand_root(args)
    if args.root is None:
        _systemctl("disable", "--now", NAME)
    place.unlink()
    if args.root is None:
        _systemctl("daemon-reload")
    print(f"removed {place}; the ledger stays in /var/lib/{NAME}: remove it with sudo rm -r /var/lib/private/{NAME}")
    return 0


def _status(args: argparse.Namespace) -> int:
    return _show(args, ["systemctl", "status", "--no-pager", "--full", NAME])


def _logs(args: argparse.Namespace) -> int:
    return _show(args, ["journalctl", "--unit", NAME, "--no-pager", "--lines", "100", *["--follow"] * args.follow])


ACTIONS = {"install": _install, "status": _status, "logs": _logs, "uninstall": _uninstall}


def _show(args: argparse.Namespace, command: list[str]) -> int:
    if args.dry_run:
        print("would run:", " ".join(command))
        return 0
    _demand_systemd()
    return subprocess.run(command, check=False).returncode


def _place(args: argparse.Namespace) -> Path:
    root: Path | None = args.root
    return root / UNIT.relative_to("/") if root else UNIT


def _trees() -> list[Path]:
    """Where this interpreter and this package lie."""
    package = (Path(place).resolve() for place in (str(files("holdover")), str(files("holdover.apps"))))
    return [Path(sys.prefix), Path(sys.base_prefix), *(place.parent for place in package)]


def _check_readable(path: Path) -> None:
    if not path.stat().st_mode & 0o004:
        raise ConfigError(
            f"{path} is read by the service's own user, who may not: chmod 644 {path} (it holds no secret)"
        )


def _demand_root(args: argparse.Namespace) -> None:
    if args.root is not None:
        return
    _demand_systemd()
    if os.geteuid() != 0:
        raise UsageError(f"this needs root: sudo {sys.executable} -m holdover service {args.action} ...")


def _demand_systemd() -> None:
    if not Path("/run/systemd/system").is_dir():
        raise UsageError(
            "this machine does not run systemd: --dry-run shows the unit, --root DIR writes it for another machine; "
            "here, run 'holdover run CONFIG' under whatever starts services"
        )


def _systemctl(*words: str) -> None:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"systemctl {' '.join(words)} failed: {done.stderr.strip() or done.returncode}")
