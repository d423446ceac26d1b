"""RNN, LSTM and GRU: the hidden and cell state are carried."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from holdover.export.fact import Length, PerBatch, Running, Static, Stream
from holdover.export.loom import Loom, State, attribute, stream_of
from holdover.export.refusal import NotStreamable

_STATES = {"RNN": ("h",), "GRU": ("h",), "LSTM": ("h", "c")}
_FIRST_STATE = 5


def recurrent(loom: Loom, node: ir.Node) -> None:
    """Forward in time; the state before the first sample is the model's own initial state."""
    _check(loom, node)
    fact = stream_of(loom, node.inputs[0])
    direction = attribute(node, "direction", "forward")
    if direction == "bidirectional" and loom.weave.lookahead:
        from holdover.export.rules.bidirectional import bounded

        bounded(loom, node, fact)
        return
    if direction != "forward":
        raise NotStreamable(
            f"it runs {direction}: the output at the first step needs the last sample; train it forward only"
            + (", or give --lookahead S for a bounded approximation" if direction == "bidirectional" else "")
        )
    inputs = [loom.need(node.inputs[0]), *(loom.new(v) for v in node.inputs[1:4])]
    if loom.weave.as_matmul and node.op_type == "RNN":
        inputs[:2] = _outside(loom, node, inputs[0])
    inputs += [None] * (4 - len(inputs)) + [None]
    states = []
    for k, letter in enumerate(_STATES[node.op_type]):
        before, keep = _initial(loom, node, k, letter)
        inputs.append(before)
        states.append(keep)
    if len(node.inputs) > 7 and node.inputs[7] is not None:
        inputs.append(loom.new(node.inputs[7]))
    used = {"layout", "output_sequence"}
    attributes = [a for a in node.attributes.values() if a.name not in used]
    outputs = [ir.Value(name=loom.name(f"{_name(node)}.{part}")) for part in ("y", *_STATES[node.op_type])]
    loom.nodes.append(ir.Node("", node.op_type, inputs, attributes, outputs=outputs, name=outputs[0].name))
    for keep, after in zip(states, outputs[1:], strict=True):
        keep.after = _apart(loom, after, keep)
    for old, new in zip(node.outputs, outputs, strict=False):
        loom.bind(old, new, replace(fact, axis=0) if new is outputs[0] else Running(fact.ahead))


def _apart(loom: Loom, after: ir.Value, state: State) -> ir.Value:
    """A state in the form that is carried."""
    if len(state.shape) == 3:
        return after
    return loom.op("Reshape", [after, loom.ints(1, -1, *(int(n) for n in state.shape[2:]))], f"{state.name}.apart")


def _outside(loom: Loom, node: ir.Node, x: ir.Value | None) -> list[ir.Value | None]:
    """W x as a product of its own: onnxruntime's RNN adds the inputs of a single frame up in another order."""
    weight = loom.constant_of(node.inputs[1])
    if weight is None:
        raise NotStreamable("its weights are not constant")
    name = _name(node)
    product = loom.op("MatMul", [x, loom.const(np.ascontiguousarray(weight[0].T))], f"{name}.product")
    return [product, loom.const(np.eye(len(weight[0]), dtype=np.float32)[None])]


def _check(loom: Loom, node: ir.Node) -> None:
    if attribute(node, "layout", 0):
        raise NotStreamable("it has layout 1 (batch first), which onnxruntime does not run; export with layout 0")
    fact = stream_of(loom, node.inputs[0])
    if fact.merged is not None or fact.axis != 0:
        raise NotStreamable(f"it runs along axis 0, and time is axis {fact.axis}; mind batch_first, or --time-axis")
    lens = node.inputs[4] if len(node.inputs) > 4 else None
    if lens is not None and not _full(loom, lens):
        raise NotStreamable("it takes the length of each sequence (sequence_lens); export it without")


def _full(loom: Loom, lens: ir.Value) -> bool:
    """Whether the given lengths are those of the whole sequence."""
    if not isinstance(loom.fact(lens), Static | PerBatch | Length):
        return False
    far = loom.whole.far
    found = far.values(lens.name or "")
    return found is not None and all((v == n).all() for v, n in zip(found, far.samples, strict=True))


def _initial(loom: Loom, node: ir.Node, k: int, letter: str) -> tuple[ir.Value, State]:
    """The state that a call starts from, and the state to set."""
    index = _FIRST_STATE + k
    old = node.inputs[index] if len(node.inputs) > index else None
    hidden = int(loom.whole.values(node.inputs[2])[0].shape[2])  # type: ignore[arg-type]
    fact = loom.fact(old)
    if isinstance(fact, Stream | Length):
        raise NotStreamable("its initial state is computed from the sequence")
    if isinstance(fact, Running):
        raise NotStreamable("it starts from a value over the whole sequence: a decoder that starts from the last state "
                            "of its encoder needs the whole sequence first")  # fmt: skip
    across = loom.dims(node.inputs[0])[1]  # type: ignore[arg-type]
    sequences: list[int | str] = ["batch"] if across.batch else [across.size]
    if across.batch and across.size > 1:
        sequences.append(across.size)
    state = loom.state(f"{_name(node)}.{letter}", [1, *sequences, hidden])
    before = state.before
    if len(sequences) > 1:  # several sequences a stream, as of leads that share a layer
        before = loom.op("Reshape", [before, loom.ints(1, -1, hidden)], f"{state.name}.joined")
    first = np.zeros((1, 1, hidden), np.float32) if old is None else loom.beginning(old)
    if not first.any():
        return before, state
    if first.shape[1] != 1:
        raise NotStreamable(f"its initial state is for a batch of {first.shape[1]}; export it with a batch of 1")
    return started(loom, before, first, _name(node)), state


def started(loom: Loom, before: ir.Value, first: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", name: str
            ) -> ir.Value:  # fmt: skip
    """A state that begins with numbers of its own: a second state says whether a sample was seen."""
    seen = loom.state(f"{name}.started", [1], np.bool_)
    seen.after = loom.const(np.ones(1, bool))
    return loom.op("Where", [seen.before, before, loom.const(first)], f"{name}.initial")


def _name(node: ir.Node) -> str:
    return (node.outputs[0].name or node.name or node.op_type).removesuffix("_Y").removesuffix(".y")


RULES = dict.fromkeys(_STATES, recurrent)
