"""Tiny streaming graphs with a contract: one for each kind of memory."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.export.contract_io import attach, save

Array = NDArray[Any]

RECURRENT = ("rnn", "lstm", "gru", "gru-linear-before-reset")
GATES = {"rnn": 1, "lstm": 4, "gru": 3, "gru-linear-before-reset": 3}
LAST = np.iinfo(np.int64).max


def state(name: str, init: list[int | str], steady: list[int | str] | None = None, after: int = 0) -> dict[str, Any]:
    """A state of the contract, with `<name>.in` and `<name>.out`."""
    shapes = {"init_shape": init, "steady_shape": steady or init, "steady_after": after}
    return {"name": name, "input": f"{name}.in", "output": f"{name}.out", "dtype": "float32", "init": "zeros", **shapes}


def document(states: list[dict[str, Any]], *, channels: int = 1, hop: int = 1, **more: Any) -> dict[str, Any]:
    """A contract with one signal `x` at 100 Hz and one output `y`; `more` replaces keys, `delay` is that of `y`."""
    output = {"name": "y", "kind": "frames", "meaning": "score", "samples_per_frame": 1, "delay": more.pop("delay", 0)}
    leads = [{"name": f"ch{i}", "unit": "mV"} for i in range(channels)]
    return {
        "version": 1,
        "name": "tiny",
        "model_version": "0.0.1",
        "signals": [{"input": "x", "axis": 1, "rate_hz": 100.0, "channels": leads}],
        "hop": hop,
        "first_chunk_min": hop,
        "grid": hop,
        "chunk_invariant": "bitwise",
        "states": states,
        "outputs": [output],
        **more,
    }


def graph(
    nodes: list[onnx.NodeProto], constants: dict[str, Array], contract: dict[str, Any], width: int
) -> onnx.ModelProto:
    """A model from its nodes, with inputs and outputs as the contract names them; shapes that grow are left open."""

    def info(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    def shape(spec: dict[str, Any]) -> list[int | str]:
        pairs = zip(spec["init_shape"], spec["steady_shape"], strict=True)
        return [a if a == b else f"{spec['name']}.{axis}" for axis, (a, b) in enumerate(pairs)]

    states, channels = contract["states"], len(contract["signals"][0]["channels"])
    inputs = [info("x", ["batch", "samples", channels]), *(info(s["input"], shape(s)) for s in states)]
    outputs = [info("y", ["batch", "frames", width]), *(info(s["output"], shape(s)) for s in states)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    attach(model, contract)
    return model


def recurrent(kind: str, hidden: int = 5, channels: int = 2, seed: int = 0) -> onnx.ModelProto:
    """One recurrent layer over x; y is its hidden state, (batch, samples, hidden).

    ONNX Runtime's LSTM and GRU give the same bits for any cut, its RNN adds up the inputs of a single sample in another
    order: that one names a grid.
    """
    states = [state("h", [1, "batch", hidden])] + ([state("c", [1, "batch", hidden])] if kind == "lstm" else [])
    nodes, constants = layer(kind, "by_time", hidden, channels, seed)
    nodes = [helper.make_node("Transpose", ["x"], ["by_time"], perm=[1, 0, 2]), *nodes]
    cut: dict[str, Any] = {"grid": 4, "chunk_invariant": "grid"} if kind == "rnn" else {}
    return graph(nodes, constants, document(states, channels=channels, **cut), hidden)


def layer(kind: str, x: str, hidden: int, channels: int, seed: int) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Nodes and weights of a recurrent layer from `x`, (time, batch, channels), to y."""
    rng, rows = np.random.default_rng(seed), GATES[kind] * hidden
    constants: dict[str, Array] = {
        "w": rng.normal(0, 0.5, (1, rows, channels)).astype(np.float32),
        "r": rng.normal(0, 0.5, (1, rows, hidden)).astype(np.float32),
        "b": rng.normal(0, 0.5, (1, 2 * rows)).astype(np.float32),
        "axis": np.array([1]),
    }
    cell = kind == "lstm"
    after = ["h.out", "c.out"] if cell else ["h.out"]
    inputs = [x, "w", "r", "b", "", "h.in", *(["c.in"] if cell else [])]
    extra = {"linear_before_reset": 1} if kind.endswith("reset") else {}
    op = kind.split("-")[0].upper()
    nodes = [
        helper.make_node(op, inputs, ["directions", *after], hidden_size=hidden, **extra),
        helper.make_node("Squeeze", ["directions", "axis"], ["y.by_time"]),
        helper.make_node("Transpose", ["y.by_time"], ["y"], perm=[1, 0, 2]),
    ]
    return nodes, constants


def fifo(length: int = 6, hop: int = 1) -> onnx.ModelProto:
    """y is 2 x, `length` samples late: a queue that grows from nothing, sample by sample, to `length`."""
    states = [state("fifo", ["batch", 0, 1], ["batch", length, 1], length)]
    nodes = [*_queue(), helper.make_node("Mul", ["ready", "two"], ["y"])]
    constants = {**_queue_ends(length), "two": np.array(2, np.float32)}
    return graph(nodes, constants, document(states, hop=hop, delay=length), 1)


def fifo_lstm(length: int = 6, hop: int = 3, hidden: int = 4) -> onnx.ModelProto:
    """A queue before an LSTM, which must never see an empty call: the first takes `length` + `hop` samples."""
    states = [
        state("fifo", ["batch", 0, 1], ["batch", length, 1], length),
        state("h", [1, "batch", hidden]),
        state("c", [1, "batch", hidden]),
    ]
    more, weights = layer("lstm", "ready.by_time", hidden, 1, seed=1)
    nodes = [*_queue(), helper.make_node("Transpose", ["ready"], ["ready.by_time"], perm=[1, 0, 2]), *more]
    contract = document(states, hop=hop, delay=length, first_chunk_min=length + hop)
    return graph(nodes, {**_queue_ends(length), **weights}, contract, hidden)


def _queue() -> list[onnx.NodeProto]:
    """From x and the queue to `ready`, the samples that have waited long enough, and the queue after it."""
    return [
        helper.make_node("Concat", ["fifo.in", "x"], ["all"], axis=1),
        helper.make_node("Slice", ["all", "zero", "-length", "time"], ["ready"]),
        helper.make_node("Slice", ["all", "-length", "last", "time"], ["fifo.out"]),
    ]


def _queue_ends(length: int) -> dict[str, Array]:
    ends = {"zero": 0, "-length": -length, "last": LAST, "time": 1}
    return {name: np.array([value]) for name, value in ends.items()}


def block_sum(grid: int = 4) -> onnx.ModelProto:
    """y is x plus the sum of its call plus a running total: another cut gives another result, so the grid is named."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "time"], ["sum"], keepdims=1),
        helper.make_node("Add", ["total.in", "sum"], ["total.out"]),
        helper.make_node("Add", ["x", "sum"], ["x.sum"]),
        helper.make_node("Add", ["x.sum", "total.in"], ["y"]),
    ]
    contract = document([state("total", ["batch", 1, 1])], hop=1, grid=grid, chunk_invariant="grid")
    return graph(nodes, {"time": np.array([1])}, contract, 1)


def signal(samples: int, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """Noise around a slow wave, (samples, channels), mV."""
    noise = np.random.default_rng(seed).normal(0, 0.3, (samples, channels))
    return np.asarray(noise + np.sin(np.arange(samples) / 9)[:, np.newaxis], np.float32)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    """The model in a file."""
    save(model, path)
    return path
