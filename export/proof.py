"""Proof that a streaming model gives what its whole-sequence original gives, however the samples arrive.

The streamed side runs as it will in the field: the file's bytes, the runtime's engine, its `Stream`, its snapshots.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from holdover.export.measure import Array, Reference, Tensors, blocks, probe, settling, stability
from holdover.runtime.chunk import Chunk
from holdover.runtime.contract import Contract, OutputSpec
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.errors import ModelError
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.stream import Stream

LEAST_TOLERANCE = 1e-5
MOST_TOLERANCE = 1e-3
"""Of the largest number said: double precision that is further away speaks for no rounding, but of another model."""
CHUNKINGS = 24
SCALES = (1.0, 0.1, 10.0)
"""Of the noise in the three streams."""


@dataclass(frozen=True)
class Proof:
    """What was measured, and what speaks against the model.

    Attributes
    ----------
    checks : mapping of str to float
        Largest difference from the original by way of feeding.
    frames : int
        Frames compared.
    tolerance : float
        Difference that rounding explains: 50 times that of the original from its own run in double precision.
    bitwise : bool
        Whether results are the same bits for every block size.
    lookahead, memory : mapping of str to int
        By output, samples after and before a frame's own that move it, as probed; memory -1: all of the past.
    settle : mapping of str to int
        By output, samples after which two pasts give the same, -1: not within the test signal.
    exponent : float
        Largest Lyapunov exponent of the state map, a hop; above 0 two runs drift apart.
    signal : str
        What it was tried on.
    refusals : tuple of str
        Reasons not to ship; empty is good.
    """

    checks: Mapping[str, float]
    frames: int
    tolerance: float
    bitwise: bool
    lookahead: Mapping[str, int]
    memory: Mapping[str, int]
    settle: Mapping[str, int]
    exponent: float
    signal: str
    refusals: tuple[str, ...] = ()

    @property
    def max_error(self) -> float:
        """Largest difference from the original."""
        return max(self.checks.values(), default=0.0)

    def document(self) -> dict[str, Any]:
        """The contract's `verification`."""
        return {
            "bitwise": self.bitwise,
            "checks": {name: _short(error) for name, error in self.checks.items()},
            "frames": self.frames,
            "lookahead_measured": dict(self.lookahead),
            "max_error": _short(self.max_error),
            "memory_measured": dict(self.memory),
            "signal": self.signal,
            "state_exponent": _short(self.exponent),
            "tolerance": _short(self.tolerance),
        }


def _short(number: float) -> float:
    return float(f"{number:.2e}")


@dataclass
class _Tally:
    """Differences as they are found."""

    checks: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    wrong: list[str] = field(default_factory=list)
    bitwise: bool = True

    def add(self, check: str, contract: Contract, found: Tensors, wanted: Tensors, samples: int) -> None:
        self.checks.setdefault(check, 0.0)
        for o in contract.outputs:
            a, b = found[o.name], wanted[o.name]
            if o.kind == "running":
                a = a[-1:]
            elif contract.exact_end:
                if a.shape != b.shape:
                    self.wrong.append(f"{check}: {o.name} gave {len(a)} frames of {samples} samples, the original "
                                      f"{len(b)}")  # fmt: skip
                    continue
            elif len(b) != expected_frames(o, samples) or len(a) < len(b):
                due = expected_frames(o, samples)
                self.wrong.append(f"{check}: {o.name} gave {len(a)} frames for {samples} samples, the contract "
                                  f"promises {due}, the original has {len(b)}")  # fmt: skip
                continue
            a = a[: len(b)]
            self.frames += len(b)
            gap = float(np.abs(a - b).max()) if a.size else 0.0
            self.checks[check] = max(self.checks[check], gap if np.isfinite(gap) else np.inf)


def expected_frames(o: OutputSpec, samples: int) -> int:
    """Frames of an output that the contract promises for so many samples, the end apart."""
    return max((samples - 1 - o.first_at - o.delay) // o.samples_per_frame + 1, 0)


def engine_of(data: bytes) -> OrtEngine:
    """The runtime's engine over a model's bytes."""
    return OrtEngine(data, hashlib.sha256(data).hexdigest())


def is_bitwise(data: bytes, samples: int, seed: int = 3) -> bool:
    """Whether frames and states are the same bits for every cut of the same signal into whole hops."""
    engine = engine_of(data)
    c = engine.contract
    if any(o.kind == "running" for o in c.outputs):
        return False
    hops = max(samples // c.hop, c.first_chunk_min // c.hop + 8)
    x = noise(1, hops * c.hop, len(c.signal.channels), seed)
    whole = blocks(engine, x, [len(x[0])])
    rng = np.random.default_rng(seed)
    return all(_same(blocks(engine, x, sizes), whole) for sizes in _cuts(c, hops, rng))


def _cuts(c: Contract, hops: int, rng: np.random.Generator) -> Iterator[list[int]]:
    first = c.first_chunk_min // c.hop
    for most in (1, 2, 3, 7, 8, 16, 31, 45, hops):
        sizes, left = [first], hops - first
        while left:
            sizes.append(min(left, int(rng.integers(1, most + 1)) if most > 1 else 1))
            left -= sizes[-1]
        yield [s * c.hop for s in sizes]


def _same(a: Tensors, b: Tensors) -> bool:
    return all(a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in b)


def noise(batch: int, samples: int, channels: int, seed: int) -> Array:
    """White noise of unit variance."""
    return np.random.default_rng(seed).normal(size=(batch, samples, channels)).astype(np.float32)


def prove(
    data: bytes, reference: Reference, precise: Reference | None = None, signal: Array | None = None,
    described: str = "white noise of unit variance", count: int = CHUNKINGS, seed: int = 11,
) -> Proof:  # fmt: skip
    """Hold a streaming model against its whole-sequence original.

    Parameters
    ----------
    data : bytes
        The model file.
    reference : Reference
        The original in single precision.
    precise : Reference, optional
        The original in double precision, from which the tolerance follows.
    signal : array, optional
        (samples, channels) of a recording; white noise if None.
    described : str
        What the signal is.
    count : int
        Random chunkings.
    seed : int
        Of chunkings, probes and noise.

    Returns
    -------
    Proof
    """
    engine, other = engine_of(data), engine_of(data)
    c = engine.contract
    rng = np.random.default_rng(seed)
    longest = _longest(c)
    x = _signal(c, signal, longest, seed)
    tolerance = _tolerance(reference, precise, x[:, : min(longest, c.first_chunk_min + 192 * c.hop)])
    tally = _Tally()
    for n in _lengths(c, longest):
        wanted = {k: v[0] for k, v in reference(x[:1, :n]).items()}
        first: Tensors | None = None
        for check, found in _ways(engine, other, x[:, :n], rng, count if n == longest else 4):
            tally.add(check, c, found, wanted, n)
            first = found if first is None else first
            if not _same(found, first):
                tally.bitwise = False
                tally.wrong.append(f"{check}: other bits than in one piece, for {n} samples")
        if n == longest:
            tally.wrong += _silent(wanted)
    tally.wrong += _unpunctual(engine, x[0, : c.first_chunk_min + 16 * c.hop])
    _batch(engine, x, reference, tally)
    ahead, memory = probe(c, reference, x[:1], rng)
    settle = settling(engine, _signal(c, signal, longest * 2, seed + 1))
    exponent = stability(engine, x[:1])
    wrong = tally.wrong[:5]
    wrong += [f"{check}: differs from the original by {error:.1e}, more than rounding explains ({tolerance:.1e})"
              for check, error in tally.checks.items() if error > tolerance]  # fmt: skip
    wrong += [
        f"output {o.name} depends on {ahead[o.name]} samples after its own, the contract says {o.delay}"
        for o in c.outputs
        if ahead[o.name] > o.delay
    ]
    measured = (c.bitwise and tally.bitwise, ahead, memory, settle, exponent, described)
    return Proof(tally.checks, tally.frames, tolerance, *measured, tuple(wrong))


def _unpunctual(engine: OrtEngine, x: Array) -> list[str]:
    """Outputs whose frames do not come with the samples that the contract says, hop by hop."""
    c = engine.contract
    stream = Stream(engine, c.signal.rate_hz)
    block = c.hop if c.bitwise else c.grid
    said, at = dict.fromkeys((o.name for o in c.outputs), 0), 0
    wrong: dict[str, str] = {}
    for size in _steps(-(-c.first_chunk_min // block) * block, block, len(x) // block * block):
        values = _pushed(stream, at, x[at : at + size]).values
        at += size
        for o in (o for o in c.outputs if o.kind == "frames"):
            said[o.name] += len(values[o.name])
            if said[o.name] != (due := expected_frames(o, at)):
                wrong.setdefault(o.name, f"after {at} samples {o.name} gave {said[o.name]} frames, the contract "
                                         f"promises {due}")  # fmt: skip
    return list(wrong.values())


def _silent(wanted: Tensors) -> list[str]:
    """Outputs that never move prove nothing."""
    return [
        f"the output {name} said the same all along, so that nothing was proven of it; give a signal on which it moves "
        "with --test-input"
        for name, value in wanted.items()
        if len(value) > 1 and not np.ptp(value, axis=0).any()
    ]


def _longest(c: Contract) -> int:
    steady = max((s.steady_after for s in c.states), default=0)
    hops = (max(c.first_chunk_min, 2 * steady) // c.hop) + 160
    return hops * c.hop


def _lengths(c: Contract, longest: int) -> list[int]:
    """Of test signals: the shortest, and every way to end within a hop, and a long one."""
    base = c.first_chunk_min + 6 * c.hop
    ends = sorted({0, 1, c.hop // 2, c.hop - 1})
    running = [base + k for k in range(c.hop, 24 * c.hop, max(3, c.hop - 1))] if c.outputs[0].kind == "running" else []
    return [c.first_chunk_min, c.first_chunk_min + 1, *(base + e for e in ends), *running[:16], longest]


def _signal(c: Contract, signal: Array | None, samples: int, seed: int) -> Array:
    """Three streams of so many samples."""
    made = noise(3, samples, len(c.signal.channels), seed) * np.asarray(SCALES, np.float32)[:, np.newaxis, np.newaxis]
    if signal is None:
        return made
    if signal.ndim != 2 or signal.shape[1] != made.shape[2]:
        raise ModelError(f"the test input has shape {signal.shape}, expected (samples, {made.shape[2]})")
    whole = np.resize(signal.astype(np.float32), (max(len(signal), samples), signal.shape[1]))
    starts = [0, (len(whole) - samples) // 2, len(whole) - samples]
    return np.stack([whole[s : s + samples] for s in starts])


def _tolerance(reference: Reference, precise: Reference | None, x: Array) -> float:
    """What rounding explains: as measured over the streams, and at least one rounding of the largest number said."""
    if precise is None:
        return LEAST_TOLERANCE
    gap, most = 0.0, 1.0
    for k in range(len(x)):
        single, double = reference(x[k : k + 1]), precise(x[k : k + 1])
        for name in (n for n in single if single[n].size):
            largest = float(np.abs(single[name]).max())
            gap = max(gap, float(np.abs(single[name] - double[name]).max()), largest * float(np.finfo(np.float32).eps))
            most = max(most, largest)
    return min(max(LEAST_TOLERANCE, 50 * gap), MOST_TOLERANCE * most)


def _ways(
    engine: OrtEngine, other: OrtEngine, x: Array, rng: np.random.Generator, count: int
) -> Iterator[tuple[str, Tensors]]:
    """Every way to feed the first of the streams, and what came of it."""
    n, c = x.shape[1], engine.contract
    yield "in one piece", feed(engine, x[0], [n])
    yield "sample by sample", feed(engine, x[0], [1] * n)
    yield "smallest first chunk", feed(engine, x[0], _steps(c.first_chunk_min, c.hop, n))
    for _ in range(count):
        sizes = pieces(n, rng)
        yield "random chunks, some of nothing", feed(engine, x[0], sizes)
        yield "saved and restored", _restored(engine, other, x[0], sizes)
        yield "beside another stream", _beside(engine, x, sizes)


def _steps(first: int, hop: int, n: int) -> list[int]:
    cuts = [0, *range(min(first, n), n, hop), n]
    return [b - a for a, b in pairwise(cuts)]


def pieces(n: int, rng: np.random.Generator) -> list[int]:
    """A random way to cut n samples, at a random scale, with pieces of nothing."""
    most = int(np.exp(rng.uniform(0, np.log(n + 1)))) + 1
    sizes: list[int] = []
    left = n
    while left > 0:
        sizes.append(min(left, int(rng.integers(0, most + 1))))
        left -= sizes[-1]
    return sizes


def feed(engine: OrtEngine, x: Array, sizes: Sequence[int]) -> dict[str, Array]:
    """What a `Stream` says of x, (samples, channels), pushed in such pieces and finished."""
    stream = Stream(engine, engine.contract.signal.rate_hz)
    return _join([*_push(stream, x, sizes), _ran(stream.finish)])


def _push(stream: Stream, x: Array, sizes: Sequence[int], at: int = 0) -> Iterator[Any]:
    for size in sizes:
        yield _pushed(stream, at, x[at : at + size])
        at += size


def _pushed(stream: Stream, at: int, x: Array) -> Any:
    return _ran(stream.push, Chunk(at, x))


def _ran(call: Callable[..., Any], *given: Any) -> Any:
    try:
        return call(*given)
    except RuntimeError as error:  # onnxruntime's own over bound buffers, where shapes are not those of the contract
        raise ModelError(f"the streaming graph does not run: {' '.join(str(error).split())[:300]}") from error


def _join(frames: Sequence[Any]) -> dict[str, Array]:
    return {n: np.concatenate([f.values[n] for f in frames]) for n in frames[0].values}


def _restored(engine: OrtEngine, other: OrtEngine, x: Array, sizes: Sequence[int]) -> dict[str, Array]:
    """Half of it, the memory to bytes and back, the rest in another engine."""
    half = len(sizes) // 2
    rate_hz = engine.contract.signal.rate_hz
    first, second = Stream(engine, rate_hz), Stream(other, rate_hz)
    said = list(_push(first, x, sizes[:half]))
    second.restore(unpack(pack(first.snapshot())))
    said += _push(second, x, sizes[half:], sum(sizes[:half]))
    return _join([*said, _ran(second.finish)])


def _beside(engine: OrtEngine, x: Array, sizes: Sequence[int]) -> dict[str, Array]:
    """One of two streams that take turns in one engine."""
    rate_hz = engine.contract.signal.rate_hz
    mine, theirs = Stream(engine, rate_hz), Stream(engine, rate_hz)
    said, at = [], 0
    for size in sizes:
        _pushed(theirs, at, x[1, at : at + size])
        said.append(_pushed(mine, at, x[0, at : at + size]))
        at += size
    return _join([*said, _ran(mine.finish)])


def _batch(engine: OrtEngine, x: Array, reference: Reference, tally: _Tally) -> None:
    """Three streams in one call, where the graph takes several."""
    c = engine.contract
    if not _takes_batch(engine):
        return
    n = x.shape[1] // c.hop * c.hop
    sizes = [n // 2 // c.hop * c.hop, n - n // 2 // c.hop * c.hop]
    if sizes[0] < c.first_chunk_min or takes_fixed(engine):
        sizes = one_call(engine, n)
    together = blocks(engine, x[:, :n], sizes, last=c.exact_end)
    for k in range(len(x)):
        wanted = {name: v[0] for name, v in reference(x[k : k + 1, :n]).items()}
        tally.add("three streams in a call", c, {o.name: together[o.name][k] for o in c.outputs}, wanted, n)


def one_call(engine: OrtEngine, n: int) -> list[int]:
    """Blocks that hold n samples, a whole number of hops: one, or one for each hop where the graph takes no other."""
    hop = engine.contract.hop
    return [hop] * (n // hop) if takes_fixed(engine) else [n]


def takes_fixed(engine: OrtEngine) -> bool:
    """Whether a call takes one hop, no more and no less."""
    first = next(i for i in engine.session.get_inputs() if i.name == engine.contract.signal.input)
    return isinstance(first.shape[1], int)


def _takes_batch(engine: OrtEngine) -> bool:
    first = next(i for i in engine.session.get_inputs() if i.name == engine.contract.signal.input)
    return not isinstance(first.shape[0], int)


def with_proof(document: dict[str, Any], proof: Proof) -> dict[str, Any]:
    """The contract with what was measured; an output that did not settle has the length of the test signal."""
    longest = _longest(Contract.of(document))
    outputs = [o | {"settle": proof.settle[o["name"]] if proof.settle[o["name"]] >= 0 else longest}
               for o in document["outputs"]]  # fmt: skip
    return document | {"outputs": outputs, "verification": proof.document()}
