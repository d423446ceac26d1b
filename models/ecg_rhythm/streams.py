"""Endless training streams: segments of the records, disturbed in time and amplitude, with their targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.models.ecg_beats.data import MODEL_HZ, OTHER, RATE_HZ
from holdover.models.ecg_beats.net import LAST, normalise
from holdover.models.ecg_beats.streams import CHUNK, CHUNK_FRAMES, beat_targets, kinds
from holdover.models.ecg_rhythm.data import UNKNOWN, Record
from holdover.models.ecg_rhythm.disturb import disturb, fibrillate, flutter, heartless, motion, read
from holdover.models.ecg_rhythm.net import DELAYS, HOP
from holdover.models.ecg_rhythm.warp import breathing, disordered, early, time_map

MOST_CHUNKS = 12
MOTION_TRACKS, MOTION_S = 40, 240
ORDER_S = 10.0
SETTLE_S = 3.0
"""A rhythm is not asked for so soon after it began."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Targets:
    """What is wanted of a stream, a frame; what its source does not say has weight 0 or is -1.

    Attributes
    ----------
    beat, beat_weight : array
        (frames,), the wanted probability of a beat.
    offset, offset_weight : array
        (frames,), in frames.
    kind : array
        (frames,), class wanted.
    rhythm, quality : array
        (frames,), index into `RHYTHMS`; 1 for bad.
    tame : array
        (frames,), 1 where a beat is not supraventricular (atrial fibrillation), 2 where it is normal (a recording
        that is called normal as a whole), 3 where it is ventricular (a tachycardia).
    """

    beat: Array
    beat_weight: Array
    offset: Array
    offset_weight: Array
    kind: Array
    rhythm: Array
    quality: Array
    tame: Array


@dataclass
class Stretch:
    """A stretch of a stream at 120 Hz, in the making.

    Attributes
    ----------
    x : array
        (samples,), mV.
    at, kind : array
        (beats,), samples and class.
    rhythm, tame : array
        (samples,).
    known, noisy : array
        (samples,), whether beats are annotated one by one; whether the annotators call it noise.
    timed : bool
        Whether the annotations say where a beat is to within a frame.
    """

    x: Array
    at: Array
    kind: Array
    rhythm: Array
    known: Array
    noisy: Array
    tame: Array = field(default_factory=lambda: np.zeros(0))
    timed: bool = True


class Streams:
    """Parallel streams of segments without end.

    Parameters
    ----------
    records : sequence of Record
        What the segments are cut from.
    noise : sequence of array
        Recorded noise at 120 Hz, unit variance.
    slots : int
        Streams side by side.
    rng : numpy.random.Generator
        All chance comes from here.
    """

    def __init__(self, records: Sequence[Record], noise: Sequence[Array], slots: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._noise = [*noise, *(motion(MOTION_S, rng) for _ in range(MOTION_TRACKS))]
        self._beats = [r for r in records if len(r.at)]
        self._malignant = [r for r in records if r.source == "vfdb"]
        self._handheld = {label: [r for r in records if r.label == label] for label in _HANDHELD}
        self._centres = {k: self._weighted(k) for k in (1, 2)}
        spans = [(r, r.rhythm[r.rhythm[:, 2] == 1]) for r in self._beats]
        self._fibrillating = [(r, found) for r, found in spans if len(found)]
        self._segments = [self._draw() for _ in range(slots)]
        self._next = [0] * slots

    def step(self) -> tuple[Array, Targets, Array]:
        """The next 10 s of every stream: z and targets, (slots, ...), and which streams go on (not begun now)."""
        alive = np.array([n > 0 for n in self._next])
        parts = [_chunk(z, targets, n) for (z, targets), n in zip(self._segments, self._next, strict=True)]
        for slot, (z, _) in enumerate(self._segments):
            self._next[slot] += 1
            if self._next[slot] * CHUNK >= len(z):
                self._segments[slot], self._next[slot] = self._draw(), 0
        z, *wanted = (np.stack(p) for p in zip(*parts, strict=True))
        return z, Targets(*wanted), alive

    def _weighted(self, kind: int) -> Array:
        root: Array = np.sqrt([min(int((r.kind == kind).sum()), 200) for r in self._beats])
        return np.asarray(root / root.sum())

    def _draw(self) -> tuple[Array, Targets]:
        name = self._rng.choice(list(_SOURCES), p=list(_SHARES.values()))
        stretch = _SOURCES[name](self)
        x, quality, dead = disturb(stretch.x, self._noise, self._rng) if name != "nothing" else (stretch.x, None, _NO)
        quality = np.ones(len(x), int) if quality is None else np.where(stretch.noisy, 1, quality)
        return normalise(x), targets_of(stretch, quality, dead)

    def _annotated(self) -> Stretch:
        rng, seconds = self._rng, 10 * int(self._rng.integers(4, 13))
        length = seconds * RATE_HZ * float(np.exp(rng.uniform(-0.2, 0.2)))
        record, start = self._place(length)
        inside = (record.at > start) & (record.at < start + length)
        at, kind = record.at[inside].astype(float), record.kind[inside].copy()
        draw, ends = rng.random(), _part(start, length, rng)
        disorder = draw < 0.08 and not (_by_sample(record.rhythm, np.arange(start, start + length, 90)) > 0).any()
        if disorder:
            shift = disordered(at, kind, (at > ends[0]) & (at < ends[1]), rng)
        elif draw < 0.4:
            shift = early(at, kind, rng)
        else:
            shift = breathing(at, rng) if draw < 0.6 else np.zeros(len(at))
        stretch = _cut(record, start, length, seconds, (at, kind, shift), rng)
        _ordered_near(stretch)
        if disorder:
            self._to_fibrillation(stretch, (np.array(ends) - start) / length * seconds * MODEL_HZ)
        elif rng.random() < 0.12:
            self._to_flutter(stretch)
        return stretch

    def _to_fibrillation(self, s: Stretch, ends: Array) -> None:
        low, high = int(ends[0]), int(ends[1])
        s.x = fibrillate(s.x, s.at[s.kind != 2], (low, high), self._rng)
        s.rhythm[low:high] = 1
        s.kind[(s.at > low) & (s.at < high) & (s.kind == 1)] = 0

    def _to_flutter(self, s: Stretch) -> None:
        n = len(s.x)
        length = int(self._rng.uniform(5, 30) * MODEL_HZ)
        low = int(self._rng.integers(5 * MODEL_HZ, n - length))
        s.x = flutter(s.x, (low, low + length), self._rng)
        s.rhythm[low : low + length], s.known[low : low + length] = 2, False
        keep = (s.at < low - 0.1 * MODEL_HZ) | (s.at > low + length + 0.1 * MODEL_HZ)
        s.at, s.kind = s.at[keep], s.kind[keep]

    def _place(self, length: float) -> tuple[Record, float]:
        """A record and the sample to start at: anywhere (42 %), in atrial fibrillation (8 %), near an S or V beat."""
        rng, draw = self._rng, self._rng.random()
        if draw < 0.08 and self._fibrillating:
            record, spans = self._fibrillating[int(rng.integers(len(self._fibrillating)))]
            low, high, _ = spans[int(rng.integers(len(spans)))]
            at = rng.uniform(low, high) - rng.uniform(0.1, 0.9) * length
        elif draw < 0.5:
            record = self._beats[int(rng.integers(len(self._beats)))]
            at = rng.uniform(0, record.leads.shape[1])
        else:
            kind = 1 if rng.random() < 0.5 else 2
            record = self._beats[int(rng.choice(len(self._beats), p=self._centres[kind]))]
            at = float(rng.choice(record.at[record.kind == kind])) - rng.uniform(0.1, 0.9) * length
        return record, float(np.clip(at, 0, record.leads.shape[1] - length - 2))

    def _dangerous(self) -> Stretch:
        rng, seconds = self._rng, 10 * int(self._rng.integers(4, 13))
        length = seconds * RATE_HZ * float(np.exp(rng.uniform(-0.2, 0.2)))
        record = self._malignant[int(rng.integers(len(self._malignant)))]
        at = rng.uniform(0, record.leads.shape[1])
        spans = record.rhythm[record.rhythm[:, 2] == 2]
        if rng.random() < 0.7 and len(spans):
            low, high, _ = spans[int(rng.integers(len(spans)))]
            at = rng.uniform(low, high) - rng.uniform(0.1, 0.9) * length
        at = float(np.clip(at, 0, record.leads.shape[1] - length - 2))
        none = np.zeros(0)
        return _cut(record, at, length, seconds, (none, none.astype(int), none), rng)

    def _joined(self) -> Stretch:
        """Handheld recordings one after the other."""
        rng, parts = self._rng, []
        for _ in range(int(rng.integers(2, 5))):
            records = self._handheld[rng.choice(list(_HANDHELD), p=list(_HANDHELD.values()))]
            record = records[int(rng.integers(len(records)))]
            length = record.leads.shape[1] - 2.0
            seconds = length / RATE_HZ * float(np.exp(rng.uniform(-0.15, 0.15)))
            none = np.zeros(0)
            parts.append(_cut(record, 0.0, length, seconds, (none, none.astype(int), none), rng))
        return _shortened(_concatenated(parts))

    def _nothing(self) -> Stretch:
        n = CHUNK * int(self._rng.integers(2, 7))
        x, none = heartless(n, self._noise, self._rng), np.zeros(0)
        return Stretch(
            x, none, none.astype(int), np.zeros(n, int), np.ones(n, bool), np.ones(n, bool), np.zeros(n, int)
        )


_NO = (-1, -1)
_HANDHELD = {"A": 0.45, "N": 0.25, "O": 0.22, "~": 0.08}
_SHARES = {"annotated": 0.78, "dangerous": 0.06, "handheld": 0.12, "nothing": 0.04}
_SOURCES: dict[str, Callable[[Streams], Stretch]] = {
    "annotated": Streams._annotated,
    "dangerous": Streams._dangerous,
    "handheld": Streams._joined,
    "nothing": Streams._nothing,
}
_TAME = {"A": 1, "N": 2}


def _chunk(z: Array, targets: Targets, index: int) -> tuple[Array, ...]:
    f = slice(index * CHUNK_FRAMES, (index + 1) * CHUNK_FRAMES)
    wanted = (getattr(targets, each.name)[f] for each in fields(Targets))
    return (z[index * CHUNK : (index + 1) * CHUNK], *wanted)


def _part(start: float, length: float, rng: np.random.Generator) -> tuple[float, float]:
    """All of a stretch, or what is before or after a place in it."""
    place, draw = start + rng.uniform(0.25, 0.75) * length, rng.random()
    return (place if draw < 0.25 else start, place if draw > 0.75 else start + length)


def _cut(
    record: Record,
    start: float,
    length: float,
    seconds: float,
    beats: tuple[Array, Array, Array],
    rng: np.random.Generator,
) -> Stretch:
    """A stretch of a record, its beats moved, read at 120 Hz in so many seconds."""
    at, kind, shift = beats
    source, target = time_map(at, shift, (start, start + length))
    n = int(seconds * MODEL_HZ)
    target *= n / target[-1]
    places = np.interp(np.arange(n), target, source)
    x = read(record, places, rng)
    known, noisy = ~_inside(record.unknown, places), _inside(record.bad, places)
    tame = np.where(_inside(record.ventricular, places), 3, _TAME.get(record.label, 0))
    rhythm = _by_sample(record.rhythm, places)
    return Stretch(x, np.interp(at, source, target), kind, rhythm, known, noisy, tame, record.source == "mitdb")


def _ordered_near(s: Stretch) -> None:
    """Where single beats are annotated as supraventricular the rhythm is no fibrillation, even if nobody says so."""
    for place in s.at[s.kind == 1]:
        near = s.rhythm[max(int(place - ORDER_S * MODEL_HZ), 0) : int(place + ORDER_S * MODEL_HZ)]
        near[near == UNKNOWN] = 0


def _inside(spans: Array, places: Array) -> Array:
    found = np.zeros(len(places), bool)
    for low, high in spans:
        found[slice(*np.searchsorted(places, (low, high)))] = True
    return found


def _by_sample(spans: Array, places: Array) -> Array:
    found = np.full(len(places), UNKNOWN)
    for low, high, kind in spans:
        found[slice(*np.searchsorted(places, (low, high)))] = kind
    return found


def _concatenated(parts: Sequence[Stretch]) -> Stretch:
    def joined(name: str) -> Array:
        return np.concatenate([getattr(p, name) for p in parts])

    x = np.concatenate([p.x - np.median(p.x) for p in parts])
    return Stretch(x, joined("at"), joined("kind"), joined("rhythm"), joined("known"), joined("noisy"), joined("tame"))


def _shortened(s: Stretch) -> Stretch:
    n = min(len(s.x) // CHUNK, MOST_CHUNKS) * CHUNK
    return Stretch(s.x[:n], s.at, s.kind, s.rhythm[:n], s.known[:n], s.noisy[:n], s.tame[:n], s.timed)


def targets_of(s: Stretch, quality: Array, dead: tuple[int, int]) -> Targets:
    """What is wanted of a stretch that was disturbed, `dead` from one sample to another (see `disturb`)."""
    frames = len(s.x) // HOP
    alive = (s.at < dead[0]) | (s.at > dead[1])
    edge = np.abs(s.at[:, None] - np.array(dead)).min(1, initial=np.inf) < 0.2 * MODEL_HZ
    beat, weight, offset, near = beat_targets(frames, s.at[alive])
    known = s.known.copy()
    known[dead[0] : dead[1]] = True
    for low, high in ((b - 30, b + 30) for b in s.at[edge]):
        known[max(int(low), 0) : int(high)] = False
    weight *= _sampled(known, "beat", frames, 0)
    clear = quality[np.clip(s.at.astype(int), 0, len(s.x) - 1)] == 0
    labelled = alive & ~edge & (s.kind != OTHER) & clear
    kind = kinds(frames, s.at[labelled], s.kind[labelled])
    tame = np.where(quality == 1, 0, s.tame)
    hidden = (quality == 1) & ~(s.known & s.noisy)
    rhythm = _settled(np.where(hidden, UNKNOWN, s.rhythm))
    return Targets(
        beat, weight, offset, near * weight * s.timed, kind,
        _sampled(rhythm, "rhythm", frames, UNKNOWN), _sampled(quality, "quality", frames, UNKNOWN),
        _sampled(tame, "class", frames, 0),
    )  # fmt: skip


def _settled(rhythm: Array) -> Array:
    """Not asked for at the start and just after a change."""
    asked = rhythm.copy()
    for change in (0, *(np.flatnonzero(np.diff(rhythm)) + 1)):
        asked[change : change + int(SETTLE_S * MODEL_HZ)] = UNKNOWN
    return asked


def _sampled(values: Array, output: str, frames: int, before: int) -> Array:
    """Values (samples,) at the places that an output's frames speak of."""
    places = np.arange(frames) * HOP + LAST - DELAYS[output]
    found: Array = np.where(places < 0, before, values[np.maximum(places, 0)])
    return found
