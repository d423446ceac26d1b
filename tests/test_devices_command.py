"""`holdover devices`: what is there, a look at a signal, and a record that stands whatever happens to the recorder."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from holdover.apps.device.look import Look, measure, strip, verdicts
from holdover.apps.device.options import table
from holdover.runtime.chunk import Chunk
from holdover.runtime.errors import UsageError
from tests.brokers import wait_until
from tests.processes import HOLDOVER, RATE_HZ, Sensor, a_recording, free_port, holdover, lines_of, signal_mv

wfdb = pytest.importorskip("wfdb", reason="needs holdover[replay]")

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas


def samples_of(place: Path) -> np.ndarray:
    """A record's samples (samples, channels), NaN where missing."""
    return np.asarray(wfdb.rdrecord(str(place)).p_signal)


def listening(port: int) -> list[str]:
    """A source that waits for a sender, on the command line."""
    return ["tcp", f"port={port}", "listen=true", "rate_hz=360", "leads=MLII"]


@contextmanager
def recorder(port: int, place: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """`holdover devices record` of whoever calls the port; ended with the block."""
    command = [*HOLDOVER, "devices", "record", *listening(port), "-o", str(place), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_all_kinds_are_listed_with_what_is_missing_to_use_them() -> None:
    done = holdover("devices", "list")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    listed = {kind["name"]: kind for kind in json.loads(holdover("devices", "list", "--json").stdout)}
    assert {"csv", "wfdb", "tcp", "stdin"} <= listed.keys()
    assert listed["tcp"]["package"] == "holdover"
    assert listed["tcp"]["missing"] == ""


def test_a_real_ecg_is_found_to_be_as_it_should(tmp_path: Path) -> None:
    done = holdover("devices", "probe", "npz", f"path={a_recording(tmp_path / 'r.npz')}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "mV peak to peak, around -0.21 mV: the size of an ECG" in done.stdout
    assert "missing: 0 of 3,600 samples" in done.stdout


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (signal_mv()[:7200] * 1000, "not the size of an ECG (0.3 to 6 mV): a wrong unit"),
        (signal_mv()[:7200] / 1000, "a wrong unit or gain, or no electrode"),
        (np.full(7200, 0.5, np.float32), "a flat line"),
        (np.full(7200, np.nan, np.float32), "too little to measure"),
        (signal_mv()[:7200] + 0.2 * np.sin(np.arange(7200) * 2 * np.pi * 50 / 360), "mains 0.40 mV peak to peak at 50"),
        (signal_mv()[:7200] + 0.1 * np.random.default_rng(0).standard_normal(7200), "noise 1"),
    ],
    ids=["unit", "no electrode", "flat", "nothing", "mains", "noise"],
)
def test_what_is_wrong_with_a_signal_is_said(tmp_path: Path, samples: np.ndarray, words: str) -> None:
    done = holdover("devices", "probe", "npz", f"path={a_recording(tmp_path / 'r.npz', samples.astype(np.float32))}")
    assert done.returncode == 1
    assert any(line.startswith("bad") and words in line for line in done.stdout.splitlines()), done.stdout


def test_a_rate_that_is_not_the_one_stated_is_said() -> None:
    port = free_port()
    with Sensor(port, lines_of(signal_mv()[:7200]), speed=1.25):
        done = holdover("devices", "probe", *listening(port), "--seconds", "5")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if "rate:" in line)
    measured = float(line.split()[2])
    assert 430 < measured < 470
    assert "state rate_hz=4" in line


def test_a_sensor_that_says_nothing_is_told_from_one_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    with (tmp_path / "empty").open() as nothing:
        done = holdover("devices", "probe", "stdin", "rate_hz=100", "--json", stdin=nothing)
    assert done.returncode == 3
    assert json.loads(done.stdout)["samples"] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a source"),
        (["port=3"], "stands where the kind"),
        (["tcp", "port"], "is not key=value"),
        (["tcp", "port=3", "port=4"], "twice"),
        (["tcp", "prot=3"], "did you mean 'port'"),
        (["tpc", "port=3"], "did you mean 'tcp'"),
        (["tcp", "port=99999", "rate_hz=10"], "expected 1 to 65535"),
        (["--config", "none.toml"], "cannot read the configuration"),
    ],
)
def test_a_source_that_cannot_be_is_one_sentence(words: list[str], said: str) -> None:
    done = holdover("devices", "probe", *words)
    assert done.returncode in (2, 3)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seconds", ["0", "-3", "nan"])
def test_no_time_is_refused(tmp_path: Path, seconds: str) -> None:
    done = holdover("devices", "probe", "npz", f"path={a_recording(tmp_path / 'r.npz')}", "--seconds", seconds)
    assert (done.returncode, done.stderr) == (2, "holdover: --seconds is above 0\n")


def test_a_stream_of_a_configuration_is_taken_by_its_name(tmp_path: Path) -> None:
    record = a_recording(tmp_path / "r.npz")
    config = tmp_path / "h.toml"
    stream = f'source = {{ kind = "npz", path = "{record}" }}\n'
    config.write_text(f'[[streams]]\nid = "a"\n{stream}[[streams]]\nid = "b"\n{stream}')
    assert holdover("devices", "probe", "--config", config, "--stream", "b").returncode == 0
    for words, said in ((["--stream", "c"], "has no stream 'c'; it has a, b"), ([], "several streams (a, b)")):
        done = holdover("devices", "probe", "--config", config, *words)
        assert (done.returncode, said in done.stderr) == (2, True)


def test_values_are_read_as_toml_reads_them() -> None:
    assert table(["a=1", "b=1.5", "c=true", "d=[1, 2]", "e=x,y", "f=", 'g="5"']) == {
        "a": 1, "b": 1.5, "c": True, "d": [1, 2], "e": "x,y", "f": "", "g": "5",
    }  # fmt: skip
    with pytest.raises(UsageError, match="key=value"):
        table(["a b=1"])


def test_a_recording_of_a_recording_has_its_samples_and_its_alarms(tmp_path: Path) -> None:
    record = a_recording(tmp_path / "208.npz")
    done = holdover("devices", "record", "npz", f"path={record}", "stop=120", "-o", tmp_path / "copy", "--edf")
    assert done.returncode == 0, done.stderr
    assert "43,200 samples, 120.0 s" in done.stdout
    copy = samples_of(tmp_path / "copy")[:, 0]
    np.testing.assert_allclose(copy, signal_mv()[:43200], atol=5.01e-4)
    holdover("replay", tmp_path / "copy", "-o", tmp_path / "out")
    for extension in ("blm", "alm"):
        mine, other = (wfdb.rdann(str(tmp_path / name), extension) for name in ("copy", "out/copy"))
        assert len(mine.sample) > 3
        np.testing.assert_array_equal(mine.sample, other.sample)
        assert mine.symbol == other.symbol
    edfio = pytest.importorskip("edfio", reason="needs holdover[replay]")
    edf = edfio.read_edf(tmp_path / "copy.edf")
    np.testing.assert_allclose(edf.signals[0].data[:43200], copy, atol=2e-4)
    assert any("ventricular couplet start" in note.text.replace("_", " ") for note in edf.annotations)


def test_a_recorder_killed_leaves_a_record_that_lacks_a_second_at_most(tmp_path: Path) -> None:
    port, place = free_port(), tmp_path / "night"
    x = signal_mv()[: 90 * 360]
    with recorder(port, place) as process, Sensor(port, lines_of(x), speed=2.0) as sensor:
        data = place.with_suffix(".dat")
        wait_until(lambda: data.exists() and data.stat().st_size > 2 * 3600, "ten seconds of the record")
        sent = sensor.sent
        process.kill()
        process.wait()
    found = samples_of(place)[:, 0]
    start = int(np.argmin([np.abs(x[i : i + 720] - found[:720]).max() for i in range(len(x) - len(found))]))
    assert sent - 2.5 * 2 * RATE_HZ < start + len(found)
    np.testing.assert_allclose(found, x[start : start + len(found)], atol=1e-3)


def test_ctrl_c_ends_a_recording_as_the_end_of_the_input_does(tmp_path: Path) -> None:
    port, place = free_port(), tmp_path / "night"
    with recorder(port, place) as process, Sensor(port, lines_of(signal_mv()[: 90 * 360]), speed=10.0) as sensor:
        wait_until(lambda: sensor.done and place.with_suffix(".dat").exists(), "the end of the signal")
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "samples" in said
    assert len(wfdb.rdann(str(place), "blm").sample) > 30
    assert place.with_suffix(".alm").exists()


def test_a_silence_of_a_live_sensor_is_missing_samples_in_the_record(tmp_path: Path) -> None:
    port, place = free_port(), tmp_path / "night"
    x = signal_mv()
    with recorder(port, place, "--seconds", "20") as process:
        with Sensor(port, lines_of(x[:2160]), speed=1.0) as sensor:
            wait_until(lambda: sensor.done and place.with_suffix(".hea").exists(), "the first part of the signal")
        time.sleep(4.0)
        with Sensor(port, lines_of(x[2160:10800]), speed=2.0):
            process.communicate(timeout=60)
    assert process.returncode == 0
    found = samples_of(place)[:, 0]
    assert len(found) == 20 * 360
    gap = int(np.isnan(found).sum())
    assert 2.0 * 360 < gap < 6.5 * 360
    assert "~" in wfdb.rdann(str(place), "blm").symbol


@pytest.mark.parametrize(
    ("name", "said"),
    [("a b", "cannot be a record's name"), ("x.dat", "cannot be a record's name"), ("there", "already")],
)
def test_a_name_that_cannot_be_or_is_taken_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "there.dat").write_bytes(b"precious")
    record = a_recording(tmp_path / "r.npz")
    done = holdover("devices", "record", "npz", f"path={record}", "-o", tmp_path / name)
    assert done.returncode == 2
    assert said in done.stderr
    assert (tmp_path / "there.dat").read_bytes() == b"precious"


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said_and_leaves_no_half_header(tmp_path: Path) -> None:
    record = a_recording(tmp_path / "r.npz")
    (tmp_path / "full").mkdir()
    command = [*HOLDOVER, "devices", "record", "npz", f"path={record}", "-o", str(tmp_path / "full/x"), "--no-alarms"]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 64; trap "" XFSZ; exec "$@"', "bash", *command],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert not list((tmp_path / "full").glob("part*"))


def test_no_sample_leaves_no_record(tmp_path: Path) -> None:
    done = holdover("devices", "record", "stdin", "rate_hz=100", "-o", tmp_path / "x", "--no-alarms")
    assert done.returncode == 3
    assert "no sample came" in done.stderr
    assert not list(tmp_path.iterdir())


def test_noise_is_measured_as_what_it_is() -> None:
    rng = np.random.default_rng(1)
    for rate_hz in (130.0, 250.0, 1000.0):
        t = np.arange(int(10 * rate_hz)) / rate_hz
        found = measure(0.1 * rng.standard_normal(len(t)) + 0.5 * np.sin(2 * np.pi * 5 * t), rate_hz)
        assert found is not None
        assert found.noise == pytest.approx(0.1, rel=0.1)
        hum = measure(0.15 * np.sin(2 * np.pi * 50 * t + 1.0), rate_hz)
        assert hum is not None
        assert hum.mains[50.0] == pytest.approx(0.3, rel=0.02)


def test_what_is_missing_is_counted_to_the_sample() -> None:
    look = Look(100.0, ("a",), ("mV",))
    x = np.zeros((50, 1), np.float32)
    x[7] = np.nan
    off = np.arange(50) < 5
    for at, fault, now in ((0, "", 0.0), (70, "checksum", 1.0), (100, "", 2.0), (150, "", 3.0)):
        look.push(Chunk(at, x, lead_off=off, fault=fault), now)
    assert (look.samples, look.holes, look.missing, look.off, look.back) == (200, 20, 4, 20, 1)
    assert look.measured_hz == pytest.approx(50.0)
    said = {text.split(":")[0]: fine for fine, text in verdicts(look)}
    assert (said["missing"], said["electrode off"], said["went back or repeated"], said["checksum"]) == (False,) * 4


@pytest.mark.parametrize("n", [0, 1, 7, 1000])
def test_a_strip_is_as_wide_as_it_is_asked_to_be(n: int) -> None:
    x = np.linspace(-1, 1, n)
    assert len(strip(x, 40)) == 40
    assert len(strip(np.full(n, np.nan), 40)) == 40
    assert strip(x, 0) == ""
