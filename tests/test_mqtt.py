"""Alerts reach the broker at least once and in order, whatever happens to it and to us."""

import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdover.apps.broker import Broker, find_broker, start_broker
from holdover.runtime.errors import BrokerError, ConfigError
from holdover.runtime.ledger import Ledger
from holdover.runtime.mqtt_options import MqttOptions
from holdover.runtime.sinks.envelope import seal
from holdover.runtime.sinks.mqtt import MqttSink
from tests.brokers import Subscriber, an_alert, any_broker, connecting, drain, fill, mosquitto, publisher, wait_until


def to(broker: Broker, **more: object) -> MqttOptions:
    return MqttOptions(host=broker.host, port=broker.port, will_delay_s=0, **more)  # type: ignore[arg-type]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_alerts_arrive_in_order_with_their_envelope(tmp_path: Path, version: str) -> None:
    with (
        mosquitto() as broker,
        Subscriber(broker, tmp_path, "--mqtt", version, "--count", "100", "--wait", "20") as subscriber,
        Ledger(tmp_path / "ledger.db") as ledger,
        connecting(to(broker, version=version)) as sink,
    ):
        subscriber.listening()
        fill(ledger, *range(100))
        drain(ledger, sink)
        assert subscriber.end() == 0, subscriber.talk()
        alerts = subscriber.alerts()
        assert [alert["stream_seq"] for alert in alerts] == list(range(1, 101))
        body = an_alert(7).body()
        assert {key: alerts[7][key] for key in body} == body
        assert (alerts[7]["node"], alerts[7]["boot_id"], alerts[7]["historical"]) == ("pi", "boot-1", False)
        assert 0 <= alerts[7]["latency_ms"] < 1000
        assert alerts[7]["published_time"].endswith("Z")


def test_alerts_arrive_by_whichever_broker_is_here(tmp_path: Path) -> None:
    with (
        any_broker() as broker,
        Ledger(tmp_path / "ledger.db") as ledger,
        connecting(to(broker)) as sink,
    ):
        fill(ledger, *range(50))
        drain(ledger, sink)


def test_an_alert_that_waited_out_an_outage_says_that_it_is_historical(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        fill(ledger, 1)
        (row,) = ledger.unsent()
    late = seal(row, node="pi", boot_id="b", now=row.created + 61.0)
    soon = seal(row, node="pi", boot_id="b", now=row.created + 1.0)
    assert (late.historical, soon.historical) == (True, False)
    assert late.latency_ms == soon.latency_ms


def test_no_alert_is_lost_when_broker_and_publisher_are_killed(tmp_path: Path) -> None:
    store, ledger, total = tmp_path / "store", tmp_path / "ledger.db", 200
    store.mkdir()
    broker = mosquitto(folder=store)
    with Subscriber(broker, tmp_path, "--count", str(total), "--wait", "60") as subscriber:
        subscriber.listening()
        sender = publisher(ledger, broker, total)
        try:
            for step, victim in ((30, "broker"), (70, "publisher"), (110, "broker")):
                wait_until(lambda step=step: len(subscriber.alerts()) >= step, f"{step} alerts", 30)  # type: ignore[misc]
                if victim == "publisher":
                    sender.kill()
                    sender.wait()
                    sender = publisher(ledger, broker, total)
                else:
                    broker.kill()
                    time.sleep(0.3)
                    broker = start_broker(broker.port, folder=store)
            assert subscriber.end(60) == 0, subscriber.talk()
            assert sender.wait(20) == 0
        finally:
            sender.kill()
            sender.wait()
            broker.stop()
        alerts = subscriber.alerts()
        assert [alert["stream_seq"] for alert in alerts] == list(range(1, total + 1))
        assert [alert["event_id"] for alert in alerts] == [an_alert(n).body()["event_id"] for n in range(1, total + 1)]
        assert {alert["boot_id"] for alert in alerts} > {"boot-0"}


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_wrong_password_is_said_once(tmp_path: Path, version: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "holdover.mqtt")
    with _asking_broker(tmp_path) as broker:
        (tmp_path / "wrong").write_text("guess\n")
        options = to(broker, version=version, username="pi", password_file=str(tmp_path / "wrong"))
        with connecting(options) as sink:
            wait_until(lambda: sink.poll() and len(caplog.records) >= 3, "three refusals")
            assert not sink.connected
        (said,) = warnings_in(caplog)
        assert "refuses us" in said
        assert "as user 'pi'" in said
        assert "password_file" in said
        with Subscriber(broker, tmp_path, "--username", "pi", "--password-file", str(tmp_path / "wrong")) as subscriber:
            assert subscriber.end() == BrokerError.exit_code
            assert "refuses us" in subscriber.talk()
            assert len(subscriber.talk().splitlines()) == 1
        (tmp_path / "wrong").write_text("secret\n")
        with connecting(options) as sink, Ledger(tmp_path / "ledger.db") as ledger:
            fill(ledger, 1)
            drain(ledger, sink)


def _asking_broker(folder: Path) -> Broker:
    tool = shutil.which("mosquitto_passwd")
    if not tool:
        pytest.skip("mosquitto_passwd is not installed (apt install mosquitto)")
    subprocess.run([tool, "-b", "-c", folder / "passwords", "pi", "secret"], check=True, capture_output=True)
    return mosquitto(password_file=str(folder / "passwords"))


def test_a_broker_that_is_down_at_the_start_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto() as broker:
        port = broker.port
    caplog.set_level(logging.INFO, "holdover.mqtt")
    with Ledger(tmp_path / "ledger.db") as ledger, connecting(MqttOptions(port=port)) as sink:
        fill(ledger, 1, 2, 3)
        wait_until(lambda: sink.poll() and caplog.records, "it says so")
        sink.send(ledger.unsent())
        assert not sink.connected
        with start_broker(port):
            drain(ledger, sink)
            (said,) = warnings_in(caplog)
            assert f"cannot reach a broker at localhost:{port} (Connection refused)" in said
            assert "connected to" in caplog.text


def test_a_broker_that_stops_answering_is_left_and_found_again(tmp_path: Path) -> None:
    with (
        mosquitto() as broker,
        Ledger(tmp_path / "ledger.db") as ledger,
        connecting(to(broker, keepalive_s=1)) as sink,
    ):
        fill(ledger, 1)
        drain(ledger, sink)
        broker.process.send_signal(signal.SIGSTOP)
        try:
            fill(ledger, 2)
            sink.send(ledger.unsent())
            wait_until(lambda: sink.poll() and not sink.connected, "it notices")
            assert ledger.depth()[0] == 1
        finally:
            broker.process.send_signal(signal.SIGCONT)
        drain(ledger, sink)


def test_what_is_no_broker_is_named_as_such(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5.0)
        with connecting(MqttOptions(port=server.getsockname()[1])) as sink:
            server.accept()[0].close()
            wait_until(lambda: sink.poll() and caplog.records, "it says so")
            assert "closed the connection before it answered: expected an MQTT 5 broker without TLS" in caplog.text


PEM = ("ca", "cert", "key")
CERTIFICATES = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=ca
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out csr.pem -subj /CN=localhost
printf 'subjectAltName=DNS:localhost' > names
openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile names
"""
# paho leaves the socket of a handshake that failed to the collector, which Python notes as a warning.
paho_leaves_sockets = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def tls_port(tmp_path: Path) -> Iterator[int]:
    mosquitto().stop()
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed (apt install openssl)")
    subprocess.run(["sh", "-ec", CERTIFICATES], cwd=tmp_path, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    files = "".join(f"{name}file {tmp_path}/{name}.pem\n" for name in PEM)
    user = pwd.getpwuid(os.getuid()).pw_name
    (tmp_path / "tls.conf").write_text(f"listener {port} 127.0.0.1\nuser {user}\nallow_anonymous true\n{files}")
    with subprocess.Popen([find_broker(), "-c", tmp_path / "tls.conf"], stderr=subprocess.DEVNULL) as process:
        yield port
        process.terminate()


@paho_leaves_sockets
def test_tls_connects_to_whom_it_trusts_and_to_nobody_else(
    tmp_path: Path, tls_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    trusting = MqttOptions(port=tls_port, tls=True, ca_file=str(tmp_path / "ca.pem"))
    with Ledger(tmp_path / "ledger.db") as ledger, connecting(trusting) as sink:
        fill(ledger, 1)
        drain(ledger, sink)
    caplog.clear()
    for options, words in (
        (MqttOptions(port=tls_port, tls=True), "is not trusted"),
        (MqttOptions(port=tls_port, tls=True, ca_file=str(tmp_path / "key.pem")), "certificates cannot be used"),
        (MqttOptions(port=tls_port), "without TLS there"),
    ):
        with connecting(options) as sink:
            wait_until(lambda sink=sink: sink.poll() and caplog.records, "it says so")  # type: ignore[misc]
            assert words in warnings_in(caplog)[0]
        caplog.clear()


@paho_leaves_sockets
def test_tls_where_there_is_none_is_named_as_such(caplog: pytest.LogCaptureFixture) -> None:
    with mosquitto() as broker, connecting(to(broker, tls=True)) as sink:
        wait_until(lambda: sink.poll() and caplog.records, "it says so")
        assert "no TLS with" in warnings_in(caplog)[0]


def test_a_node_is_online_while_it_runs_and_offline_when_it_leaves_or_dies(tmp_path: Path) -> None:
    with mosquitto() as broker, Subscriber(broker, tmp_path) as subscriber:
        subscriber.listening()
        with connecting(to(broker)) as sink:
            wait_until(lambda: sink.poll() and "monitor online: pi" in subscriber.talk(), "online is said")
        wait_until(lambda: subscriber.talk().count("monitor lost: pi") == 1, "leaving is said")
        victim = publisher(tmp_path / "ledger.db", broker, 10**6)
        wait_until(lambda: "monitor back: pi" in subscriber.talk(), "coming back is said")
        victim.kill()
        victim.wait()
        wait_until(lambda: subscriber.talk().count("monitor lost: pi") == 2, "dying is said")


def test_a_node_that_leaves_before_its_farewell_is_heard_is_offline_too(tmp_path: Path) -> None:
    with (
        mosquitto() as broker,
        Subscriber(broker, tmp_path) as subscriber,
        Ledger(tmp_path / "ledger.db") as ledger,
    ):
        subscriber.listening()
        with connecting(to(broker)) as sink:
            wait_until(lambda: sink.poll() and "monitor online: pi" in subscriber.talk(), "online is said")
            fill(ledger, *range(sink.window + 5))
            broker.process.send_signal(signal.SIGSTOP)
            sink.send(ledger.unsent())
            sink.close(0.5)
        broker.process.send_signal(signal.SIGCONT)
        wait_until(lambda: "monitor lost: pi" in subscriber.talk(), "its will is said")


CONNACK = b"\x20\x03\x00\x00\x00"


def test_a_topic_that_is_no_text_stops_nothing() -> None:
    """Brokers refuse such topics, as they must; one that does not is no reason to end."""
    messages = [b"\xff\xfe/ack", b"holdover/pi/info"]
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        connecting(MqttOptions(port=server.getsockname()[1])) as sink,
    ):
        server.settimeout(10)
        with server.accept()[0] as line:
            line.recv(1000)
            packets = [len(topic).to_bytes(2, "big") + topic + b"\0{}" for topic in messages]
            line.sendall(CONNACK + b"".join(bytes([0x30, len(packet)]) + packet for packet in packets))
            heard: list[tuple[str, bytes]] = []
            wait_until(lambda: heard.extend(sink.poll().heard) or heard, "what is sound is heard")
    assert heard == [("holdover/pi/info", b"{}")]


def test_retained_messages_survive_a_broker_that_forgets(tmp_path: Path) -> None:
    mosquitto_sub = shutil.which("mosquitto_sub")
    if not mosquitto_sub:
        pytest.skip("mosquitto_sub is not installed (apt install mosquitto-clients)")
    broker = mosquitto()
    with connecting(to(broker)) as sink:
        sink.retain(sink.topic("info"), b'{"version": "1"}')
        wait_until(lambda: sink.poll() and sink.connected, "it is connected")
        broker.kill()
        with start_broker(broker.port) as again:
            wait_until(lambda: sink.poll() and not sink.connected, "the loss is noticed")
            wait_until(lambda: sink.poll() and sink.connected, "it is connected again")
            command = [mosquitto_sub, "-p", str(again.port), "-t", "holdover/pi/#", "-C", "2", "-W", "5", "-v"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
                wait_until(lambda: sink.poll() and reader.poll() is not None, "both are there")
                assert reader.stdout
                said = set(reader.stdout.read().splitlines())
    assert said == {"holdover/pi/status online", 'holdover/pi/info {"version": "1"}'}
    assert tmp_path.is_dir()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": 0}, "port is 0"),
        ({"base": "a/#"}, "base is '#'"),
        ({"base": ""}, "base is ''"),
        ({"base": "a/" * 40 + "a"}, "base has 41 levels"),
        ({"keepalive_s": 0}, "keepalive_s is 0"),
        ({"ca_file": "/no/such.pem"}, "no file /no/such.pem"),
        ({"password_file": "/dev/null"}, "no file /dev/null"),
        ({"password_file": __file__}, "without a username"),
        ({"password_file": __file__, "username": "pi", "host": "192.0.2.1", "tls": False}, "in clear"),
    ],
)
def test_options_that_cannot_be_are_refused_in_words(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        MqttSink(MqttOptions(**options), "pi", "boot-1")  # type: ignore[arg-type]


def test_names_that_cannot_stand_in_a_topic_are_refused() -> None:
    for name in ("", "a/b", "+", "#", "ä", "a b", "x" * 65, "a\n"):
        with pytest.raises(ConfigError, match="expected 1 to 64 letters"):
            MqttSink(MqttOptions(), name, "boot-1")


def test_tls_is_on_for_every_other_host() -> None:
    assert not MqttOptions().uses_tls
    assert not MqttOptions(host="127.0.0.1").uses_tls
    assert MqttOptions(host="broker.example").uses_tls
    assert not MqttOptions(host="broker.example", tls=False).uses_tls


def test_a_broker_ends_with_the_process_that_started_it() -> None:
    script = (
        "from holdover.apps.broker import start_broker; b = start_broker(); print(b.process.pid, flush=True); input()"
    )
    with any_broker(), subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: not _is_running(child), "the broker ends")


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_port_that_is_taken_is_refused_in_words() -> None:
    with any_broker() as broker, pytest.raises(BrokerError, match=f"port {broker.port} on 127.0.0.1 is taken"):
        start_broker(broker.port)
