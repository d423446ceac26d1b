"""`holdover service`: the unit, what of it a configuration changes, and what the commands say and do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdover.apps.config import Config
from holdover.apps.service import needs, settle, unit
from holdover.runtime.errors import ConfigError, LedgerError, UsageError
from tests.processes import HOLDOVER, configure, from_tcp, holdover

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "apps" / "service" / "holdover.service").read_text()
MOST = 1.6
ETC = Path("/etc/holdover/holdover.toml")
PYTHON = Path("/opt/holdover/bin/python")
TCP = {"kind": "tcp", "port": 9000, "listen": True, "rate_hz": 250}
REMOTE = {"host": "broker.example", "username": "pi"}
HAS_SYSTEMD = Path("/run/systemd/system").is_dir()


def a_config(source: dict[str, Any] | None = None, mqtt: dict[str, Any] | None = None, **more: Any) -> Config:
    """One stream, to a broker elsewhere that asks a password."""
    return msgspec.convert(
        {"streams": [{"id": "bed", "source": source or TCP}], "mqtt": REMOTE if mqtt is None else mqtt, **more}, Config
    )


def written(config: Config, **more: Any) -> str:
    return unit(needs(config, ETC, PYTHON, **more))


def keys(text: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def exposure(text: str, folder: Path) -> float:
    """What systemd thinks of a unit, 0 (best) to 10."""
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("systemd-analyze is not installed (apt install systemd)")
    path = folder / "holdover.service"
    path.write_text(text)
    done = subprocess.run(
        [tool, "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True, text=True, check=False, env=os.environ | {"SYSTEMD_EMOJI": "0", "LC_ALL": "C"},
    )  # fmt: skip
    found = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    if not found:
        pytest.skip(f"this systemd-analyze judges no files: {done.stderr.strip()}")
    return float(found[1])


def test_the_unit_of_the_repository_is_what_is_written() -> None:
    assert written(a_config()) == TEXT


def test_other_paths_change_nothing_else() -> None:
    found = needs(
        a_config(mqtt=REMOTE | {"password_file": "/srv/pw"}), Path("/srv/my bed.toml"), Path("/usr/bin/python3")
    )
    changed = [(old, new) for old, new in zip(TEXT.splitlines(), unit(found).splitlines(), strict=True) if old != new]
    assert [new for _, new in changed] == [
        'ExecStart=/usr/bin/python3 -I -m holdover run "/srv/my bed.toml"', "LoadCredential=mqtt-password:/srv/pw",
    ]  # fmt: skip


UNITS: dict[str, dict[str, Any]] = {
    "network": {},
    "loopback": {"mqtt": {}},
    "serial": {"source": {"kind": "serial", "port": "/dev/ttyUSB0"}},
    "serial and home": {"source": {"kind": "serial", "port": "/dev/ttyUSB0"}, "trees": [Path("/home/pi/venv")]},
    "i2c, two devices": {"source": {"kind": "ads1115", "bus": "/dev/i2c-1"}, "devices": ["/dev/ttyAMA0"]},
}


@pytest.mark.parametrize("case", UNITS)
def test_systemd_finds_little_to_fear(case: str, tmp_path: Path) -> None:
    options = dict(UNITS[case])
    more = {key: options.pop(key) for key in ("trees", "devices") if key in options}
    found = exposure(written(a_config(**options), **more), tmp_path)
    print(f"{case}: {found}")
    assert found <= MOST


def test_a_unit_without_the_walls_would_be_feared(tmp_path: Path) -> None:
    bare = "\n".join(line for line in TEXT.splitlines() if not re.match("Protect|Private|Capab|System|Dynamic", line))
    assert exposure(bare, tmp_path) > MOST


@pytest.mark.parametrize("case", UNITS)
def test_systemd_reads_the_unit_without_a_complaint(case: str, tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if not tool:
        pytest.skip("systemd-analyze is not installed (apt install systemd)")
    options = dict(UNITS[case])
    more = {key: options.pop(key) for key in ("trees", "devices") if key in options}
    path = tmp_path / "holdover.service"
    path.write_text(unit(needs(a_config(**options), ETC, Path(sys.executable), **more)))
    done = subprocess.run([tool, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "holdover" in line]
    assert complaints == []


def test_devices_are_opened_one_by_one() -> None:
    assert keys(TEXT, "DeviceAllow") == []
    assert keys(TEXT, "PrivateDevices") == ["yes"]
    text = written(a_config({"kind": "serial", "port": "/dev/ttyUSB7"}), devices=["/dev/i2c-9"])
    assert keys(text, "DeviceAllow") == ["/dev/i2c-9 rw", "char-ttyUSB rw"], "what is plugged in later counts too"
    assert keys(text, "SupplementaryGroups") == ["dialout i2c"]
    assert keys(text, "PrivateDevices") == ["no"]
    assert keys(text, "DevicePolicy") == ["closed"]
    assert keys(text, "PrivateUsers") == []


def test_chips_get_the_wires_that_their_numbers_mean() -> None:
    chip = {"kind": "ads1292r", "bus": 1, "ready_line": 17}
    assert keys(written(a_config(chip)), "DeviceAllow") == ["/dev/gpiochip0 rw", "/dev/spidev1.0 rw"]
    assert keys(written(a_config({"kind": "ads1115"})), "DeviceAllow") == ["/dev/i2c-1 rw"]
    assert keys(written(a_config({"kind": "ads1115"})), "SupplementaryGroups") == ["i2c"]


@pytest.mark.parametrize(
    ("host", "source", "allowed"),
    [
        ("localhost", TCP, ["localhost"]),
        ("127.0.0.1", TCP, ["localhost"]),
        ("192.0.2.7", TCP, ["localhost 192.0.2.7"]),
        ("192.0.2.7", TCP | {"listen": False, "host": "2001:db8::1"}, ["localhost 192.0.2.7 2001:db8::1"]),
        ("localhost", TCP | {"host": "0.0.0.0"}, []),
        ("broker.example", TCP, []),
        ("localhost", TCP | {"host": "sensor.example"}, []),
        ("localhost", {"kind": "mqtt", "host": "192.0.2.9", "rate_hz": 250}, ["localhost 192.0.2.9"]),
        ("localhost", {"kind": "udp", "port": 9000, "rate_hz": 250}, []),
    ],
)
def test_the_network_is_as_wide_as_it_must_be(host: str, source: dict[str, Any], allowed: list[str]) -> None:
    text = written(a_config(source, {"host": host}))
    assert keys(text, "IPAddressAllow") == allowed
    assert keys(text, "IPAddressDeny") == ["any"] * len(allowed)


def test_secrets_are_handed_over_by_systemd() -> None:
    assert keys(written(a_config(mqtt={})), "LoadCredential") == []
    tls = {"host": "b.example", "username": "pi", "cert_file": "/etc/holdover/c.pem", "key_file": "/etc/holdover/k.pem"}
    text = written(a_config(mqtt=tls))
    assert keys(text, "LoadCredential") == ["mqtt-password:/etc/holdover/mqtt-password", "mqtt-key:/etc/holdover/k.pem"]
    with pytest.raises(ConfigError, match="cannot be seen by a service: move it"):
        written(a_config(mqtt=REMOTE | {"password_file": "/root/secret"}))


def test_what_lies_in_a_home_is_shown_and_nothing_else_there() -> None:
    text = written(a_config(), trees=[Path("/home/pi/my venv"), Path("/usr"), Path("/opt/holdover")])
    assert keys(text, "ProtectHome") == ["tmpfs"]
    assert keys(text, "BindReadOnlyPaths") == ['"/home/pi/my venv"']


def test_what_fails_is_started_again_for_ever_unless_nobody_but_the_user_can_mend_it() -> None:
    lines = TEXT.splitlines()
    assert {"StartLimitIntervalSec=0", "Restart=on-failure"} <= set(lines)
    assert f"RestartPreventExitStatus={ConfigError.exit_code}" in lines
    assert LedgerError.exit_code != ConfigError.exit_code, "a full disk may mend itself"


@pytest.mark.parametrize(("name", "words"), [("a\nb", "rename it"), ("a\x1bb", "rename it")])
def test_a_path_that_cannot_stand_in_a_unit_is_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        unit(needs(a_config(), Path("/etc") / name, PYTHON))


def test_a_unit_for_standard_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="a service has none"):
        written(a_config({"kind": "stdin", "rate_hz": 250}))


def _file(folder: Path, mqtt: str = "") -> Path:
    return configure(folder, 1883, from_tcp("bed", 9000), mqtt=mqtt)


def test_install_into_a_folder_writes_the_unit_and_says_what_is_next(tmp_path: Path) -> None:
    config, root = _file(tmp_path), tmp_path / "root"
    done = holdover("service", "install", config, "--root", root)
    assert done.returncode == 0, done.stderr
    place = root / "etc/systemd/system/holdover.service"
    assert place.stat().st_mode & 0o777 == 0o644
    assert keys(place.read_text(), "ExecStart")[0].endswith(f"-I -m holdover run {config}")
    for words in (f"wrote {place}", "network  localhost; broker 127.0.0.1:1883", "systemctl enable --now holdover"):
        assert words in done.stdout
    if shutil.which("systemctl"):
        subprocess.run(["systemctl", f"--root={root}", "enable", "holdover"], check=True, capture_output=True)
        assert (root / "etc/systemd/system/multi-user.target.wants/holdover.service").is_symlink()
    assert "would stop holdover and remove" in holdover("service", "uninstall", "--root", root, "--dry-run").stdout
    assert place.exists()
    again = holdover("service", "uninstall", "--root", root)
    assert (again.returncode, place.exists()) == (0, False)
    assert "the ledger stays" in again.stdout
    assert "nothing to do" in holdover("service", "uninstall", "--root", root).stdout


def test_the_command_of_the_unit_runs() -> None:
    found = needs(a_config(), ETC, Path(sys.executable))
    done = subprocess.run(
        [*found.command[:-1], "/no/such.toml"], capture_output=True, text=True, check=False, cwd="/", env={}
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot read the configuration /no/such.toml" in done.stderr


def test_a_dry_run_prints_the_unit_and_writes_nothing(tmp_path: Path) -> None:
    done = holdover("service", "install", _file(tmp_path), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# would be written to /etc/systemd/system/holdover.service\n")
    assert "[Service]" in done.stdout
    assert "runs     " in done.stderr
    for action in ("status", "logs"):
        assert holdover("service", action, "--dry-run").stdout.startswith("would run: ")


@pytest.mark.skipif(HAS_SYSTEMD, reason="this machine runs systemd")
@pytest.mark.parametrize("action", ["install", "status", "logs"])
def test_where_there_is_no_systemd_it_says_so(action: str, tmp_path: Path) -> None:
    done = holdover("service", action, _file(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("holdover: this machine does not run systemd: --dry-run shows the unit")


def test_what_cannot_be_installed_is_said_in_a_line(tmp_path: Path) -> None:
    config = _file(tmp_path)
    config.chmod(0o600)
    done = holdover("service", "install", config, "--root", tmp_path / "root")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"chmod 644 {config}" in done.stderr
    (tmp_path / "file").write_text("no folder")
    config.chmod(0o644)
    done = holdover("service", "install", config, "--root", tmp_path / "file")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot be written" in done.stderr
    done = holdover("service", "install", tmp_path / "none.toml", "--root", tmp_path / "root")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert subprocess.run([*HOLDOVER, "service", "restart"], capture_output=True, check=False).returncode == 2


def test_the_state_folder_and_the_credentials_of_a_service_are_used(tmp_path: Path) -> None:
    (tmp_path / "mqtt-password").write_text("secret\n")
    (tmp_path / "mqtt-key").write_text("key\n")
    (tmp_path / "cert.pem").write_text("cert\n")
    given = {"CREDENTIALS_DIRECTORY": str(tmp_path), "STATE_DIRECTORY": "/var/lib/holdover:/var/lib/more"}
    config = a_config(ledger={"path": "/etc/holdover/disk/beds.db"})
    settle(config, ETC.parent, given)
    assert config.ledger.path == "/var/lib/holdover/beds.db"
    assert (config.mqtt.password(), config.mqtt.key_file) == ("secret", None)
    config = a_config(mqtt={"cert_file": str(tmp_path / "cert.pem")}, ledger={"path": "/data/beds.db"})
    settle(config, ETC.parent, given)
    assert config.ledger.path == "/data/beds.db", "what was said to lie elsewhere does"
    assert (config.mqtt.password(), config.mqtt.key_file) == (None, str(tmp_path / "mqtt-key"))
    config = a_config()
    settle(config, ETC.parent, {})
    assert (config.mqtt.password(), config.ledger.path) == (None, "holdover.db")


def test_a_credential_is_not_sent_in_clear_either(tmp_path: Path) -> None:
    (tmp_path / "mqtt-password").write_text("secret\n")
    with pytest.raises(ConfigError, match="in clear"):
        settle(a_config(mqtt=REMOTE | {"tls": False}), ETC.parent, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
