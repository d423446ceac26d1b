"""The subscriber and its broker: who may come in, what is confirmed, and what other programs leave there."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdover.apps.broker import Broker, find_broker, start_broker
from holdover.runtime.delivery import Delivery
from holdover.runtime.errors import BrokerError, ConfigError
from holdover.runtime.ledger import Ledger
from holdover.runtime.mqtt_options import MqttOptions
from holdover.runtime.sinks.mqtt import MqttSink
from tests.brokers import Listener, Subscriber, an_alert, drain, fill, mosquitto, publish, wait_until

ALERT = "holdover/pi/streams/ecg/alert"


@pytest.fixture
def broker() -> Iterator[Broker]:
    with mosquitto() as running:
        yield running


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_each_alert_that_is_stored_is_confirmed_also_when_it_comes_again(
    broker: Broker, tmp_path: Path, version: str
) -> None:
    args = ("--confirm", "--client-id", "desk", "--mqtt", version)
    with Listener(broker, "holdover/#") as listener, Subscriber(broker, tmp_path, *args) as subscriber:
        subscriber.listening()
        for payload in (b'{"event_id": "a"}', b'{"event_id": "a"}', b"no json", b'{"event_id": "b"}'):
            publish(broker, ALERT, payload)
        wait_until(lambda: len(listener.on("/ack")) == 3, "three confirmations")
        acks = [json.loads(heard.payload) for heard in listener.on("/ack")]
        assert [ack["event_id"] for ack in acks] == ["a", "a", "b"]
        assert {(ack["schema"], ack["by"]) for ack in acks} == {("ack/1", "desk")}
        assert {heard.topic for heard in listener.on("/ack")} == {"holdover/pi/streams/ecg/ack"}
        assert subscriber.stop() == 0


def test_what_is_confirmed_leaves_the_ledger_though_the_subscriber_is_killed(broker: Broker, tmp_path: Path) -> None:
    options = MqttOptions(port=broker.port, confirm=True, will_delay_s=0)
    sink = MqttSink(options, "pi", "boot-1")
    with Ledger(tmp_path / "ledger.db") as ledger:
        delivery = Delivery(ledger, sink)
        sink.start()
        for begin in range(0, 60, 20):
            with Subscriber(broker, tmp_path, "--confirm") as subscriber:
                subscriber.listening()
                fill(ledger, *range(begin, begin + 20))
                wait_until(lambda: delivery.turn() or subscriber.alerts(), "some have come")
                subscriber.process.send_signal(signal.SIGKILL)
        with Subscriber(broker, tmp_path, "--confirm") as subscriber:
            subscriber.listening()
            wait_until(lambda: delivery.turn() or not _unconfirmed(ledger), "all are confirmed", 30)
            assert subscriber.stop() == 0
        sink.close()


def _unconfirmed(ledger: Ledger) -> int:
    return int(ledger._db.execute("SELECT count(*) FROM outbox WHERE state < 2").fetchone()[0])


def test_a_broker_that_takes_no_confirmation_still_delivers(tmp_path: Path) -> None:
    rules = "topic read holdover/#\ntopic write holdover/+/streams/+/alert\n"
    with (
        _asking(tmp_path, f"acl_file {tmp_path}/acl\nallow_anonymous true\n", acl=rules) as broker,
        Subscriber(broker, tmp_path, "--confirm", "--count", "50", "--wait", "20") as subscriber,
    ):
        subscriber.listening()
        for number in range(50):
            publish(broker, ALERT, b'{"event_id": "%d"}' % number)
        assert subscriber.end(20) == 0
        assert subscriber.talk().count("the broker refuses confirmations (Not authorized)") == 1


class _asking:
    """A mosquitto with lines of one's own."""

    def __init__(self, folder: Path, lines: str, acl: str = "") -> None:
        mosquitto().stop()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        (folder / "acl").write_text(acl)
        user = pwd.getpwuid(os.getuid()).pw_name
        self.config = folder / "asking.conf"
        self.config.write_text(f"listener {self.port} 127.0.0.1\nuser {user}\n{lines}")

    def __enter__(self) -> Broker:
        self.process = subprocess.Popen([find_broker(), "-c", self.config], stderr=subprocess.DEVNULL)
        wait_until(self._accepts, "the broker is up")
        return Broker("mosquitto", self.port, self.process, self.config, keeps=False)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.2).close()
        except OSError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


CERTIFICATES = """
new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes "$@"; }
new -x509 -keyout ca.key -out ca.pem -days 2 -subj /CN=ca
for name in server desk; do
  new -keyout $name.key -out $name.csr -subj /CN=$name
  printf 'subjectAltName=DNS:localhost' > names
  openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 2 -extfile names
done
"""


def test_a_broker_that_asks_for_a_certificate_is_shown_one(tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed (apt install openssl)")
    subprocess.run(["sh", "-ec", CERTIFICATES], cwd=tmp_path, check=True, capture_output=True)
    files = f"cafile {tmp_path}/ca.pem\ncertfile {tmp_path}/server.pem\nkeyfile {tmp_path}/server.key\n"
    with _asking(tmp_path, files + "require_certificate true\nallow_anonymous true\n") as broker:
        tls = ("--host", "localhost", "--tls", "--ca-file", str(tmp_path / "ca.pem"))
        own = ("--cert-file", str(tmp_path / "desk.pem"), "--key-file", str(tmp_path / "desk.key"))
        with Subscriber(broker, tmp_path, *tls, *own, "--wait", "20") as subscriber:
            subscriber.listening()
            assert subscriber.stop() == 0
        with Subscriber(broker, tmp_path, *tls, "--wait", "3") as subscriber:
            subscriber.end(15)
            assert "listening" not in subscriber.talk()
            assert "Traceback" not in subscriber.talk()
            assert 0 < len(subscriber.talk().splitlines()) <= 3


def test_the_password_may_be_a_credential_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = shutil.which("mosquitto_passwd")
    if not tool:
        pytest.skip("mosquitto_passwd is not installed (apt install mosquitto)")
    users = tmp_path / "users"
    subprocess.run([tool, "-b", "-c", users, "desk", "secret"], check=True, capture_output=True)
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "mqtt-password").write_text("secret\n")
    with mosquitto(password_file=str(users)) as broker:
        with Subscriber(broker, tmp_path, "--username", "desk", "--wait", "5") as subscriber:
            assert subscriber.end() == BrokerError.exit_code
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
        with Subscriber(broker, tmp_path, "--username", "desk") as subscriber:
            subscriber.listening()
            assert subscriber.stop() == 0
        (tmp_path / "wrong").write_text("wrong\n")
        file = ("--password-file", str(tmp_path / "wrong"))
        with Subscriber(broker, tmp_path, "--username", "desk", *file) as subscriber:
            assert subscriber.end() == BrokerError.exit_code, "a file that is named goes before the credential"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--base", "#"), "each level of mqtt base is '#'"),
        (("--base", "holdover/+"), "each level of mqtt base is '+'"),
        (("--base", ""), "each level of mqtt base is ''"),
        (("--username", "desk", "--password-file", "/none"), "no file /none"),
        (("--cert-file", "/none"), "no file /none"),
        (("--stream", "ecg"), "expected NODE/STREAM"),
        (("--since", "soon"), "expected a time such as"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(
    args: tuple[str, ...], words: str, broker: Broker, tmp_path: Path
) -> None:
    with Subscriber(broker, tmp_path, *args) as subscriber:
        assert subscriber.end() == ConfigError.exit_code
        assert words in subscriber.talk()
        assert len(subscriber.talk().splitlines()) == 1
    assert not (tmp_path / "alerts.db").exists()


def test_a_password_goes_to_another_machine_in_clear_only_when_asked(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    args = (
        "--host",
        "nowhere.invalid",
        "--no-tls",
        "--username",
        "desk",
        "--password-file",
        str(tmp_path / "password"),
    )
    with Subscriber(broker, tmp_path, *args, "--wait", "0.1") as subscriber:
        assert subscriber.end() == ConfigError.exit_code
        assert "would travel to nowhere.invalid in clear" in subscriber.talk()
    with Subscriber(broker, tmp_path, *args, "--allow-plain-password", "--wait", "0.1") as subscriber:
        assert subscriber.end() == 0


def test_a_subscriber_may_be_started_before_the_daemon(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path) as subscriber:
        subscriber.listening()
        wait_until(lambda: "no node has said anything below holdover/" in subscriber.talk(), "it says that it waits")
        sink = MqttSink(MqttOptions(port=broker.port, will_delay_s=0), "pi", "boot-1")
        with Ledger(tmp_path / "ledger.db") as ledger:
            sink.start()
            fill(ledger, 1, 2)
            drain(ledger, sink)
            wait_until(lambda: len(subscriber.alerts()) == 2, "both have come")
            sink.close()
        assert subscriber.stop() == 0
        assert "monitor online: pi" in subscriber.talk()
        assert [alert["event_id"] for alert in subscriber.alerts()] == [
            an_alert(number).body()["event_id"] for number in (1, 2)
        ]


def test_a_subscriber_may_be_started_before_the_broker_and_outlives_it(tmp_path: Path) -> None:
    with mosquitto() as gone:
        pass
    with Subscriber(gone, tmp_path) as subscriber:
        wait_until(lambda: "cannot reach a broker" in subscriber.talk(), "it says so")
        for number in range(2):
            with start_broker(gone.port) as broker:
                wait_until(lambda number=number: subscriber.talk().count("listening") > number, "it listens", 30)  # type: ignore[misc]
                publish(broker, ALERT, b'{"event_id": "%d"}' % number)
                wait_until(lambda number=number: len(subscriber.alerts()) > number, "it comes")  # type: ignore[misc]
        assert subscriber.stop() == 0


def test_alerts_that_another_program_left_retained_are_no_events(broker: Broker, tmp_path: Path) -> None:
    publish(broker, ALERT, b'{"event_id": "old"}', retain=True)
    publish(broker, "holdover/pi/streams/ecg/dropped", b"{}", retain=True)
    with Subscriber(broker, tmp_path, "--confirm", "--count", "1", "--wait", "20") as subscriber:
        subscriber.listening()
        publish(broker, ALERT, b'{"event_id": "new"}')
        assert subscriber.end() == 0
        assert [alert["event_id"] for alert in subscriber.alerts()] == ["new"]
        assert subscriber.talk().splitlines()[-1] == "1 alerts, 2 retained"


def test_what_an_earlier_subscription_still_brings_is_not_taken_for_ours(broker: Broker, tmp_path: Path) -> None:
    with Subscriber(broker, tmp_path, "--wait", "0.5") as subscriber:
        assert subscriber.end() == 0
    with Subscriber(broker, tmp_path, "--base", "lab", "--count", "1", "--wait", "20") as subscriber:
        subscriber.listening()
        publish(broker, ALERT, b'{"event_id": "of the other base"}')
        publish(broker, "lab/pi/streams/ecg/alert", b'{"event_id": "ours"}')
        assert subscriber.end() == 0
        assert [alert["event_id"] for alert in subscriber.alerts()] == ["ours"]
        assert "to which an earlier run subscribed" in subscriber.talk()
