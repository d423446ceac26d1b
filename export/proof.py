"""Proof that a streaming model gives what its whole-sequence original gives, however the samples arrive.

The streamed side runs as it will in the field: the file's bytes, the runtime's engine, its `Stream`, its snapshots.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from holdover.export.feeding import (
    engine_of,
    feed,
    one_call,
    pieces,
    pushed,
    steps,
    takes_batch,
    takes_fixed,
    ways,
)
from holdover.export.measure import Array, Reference, Tensors, blocks, probe, settling, stability
from holdover.export.tally import Tally, still
from holdover.export.tolerance import tolerances
from holdover.runtime.contract import Contract
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.errors import ModelError
from holdover.runtime.stream import Stream, expected_frames

__all__ = ["Proof", "engine_of", "expected_frames", "feed", "is_bitwise", "noise", "one_call", "pieces", "prove",
           "with_proof"]  # fmt: skip

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
    tolerances : mapping of str to float
        Difference that rounding explains, by output, the largest of its streams and columns: 50 times that of the
        original from its own run in double precision.
    excess : float
        Largest difference over the tolerance of its own stream and column; above 1 it is refused.
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
    still : mapping of str to tuple of int
        By output, columns that said the same all along: nothing was proven of them.
    refusals : tuple of str
        Reasons not to ship; empty is good.
    """

    checks: Mapping[str, float]
    frames: int
    tolerances: Mapping[str, float]
    excess: float
    bitwise: bool
    lookahead: Mapping[str, int]
    memory: Mapping[str, int]
    settle: Mapping[str, int]
    exponent: float
    signal: str
    still: Mapping[str, tuple[int, ...]]
    refusals: tuple[str, ...] = ()

    @property
    def max_error(self) -> float:
        """Largest difference from the original."""
        return max(self.checks.values(), default=0.0)

    @property
    def tolerance(self) -> float:
        """Largest difference that rounding explains, over all outputs."""
        return max(self.tolerances.values(), default=0.0)

    def document(self) -> dict[str, Any]:
        """The contract's `verification`."""
        return {
            "bitwise": self.bitwise,
            "checks": {name: _short(error) for name, error in self.checks.items()},
            "error_over_tolerance": _short(self.excess),
            "frames": self.frames,
            "lookahead_measured": dict(self.lookahead),
            "max_error": _short(self.max_error),
            "memory_measured": dict(self.memory),
            "signal": self.signal,
            "state_exponent": _short(self.exponent),
            "still": {name: list(columns) for name, columns in self.still.items()},
            "tolerance": _short(self.tolerance),
            "tolerances": {name: _short(tolerance) for name, tolerance in self.tolerances.items()},
        }


def _short(number: float) -> float:
    return float(f"{number:.2e}")


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
    longest = longest_of(c)
    x = _signal(c, signal, longest, seed)
    lengths = _lengths(c, longest)
    tally = Tally(tolerances(reference, precise, x, _precise_lengths(c, lengths)))
    wanted = [{k: v[0] for k, v in reference(x[:1, :n]).items()} for n in lengths]
    for n, due in zip(lengths, wanted, strict=True):
        _feed_every_way(engine, other, x[:, :n], due, rng, count if n == longest else 4, tally)
    tally.wrong += _unpunctual(engine, x[0, : c.first_chunk_min + 16 * c.hop])
    _batch(engine, x, reference, tally)
    ahead, memory = probe(c, reference, x[:1], rng)
    settle = settling(engine, _signal(c, signal, longest * 2, seed + 1))
    quiet = still(c, wanted)
    silent = _silent(n for n, columns in quiet.items() if len(columns) == tally.tolerance[n].shape[1])
    wrong = (*tally.reasons(), *silent, *_foresight(c, ahead))
    return Proof(
        tally.errors, tally.frames, {name: float(t.max()) for name, t in tally.tolerance.items()},
        max(tally.checks.values(), default=0.0), c.bitwise and tally.bitwise, ahead, memory, settle,
        stability(engine, x[:1]), described, quiet, wrong,
    )  # fmt: skip


def _feed_every_way(
    engine: OrtEngine, other: OrtEngine, x: Array, due: Tensors, rng: np.random.Generator, count: int, tally: Tally
) -> None:
    n = x.shape[1]
    first: Tensors | None = None
    for check, found in ways(engine, other, x, rng, count):
        tally.add(check, engine.contract, found, due, n)
        first = found if first is None else first
        if not _same(found, first):
            tally.bitwise = False
            tally.wrong.append(f"{check}: other bits than in one piece, for {n} samples")


def _foresight(c: Contract, ahead: Mapping[str, int]) -> list[str]:
    """Outputs that look further ahead than they wait."""
    return [
        f"output {o.name} depends on {ahead[o.name]} samples after its own, the contract says {o.delay}"
        for o in c.outputs
        if ahead[o.name] > o.delay
    ]


def _silent(outputs: Iterable[str]) -> list[str]:
    """Outputs that never move prove nothing."""
    return [
        f"the output {name} said the same all along, so that nothing was proven of it; give a signal on which it moves "
        "with --test-input"
        for name in outputs
    ]


def _unpunctual(engine: OrtEngine, x: Array) -> list[str]:
    """Outputs whose frames do not come with the samples that the contract says, hop by hop."""
    c = engine.contract
    stream = Stream(engine, c.signal.rate_hz)
    block = c.hop if c.bitwise else c.grid
    said, at = dict.fromkeys((o.name for o in c.outputs), 0), 0
    wrong: dict[str, str] = {}
    for size in steps(-(-c.first_chunk_min // block) * block, block, len(x) // block * block):
        values = pushed(stream, at, x[at : at + size]).values
        at += size
        for o in (o for o in c.outputs if o.kind == "frames"):
            said[o.name] += len(values[o.name])
            if said[o.name] != (due := expected_frames(o, at)):
                wrong.setdefault(o.name, f"after {at} samples {o.name} gave {said[o.name]} frames, the contract "
                                         f"promises {due}")  # fmt: skip
    return list(wrong.values())


def longest_of(c: Contract) -> int:
    """Samples of the longest signal that goes in every way: its memory twice, and 160 hops."""
    steady = max((s.steady_after for s in c.states), default=0)
    hops = (max(c.first_chunk_min, 2 * steady) // c.hop) + 160
    return hops * c.hop


def _lengths(c: Contract, longest: int) -> list[int]:
    """Of test signals: the shortest, and every way to end within a hop, and a long one."""
    base = c.first_chunk_min + 6 * c.hop
    ends = sorted({0, 1, c.hop // 2, c.hop - 1})
    running = [base + k for k in range(c.hop, 24 * c.hop, max(3, c.hop - 1))] if _runs(c) else []
    return [c.first_chunk_min, c.first_chunk_min + 1, *(base + e for e in ends), *running[:16], longest]


def _runs(c: Contract) -> bool:
    return any(o.kind == "running" for o in c.outputs)


def _precise_lengths(c: Contract, lengths: Sequence[int]) -> list[int]:
    """Which lengths are run in double precision: a long one; of values over all of time, some on the way there."""
    long = min(lengths[-1], c.first_chunk_min + 192 * c.hop)
    return [*(lengths[::4] if _runs(c) else ()), long]


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


def _batch(engine: OrtEngine, x: Array, reference: Reference, tally: Tally) -> None:
    """Three streams in one call, where the graph takes several."""
    c = engine.contract
    if not takes_batch(engine):
        return
    n = x.shape[1] // c.hop * c.hop
    sizes = [n // 2 // c.hop * c.hop, n - n // 2 // c.hop * c.hop]
    if sizes[0] < c.first_chunk_min or takes_fixed(engine):
        sizes = one_call(engine, n)
    together = blocks(engine, x[:, :n], sizes, last=c.exact_end)
    for k in range(len(x)):
        wanted = {name: v[0] for name, v in reference(x[k : k + 1, :n]).items()}
        tally.add("three streams in a call", c, {o.name: together[o.name][k] for o in c.outputs}, wanted, n, k)


def with_proof(document: dict[str, Any], proof: Proof) -> dict[str, Any]:
    """The contract with what was measured; an output that did not settle has the length of the test signal."""
    longest = longest_of(Contract.of(document))
    outputs = [o | {"settle": proof.settle[o["name"]] if proof.settle[o["name"]] >= 0 else longest}
               for o in document["outputs"]]  # fmt: skip
    return document | {"outputs": outputs, "verification": proof.document()}
