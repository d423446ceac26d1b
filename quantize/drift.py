"""A float model and its smaller child side by side over a long signal: how far they part, and how they come back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.export.proof import engine_of
from holdover.runtime.chunk import Chunk
from holdover.runtime.contract import Contract, OutputSpec
from holdover.runtime.engine import State, initial_state
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.stream import Stream

Array = NDArray[np.float32]

PIECE_S = 60.0
HOUR_S = 3600.0
FORCED_S = 600.0
"""So much of the signal is run with the parent's state given at every block."""
FORCED_BLOCK_S = 1.0
CALM_S, BURST_S, AFTER_S = 60.0, 2.0, 60.0
LOUD = 20.0
BACK = 2.0
"""Recovered is where the difference is at most so many times the largest before the burst."""


@dataclass(frozen=True)
class Burst:
    """What an artefact of `BURST_S` at 20 times the signal's spread does to the difference.

    Attributes
    ----------
    error : mapping of str to tuple of float
        By output, the difference of each second over the parent's spread; the burst begins after `CALM_S`.
    recovery_s : mapping of str to float
        By output, seconds from its end until the difference is what it was; -1: not within a minute.
    """

    error: Mapping[str, tuple[float, ...]]
    recovery_s: Mapping[str, float]


@dataclass(frozen=True)
class Drift:
    """How far two models part over a signal; differences are root mean squares over the parent's spread.

    Attributes
    ----------
    hours : float
        Of signal.
    by_hour : mapping of str to tuple of float
        By output; the last may be a part of an hour.
    first, last : mapping of str to float
        By output, over the first and the last tenth.
    worst : mapping of str to float
        By output, the largest difference, in the output's own unit.
    labels : mapping of str to float
        By output that is logits of classes, the share of frames with the same label.
    states : mapping of str to float
        By state that both carry, the largest difference seen, once a minute.
    free, forced : mapping of str to float
        By output, over the same stretch: with its own state, and with the parent's given every second.
    burst : Burst
    """

    hours: float
    by_hour: Mapping[str, tuple[float, ...]]
    first: Mapping[str, float]
    last: Mapping[str, float]
    worst: Mapping[str, float]
    labels: Mapping[str, float]
    states: Mapping[str, float]
    free: Mapping[str, float]
    forced: Mapping[str, float]
    burst: Burst

    def document(self) -> dict[str, Any]:
        """As JSON types."""
        return {**vars(self), "burst": vars(self.burst)}


@dataclass
class _Sum:
    """Squares of the difference and of the parent, piece by piece."""

    error: list[float] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    worst: float = 0.0
    same: int = 0
    total: float | NDArray[np.float64] = 0.0
    square: float = 0.0
    numbers: int = 0

    def add(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        gap = a.astype(np.float64) - b
        self.error.append(float((gap**2).sum()))
        self.frames.append(gap.size)
        if gap.size:
            self.worst = max(self.worst, float(np.abs(gap).max()))
            self.same += int((a.argmax(1) == b.argmax(1)).sum())
            self.total = self.total + a.sum(axis=0, dtype=np.float64)
            self.square += float((a.astype(np.float64) ** 2).sum())
            self.numbers += a.size

    @property
    def spread(self) -> float:
        """Standard deviation of the parent, each column about its own mean."""
        columns = np.size(self.total)
        if not self.numbers:
            return 1.0
        mean = float(np.mean((np.asarray(self.total) / (self.numbers / columns)) ** 2))
        return float(np.sqrt(max(self.square / self.numbers - mean, 0))) or 1.0

    def over(self, pieces: slice) -> float:
        """The difference over some of the pieces."""
        frames = sum(self.frames[pieces])
        return float(np.sqrt(sum(self.error[pieces]) / frames)) / self.spread if frames else 0.0


def drift(parent: bytes, child: bytes, x: Array) -> Drift:
    """Run two models over a signal.

    Parameters
    ----------
    parent, child : bytes
        Streaming files with the same outputs.
    x : array
        (samples, channels) at their rate, of any length.
    """
    return drifts(parent, [child], x)[0]


def drifts(parent: bytes, children: Sequence[bytes], x: Array) -> list[Drift]:
    """Run a model and several children over a signal, the parent once; see `drift`."""
    a, others = engine_of(parent), [engine_of(child) for child in children]
    return [_drift(a, b, x, beside) for b, beside in zip(others, _side_by_side(a, others, x), strict=True)]


@dataclass
class _Beside:
    """A child beside its parent, so far."""

    stream: Stream
    sums: dict[str, _Sum]
    states: dict[str, float] = field(default_factory=dict)
    waiting: tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]] = field(default_factory=lambda: ({}, {}))

    def add(self, parent: Mapping[str, NDArray[Any]], child: Mapping[str, NDArray[Any]]) -> None:
        """What the two said of a piece; what one alone has said waits for the other."""
        for left, said in zip(self.waiting, (parent, child), strict=True):
            left |= {n: np.concatenate([left[n], v]) if n in left else v for n, v in said.items()}
        for name, total in self.sums.items():
            frames = min(len(left[name]) for left in self.waiting)
            total.add(*(left[name][:frames] for left in self.waiting))
            for left in self.waiting:
                left[name] = left[name][frames:]


def _drift(a: OrtEngine, b: OrtEngine, x: Array, beside: _Beside) -> Drift:
    c, sums = a.contract, beside.sums
    pieces = len(next(iter(sums.values())).frames)
    tenth, hour = max(pieces // 10, 1), round(HOUR_S / PIECE_S)
    stretch = x[: round(FORCED_S * c.signal.rate_hz)]
    classes = [o for o in c.outputs if o.meaning == "class_logits"]
    return Drift(
        hours=len(x) / c.signal.rate_hz / HOUR_S,
        by_hour={n: tuple(s.over(slice(k, k + hour)) for k in range(0, pieces, hour)) for n, s in sums.items()},
        first={n: s.over(slice(0, tenth)) for n, s in sums.items()},
        last={n: s.over(slice(pieces - tenth, pieces)) for n, s in sums.items()},
        worst={n: s.worst for n, s in sums.items()},
        labels={o.name: _share(sums[o.name], o) for o in classes},
        states=beside.states,
        free=_stretch(a, b, stretch, forced=False),
        forced=_stretch(a, b, stretch, forced=True),
        burst=_burst(a, b, x),
    )


def _share(found: _Sum, o: OutputSpec) -> float:
    frames = found.numbers // max(o.width or len(o.labels), 1)
    return found.same / frames if frames else 1.0


def _side_by_side(a: OrtEngine, others: Sequence[OrtEngine], x: Array) -> list[_Beside]:
    rate_hz = a.contract.signal.rate_hz
    stream = Stream(a, rate_hz)
    besides = [_Beside(Stream(b, rate_hz), {o.name: _Sum() for o in a.contract.outputs}) for b in others]
    piece = round(PIECE_S * rate_hz)
    for at in range(0, len(x), piece):
        chunk = Chunk(at, x[at : at + piece])
        said, state = stream.push(chunk).values, stream.snapshot()["lane"]
        for beside in besides:
            beside.add(said, beside.stream.push(chunk).values)
            _states(state, beside.stream.snapshot()["lane"], beside.states)
    return besides


def _states(a: State, b: State, worst: dict[str, float]) -> None:
    for name in _shared(a, b):
        gap = float(np.abs(a[name] - b[name]).max()) if a[name].size else 0.0
        worst[name] = max(worst.get(name, 0.0), gap)


def _shared(a: State, b: State) -> list[str]:
    """Float states that both carry."""
    return [n for n in a if n in b and a[n].dtype == b[n].dtype == np.float32 and a[n].shape == b[n].shape]


def _stretch(a: OrtEngine, b: OrtEngine, x: Array, forced: bool) -> dict[str, float]:
    """The difference over a stretch in blocks of a second, the child given the parent's state at each, or not."""
    sums = {o.name: _Sum() for o in a.contract.outputs}
    before: State = initial_state(a.contract)
    after: State = initial_state(b.contract)
    for block in _blocks(a.contract, b.contract, x):
        given = dict(after) | ({n: before[n] for n in _shared(before, after)} if forced else {})
        said, before = a.step(block[None], before)
        other, after = _in_grid(b, block, given)
        for name, total in sums.items():
            total.add(said[name][0], other[name])
    return {n: s.over(slice(None)) for n, s in sums.items()}


def _blocks(a: Contract, b: Contract, x: Array) -> Iterator[Array]:
    grid = int(np.lcm(a.grid, b.grid))
    size = max(round(FORCED_BLOCK_S * a.signal.rate_hz) // grid, 1) * grid
    first = max(-(-max(a.first_chunk_min, b.first_chunk_min) // size), 1) * size
    yield x[:first]
    for start in range(first, len(x) - size + 1, size):
        yield x[start : start + size]


def _in_grid(engine: OrtEngine, x: Array, state: State) -> tuple[dict[str, NDArray[Any]], State]:
    """A block in steps of the grid where results depend on it."""
    c = engine.contract
    fresh = all(np.array_equal(v, state[n]) for n, v in initial_state(c).items())
    step = len(x) if c.bitwise else c.grid
    first = max(-(-c.first_chunk_min // step), 1) * step if fresh else step
    said = []
    for start, end in [(0, first), *((k, k + step) for k in range(first, len(x), step))]:
        outputs, state = engine.step(x[None, start:end], state)
        said.append({n: v[0] for n, v in outputs.items()})
    return {n: np.concatenate([s[n] for s in said]) for n in said[0]}, state


def _burst(a: OrtEngine, b: OrtEngine, x: Array) -> Burst:
    """The difference second by second around an artefact."""
    rate_hz = a.contract.signal.rate_hz
    total = round((CALM_S + BURST_S + AFTER_S) * rate_hz)
    piece = np.resize(x, (total, x.shape[1])).astype(np.float32)
    start, end = round(CALM_S * rate_hz), round((CALM_S + BURST_S) * rate_hz)
    noise = np.random.default_rng(20).uniform(-1, 1, piece[start:end].shape)
    piece[start:end] += (LOUD * np.ptp(x, axis=0) * noise).astype(np.float32)
    streams = Stream(a, rate_hz), Stream(b, rate_hz)
    said = [s.push(Chunk(0, piece)).values for s in streams]
    error, recovery = {}, {}
    for o in a.contract.outputs:
        pair = [v[o.name].astype(np.float64) for v in said]
        n = min(map(len, pair))
        spread = float(np.sqrt(pair[0][: n // 2].var(axis=0).mean())) or 1.0
        # Frames are placed by when they are known, so that nothing before the burst can have seen it.
        at = (o.first_at + o.delay + np.arange(n) * o.samples_per_frame) // round(rate_hz)
        gap = ((pair[0][:n] - pair[1][:n]) ** 2).mean(axis=1)
        by = [np.sqrt(gap[at == k].mean()) / spread if (at == k).any() else 0.0 for k in range(round(total / rate_hz))]
        error[o.name] = tuple(float(e) for e in by)
        recovery[o.name] = _recovery(by)
    return Burst(error, recovery)


def _recovery(error: list[float]) -> float:
    """Seconds after the burst until the difference stays what it was before; -1: it does not."""
    calm, after = error[round(CALM_S / 3) : round(CALM_S)], error[round(CALM_S + BURST_S) :]
    limit = BACK * max(calm)
    late = [k for k, e in enumerate(after) if e > limit]
    if not late:
        return 0.0
    return -1.0 if late[-1] == len(after) - 1 else late[-1] + 1.0
