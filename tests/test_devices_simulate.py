"""`holdover devices simulate`: what is received of a simulated device is what the recording has."""

import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from holdover.apps.broker import start_broker
from tests.brokers import wait_until
from tests.processes import HOLDOVER, a_recording, free_port, holdover, signal_mv

wfdb = pytest.importorskip("wfdb", reason="needs holdover[replay]")

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas
SECONDS = 100
SPEED = 5


@contextmanager
def simulated(record: Path, *words: str) -> Iterator[list[str]]:
    """A simulated device; gives the options by which it is said to be reached, as a source."""
    said = record.with_suffix(".said")
    command = [*HOLDOVER, "devices", "simulate", str(record), "--speed", str(SPEED), *words]
    with said.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            wait_until(lambda: "holdover devices probe" in said.read_text(), "what to type")
            line = next(line for line in said.read_text().splitlines() if "holdover devices probe" in line)
            yield shlex.split(line)[3:]
        finally:
            process.kill()


def recorded(source: list[str], place: Path, seconds: float) -> np.ndarray:
    """What is received, (samples,), mV."""
    done = holdover("devices", "record", *source, "-o", place, "--seconds", str(seconds), "--no-alarms")
    assert done.returncode == 0, done.stderr
    return np.asarray(wfdb.rdrecord(str(place)).p_signal)[:, 0]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The beginning of the recording."""
    return a_recording(tmp_path / "r208.npz", signal_mv()[: SECONDS * 360])


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a broker."""
    with start_broker() as broker:
        yield broker.port


@pytest.mark.parametrize(
    "words",
    [
        ["--as", "serial", "--port", "PTY"],
        ["--as", "serial", "--port", "PTY", "--format", "protocentral"],
        ["--as", "tcp", "--format", "frames"],
        ["--as", "tcp"],
        ["--as", "udp", "--format", "frames"],
        pytest.param(["--as", "lsl"], marks=pytest.mark.skipif(not find_spec("mne_lsl"), reason="needs holdover[lsl]")),
    ],
    ids=lambda words: "-".join(word for word in words if not word.startswith("--")),
)
def test_what_is_received_is_what_the_recording_has(record: Path, tmp_path: Path, words: list[str]) -> None:
    words = [str(tmp_path / "port") if word == "PTY" else word for word in words]
    if words[1] in ("tcp", "udp"):
        words += ["--port", str(free_port())]
    with simulated(record, *words) as source:
        time.sleep(0.0 if words[1] in ("tcp", "lsl") else 0.5)
        found = recorded(source, tmp_path / "got", 8)
    x = signal_mv()
    shift = int(np.argmin([np.abs(x[i : i + 720] - found[:720]).max() for i in range(SECONDS * 360 - 2880)]))
    np.testing.assert_allclose(found, x[shift : shift + len(found)], atol=1.5e-3)


def test_samples_over_a_broker_are_those_of_the_recording(record: Path, tmp_path: Path, port: int) -> None:
    place = tmp_path / "got"
    source = ["mqtt", "topic=ward/r208", f"port={port}", "rate_hz=360", "leads=MLII", "unit=mV"]
    command = [*HOLDOVER, "devices", "record", *source, "-o", str(place), "--seconds", "8", "--no-alarms"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        time.sleep(3.0)
        words = ["--as", "mqtt", "--broker", f"localhost:{port}", "--topic", "ward/r208"]
        with simulated(record, *words) as said:
            assert said[:2] == ["mqtt", "topic=ward/r208"]
            assert process.wait(60) == 0
    found = np.asarray(wfdb.rdrecord(str(place)).p_signal)[:, 0]
    x = signal_mv()
    shift = int(np.argmin([np.abs(x[i : i + 720] - found[:720]).max() for i in range(SECONDS * 360 - 2880)]))
    np.testing.assert_allclose(found, x[shift : shift + len(found)], atol=1e-3)


def test_what_a_bad_link_loses_is_missing_and_nothing_is_moved(record: Path, tmp_path: Path) -> None:
    words = ["--as", "udp", "--format", "frames", "--port", str(free_port())]
    trouble = ["--loss", "0.1", "--duplicates", "0.2", "--reorder", "0.1", "--jitter", "0.05", "--seed", "3"]
    with simulated(record, *words, *trouble) as source:
        time.sleep(0.5)
        found = recorded(source, tmp_path / "got", 8)
    x, there = signal_mv(), np.isfinite(found)
    assert 0.03 < 1 - there.mean() < 0.3
    shifts = range(SECONDS * 360 - 2880)
    shift = int(np.argmin([np.nanmax(np.abs(x[i : i + 720] - found[:720])) for i in shifts]))
    np.testing.assert_allclose(found[there], x[shift : shift + len(found)][there], atol=1.5e-3)


@pytest.mark.skipif(not find_spec("bleak"), reason="needs holdover[polar]")
def test_a_strap_is_played_and_heard_in_one_process(record: Path) -> None:
    done = holdover("devices", "simulate", record, "--as", "polar", "--speed", "10", "--stop", "20")
    assert done.returncode == 0, done.stderr
    assert "the size of an ECG" in done.stdout
    assert "missing: 0 of" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--as", "tcp", "--loss", "2"], "loss = 2.0 cannot be"),
        (["--as", "tcp", "--unplug", "5"], "no span of seconds"),
        (["--as", "tcp", "--port", "x"], "expected 1 to 65535"),
        (["--as", "tcp", "--speed", "0"], "--speed is above 0"),
        (["--as", "mqtt", "--broker", "nowhere"], "is not HOST:PORT"),
        (["--as", "serial", "--port", "/etc/hostname"], "is there already"),
    ],
)
def test_what_cannot_be_simulated_is_one_sentence(record: Path, words: list[str], said: str) -> None:
    done = holdover("devices", "simulate", record, *words)
    assert done.returncode in (2, 3, 6)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_takes_the_port_away(record: Path, tmp_path: Path) -> None:
    port = tmp_path / "port"
    command = [*HOLDOVER, "devices", "simulate", str(record), "--as", "serial", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(port.is_symlink, "the port")
        process.send_signal(2)
        assert process.wait(20) == 130
    assert not port.is_symlink()
