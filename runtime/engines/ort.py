"""ONNX Runtime: one thread a session, buffers bound once, the state in two sets of buffers that take turns."""

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from holdover.runtime.contract import KEY, Contract
from holdover.runtime.engine import Array, Lane, Outputs, State, check_state, feeds, first_block, initial_state
from holdover.runtime.errors import ContractError, ModelError

MAX_BLOCK_HOPS = 512
"""Larger blocks gain nothing: from 128 steps on, arithmetic is the cost."""


class OrtEngine:
    """A model in ONNX Runtime."""

    def __init__(self, data: bytes, sha256: str, where: str = "the model") -> None:
        self.sha256 = sha256
        self.session = _session(data, where)
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise ContractError(
                f"{where} carries no contract (metadata key {KEY!r}): it is an ONNX file, but not one that holdover "
                "exported; export it with its rate, leads and states"
            )
        self.contract = Contract.parse(text)
        self.contract.check_graph(
            [i.name for i in self.session.get_inputs()], [o.name for o in self.session.get_outputs()]
        )
        self._names = [o.name for o in self.contract.outputs] + [s.output for s in self.contract.states]

    def step(self, x: Array, state: State, last: bool = False) -> tuple[Outputs, State]:
        """See `Engine.step`."""
        c = self.contract
        given = feeds(c, np.ascontiguousarray(x, np.float32), state, last)
        try:
            values = dict(zip(self._names, self.session.run(self._names, given), strict=True))
        except Exception as error:  # as in `_session`
            shapes = {name: value.shape for name, value in given.items()}
            raise ModelError(
                f"the graph does not take what its contract says ({' '.join(str(error).split())[:300]}); "
                f"it was given {shapes}: export the model again"
            ) from error
        return {o.name: values[o.name] for o in c.outputs}, {s.name: values[s.output] for s in c.states}

    def lane(self) -> Lane:
        """See `Engine.lane`."""
        return OrtLane(self)


class OrtLane:
    """One stream in ONNX Runtime: bound buffers from the moment at which all shapes are steady."""

    def __init__(self, engine: OrtEngine) -> None:
        self._engine = engine
        c = engine.contract
        self._block = MAX_BLOCK_HOPS * c.hop if c.bitwise else c.grid
        self._smallest = c.hop if c.bitwise else c.grid
        self._plans: dict[int, _Plan] = {}
        self._turn = 0
        self._growing: State | None = None
        self._set_state(initial_state(c))

    def push(self, x: Array) -> Outputs:
        """See `Lane.push`."""
        if self._size(len(x)) == len(x):
            return self._step(x)
        parts, start = [], 0
        while start < len(x):
            n = self._size(len(x) - start)
            parts.append(self._step(x[start : start + n]))
            start += n
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """See `Lane.snapshot`."""
        state = self._growing or self._buffers[self._turn]
        return {name: value.copy() for name, value in state.items()}

    def restore(self, state: State) -> None:
        """See `Lane.restore`."""
        check_state(self._engine.contract, state)
        self._set_state(state)

    def _set_state(self, state: State) -> None:
        c = self._engine.contract
        steady = {s.name: tuple(1 if n == "batch" else int(n) for n in s.steady_shape) for s in c.states}
        self._at_least = first_block(c, state)
        if self._at_least > self._smallest or any(state[name].shape != shape for name, shape in steady.items()):
            self._growing = dict(state)
            return
        self._growing = None
        self._turn = 0
        self._plans.clear()
        self._buffers = [{n: np.ascontiguousarray(v).copy() for n, v in state.items()} for _ in range(2)]

    def _size(self, remaining: int) -> int:
        """The largest block that fits: a power of two of hops, or the grid where results depend on the size."""
        if remaining == self._smallest:
            return remaining
        n = self._block
        while n > self._smallest and n > remaining:
            n //= 2
        return max(n, self._at_least)

    def _step(self, x: Array) -> Outputs:
        if self._growing is not None:
            outputs, state = self._engine.step(x[np.newaxis], self._growing)
            self._set_state(state)
            self._at_least = self._smallest
            return {name: value[0] for name, value in outputs.items()}
        plan = self._plans.get(len(x)) or self._bind(len(x))
        plan.x[0] = x
        self._engine.session.run_with_iobinding(plan.bindings[self._turn])
        self._turn ^= 1
        return {name: buffer[0].copy() for name, buffer in plan.outputs.items()}

    def _bind(self, n: int) -> "_Plan":
        plan = self._plans[n] = _Plan(self._engine, n, self._buffers)
        return plan


class _Plan:
    """Buffers for one block size, bound in both directions between the two sets of state buffers."""

    def __init__(self, engine: OrtEngine, n: int, buffers: list[dict[str, NDArray[Any]]]) -> None:
        c = engine.contract
        self.x = np.zeros((1, n, len(c.signal.channels)), np.float32)
        shapes, _ = engine.step(self.x, buffers[0])
        self.outputs = {name: np.empty_like(value) for name, value in shapes.items()}
        self._alive: list[dict[str, NDArray[Any]]] = []
        self.bindings = [self._direction(engine, buffers[i], buffers[1 - i]) for i in (0, 1)]

    def _direction(self, engine: OrtEngine, before: State, after: State) -> ort.IOBinding:
        binding = engine.session.io_binding()
        c = engine.contract
        given = feeds(c, self.x, before, last=False)
        self._alive.append(given)
        for name, array in given.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in {**self.outputs, **{s.output: after[s.name] for s in c.states}}.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding


def _session(data: bytes, where: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.qdqisint8allowed", "1")  # int8 stays int8, on x86 as on ARM
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types of its own, all of Exception alone
        raise ModelError(_why(str(error), where)) from error


def _why(message: str, where: str) -> str:
    short = " ".join(message.split())[:300]
    if "xternal" in message:
        return f"{where} keeps weights in another file; expected one file: save it with its weights inside ({short})"
    if "rotobuf" in message or "ModelProto" in message:
        return f"{where} is not an ONNX file, or a damaged one ({short})"
    return f"onnxruntime cannot load {where}: {short}"
