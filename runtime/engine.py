"""A pure step over a loaded model; holds weights and plans, never a stream."""

import hashlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.contract import Contract
from holdover.runtime.errors import ModelError

Array = NDArray[np.float32]
State = Mapping[str, NDArray[Any]]
"""Carried tensors by the names of the contract's states."""
Outputs = Mapping[str, NDArray[Any]]
"""Output tensors by name, (batch, frames, width)."""

MAX_MODEL_MB = 256


class Engine(Protocol):
    """What can take a step: the same x and state give the same outputs and next state, bit for bit."""

    contract: Contract
    sha256: str

    def step(self, x: Array, state: State, last: bool = False) -> tuple[Outputs, State]:
        """Take x, (batch, samples, channels), samples a whole number of hops; any number in the last call."""
        ...

    def lane(self) -> "Lane":
        """One stream's place in the engine, at the initial state."""
        ...


class Lane(Protocol):
    """One stream's carried state inside an engine; what `step` does, in place, for a batch of one."""

    def push(self, x: Array) -> Outputs:
        """Take x, (samples, channels), samples a whole number of hops; outputs are (frames, width)."""
        ...

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copies of the carried tensors."""
        ...

    def restore(self, state: State) -> None:
        """Take up carried tensors; `ModelError` if their names or shapes are another model's."""
        ...


def initial_state(contract: Contract, batch: int = 1) -> dict[str, NDArray[Any]]:
    """The state before the first sample, as the contract says."""
    shapes = {s.name: tuple(batch if n == "batch" else int(n) for n in s.init_shape) for s in contract.states}
    fill = {s.name: 0.0 if s.init == "zeros" else s.init for s in contract.states}
    return {s.name: np.full(shapes[s.name], fill[s.name], s.dtype) for s in contract.states}


def first_block(contract: Contract, state: State) -> int:
    """Samples that a block takes at least from a state: more where it is the state before the first sample."""
    quantum = contract.hop if contract.bitwise else contract.grid
    fresh = all(np.array_equal(value, state[name]) for name, value in initial_state(contract).items())
    return -(-contract.first_chunk_min // quantum) * quantum if fresh else quantum


def feeds(contract: Contract, x: Array, state: State, last: bool) -> dict[str, NDArray[Any]]:
    """The inputs of a graph, by their names in it."""
    given = {contract.signal.input: x} | {s.input: state[s.name] for s in contract.states}
    return given | ({contract.eos_input: np.array([last], np.int64)} if contract.eos_input else {})


def check_state(contract: Contract, state: State) -> None:
    """Hold a state against the contract by name, rank and dtype.

    Raises
    ------
    ModelError
        A tensor missing, left over, or of another shape: the state of another model.
    """
    expected = initial_state(contract)
    if set(state) != set(expected):
        raise ModelError(f"this state has {sorted(state)}, the model carries {sorted(expected)}: it is another model's")
    for spec in contract.states:
        found, first = state[spec.name], expected[spec.name].shape
        steady = tuple(1 if n == "batch" else int(n) for n in spec.steady_shape)
        fits = found.ndim == len(steady) and all(
            min(a, b) <= n <= max(a, b) for a, n, b in zip(first, found.shape, steady, strict=True)
        )
        if not fits or found.dtype != np.dtype(spec.dtype):
            raise ModelError(
                f"state {spec.name} is {found.dtype}{found.shape}, expected {spec.dtype}{steady}: it is another model's"
            )


class PlainLane:
    """A lane over any engine's `step`: the slow and obvious form."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._state: State = initial_state(engine.contract)

    def push(self, x: Array) -> Outputs:
        """See `Lane.push`."""
        c = self._engine.contract
        block = len(x) if c.bitwise else c.grid
        first = max(block, first_block(c, self._state))
        cuts = [0, *range(first, len(x), block), len(x)]
        parts = [self._step(x[a:b]) for a, b in pairwise(cuts)]
        return parts[0] if len(parts) == 1 else {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}

    def _step(self, x: Array) -> Outputs:
        outputs, self._state = self._engine.step(x[np.newaxis], self._state)
        return {name: value[0] for name, value in outputs.items()}

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """See `Lane.snapshot`."""
        return {name: value.copy() for name, value in self._state.items()}

    def restore(self, state: State) -> None:
        """See `Lane.restore`."""
        check_state(self._engine.contract, state)
        self._state = {name: value.copy() for name, value in state.items()}


def read_model(path: str | Path) -> tuple[bytes, str]:
    """The bytes of a model file and their SHA-256.

    Raises
    ------
    ModelError
        The file is missing, unreadable, empty or larger than `MAX_MODEL_MB`.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_MB << 20:
            raise ModelError(
                f"{path} has {size >> 20} MB; expected a model of at most {MAX_MODEL_MB} MB: make it smaller, or check "
                "that it is a model"
            )
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model {path}: {error.strerror}; give the path of an ONNX file") from error
    if not data:
        raise ModelError(f"{path} is empty; expected an ONNX file with a holdover contract")
    return data, hashlib.sha256(data).hexdigest()


def load(path: str | Path, engine: str = "onnxruntime") -> Engine:
    """Load a model file into an engine, "onnxruntime" or the slow "oracle".

    Raises
    ------
    ModelError
        The file cannot be read, is not ONNX, or keeps data outside itself.
    ContractError
        It carries no contract, or one that does not fit its graph.
    """
    data, sha256 = read_model(path)
    if engine == "oracle":
        from holdover.runtime.engines.oracle import OracleEngine

        return OracleEngine(data, sha256, str(path))
    if engine == "onnxruntime":
        from holdover.runtime.engines.ort import OrtEngine

        return OrtEngine(data, sha256, str(path))
    raise ModelError(f"there is no engine {engine!r}; choose onnxruntime or oracle")
