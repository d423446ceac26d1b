"""What a streaming model depends on: how far ahead, how far back, how long after a reset, and whether errors grow."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.contract import Contract
from holdover.runtime.engine import initial_state
from holdover.runtime.engines.ort import OrtEngine

Array = NDArray[Any]
Tensors = Mapping[str, Array]
Reference = Callable[[Array], Tensors]
"""x (batch, samples, channels) to the outputs of the whole sequence, (batch, frames, width) by name."""

PROBES = 12
SUDDEN = -99.0
"""Stands for minus infinity: a disturbance of the state is gone within the signal."""


def blocks(engine: OrtEngine, x: Array, sizes: Sequence[int], state: Tensors | None = None, last: bool = False
            ) -> dict[str, Array]:  # fmt: skip
    """Step through x, (batch, samples, channels); outputs joined, final states as `state:<name>`."""
    c = engine.contract
    state = initial_state(c, len(x)) if state is None else state
    parts, start = [], 0
    for k, size in enumerate(sizes):
        outputs, state = engine.step(x[:, start : start + size], state, last and k == len(sizes) - 1)
        parts.append(outputs)
        start += size
    joined = {o.name: np.concatenate([p[o.name] for p in parts], axis=1) for o in c.outputs}
    return joined | {f"state:{n}": v for n, v in state.items()}


def probe(
    c: Contract, reference: Reference, x: Array, rng: np.random.Generator
) -> tuple[dict[str, int], dict[str, int]]:
    """How far after and before its own sample a frame depends on the signal; the whole-sequence graph is asked.

    From a sample on the signal is replaced: the first frame that moves tells the look-ahead. One sample is replaced:
    the last frame that moves tells the memory, -1 if that is the last frame there is.
    """
    n = x.shape[1]
    before = reference(x)
    ahead = {o.name: 0 for o in c.outputs}
    memory = {o.name: 0 for o in c.outputs}
    for t in sorted({int(t) for t in rng.integers(min(c.first_chunk_min, n // 4), 3 * n // 4, size=PROBES)}):
        later, one = x.copy(), x.copy()
        later[:, t:] += rng.normal(0, 1, later[:, t:].shape).astype(x.dtype)
        one[:, t] += 1
        moved, touched = reference(later), reference(one)
        for o in (o for o in c.outputs if o.kind == "frames"):
            k = np.flatnonzero((before[o.name] != moved[o.name]).any(axis=(0, 2)))
            j = np.flatnonzero((before[o.name] != touched[o.name]).any(axis=(0, 2)))
            if len(k):
                ahead[o.name] = max(ahead[o.name], t - o.first_at - int(k[0]) * o.samples_per_frame)
            if len(j) and memory[o.name] >= 0:
                last = o.first_at + int(j[-1]) * o.samples_per_frame
                ended = j[-1] >= before[o.name].shape[1] - 1
                memory[o.name] = -1 if ended else max(memory[o.name], last - t)
    return ahead, memory


SETTLED = 1e-3
"""Two pasts have settled where outputs differ by less than this part of their spread."""


@np.errstate(all="ignore")  # numbers that are not finite are told apart below
def settling(engine: OrtEngine, x: Array) -> dict[str, int]:
    """Samples until a stream that begins anew says what one with another past says; -1: not within x.

    Parameters
    ----------
    x : array
        (batch, samples, channels): the first stream is heard, the second is the other past.
    """
    c = engine.contract
    half = x.shape[1] // 2 // c.hop * c.hop
    past = blocks(engine, x[1:2, :half], _steps_of(engine, half))
    state = {s.name: past[f"state:{s.name}"] for s in c.states}
    new = x[:1, half : 2 * half]
    fresh = blocks(engine, new, _steps_of(engine, half))
    carried = blocks(engine, new, [c.hop] * (half // c.hop), state)
    settled = {}
    for o in c.outputs:
        a, b = fresh[o.name][0], carried[o.name][0]
        # A stream with a past has frames at once; both end at the same sample.
        n = min(len(a), len(b))
        a, b = a[len(a) - n :], b[len(b) - n :]
        finite = b[np.isfinite(b)]
        spread = float(finite.std(dtype=np.float64)) or 1.0 if finite.size else 1.0
        near = (a == b) | (np.abs(a - b) <= SETTLED * spread)
        apart = np.flatnonzero(~near.all(axis=1))
        late = (int(apart[-1]) + 1) if len(apart) else 0
        settled[o.name] = -1 if late >= n else late * o.samples_per_frame + (o.delay if late else 0)
    return settled


def _steps_of(engine: OrtEngine, n: int) -> list[int]:
    c = engine.contract
    first = -(-c.first_chunk_min // c.hop) * c.hop
    return [first] + [c.hop] * ((n - first) // c.hop)


@np.errstate(all="ignore")  # a state that overflows ends it
def stability(engine: OrtEngine, x: Array, hops: int = 120, size: float = 1e-4) -> float:
    """Largest Lyapunov exponent of the carried state, a hop (Benettin et al. 1980): above 0 small errors grow.

    Parameters
    ----------
    x : array
        (1, samples, channels).
    size : float
        Of the disturbance, renewed each hop.
    """
    c = engine.contract
    loose = [s.name for s in c.states if s.dtype == "float32" and s.is_steady and "batch" in s.init_shape]
    x = x[:, : x.shape[1] // c.hop * c.hop]
    first = -(-c.first_chunk_min // c.hop) * c.hop
    if not loose or x.shape[1] <= first:
        return 0.0
    _, state = engine.step(x[:, :first], initial_state(c))
    rng = np.random.default_rng(5)
    apart = {n: rng.normal(size=state[n].shape) for n in loose}
    growth = []
    for start in list(range(first, x.shape[1], c.hop))[:hops]:
        norm = np.sqrt(sum(float((d**2).sum()) for d in apart.values()))
        if norm == 0:
            return SUDDEN
        moved = dict(state) | {n: (state[n] + apart[n] * size / norm).astype(np.float32) for n in loose}
        _, after = engine.step(x[:, start : start + c.hop], state)
        _, other = engine.step(x[:, start : start + c.hop], moved)
        apart = {n: other[n].astype(np.float64) - after[n].astype(np.float64) for n in loose}
        now = np.sqrt(sum(float((d**2).sum()) for d in apart.values()))
        if now == 0:
            return SUDDEN
        if not np.isfinite(now):
            break
        growth.append(np.log(now / size))
        state = after
    return float(np.mean(growth)) if growth else 0.0
