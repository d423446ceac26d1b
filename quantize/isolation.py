"""Whether what is next to a stream, or comes later in its block, changes what is said of it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.export.proof import engine_of, expected_frames
from holdover.runtime.contract import Contract
from holdover.runtime.engine import Outputs, State, initial_state
from holdover.runtime.engines.ort import OrtEngine

Array = NDArray[np.float32]

LOUD = 1000.0
HOPS = 64


@dataclass(frozen=True)
class Isolation:
    """Largest change of what is said elsewhere; 0 is good.

    Attributes
    ----------
    loud, nan : float or None
        A neighbour in the same call at a thousand times the amplitude, and one of NaN; None: it takes one stream.
    later : float
        An artefact in the last sample of a block, on the frames before.
    """

    loud: float | None
    nan: float | None
    later: float

    @property
    def holds(self) -> bool:
        """Whether nothing changed."""
        return not any((self.loud, self.nan, self.later))

    def document(self) -> dict[str, float | str | None]:
        """As JSON types, "inf" where numbers became none: JSON has no infinity."""
        return {name: "inf" if value == np.inf else value for name, value in asdict(self).items()}


def isolation(data: bytes, signal: Array) -> Isolation:
    """Try what may leak from one stream, or one moment, to another.

    Parameters
    ----------
    data : bytes
        A streaming model.
    signal : array
        (samples, channels) of a recording, at least some blocks long.
    """
    engine = engine_of(data)
    c = engine.contract
    first = -(-c.first_chunk_min // c.grid) * c.grid
    block = HOPS * c.hop if c.bitwise else c.grid
    x = np.resize(signal, (first + block, signal.shape[1])).astype(np.float32)
    return Isolation(*_neighbours(engine, x, first), _later(engine, x, first))


def takes_batch(engine: OrtEngine) -> bool:
    """Whether a call may hold several streams."""
    shape = next(i.shape for i in engine.session.get_inputs() if i.name == engine.contract.signal.input)
    return not isinstance(shape[0], int)


def _neighbours(engine: OrtEngine, x: Array, first: int) -> tuple[float | None, float | None]:
    if not takes_batch(engine):
        return None, None
    quiet = _run(engine, np.stack([x, x]), first)
    loud = _run(engine, np.stack([x, LOUD * x]), first)
    silent = _run(engine, np.stack([x, np.full_like(x, np.nan)]), first)
    return _change(quiet, loud), _change(quiet, silent)


def _run(engine: OrtEngine, x: Array, first: int) -> dict[str, NDArray[Any]]:
    """What is said of the first stream over two blocks, and its state after them."""
    c = engine.contract
    _, state = engine.step(x[:, :first], initial_state(c, len(x)))
    outputs, state = engine.step(x[:, first:], state)
    kept = {s.name: s.steady_shape for s in c.states if "batch" in s.steady_shape}
    return {n: v[0] for n, v in outputs.items()} | {
        f"state:{n}": state[n].take(0, shape.index("batch")) for n, shape in kept.items()
    }


def _change(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> float:
    gaps = [np.abs(a[n].astype(np.float64) - b[n].astype(np.float64)).max() for n in a if a[n].size]
    return float(np.nan_to_num(max(gaps, default=0.0), nan=np.inf))


def _later(engine: OrtEngine, x: Array, first: int) -> float:
    """An artefact in the last sample, against the frames that were known before it."""
    c = engine.contract
    odd = x.copy()
    odd[-1] += LOUD * (np.abs(x).max() + 1)
    state: State
    _, state = engine.step(x[None, :first], initial_state(c))
    said, _ = engine.step(x[None, first:], state)
    other, _ = engine.step(odd[None, first:], state)
    before = _known(c, said, len(x))
    return _change({n: said[n][0, :k] for n, k in before.items()}, {n: other[n][0, :k] for n, k in before.items()})


def _known(c: Contract, said: Outputs, samples: int) -> dict[str, int]:
    """Frames of the last block, by output, that were known one sample before its end."""
    frames = [o for o in c.outputs if o.kind == "frames"]
    new = {o.name: expected_frames(o, samples) - expected_frames(o, samples - 1) for o in frames}
    return {name: max(said[name].shape[1] - n, 0) for name, n in new.items()}
