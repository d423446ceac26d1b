"""A bounded stand-in for the backward half of a bidirectional layer: it sees so many frames ahead, and no further."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from holdover.export.fact import PerBatch, Static, Stream
from holdover.export.loom import Array, Loom, State, attribute
from holdover.export.refusal import NotStreamable
from holdover.export.rules.axes import over_running
from holdover.export.rules.convolution import Window
from holdover.export.rules.heads import batch_size
from holdover.export.rules.recurrent import _STATES, _name, started

_WEIGHTS = {"W": 1, "R": 2, "B": 3, "P": 7}
_FIRST_STATE = 5
_BY_DIRECTION = ("activations", "activation_alpha", "activation_beta")


def bounded(loom: Loom, node: ir.Node, fact: Stream) -> None:
    """The forward half as it is; the backward half of frame k runs anew from the last frame that it may see back to k.

    Every frame has the same number of frames ahead, so the result does not depend on how the samples arrive. At the
    end of the signal it starts at the last frame, as the layer itself does.

    Parameters
    ----------
    loom : Loom
        Its `weave.lookahead`, samples, is rounded down to frames of the layer, at least one.
    node : ir.Node
        RNN, LSTM or GRU, direction bidirectional, layout 0.
    fact : Stream
        Of its input, time first.

    Raises
    ------
    NotStreamable
        Its last state is used, its weights or its initial state follow the sequence, or its directions have different
        activations.
    """
    if any(o.uses() or o.is_graph_output() for o in node.outputs[1:]):
        raise NotStreamable("its last state is used, and that of the backward half has seen the whole sequence; use "
                            "the layer's output at each step")  # fmt: skip
    x, name = node.inputs[0], _name(node)
    assert x is not None
    frames = max(loom.weave.lookahead // fact.pace, 1)
    every = loom.history(x, loom.need(x), 0, 0, frames, f"{name}.ahead")
    # All frames but the last ones have all that they may see; in the last call these have too.
    held = loom.op(
        "Mul", [loom.op("Sub", [loom.ints(1), loom.end()], f"{name}.goes_on"), loom.ints(frames)], f"{name}.held"
    )
    many = loom.op("Sub", [loom.length(every, 0, name), held], f"{name}.many")
    seen = loom.op("Slice", [every, loom.ints(0), many, loom.ints(0)], f"{name}.now")
    forward = _forward(loom, _Half.of(loom, node, 0), seen, name)
    backward = _backward(loom, _Half.of(loom, node, 1), every, many, frames, name)
    both = loom.op("Concat", [forward, backward], name, axis=1)
    window = Window(size=frames + 1, step=1, dilation=1, left=0, right=frames)
    loom.bind(node.outputs[0], both, window.slide(fact))
    loom.approximations.append(
        f"the backward half of {node.op_type} '{name}' sees {frames} frames ({frames * fact.pace} samples) ahead of "
        "each frame and starts there anew"
    )


@dataclass(frozen=True)
class _Half:
    """One direction of a layer.

    Attributes
    ----------
    node : ir.Node
        The layer.
    weights : dict of str to ir.Value or None
        W, R, B and P of this direction.
    first : tuple of array
        Its state before the first frame, (1, batch or 1, hidden) each.
    attributes : list of ir.Attr
        Of a node that runs forward.
    batch : int or "batch"
        Sequences side by side.
    """

    node: ir.Node
    weights: dict[str, ir.Value | None]
    first: tuple[Array, ...]
    attributes: list[ir.Attr]
    batch: int | str

    @staticmethod
    def of(loom: Loom, node: ir.Node, direction: int) -> "_Half":
        weights = {letter: _part(loom, node, index, direction) for letter, index in _WEIGHTS.items()}
        consts = {letter: None if w is None else loom.const(w) for letter, w in weights.items()}
        hidden = weights["R"].shape[2]  # type: ignore[union-attr]
        found = (_part(loom, node, _FIRST_STATE + k, direction) for k in range(len(_STATES[node.op_type])))
        first = tuple(np.zeros((1, 1, hidden), np.float32) if h is None else h for h in found)
        across = loom.dims(node.inputs[0])[1]  # type: ignore[arg-type]
        return _Half(node, consts, first, _attributes(node, direction), batch_size(across.size, across.batch))

    def run(
        self, loom: Loom, x: ir.Value, lengths: ir.Value | None, first: Sequence[ir.Value | None], name: str
    ) -> list[ir.Value]:
        """Y, Y_h and, of an LSTM, Y_c over x, (time, batch, inputs)."""
        letters, w = _STATES[self.node.op_type], self.weights
        before = first or [None] * len(letters)
        inputs = [x, w["W"], w["R"], w["B"], lengths, *before, w["P"]]
        outputs = [ir.Value(name=loom.name(f"{name}.{part}")) for part in ("y", *letters)]
        loom.nodes.append(
            ir.Node("", self.node.op_type, inputs, self.attributes, outputs=outputs, name=outputs[0].name)
        )
        return outputs


def _part(loom: Loom, node: ir.Node, index: int, direction: int) -> Array | None:
    """An input's numbers for one direction, None where the node has no such input."""
    if len(node.inputs) <= index or (old := node.inputs[index]) is None:
        return None
    if not isinstance(loom.fact(old), Static | PerBatch):
        raise NotStreamable("its weights or its initial state are computed from the sequence")
    return loom.beginning(old)[direction : direction + 1]


def _attributes(node: ir.Node, direction: int) -> list[ir.Attr]:
    """Those of one direction, which is forward."""
    kept = [a for a in node.attributes.values() if a.name not in ("direction", "layout", *_BY_DIRECTION)]
    functions = [f.lower() for f in attribute(node, "activations", [])]
    if functions[: len(functions) // 2] != functions[len(functions) // 2 :]:
        raise NotStreamable("its directions have different activations; use the same")
    for a in (node.attributes[n] for n in _BY_DIRECTION if n in node.attributes):
        half = len(a.value) // 2
        kept.append(ir.Attr(a.name, a.type, a.value[direction * half : (direction + 1) * half]))
    return kept


def _forward(loom: Loom, half: _Half, x: ir.Value, name: str) -> ir.Value:
    """(frames, 1, batch, hidden), its state carried."""
    before: list[ir.Value] = []
    carried: list[State] = []
    for letter, first in zip(_STATES[half.node.op_type], half.first, strict=True):
        state = loom.state(f"{name}.{letter}", [1, half.batch, first.shape[2]])
        before.append(started(loom, state.before, _alone(first), f"{name}.{letter}") if first.any() else state.before)
        carried.append(state)
    y, *after = half.run(loom, x, None, before, f"{name}.forward")
    for state, value in zip(carried, after, strict=True):
        state.after = value
    return y


def _backward(loom: Loom, half: _Half, every: ir.Value, many: ir.Value, frames: int, name: str) -> ir.Value:
    """(frames of this call, 1, batch, hidden): every frame's window, last frame first, is a sequence of one batch."""
    name = f"{name}.backward"
    rows, lengths = _windows(loom, every, many, frames, name)
    windows = loom.op("Gather", [every, rows], f"{name}.windows", axis=0)
    inputs = loom.dims(half.node.inputs[0])[2].size  # type: ignore[arg-type]
    x = loom.op("Reshape", [windows, loom.ints(frames + 1, -1, inputs)], f"{name}.side_by_side")
    first = [_repeated(loom, f, x, name) for f in half.first] if any(f.any() for f in half.first) else []
    last = half.run(loom, x, _for_each_stream(loom, lengths, every, name), first, name)[1]
    target = loom.op("Concat", [many, loom.ints(1, -1, half.first[0].shape[2])], f"{name}.target", axis=0)
    return loom.op("Reshape", [last, target], f"{name}.by_frame")


def _windows(loom: Loom, every: ir.Value, many: ir.Value, frames: int, name: str) -> tuple[ir.Value, ir.Value]:
    """The frames of each window, last first, (frames + 1, windows), and how many of them there are, (windows, 1)."""
    zero, one = loom.const(np.asarray(0, np.int64)), loom.const(np.asarray(1, np.int64))
    number = loom.op("Squeeze", [many, loom.ints(0)], f"{name}.number")
    begin = loom.op("Range", [zero, number, one], f"{name}.begin")
    newest = loom.op("Sub", [loom.length(every, 0, f"{name}.all"), loom.ints(1)], f"{name}.newest")
    end = loom.op("Min", [loom.op("Add", [begin, loom.ints(frames)], f"{name}.reach"), newest], f"{name}.end")
    back = loom.op("Sub", [end, loom.const(np.arange(frames + 1)[:, None])], f"{name}.back")
    lengths = loom.op("Add", [loom.op("Sub", [end, begin], f"{name}.span"), loom.ints(1)], f"{name}.lengths")
    rows = loom.op("Max", [back, loom.ints(0)], f"{name}.rows")
    return rows, loom.op("Unsqueeze", [lengths, loom.ints(1)], f"{name}.column")


def _for_each_stream(loom: Loom, lengths: ir.Value, every: ir.Value, name: str) -> ir.Value:
    """Lengths of the windows of every stream, in the order in which they lie side by side."""
    shape = loom.op("Concat", [loom.ints(1), loom.length(every, 1, f"{name}.streams")], f"{name}.grid", axis=0)
    grid = loom.op("Reshape", [loom.op("Expand", [lengths, shape], f"{name}.each"), loom.ints(-1)], f"{name}.row")
    return loom.op("Cast", [grid], f"{name}.sequence_lens", to=ir.DataType.INT32.value)


def _repeated(loom: Loom, first: Array, x: ir.Value, name: str) -> ir.Value:
    """An initial state for every window of x, (time, windows, inputs)."""
    shape = loom.op("Concat", [loom.ints(1), loom.length(x, 1, name), loom.ints(1)], f"{name}.first.shape", axis=0)
    return loom.op("Expand", [loom.const(_alone(first)), shape], f"{name}.first")


def _alone(first: Array) -> Array:
    if first.shape[1] != 1:
        raise NotStreamable(f"its initial state is for a batch of {first.shape[1]}; export it with a batch of 1")
    return first


def reverse(loom: Loom, node: ir.Node) -> None:
    """What frameworks make of a backward layer that has no node of its own."""
    if not over_running(loom, node):
        raise NotStreamable("it reverses time: the output at the first step needs the last sample; train the layer "
                            "forward only")  # fmt: skip


RULES = {"ReverseSequence": reverse}
