"""Dead signals on real recordings, through the real watch with the shipped model: said in time, never an asystole.

`pytest -s` prints the table of times.
"""

import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from holdover.runtime.alert import Phase
from holdover.runtime.chunk import Chunk
from holdover.runtime.quality_episodes import DOUBTS
from holdover.runtime.snapshot import pack, unpack
from tests.signals import RATE_HZ, Said, Samples, a_watch, calm, hear, recording

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas

S = round(RATE_HZ)
BEGIN, BACK, END = 20 * S, 32 * S, 50 * S
SETTLE_S = 4.1
WINDOW_S = 0.25
NOISE_MV = 0.005


def a_line(level: float = 0.0, noise: float = NOISE_MV) -> Samples:
    """An input with no patient on it, (BACK - BEGIN, 1), in the steps of 5 uV of the recorder."""
    rng = np.random.default_rng(1)
    x = level + noise * rng.standard_normal((BACK - BEGIN, 1))
    return (np.round(x / 0.005) * 0.005).astype(np.float32)


def seconds() -> Samples:
    return (np.arange(BACK - BEGIN)[:, np.newaxis] / RATE_HZ).astype(np.float32)


def put(dead: Samples | float) -> list[Chunk]:
    """The recording with something else in the place of 12 s of it."""
    x = calm()[:END].copy()
    x[BEGIN:BACK] = dead
    return [Chunk(0, x)]


def mains(hz: float, mv: float = 0.5) -> Samples:
    return np.asarray(a_line() + mv * np.sin(2 * np.pi * hz * seconds()), np.float32)


def gap() -> list[Chunk]:
    return [Chunk(0, calm()[:BEGIN]), Chunk(BACK, calm()[BACK:END])]


def reversed_time() -> list[Chunk]:
    back = [Chunk(at, calm()[at : at + S]) for at in range(BEGIN - S, BEGIN - 13 * S, -S)]
    return [Chunk(0, calm()[:BEGIN]), *back, Chunk(BACK, calm()[BACK:END])]


def fading(tau_s: float) -> Samples:
    """Half the amplitude, and ever less of it."""
    x = calm()[BEGIN:BACK]
    return np.asarray(a_line() + (x - np.median(x)) * 0.5 * np.exp(-seconds() / tau_s), np.float32)


def pop(mv: float, tau_s: float) -> Samples:
    return np.asarray(a_line() + mv * np.exp(-seconds() / tau_s), np.float32)


DEAD: dict[str, Callable[[], list[Chunk]]] = {
    "flat": lambda: put(a_line(0.3)),
    "NaN": lambda: put(float("nan")),
    "rail": lambda: put(5.115),
    "mains 50 Hz": lambda: put(mains(50)),
    "mains 60 Hz": lambda: put(mains(60, 3.0)),
    "mains 49.8 Hz, clipped": lambda: put(np.clip(mains(49.8, 8.0), -5.12, 5.115)),
    "gap": gap,
    "frozen": lambda: put(float(calm()[BEGIN - 1, 0])),
    "zero-filled": lambda: put(0.0),
    "reversed time": reversed_time,
    "half amplitude to zero": lambda: put(fading(0.1)),
    "electrode pop": lambda: put(pop(3.0, 1.0)),
    "electrode pop downwards": lambda: put(pop(-4.5, 0.7)),
}


def technical(said: Said) -> list[Phase]:
    return [a.phase for a in said.alerts if a.phase.kind == "technical"]


@pytest.mark.parametrize("name", DEAD)
def test_a_dead_signal_is_said_within_two_seconds_and_is_no_asystole(name: str) -> None:
    said = hear(a_watch(), DEAD[name]())
    assert not said.phases("asystole")
    first = technical(said)[0]
    suspended = next(p for p in technical(said) if p.evidence.get("detection") == "suspended")
    resumed = next(p for p in technical(said) if p.evidence.get("detection") == "resumed")
    beat = next(b for b in said.beats if b.at >= BACK)
    times = [(p - since) / RATE_HZ for p, since in
             ((first.at, BEGIN), (suspended.at, BEGIN), (resumed.at, BACK), (beat.at, BACK))]  # fmt: skip
    print(f"\n{name:24} {first.label:20}" + "".join(f"{t:7.2f} s" for t in times), end="")
    assert BEGIN <= first.at <= suspended.at <= BEGIN + 2 * S
    assert resumed.at <= BACK + (SETTLE_S + WINDOW_S) * S
    assert beat.at <= BACK + (SETTLE_S + WINDOW_S) * S
    assert [(a.subtype, a.at <= BEGIN + 2 * S) for a in said.annotations if a.symbol == "~" and a.subtype < 1] == [
        (-1, True), (0, False),
    ]  # fmt: skip


@pytest.mark.parametrize("tau_s", [0.3, 1.0, 2.0])
def test_a_signal_that_fades_away_is_said_within_two_seconds_of_its_end(tau_s: float) -> None:
    x = put(fading(tau_s))
    there = np.flatnonzero(np.abs(x[0].x[BEGIN:BACK, 0]) > 0.02)[-1] + BEGIN
    said = hear(a_watch(), x)
    assert not said.phases("asystole")
    (start, *_) = [p for p in technical(said) if p.label == "signal_flat"]
    assert start.at <= there + 2 * S


def drift(f: Callable[[Samples], NDArray[np.floating]]) -> list[Chunk]:
    """The recording with a quiet line in the place of 12 s of it, which drifts by f(seconds) mV."""
    return put(np.asarray(a_line(noise=0.003) + f(seconds()), np.float32))


DRIFTS: dict[str, Callable[[Samples], NDArray[np.floating]]] = {
    "30 uV/s": lambda t: 0.03 * t,
    "-50 uV/s": lambda t: -0.05 * t,
    "0.5 mV/s": lambda t: 0.5 * t,
    "0.5 mV, tau 10 s": lambda t: 0.5 * np.exp(-t / 10),
    "0.8 mV, tau 5 s": lambda t: 0.8 * np.exp(-t / 5),
    "-0.9 mV, tau 3 s": lambda t: -0.9 * np.exp(-t / 3),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_a_dead_line_that_drifts_is_flat_before_it_is_an_asystole(name: str) -> None:
    said = hear(a_watch(), drift(DRIFTS[name]))
    assert not said.phases("asystole")
    start = next(p for p in technical(said) if p.label == "signal_flat")
    assert BEGIN < start.at <= BEGIN + 3 * S
    assert start.evidence["asystole"] == "cannot be excluded"


@pytest.mark.parametrize("hz", [0.25, 0.3, 0.4])
def test_breathing_shows_that_the_electrodes_are_on_and_the_heart_stands_still(hz: float) -> None:
    said = hear(a_watch(), drift(lambda t: 0.1 * np.sin(2 * np.pi * hz * t)))
    assert [phase for phase, *_ in said.phases("asystole")] == ["start", "end"]
    assert not [p for p in technical(said) if p.label == "signal_flat" and p.at < BACK]


def beats(rr_s: Sequence[float], noise: float, tail_s: float = 0.0) -> Samples:
    """A beat of the recording at these intervals, without anything between them but noise, (samples, 1)."""
    at = next(b.at for b in hear(a_watch(), [Chunk(0, calm()[: 30 * S])]).beats if b.symbol == "N" and b.at > 10 * S)
    beat = calm()[at - S // 4 : at + S // 2, 0]
    level = np.asarray((beat - np.linspace(beat[0], beat[-1], len(beat))) * np.hanning(len(beat)) ** 0.25, np.float32)
    places = np.cumsum(np.round(np.asarray(rr_s) * S).astype(int))
    x = (noise * np.random.default_rng(3).standard_normal(places[-1] + round((1 + tail_s) * S))).astype(np.float32)
    for place in places:
        x[place - S // 4 : place - S // 4 + len(beat)] += level
    return np.asarray(x[:, np.newaxis], np.float32)


@pytest.mark.parametrize("rr_s", [2.2, 2.5, 3.0])
def test_a_slow_heart_on_a_quiet_input_is_an_extreme_bradycardia(rr_s: float) -> None:
    slow = hear(a_watch(), [Chunk(0, beats([0.8] * 20 + [rr_s] * 12 + [0.8] * 10, 0.004))])
    begin = 16 * S
    (start, *_) = slow.phases("extreme_bradycardia")
    assert start[2] <= begin + 16 * S
    assert sum(p.phase == "start" for p in technical(slow)) <= 1


def test_where_the_device_says_that_the_electrode_is_on_a_quiet_asystole_is_one() -> None:
    x = beats([0.8] * 25, 0.004, tail_s=20)
    said = hear(a_watch(), [Chunk(0, x, np.zeros(len(x), np.bool_))])
    (start, end) = said.phases("asystole")
    assert start[2] <= 24.2 * S
    assert end[3] == len(x)
    assert {p.label for p in technical(said)} == {"signal_quiet"}
    silent = hear(a_watch(), [Chunk(0, x)])
    assert not silent.phases("asystole")
    (flat, *_) = technical(silent)
    assert (flat.label, flat.evidence["asystole"]) == ("signal_flat", "cannot be excluded")


def test_a_knock_in_an_asystole_hides_it_for_some_seconds_only() -> None:
    x = beats([0.8] * 25, 0.012, tail_s=60)
    since = np.arange(len(x) - 21 * S)[:, np.newaxis] / S
    x[21 * S :] += (2 * np.exp(-since / 2)).astype(np.float32)
    said = hear(a_watch(), [Chunk(0, x)])
    (end,) = [p for p in technical(said) if p.label == "electrode_pop" and p.phase == "end"]
    assert end.at <= 38 * S
    (start, *_) = said.phases("asystole")
    assert start[2] <= 44 * S


def test_loss_in_moments_is_said_and_is_no_asystole() -> None:
    x, off = calm()[:END].copy(), np.zeros(END, np.bool_)
    x[BEGIN:BACK] = a_line(0.3)
    off[BEGIN:BACK] = np.arange(BACK - BEGIN) % 72 < 68
    said = hear(a_watch(), [Chunk(0, x, off)])
    assert not said.phases("asystole")
    assert (technical(said)[0].label, technical(said)[0].at <= BEGIN + 2 * S) == ("lead_off", True)


def test_a_dead_signal_that_never_returns_stays_said() -> None:
    x = np.concatenate([calm()[:BEGIN], *(pop(3.0, 1.0), a_line(), a_line(0.02), a_line())])
    said = hear(a_watch(), [Chunk(0, x)])
    assert not said.phases("asystole")
    (end,) = [p for p in technical(said) if p.label == "electrode_pop" and p.phase == "end"]
    assert (end.at, end.end_reason) == (len(x), "input_ended")
    assert not [b for b in said.beats if b.at > BEGIN + 2 * S]


def test_the_knocked_electrodes_of_the_recording_are_no_asystole() -> None:
    said = hear(a_watch(), [Chunk(0, recording())])
    assert not said.phases("asystole")
    starts = [p.at / RATE_HZ for p in technical(said) if (p.label, p.phase) == ("electrode_pop", "start")]
    assert any(209.4 < at < 211.4 for at in starts)


@pytest.mark.parametrize("name", ["flat", "mains 50 Hz", "electrode pop"])
def test_how_a_dead_signal_arrives_and_restarts_change_nothing(name: str) -> None:
    (whole,) = DEAD[name]()
    parts = [Chunk(at, whole.x[at : at + 97]) for at in range(0, END, 97)]
    watch, alerts = a_watch(), []
    for i, part in enumerate(parts):
        if i % 40 == 0:
            memory = pack(watch.snapshot())
            watch = a_watch()
            watch.restore(unpack(memory))
        alerts += watch.push(part).alerts
    alerts += watch.finish().alerts
    assert [a.body_json() for a in alerts] == [a.body_json() for a in hear(a_watch(), [whole]).alerts]


def read(database: str, record: str, leads: Sequence[str]) -> tuple[Samples, float, list[tuple[int, str, str]]]:
    """A record's lead (samples, 1) in mV, its rate, and its annotations as (sample, symbol, aux)."""
    wfdb = pytest.importorskip("wfdb")
    folder = Path(os.environ.get("HOLDOVER_DATA", "")) / database
    if not os.environ.get("HOLDOVER_DATA") or not (folder / f"{record}.hea").exists():
        pytest.skip(f"needs {database}/{record} in the folder that HOLDOVER_DATA names")
    signal = wfdb.rdrecord(str(folder / record))
    lead = next((i for i, name in enumerate(signal.sig_name) if name in leads), 0)
    notes = wfdb.rdann(str(folder / record), "atr")
    rows = zip(notes.sample.tolist(), notes.symbol, (a.rstrip("\0") for a in notes.aux_note), strict=True)
    return signal.p_signal[:, [lead]].astype(np.float32), float(signal.fs), list(rows)


@pytest.mark.parametrize("begin_s", [940, 1040, 1240])
def test_real_pauses_are_no_dead_signal_and_keep_alarming(begin_s: int) -> None:
    x, _, notes = read("mitdb", "232", ["MLII"])
    begin, end = begin_s * S, (begin_s + 60) * S
    said = hear(a_watch(), [Chunk(begin, x[begin:end])])
    beats = [at for at, symbol, _ in notes if symbol in "NRAj" and begin + 6 * S < at < end]
    pauses = [a for a, b in pairwise(beats) if b - a >= 4.1 * RATE_HZ]
    assert pauses
    found = [onset for phase, onset, *_ in said.phases("asystole") if phase == "start"]
    assert all(min(abs(onset - at) for onset in found) < S for at in pauses)
    assert not technical(said)


@pytest.mark.parametrize("record", ["418", "422", "424", "426", "430"])
def test_fibrillation_is_never_called_a_dead_signal(record: str) -> None:
    x, rate_hz, notes = read("vfdb", record, ["ECG"])
    spans = rhythm(notes, ("(VF", "(VFIB", "(VFL"), len(x))
    assert spans
    watch = a_watch(rate_hz=rate_hz)
    said = [p for at in range(0, len(x), 2500) for p in watch.quality.push(Chunk(at, x[at : at + 2500]))]
    lost = [p for p in said if isinstance(p, Phase) and p.phase == "start" and p.label not in DOUBTS]
    inside = [(p.label, p.at / rate_hz) for p in lost if any(a + 2 * rate_hz < p.at < b for a, b in spans)]
    assert not inside


def rhythm(notes: Sequence[tuple[int, str, str]], names: Sequence[str], end: int) -> list[tuple[int, int]]:
    """Where a rhythm begins and ends."""
    changes = [(at, aux) for at, symbol, aux in notes if symbol == "+"]
    return [(a, b) for (a, aux), (b, _) in zip(changes, [*changes[1:], (end, "")], strict=True) if aux in names]
