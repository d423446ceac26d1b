"""Every source that is installed, through every check; a new one without a row in `ROWS` fails.

To add one: write what gives a source that will say given samples, and put it into `ROWS`.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from holdover.apps.feed import Feed
from holdover.devices.sources import check_options, kinds, open_source, package
from holdover.devices.sources.live import Live
from holdover.runtime.chunk import Chunk, Source
from holdover.runtime.errors import SourceError
from tests import test_same_as_file as devices
from tests.brokers import wait_until
from tests.byte_rigs import rig, sending
from tests.signals import calm, full_engine
from tests.test_sources import write

Samples = NDArray[np.float32]
Given = Callable[[Path, Samples], AbstractContextManager[Source]]
N = 600
PATIENCE_S = 40.0
SILENCE_S = 1.0
"""Empty chunks must come every 0.5 s; a busy machine may take longer now and then."""


class Row(NamedTuple):
    """How a kind is tried.

    Attributes
    ----------
    given
        Opens a source that will give samples (n, 1), mV, as they are; one channel, or the first of two.
    rate_hz
        Of these samples.
    options
        With which the kind can be opened, but for what a check puts wrong.
    apart
        How far what comes may be from what was given, in mV: what the device rounds to.
    live
        Whether it is a device, which falls silent and has no end; else a file.
    skip
        Checks that do not apply, and why.
    """

    given: Given
    rate_hz: float
    options: dict[str, Any]
    apart: float = 0.0006
    live: bool = True
    skip: Mapping[str, str] = MappingProxyType({})


# Ways to give samples


def in_a_file(kind: str, **options: Any) -> Given:
    @contextmanager
    def given(folder: Path, x: Samples) -> Iterator[Source]:
        source = open_source(kind, {"path": write(kind, folder, np.repeat(x, 2, axis=1)), **options})
        yield source
        source.close()

    return given


def in_bytes(kind: str, form: str = "lines", **options: Any) -> Given:
    @contextmanager
    def given(folder: Path, x: Samples) -> Iterator[Source]:
        with rig(kind, folder, form, **options) as r, sending(r, x, speed=100):
            yield r.source

    return given


def by_device(link: Callable[..., AbstractContextManager[Live]], rate_hz: float) -> Given:
    """Microvolts, as the tests of the devices play them."""
    return lambda _, x: link(devices.Played(np.round(1000 * x).astype(np.float32), rate_hz, "uV"))


def by_chip(link: Callable[..., AbstractContextManager[Live]], rate_hz: float, mv: float, **scale: float) -> Given:
    """Counts of a converter, of so many mV each."""

    def given(_: Path, x: Samples) -> AbstractContextManager[Source]:
        counts = np.round((x[:, 0].astype(np.float64) / scale.get("gain", 1.0) + scale.get("offset", 0.0)) / mv)
        return link(devices.Played(x, rate_hz, "mV", counts))

    return given


NO_LEAD_OFF = {"lead_off": "its simulated device is given whole numbers only; its own tests try it"}
FILE = {"silence": "a file has an end"}
LINES = {"rate_hz": 360}

ROWS = {
    "wfdb": Row(in_a_file("wfdb"), 50, {"path": "rec"}, live=False, skip=FILE),
    "csv": Row(in_a_file("csv", rate_hz=50), 50, {"path": "rec.csv"}, live=False, skip=FILE),
    "npz": Row(in_a_file("npz"), 50, {"path": "rec.npz"}, live=False, skip=FILE),
    "edf": Row(
        in_a_file("edf"), 50, {"path": "rec.edf"}, live=False,
        skip=FILE | {"lead_off": "an EDF file holds whole numbers, none of which stands for a missing sample"},
    ),
    "stdin": Row(in_bytes("stdin"), 360, LINES),
    "tcp": Row(in_bytes("tcp"), 360, LINES | {"port": 9000}),
    "udp": Row(in_bytes("udp", "frames"), 360, LINES | {"port": 0}),
    "serial": Row(in_bytes("serial", "frames"), 360, LINES | {"port": "/dev/null"}),
    "polar": Row(by_device(devices.polar_strap, 130), 130, {}, skip=NO_LEAD_OFF),
    "mqtt": Row(by_device(devices.mqtt_node, 250), 250, {"rate_hz": 250, "topic": "ecg"}),
    "lsl": Row(
        by_device(devices.lsl_outlet, 500), 500, {"stream": "none", "timeout_s": 0.2},
        skip={"gain": "leads and units are read off the stream, once it is found; its own tests try it"},
    ),
    "brainflow": Row(by_device(devices.brainflow_playback, 250), 250, {}),
    "ads1115": Row(
        by_chip(devices.ads1115_chip, 250, 4096 / 32768, **devices.AD8232), 250, {}, apart=0.001, skip=NO_LEAD_OFF
    ),
    "ads1292r": Row(by_chip(devices.ads1292r_chip, 250, 2420 / 6 / (2**23 - 1)), 250, {}, skip=NO_LEAD_OFF),
    "max30003": Row(by_chip(devices.max30003_chip, 128, 1000 / 2**17 / 20), 128, {}, skip=NO_LEAD_OFF),
}  # fmt: skip


def test_every_source_has_a_row() -> None:
    ours = [kind for kind in kinds() if package(kind) == "holdover"]
    assert sorted(ROWS) == ours, "add a row for each source, and take out those that are no more"


# What they share


class Reader:
    """Reads a source in a thread, pausing before it takes a chunk."""

    def __init__(self, source: Source, pauses_s: tuple[float, ...] = (0.0,)) -> None:
        self.source, self.pauses_s = source, pauses_s
        self.chunks: list[Chunk] = []
        self.times: list[float] = []
        self.failure: Exception | None = None
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        try:
            for i, chunk in enumerate(self.source.chunks()):
                self.chunks.append(chunk)
                self.times.append(time.monotonic())
                time.sleep(self.pauses_s[i % len(self.pauses_s)])
        except Exception as error:
            self.failure = error

    def samples(self) -> Samples:
        """Of the first channel, in mV, as far as they have come, (n,)."""
        unit = 1e-3 if self.source.units[0] == "uV" else 1.0
        return np.concatenate([np.empty(0, np.float32), *(chunk.x[:, 0] * unit for chunk in list(self.chunks))])

    def until(self, n: int) -> None:
        """Wait for n samples."""
        wait_until(lambda: len(self.samples()) >= n or self.failure, f"{n} samples", PATIENCE_S)
        assert self.failure is None

    def stop(self) -> float:
        """Close the source and wait; the seconds that took."""
        began = time.monotonic()
        self.source.close()
        self.thread.join(10)
        assert not self.thread.is_alive(), "it does not end"
        return time.monotonic() - began

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def an_ecg(row: Row, n: int) -> Samples:
    """Samples as the device can tell them, (n, 1), mV, for about as long as they last in truth."""
    x = calm()[:: max(round(360 / row.rate_hz), 1)][:n]
    return np.round(x, 3)


def holds(row: Row, reader: Reader, x: Samples) -> None:
    """All samples have come, each in its place, and none more than once."""
    chunks = [chunk for chunk in reader.chunks if len(chunk)]
    np.testing.assert_allclose(reader.samples()[: len(x)], x[:, 0], rtol=0, atol=row.apart)
    assert [chunk.at for chunk in chunks][1:] == [chunk.end for chunk in chunks][:-1]
    width = len(reader.source.channels)
    assert all(chunk.x.dtype == np.float32 and chunk.x.shape == (len(chunk), width) for chunk in reader.chunks)
    assert not [chunk.fault for chunk in chunks if chunk.fault]


# The checks


def check_samples(row: Row, folder: Path) -> None:
    """It gives what it was given, and says what it is."""
    x = an_ecg(row, N)
    with row.given(folder, x) as source, Reader(source) as reader:
        assert source.rate_hz == row.rate_hz
        assert len(source.channels) == len(source.units) > 0
        assert (source.length is None) == row.live
        reader.until(len(x))
        if row.live:
            assert source.epoch is not None
            assert all(abs(chunk.arrived - time.time()) < 60 for chunk in reader.chunks)
    holds(row, reader, x)


def check_chunking(row: Row, folder: Path) -> None:
    """How it is read never changes what it gives."""
    x = an_ecg(row, 900)
    with row.given(folder, x) as source, Reader(source, (0.0, 0.35, 0.01, 0.0, 0.2)) as reader:
        reader.until(len(x))
    holds(row, reader, x)


def check_stop(row: Row, folder: Path) -> None:
    """It ends soon after it is closed, from another thread, and closing it again is fine."""
    with row.given(folder, an_ecg(row, 3000)) as source, Reader(source, (0.05,)) as reader:
        reader.until(1)
        assert reader.stop() < 5
        source.close()


def check_stop_unread(row: Row, folder: Path) -> None:
    """It can be closed without having been read, and then gives nothing more for long."""
    with row.given(folder, an_ecg(row, 100)) as source:
        source.close()
        with Reader(source) as reader:
            reader.thread.join(5)
            assert not reader.thread.is_alive() or not row.live


def check_restart(row: Row, folder: Path) -> None:
    """What it held is free again once it is closed."""
    for turn in ("first", "second"):
        (folder / turn).mkdir()
        with row.given(folder / turn, an_ecg(row, N)) as source, Reader(source) as reader:
            reader.until(N)


def check_silence(row: Row, folder: Path) -> None:
    """While nothing comes, empty chunks do, further on by nothing."""
    with row.given(folder, an_ecg(row, N)) as source, Reader(source) as reader:
        reader.until(N)
        before = len(reader.chunks)
        time.sleep(2.5)
        gaps = np.diff(reader.times[before - 1 :])
        last = reader.chunks[before:]
    assert len(gaps) >= 2
    assert np.median(gaps) <= SILENCE_S
    assert all(len(chunk) == 0 and chunk.at == N for chunk in last)


def check_lead_off(row: Row, folder: Path) -> None:
    """Where an electrode is off there is no sample, or a mark."""
    x = an_ecg(row, N)
    x[200:400] = np.nan
    with row.given(folder, x) as source, Reader(source) as reader:
        reader.until(len(x))
    off = [np.zeros(len(c), bool) if c.lead_off is None else c.lead_off for c in reader.chunks]
    bad = np.concatenate(off)[:600] | ~np.isfinite(reader.samples()[:600])
    assert np.flatnonzero(bad).tolist() == list(range(200, 400))


def check_flood(row: Row, folder: Path) -> None:
    """More than anyone takes at a time: it waits, or counts what it loses."""
    x = np.tile(an_ecg(row, 3000), (4, 1))
    with row.given(folder, x) as source, Reader(source, (0.3,)) as reader:
        reader.until(len(x))
    holds(row, reader, x)


def check_unknown_lead(row: Row, folder: Path) -> None:
    """A lead that it does not have is refused by name, with those that it has."""
    with row.given(folder, an_ecg(row, 100)) as source:
        with pytest.raises(SourceError, match="no lead 'aVX'") as caught:
            Feed(source, full_engine().contract, "aVX")
        assert source.channels[0] in str(caught.value)


def check_unit(row: Row, folder: Path) -> None:
    """A unit from which the model's cannot be had is refused."""
    with row.given(folder, an_ecg(row, 100)) as source:
        source.units = ("mmHg",) * len(source.channels)
        with pytest.raises(SourceError, match="mmHg"):
            Feed(source, full_engine().contract, source.channels[0])


def check_gain(row: Row, folder: Path) -> None:
    """A gain of zero is refused, before a device is looked for."""
    kind = next(name for name, other in ROWS.items() if other is row)
    there = {} if row.live else {"path": write(kind, folder)}
    with pytest.raises(SourceError, match="gain"):
        open_source(kind, {**row.options, **there, "gain": 0})


def check_option(row: Row, folder: Path) -> None:  # noqa: ARG001 - as the others
    """An option that there is not is refused, and the nearest one named."""
    kind = next(name for name, other in ROWS.items() if other is row)
    with pytest.raises(SourceError, match="no option 'colour'"):
        check_options(kind, {**row.options, "colour": 3})


CHECKS = {
    name.removeprefix("check_"): check
    for name, check in list(globals().items())
    if name.startswith("check_") and name != "check_options"
}


@pytest.mark.parametrize(("kind", "check"), [pytest.param(k, c, id=f"{k}:{c}") for k in ROWS for c in CHECKS])
def test_source(kind: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ROWS[kind]
    if check in row.skip:
        pytest.skip(row.skip[check])
    nothing = (tmp_path / "nothing").open("x+")  # pytest's own standard input is none
    monkeypatch.setattr(sys, "stdin", nothing)
    with nothing:
        CHECKS[check](row, tmp_path)
