"""Endless training streams: segments of the records, disturbed in time and amplitude, with their targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.models.ecg_beats.data import MODEL_HZ, OTHER, RATE_HZ, Record
from holdover.models.ecg_beats.disturb import disturb, lead, read, time_map
from holdover.models.ecg_beats.net import BEAT_DELAY, CLASS_DELAY, LAST, SHAPE, normalise

HOP = SHAPE.front_end.hop
CHUNK_FRAMES = 200
"""Frames a training step takes from each stream: 10 s."""
CHUNK = CHUNK_FRAMES * HOP

Array = NDArray[Any]


@dataclass(frozen=True)
class Segment:
    """A stretch of one stream: what goes in, and what is wanted, a frame.

    Attributes
    ----------
    z : array
        (frames * hop,), normalised.
    beat, beat_weight : array
        (frames,), the wanted probability of a beat, and 0 where the annotations do not say.
    offset, offset_weight : array
        (frames,), in frames.
    kind : array
        (frames,), index of the class, -1 where none is wanted.
    """

    z: Array
    beat: Array
    beat_weight: Array
    offset: Array
    offset_weight: Array
    kind: Array

    def chunk(self, index: int) -> tuple[Array, ...]:
        """The arrays of the chunk of that index, in the order of the fields."""
        f = slice(index * CHUNK_FRAMES, (index + 1) * CHUNK_FRAMES)
        z = self.z[index * CHUNK : (index + 1) * CHUNK]
        return z, self.beat[f], self.beat_weight[f], self.offset[f], self.offset_weight[f], self.kind[f]


class Streams:
    """Parallel streams of segments without end.

    Parameters
    ----------
    records : sequence of Record
        What the segments are cut from.
    noise : sequence of array
        Recorded noise at 360 Hz, unit variance.
    slots : int
        Streams side by side.
    rng : numpy.random.Generator
        All chance comes from here.
    """

    def __init__(self, records: Sequence[Record], noise: Sequence[Array], slots: int, rng: np.random.Generator) -> None:
        self._records, self._noise, self._rng = records, noise, rng
        self._centres = {k: self._weighted(k) for k in (1, 2)}
        self._segments = [self._draw() for _ in range(slots)]
        self._next = [0] * slots

    def step(self) -> tuple[list[Array], Array]:
        """The next 10 s of every stream: z and the targets, (slots, ...), and which streams go on (not begun now)."""
        alive = np.array([n > 0 for n in self._next])
        parts = [s.chunk(n) for s, n in zip(self._segments, self._next, strict=True)]
        for slot, segment in enumerate(self._segments):
            self._next[slot] += 1
            if self._next[slot] * CHUNK >= len(segment.z):
                self._segments[slot], self._next[slot] = self._draw(), 0
        return [np.stack(p) for p in zip(*parts, strict=True)], alive

    def _weighted(self, kind: int) -> Array:
        root: Array = np.sqrt([min(int((r.kind == kind).sum()), 200) for r in self._records])
        return np.asarray(root / root.sum())

    def _draw(self) -> Segment:
        rng = self._rng
        seconds = 10 * int(rng.integers(4, 13))
        length = seconds * RATE_HZ * float(np.exp(rng.uniform(-0.15, 0.15)))
        record, start = self._place(length)
        inside = (record.at > start) & (record.at < start + length)
        at, kind = record.at[inside].astype(float), record.kind[inside].copy()
        source, target = time_map(at, kind, (start, start + length), rng)
        target *= seconds * MODEL_HZ / target[-1]
        x = read(lead(record, rng), np.interp(np.arange(seconds * MODEL_HZ), target, source))
        x, dead = disturb(x, self._noise, rng)
        flutter = np.interp(record.flutter, source, target)
        return _segment(x, np.interp(at, source, target), kind, flutter, dead)

    def _place(self, length: float) -> tuple[Record, float]:
        """A record and the sample to start at: half of the time anywhere, else near an S or V beat."""
        rng = self._rng
        if rng.random() < 0.5:
            record = self._records[int(rng.integers(len(self._records)))]
            at = rng.uniform(0, record.leads.shape[1])
        else:
            kind = 1 if rng.random() < 0.55 else 2
            record = self._records[int(rng.choice(len(self._records), p=self._centres[kind]))]
            at = float(rng.choice(record.at[record.kind == kind])) - rng.uniform(0.1, 0.9) * length
        return record, float(np.clip(at, 0, record.leads.shape[1] - length - 2))


def _segment(x: Array, beats: Array, kind: Array, unknown: Array, dead: tuple[float, float]) -> Segment:
    frames = len(x) // HOP
    alive = (beats < dead[0]) | (beats > dead[1])
    edge = np.abs(beats[:, None] - np.array(dead)).min(1, initial=np.inf) < 0.2 * MODEL_HZ
    beat, weight, offset, near = beat_targets(frames, beats[alive])
    for low, high in [*unknown, *((b - 30, b + 30) for b in beats[edge])]:
        position = np.arange(frames) * HOP + LAST - BEAT_DELAY
        weight[(position >= low) & (position <= high)] = 0
    labelled = alive & ~edge & (kind != OTHER)
    return Segment(normalise(x), beat, weight, offset, near * weight, kinds(frames, beats[labelled], kind[labelled]))


def beat_targets(frames: int, beats: Array) -> tuple[Array, Array, Array, Array]:
    """Wanted probability, its weight, wanted offset in frames and its weight, each (frames,)."""
    position = np.arange(frames) + (LAST - BEAT_DELAY) / HOP
    beat, weight = np.zeros(frames, np.float32), np.ones(frames, np.float32)
    offset, near = np.zeros(frames, np.float32), np.zeros(frames, np.float32)
    first = np.rint(beats / HOP - position[0]).astype(int)
    for shift in (-2, 2, -1, 1, 0):
        index = first + shift
        ok = (index >= 0) & (index < frames)
        index, distance = index[ok], beats[ok] / HOP - position[index[ok]]
        beat[index] = np.maximum(beat[index], np.exp(-0.5 * (distance / 0.7) ** 2))
        offset[index], near[index] = distance, abs(shift) <= 1
    weight[position < 0] = 0
    return beat, weight, offset, near


def kinds(frames: int, beats: Array, kind: Array) -> Array:
    """The wanted class, (frames,), -1 where none is wanted."""
    wanted = np.full(frames, -1, np.int64)
    first = np.rint((beats - LAST + CLASS_DELAY) / HOP).astype(int)
    for shift in (-1, 1, 0):
        ok = (first + shift >= 0) & (first + shift < frames)
        wanted[first[ok] + shift] = kind[ok]
    return wanted
