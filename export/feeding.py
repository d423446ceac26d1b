"""How samples reach a streaming model: every way, through the engine and the `Stream` that it meets in the field."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from holdover.export.measure import Array, Tensors
from holdover.runtime.chunk import Chunk
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.errors import ModelError
from holdover.runtime.frames import Frames
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.stream import Stream


def engine_of(data: bytes) -> OrtEngine:
    """The runtime's engine over a model's bytes."""
    return OrtEngine(data, hashlib.sha256(data).hexdigest())


def ways(
    engine: OrtEngine, other: OrtEngine, x: Array, rng: np.random.Generator, count: int
) -> Iterator[tuple[str, Tensors]]:
    """Every way to feed the first of the streams, and what came of it."""
    n, c = x.shape[1], engine.contract
    yield "in one piece", feed(engine, x[0], [n])
    yield "sample by sample", feed(engine, x[0], [1] * n)
    yield "smallest first chunk", feed(engine, x[0], steps(c.first_chunk_min, c.hop, n))
    for _ in range(count):
        sizes = pieces(n, rng)
        yield "random chunks, some of nothing", feed(engine, x[0], sizes)
        yield "saved and restored", _restored(engine, other, x[0], sizes)
        yield "beside another stream", _beside(engine, x, sizes)


def steps(first: int, hop: int, n: int) -> list[int]:
    """The first piece, then one hop each."""
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


def _push(stream: Stream, x: Array, sizes: Sequence[int], at: int = 0) -> Iterator[Frames]:
    for size in sizes:
        yield pushed(stream, at, x[at : at + size])
        at += size


def pushed(stream: Stream, at: int, x: Array) -> Frames:
    """What a stream says of x, (samples, channels), from sample `at`; `ModelError` where the graph does not run."""
    return _ran(stream.push, Chunk(at, x))


def _ran(call: Callable[..., Frames], *given: Any) -> Frames:
    try:
        return call(*given)
    except RuntimeError as error:  # onnxruntime's own over bound buffers, where shapes are not those of the contract
        raise ModelError(f"the streaming graph does not run: {' '.join(str(error).split())[:300]}") from error


def _join(frames: Sequence[Frames]) -> dict[str, Array]:
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
        pushed(theirs, at, x[1, at : at + size])
        said.append(pushed(mine, at, x[0, at : at + size]))
        at += size
    return _join([*said, _ran(mine.finish)])


def one_call(engine: OrtEngine, n: int) -> list[int]:
    """Blocks that hold n samples, a whole number of hops: one, or one for each hop where the graph takes no other."""
    hop = engine.contract.hop
    return [hop] * (n // hop) if takes_fixed(engine) else [n]


def takes_fixed(engine: OrtEngine) -> bool:
    """Whether a call takes one hop, no more and no less."""
    first = next(i for i in engine.session.get_inputs() if i.name == engine.contract.signal.input)
    return isinstance(first.shape[1], int)


def takes_batch(engine: OrtEngine) -> bool:
    """Whether a call may hold several streams."""
    first = next(i for i in engine.session.get_inputs() if i.name == engine.contract.signal.input)
    return not isinstance(first.shape[0], int)
