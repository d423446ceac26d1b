"""Over a perfect link, a simulated device gives the annotations and alerts of the file that it plays, to the byte."""

import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.signal import resample_poly

from holdover.apps.feed import Feed
from holdover.devices.simulators.ads1115 import SimulatedAds1115
from holdover.devices.simulators.ads1292r import SimulatedAds1292r, SimulatedReady
from holdover.devices.simulators.impair import Impairments, Sent, impair
from holdover.devices.simulators.max30003 import SimulatedMax30003
from holdover.devices.simulators.mqtt import connected
from holdover.devices.simulators.virtual_clock import VirtualClock
from holdover.devices.sources import ads1292r, max30003, mqtt, open_file
from holdover.devices.sources.ads1115 import Ads1115, configuration
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale
from holdover.runtime.chunk import Chunk
from holdover.runtime.mqtt_options import MqttOptions
from tests.brokers import any_broker, wait_until
from tests.collecting import collecting
from tests.signals import a_watch, calm, full_engine, hear

SPEED = 60.0


class Played(NamedTuple):
    """What a device plays: (n, 1) samples in a unit, their rate, and (n,) the counts of a converter."""

    x: NDArray[np.float32]
    rate_hz: float
    unit: str
    counts: NDArray[np.float64] = np.empty(0)


def in_microvolts(rate_hz: int, seconds: int = 60) -> Played:
    """A minute of the recording as a device of this rate measures it, to 1 uV."""
    x = resample_poly(calm()[: seconds * 360], rate_hz, 360)
    return Played(np.round(1000 * x).astype(np.float32), rate_hz, "uV")


def sent(played: Played) -> Iterator[Sent]:
    """What a device sends over a perfect link."""
    packets = (Packet(played.x[at : at + 50], count=at) for at in range(0, len(played.x), 50))
    return impair(packets, played.rate_hz, Impairments())


@contextmanager
def in_background(play: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """A device that plays until it is told to stop."""
    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def polar_strap(played: Played) -> Iterator[Live]:
    pytest.importorskip("bleak", reason="bleak is not installed (pip install holdover[polar])")
    from holdover.devices.simulators.polar import SimulatedStrap, play
    from holdover.devices.sources.polar import PolarStrap

    strap = SimulatedStrap(play(played.x[:, 0].astype(np.int32), speed=SPEED))
    yield Live(PolarStrap(None, Scale.of("polar", "ECG", "uV"), strap))


@contextmanager
def mqtt_node(played: Played, form: str = "cbor") -> Iterator[Live]:
    stop = threading.Event()
    with any_broker() as broker, connected(MqttOptions(port=broker.port)) as publisher:
        source = mqtt.open(topic="ecg", rate_hz=played.rate_hz, unit=played.unit, port=broker.port)

        def play() -> None:
            while not source.facts.garbage and not stop.wait(0.01):  # until somebody listens
                publisher.send("ecg", b"?")
            publisher.play("ecg", sent(played), form, stop, SPEED)

        with in_background(play, stop):
            yield source


@contextmanager
def lsl_outlet(played: Played) -> Iterator[Live]:
    pytest.importorskip("mne_lsl", reason="mne-lsl is not installed (pip install holdover[lsl])")
    from holdover.devices.simulators.lsl import Outlet
    from holdover.devices.sources import lsl

    stop, name = threading.Event(), f"test-{uuid.uuid4().hex}"
    outlet = Outlet(name, played.rate_hz, ["ECG"], played.unit)
    source = lsl.open(stream=name)
    with in_background(lambda: outlet.play(sent(played), stop, SPEED), stop):
        yield source
    outlet.close()


@contextmanager
def brainflow_playback(played: Played) -> Iterator[Live]:
    pytest.importorskip("brainflow", reason="brainflow is not installed (pip install holdover[brainflow])")
    from holdover.devices.simulators.brainflow import write_playback
    from holdover.devices.sources import brainflow

    with tempfile.TemporaryDirectory() as folder:
        write_playback(f"{folder}/played.csv", sent(played), 20.0)
        yield brainflow.open(
            board="playback_file", path=f"{folder}/played.csv", master_board="synthetic", channels=[1], leads="ECG"
        )


def in_counts(rate_hz: int, mv_per_count: float, offset: float = 0.0, gain: float = 1.0, seconds: int = 60) -> Played:
    """A minute of the recording as a converter of this rate and resolution measures it, in mV."""
    scale = Scale.of("chip", "ECG", "mV", gain, offset)
    ecg = resample_poly(calm()[: seconds * 360], rate_hz, 360)
    counts = np.round((ecg / gain + offset) / mv_per_count)
    return Played(scale.apply(counts * mv_per_count), rate_hz, "mV", counts[:, 0])


AD8232 = {"offset": 1650.0, "gain": 0.01}
"""What its output in mV, around half its supply and amplified 100 times, means."""


@contextmanager
def ads1115_chip(played: Played) -> Iterator[Live]:
    clock, mv = VirtualClock(), played.counts * (4096 / 32768)
    chip = SimulatedAds1115(mv, played.rate_hz, clock)
    scale = Scale.of("ads1115", "ECG", "mV", **AD8232)
    yield Live(Ads1115(chip, configuration("A0", 4096), 4096, played.rate_hz, scale, "0x48", clock))


@contextmanager
def ads1292r_chip(played: Played) -> Iterator[Live]:
    chip = SimulatedAds1292r(played.counts.astype(np.int32), played.rate_hz, VirtualClock())
    scale, table = Scale.of("ads1292r", "ECG", "mV"), ads1292r.registers(2, 250, 6, True)
    yield Live(ads1292r.Ads1292r(chip, table, 2, played.rate_hz, 6, scale, SimulatedReady(chip), chip.clock))


@contextmanager
def max30003_chip(played: Played) -> Iterator[Live]:
    chip = SimulatedMax30003(played.counts.astype(np.int32), played.rate_hz, VirtualClock())
    scale, table = Scale.of("max30003", "ECG", "mV"), max30003.registers(128, 20, True)
    yield Live(max30003.Max30003(chip, table, played.rate_hz, 20, True, scale, chip.clock))


LINKS: dict[str, tuple[Callable[[Played], AbstractContextManager[Live]], Played]] = {
    "polar": (polar_strap, in_microvolts(130)),
    "mqtt": (mqtt_node, in_microvolts(250)),
    "lsl": (lsl_outlet, in_microvolts(500)),
    "brainflow": (brainflow_playback, in_microvolts(250)),
    "ads1115": (ads1115_chip, in_counts(250, 4096 / 32768, **AD8232)),
    "ads1292r": (ads1292r_chip, in_counts(250, 2420 / 6 / (2**23 - 1))),
    "max30003": (max30003_chip, in_counts(128, 1000 / 2**17 / 20)),
}


@pytest.mark.parametrize("kind", LINKS)
def test_a_device_says_what_the_file_it_plays_says(kind: str, tmp_path: Path) -> None:
    link, played = LINKS[kind]
    np.savez(tmp_path / "played.npz", x=played.x, fs=played.rate_hz)
    file = open_file(tmp_path / "played.npz", rate_hz=played.rate_hz, unit=played.unit, leads=["ECG"])
    with link(played) as source, collecting() as start:
        collector = start(source)
        wait_until(lambda: collector.end >= len(played.x), "the end of the recording", 60)
    expected = said(Feed(file, full_engine().contract, "ECG"), list(file.chunks()), played)
    got = said(Feed(source, full_engine().contract, source.channels[0]), collector.chunks, played)
    assert len(expected) > 50
    assert got == expected
    assert (source.facts.lost, source.facts.duplicated) == (0, 0)


def said(feed: Feed, chunks: list[Chunk], played: Played) -> list[bytes]:
    """All annotations and alerts, as bytes; when samples arrived is left out, which a file does not say."""
    watch = a_watch(rate_hz=played.rate_hz)
    heard = hear(watch, (replace(feed.fit(chunk), arrived=float("nan")) for chunk in chunks))
    alerts = [msgspec.json.encode(alert.body()) for alert in heard.alerts]
    return [*(repr(annotation).encode() for annotation in heard.annotations), *alerts]
