"""A throwaway MQTT broker on this machine, for the demo and the tests."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from holdover.runtime.errors import BrokerError

HOST = "127.0.0.1"
START_S = 10.0
PLACES = ("/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto")

# The child asks the kernel to end it with its parent before it becomes the broker.
LEASH = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
if hasattr(libc, "prctl"):
    libc.prctl(1, int(sys.argv[2]), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
"""
EXEC = LEASH + "os.execv(sys.argv[3], sys.argv[3:])\n"
IOTCORE = LEASH + "from iotcore import IotCoreBroker\nIotCoreBroker(config_path=sys.argv[3]).run_forever()\n"

MOSQUITTO_CONF = """
listener {port} {host}
user {user}
log_dest stderr
log_type error
log_type warning
{access}
{persistence}
"""
IOTCORE_CONF = """
id = 0
[router]
id = 0
max_connections = 1000
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 100
dynamic_filters = true
"""


class Broker:
    """A running broker, a child of this process; it ends with `stop`, with the block, or with this process.

    Attributes
    ----------
    name
        "mosquitto" or "iotcore".
    host, port
        Where it listens, on this machine alone.
    keeps
        Whether sessions and queued messages outlive it.
    """

    def __init__(self, name: str, port: int, process: "subprocess.Popen[bytes]", room: Path, keeps: bool) -> None:
        self.name, self.host, self.port, self.keeps = name, HOST, port, keeps
        self.process = process
        self._room = room

    def stop(self) -> None:
        """End it, and remove what it wrote for itself; doing so twice is fine."""
        self._end(signal.SIGTERM if self.name == "mosquitto" else signal.SIGKILL)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self._room, ignore_errors=True)

    def __enter__(self) -> "Broker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def find_broker() -> str:
    """The path of mosquitto, or else "iotcore" if that package is installed.

    Raises
    ------
    BrokerError
        Neither is here.
    """
    mosquitto = shutil.which("mosquitto") or next((place for place in PLACES if os.access(place, os.X_OK)), None)
    if mosquitto:
        return mosquitto
    if importlib.util.find_spec("iotcore"):
        return "iotcore"
    raise BrokerError(
        "no MQTT broker on this machine: install one (sudo apt install mosquitto, or pip install 'holdover[demo]'), "
        "or name one that runs elsewhere with --host"
    )


def start_broker(
    port: int | None = None, *, folder: str | os.PathLike[str] | None = None, password_file: str | None = None
) -> Broker:
    """Start a broker on 127.0.0.1 and wait until it accepts; call it from a thread that lives as long as the broker.

    Parameters
    ----------
    port
        None: a free one.
    folder
        Where sessions and queued messages are kept, so that they outlive the broker (mosquitto alone).
    password_file
        Made by mosquitto_passwd: who may come in (mosquitto alone); None: anybody on this machine.

    Raises
    ------
    BrokerError
        No broker is installed, the port is taken, or it does not come up.
    """
    found = find_broker()
    port = _free_port() if port is None else port
    if _accepts(port):
        raise BrokerError(f"port {port} on {HOST} is taken: connect to what runs there, or choose another port")
    room = Path(tempfile.mkdtemp(prefix="holdover-broker-"))
    config = room / "broker.toml"
    if found == "iotcore":
        if folder or password_file:
            shutil.rmtree(room)
            raise BrokerError("iotcore keeps nothing and asks no password: install mosquitto for that")
        config.write_text(IOTCORE_CONF.format(host=HOST, port=port))
        command = [sys.executable, "-c", IOTCORE, str(os.getpid()), str(int(signal.SIGKILL)), str(config)]
    else:
        config.write_text(_mosquitto_conf(port, folder, password_file))
        leash = [sys.executable, "-ISc", EXEC, str(os.getpid()), str(int(signal.SIGTERM))]
        command = [*leash, found, "-c", str(config)]
    with (room / "broker.log").open("w+b") as talk:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=talk, stderr=talk, cwd=room)
        broker = Broker("iotcore" if found == "iotcore" else "mosquitto", port, process, room, folder is not None)
        _wait_for(broker, talk)
    return broker


def _mosquitto_conf(port: int, folder: str | os.PathLike[str] | None, password_file: str | None) -> str:
    import pwd

    persistence = "persistence false"
    if folder is not None:
        persistence = (
            f"persistence true\npersistence_location {Path(folder).resolve()}/\n"
            "autosave_on_changes true\nautosave_interval 1"
        )
    access = f"allow_anonymous false\npassword_file {password_file}" if password_file else "allow_anonymous true"
    user = pwd.getpwuid(os.getuid()).pw_name
    return MOSQUITTO_CONF.format(port=port, host=HOST, user=user, access=access, persistence=persistence)


def _wait_for(broker: Broker, talk: IO[bytes]) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and broker.process.poll() is None:
        if _accepts(broker.port):
            time.sleep(0.02)
            if broker.process.poll() is None:
                return
        time.sleep(0.01)
    talk.seek(0)
    said = talk.read().decode(errors="replace").strip().splitlines()
    broker.kill()
    why = f": {said[-1]}" if said else ""
    raise BrokerError(f"{broker.name} did not come up on port {broker.port}{why}")


def _accepts(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=0.2).close()
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port
