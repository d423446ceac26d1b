"""Certificates, passwords and rights at a real mosquitto: each refusal is one clear line, and no flood."""

import logging
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdover.apps.broker import HOST, Broker, find_broker
from holdover.runtime.ledger import Ledger
from holdover.runtime.mqtt_options import MqttOptions
from tests.brokers import Subscriber, connecting, drain, fill, mosquitto, wait_until
from tests.processes import (
    PATIENCE_S,
    Daemon,
    a_recording,
    configure,
    delivered,
    free_port,
    from_file,
    holdover,
    rows,
)

ACL = Path(__file__).parent.parent / "apps" / "service" / "mosquitto.acl"
# Two authorities; certificates of the broker, good and expired; of a client, known and unknown.
CERTIFICATES = """
KEY="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
SIGN="-CAcreateserial -days 2"
printf 'subjectAltName=DNS:localhost' > names
for ca in ca stranger; do
    openssl req -x509 $KEY -keyout $ca.key -out $ca.pem -days 2 -subj /CN=$ca
done
for name in localhost expired pi unknown; do
    openssl req $KEY -keyout $name.key -out $name.csr -subj /CN=$(echo $name | sed s/expired/localhost/)
done
openssl x509 -req -in localhost.csr -CA ca.pem -CAkey ca.key $SIGN -out localhost.pem -extfile names
openssl x509 -req -in pi.csr -CA ca.pem -CAkey ca.key $SIGN -out pi.pem
openssl x509 -req -in unknown.csr -CA stranger.pem -CAkey stranger.key $SIGN -out unknown.pem
touch index
echo 77 > serial
cat > past.cnf << END
[ca]
default_ca = past
[past]
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = names
[names]
commonName = supplied
END
openssl ca -batch -config past.cnf -in expired.csr -cert ca.pem -keyfile ca.key -out expired.pem -notext \\
    -startdate 20200101000000Z -enddate 20200201000000Z -extfile names
"""
# paho leaves the socket of a handshake that failed to the collector, which Python notes as a warning.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed (apt install openssl)")
    folder = tmp_path_factory.mktemp("pems")
    subprocess.run(["sh", "-ec", CERTIFICATES], cwd=folder, check=True, capture_output=True)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


@contextmanager
def broker(folder: Path, *lines: str) -> Iterator[int]:
    """A mosquitto with these lines in its configuration; its port."""
    mosquitto().stop()
    port = free_port()
    user = pwd.getpwuid(os.getuid()).pw_name
    (folder / "broker.conf").write_text("\n".join([f"listener {port} {HOST}", f"user {user}", *lines]) + "\n")
    with subprocess.Popen([find_broker(), "-c", str(folder / "broker.conf")], stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _accepts(port), "it accepts")
            yield port
        finally:
            process.terminate()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 0.5).close()
    except OSError:
        return False
    return True


def tls(pems: Path, name: str = "localhost") -> tuple[str, ...]:
    return "allow_anonymous true", f"cafile {pems}/ca.pem", f"certfile {pems}/{name}.pem", f"keyfile {pems}/{name}.key"


def trusting(pems: Path, port: int, client: str = "") -> MqttOptions:
    mine = {"cert_file": f"{pems}/{client}.pem", "key_file": f"{pems}/{client}.key"} if client else {}
    return MqttOptions(port=port, tls=True, ca_file=f"{pems}/ca.pem", will_delay_s=0, **mine)  # type: ignore[arg-type]


def _said_after_three_attempts(options: MqttOptions, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    caplog.set_level(logging.DEBUG, "holdover.mqtt")
    with connecting(options) as sink:
        wait_until(lambda: sink.poll() and len(caplog.records) >= 3, "three attempts", 30)
        assert not sink.connected
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_expired_certificate_is_said_once_and_as_such(
    pems: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with broker(tmp_path, *tls(pems, "expired")) as port:
        (said,) = _said_after_three_attempts(trusting(pems, port), caplog)
    assert "certificate has expired" in said
    assert "renew it at the broker" in said


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_client_is_known_by_its_certificate(version: str, pems: Path, tmp_path: Path) -> None:
    with (
        broker(tmp_path, *tls(pems), "require_certificate true", "use_identity_as_username true") as port,
        Ledger(tmp_path / "ledger.db") as ledger,
    ):
        options = trusting(pems, port, "pi")
        options.version = version  # type: ignore[assignment]
        with connecting(options) as sink:
            fill(ledger, 1, 2)
            drain(ledger, sink)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize("client", ["", "unknown"])
def test_a_client_without_a_certificate_that_is_known_is_told_once(
    client: str, version: str, pems: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with broker(tmp_path, *tls(pems), "require_certificate true") as port:
        options = trusting(pems, port, client)
        options.version = version  # type: ignore[assignment]
        said = _said_after_three_attempts(options, caplog)
    assert len(said) == 1
    assert ("has to know the one in cert_file" if client else "needs cert_file and key_file") in said[0]


def test_a_key_of_another_certificate_is_said_once(
    pems: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with broker(tmp_path, *tls(pems)) as port:
        options = trusting(pems, port, "pi")
        options.key_file = f"{pems}/unknown.key"
        (said,) = _said_after_three_attempts(options, caplog)
    assert "mqtt certificates cannot be used" in said
    assert "belong together" in said


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """A broker with the rights of the shipped file, and users pi, other and desk, each with a password of its own."""
    tool = shutil.which("mosquitto_passwd")
    if not tool:
        pytest.skip("mosquitto_passwd is not installed (apt install mosquitto)")
    (tmp_path / "users").touch(0o600)
    for user in ("pi", "other", "desk"):
        subprocess.run([tool, "-b", tmp_path / "users", user, f"{user}-se-cret"], check=True, capture_output=True)
        (tmp_path / user).write_text(f"{user}-se-cret\n")
    shutil.copy(ACL, tmp_path / "acl")
    for name in ("users", "acl"):
        (tmp_path / name).chmod(0o644)
    lines = "allow_anonymous false", f"password_file {tmp_path}/users", f"acl_file {tmp_path}/acl"
    with broker(tmp_path, *lines) as port, subprocess.Popen(["sleep", "600"]) as nobody:
        yield Broker("mosquitto", port, nobody, tmp_path, False)
        nobody.kill()


def test_a_daemon_writes_its_own_node_and_hears_acknowledgements(guarded: Broker, tmp_path: Path) -> None:
    record = a_recording(tmp_path / "208.npz")
    mqtt = f'username = "pi"\npassword_file = "{tmp_path}/pi"\nconfirm = true'
    desk = "--username", "desk", "--password-file", str(tmp_path / "desk"), "--confirm"
    with Subscriber(guarded, tmp_path, *desk) as subscriber:
        subscriber.listening()
        with Daemon(configure(tmp_path, guarded.port, from_file("bed", record, 100), mqtt=mqtt)) as daemon:
            assert daemon.end() == 0, daemon.talk()
        wait_until(lambda: len(subscriber.alerts()) >= len(rows(tmp_path / "ledger.db")), "all came")
        assert "refuses" not in daemon.talk()
    assert any(state == 2 for _, _, state in rows(tmp_path / "ledger.db")), "what was confirmed was heard"


def test_a_refused_right_is_one_clear_line_and_keeps_the_alerts(guarded: Broker, tmp_path: Path) -> None:
    record, ledger = a_recording(tmp_path / "208.npz"), tmp_path / "ledger.db"
    mqtt = f'username = "other"\npassword_file = "{tmp_path}/other"'
    desk = "--username", "desk", "--password-file", str(tmp_path / "desk")
    with Subscriber(guarded, tmp_path, *desk) as subscriber:
        subscriber.listening()
        config = configure(tmp_path, guarded.port, from_file("bed", record, 30), mqtt=mqtt)
        with Daemon(config) as daemon:
            daemon.hear("refuses what is published under holdover/pi/").hear("give this user the right to write there")
            wait_until(lambda: len(rows(ledger)) >= 3, "alerts are kept", PATIENCE_S)
            time.sleep(5)
            lines = daemon.talk().splitlines()
            assert sum("refuses" in line for line in lines) == 1
            assert len(lines) < 10, "and no flood"
            assert not any(state for _, _, state in rows(ledger))
        assert subscriber.alerts() == []
        config.write_text(config.read_text().replace('"other"', '"pi"').replace("/other", "/pi"))
        with Daemon(config) as daemon:
            assert daemon.end() == 0, daemon.talk()
        wait_until(lambda: len(subscriber.alerts()) == len(rows(ledger)), "all came")
    assert delivered(ledger)


def test_the_password_comes_as_a_credential_and_is_nowhere_to_be_seen(guarded: Broker, tmp_path: Path) -> None:
    record, given = a_recording(tmp_path / "208.npz"), tmp_path / "credentials"
    given.mkdir()
    secret = given / "mqtt-password"
    secret.write_text("a-wrong-se-cret\n")
    config = configure(tmp_path, guarded.port, from_file("bed", record, 60), mqtt='username = "pi"')
    with Daemon(config, env=os.environ | {"CREDENTIALS_DIRECTORY": str(given)}) as daemon:
        daemon.hear("refuses us (Not authorized) as user 'pi'")
        secret.write_text("pi-se-cret\n")
        daemon.hear("connected to")
        place = Path(f"/proc/{daemon.process.pid}")
        assert b"se-cret" not in (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        assert "se-cret" not in holdover("status", config, "--json").stdout + daemon.talk()
        assert daemon.end() == 0, daemon.talk()
    assert daemon.talk().count("refuses us") == 1
    assert delivered(tmp_path / "ledger.db")
