"""Operators that work on each number by itself; branches that run ahead wait for the others."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from holdover.export.fact import Length, Running, Stream
from holdover.export.loom import END, Array, Loom, attribute, streams
from holdover.export.refusal import NotStreamable
from holdover.export.rules.elementwise_names import OPS
from holdover.export.rules.positions import is_even


def elementwise(loom: Loom, node: ir.Node) -> None:
    """Frames of the inputs meet; the operator is unchanged."""
    if node.op_type == "Dropout" and _training(loom, node):
        raise NotStreamable("it is dropout in training mode; export the model for inference (model.eval())")
    timed = streams(loom, node.inputs)
    running = [v for v in node.inputs if isinstance(loom.fact(v), Running)]
    if not timed:
        _over_running(loom, node, running)
        return
    if running:
        raise NotStreamable(
            "it joins each frame with a value over the whole sequence, which is known only at the end; use a "
            "value over the past instead"
        )
    rank = max(loom.whole.rank(v) for v in node.inputs if v is not None)
    fact, met = meet(loom, timed, rank, node.outputs[0].name or node.op_type)
    inputs = [met.get(v) if v in met else _other(loom, v, fact, rank) for v in node.inputs]
    for output, copy in zip(node.outputs, loom.copy(node, inputs), strict=True):
        loom.bind(output, copy, fact)


def meet(loom: Loom, timed: Sequence[ir.Value], rank: int, name: str) -> tuple[Stream, dict[ir.Value | None, ir.Value]]:
    """Let streams meet at the latest of them: each that runs ahead holds its surplus back.

    Parameters
    ----------
    timed : sequence of ir.Value
        Tensors of the original that carry time.
    rank : int
        Of the result: shorter operands are aligned from the right.

    Returns
    -------
    Stream
        Of the result.
    dict
        What stands for each tensor.
    """
    facts = {v: _seen_from(loom, v, rank) for v in timed}
    latest = max(facts.values(), key=lambda f: f.ahead)
    if len({(f.axis, f.pace, f.merged is None) for f in facts.values()}) > 1:
        what = ", ".join(f"axis {f.axis} every {f.pace} samples" for f in facts.values())
        raise NotStreamable(f"its inputs run along different time axes or at different paces ({what})")
    reference = next(v for v, f in facts.items() if f is latest)
    met: dict[ir.Value | None, ir.Value] = {}
    for v, f in facts.items():
        new = loom.need(v)
        if f.surplus(latest) > 0:
            new = _wait(loom, v, f, latest, loom.need(reference), rank, name)
        met[v] = new
    return replace(latest, ragged=any(f.ragged for f in facts.values())), met


def _wait(
    loom: Loom, old: ir.Value, fact: Stream, latest: Stream, reference: ir.Value, rank: int, name: str
) -> ir.Value:
    """A queue: as many frames come out as the latest branch has."""
    if fact.merged is not None:
        raise NotStreamable("branches of different delay meet where time and batch are one axis")
    axis = latest.axis - (rank - loom.whole.rank(old))
    surplus = fact.surplus(latest)
    source, dequantized = loom.integers(old)
    if not loom.weave.exact_end:
        every = loom.history(source, loom.need(source), axis, 0, surplus, f"{name}.wait")
        return dequantized(loom.cut(every, axis, 0, -surplus, name=f"{name}.ready"))
    many: list[ir.Value] = []

    def rest(every: ir.Value) -> ir.Value:
        many.append(loom.length(reference, latest.axis, f"{name}.ready"))
        return loom.op("Slice", [every, many[0], loom.ints(END), loom.ints(axis)], f"{name}.wait.kept")

    every = loom.history(source, loom.need(source), axis, 0, rest, f"{name}.wait")
    return dequantized(loom.op("Slice", [every, loom.ints(0), many[0], loom.ints(axis)], f"{name}.ready"))


def _seen_from(loom: Loom, value: ir.Value, rank: int) -> Stream:
    fact = loom.fact(value)
    assert isinstance(fact, Stream)
    return replace(fact, axis=fact.axis + rank - loom.whole.rank(value))


def _other(loom: Loom, value: ir.Value | None, fact: Stream, rank: int) -> ir.Value | None:
    """An operand without time: as it is, or one frame of what is the same in every frame."""
    if value is None or not isinstance(loom.fact(value), Length):
        return loom.new(value)
    axis = fact.axis - (rank - loom.whole.rank(value))
    return loom.const(one_frame(loom, value, axis))


def one_frame(loom: Loom, value: ir.Value, axis: int) -> Array:
    """The frame of a tensor that follows the length alone but is the same in every frame.

    Raises
    ------
    NotStreamable
        It differs from frame to frame: it encodes absolute positions.
    """
    short, long, _ = loom.whole.values(value)
    if 0 <= axis < short.ndim and is_even(loom, value):
        first = short.take([0], axis)
        if np.array_equal(np.broadcast_to(first, short.shape), short) and np.array_equal(
            np.broadcast_to(first, long.shape), long
        ):
            return first
    raise NotStreamable(
        "it uses the absolute position in the sequence (a table of positions, or the length), which a stream does not "
        "have; use relative positions, or none"
    )


def _over_running(loom: Loom, node: ir.Node, running: Sequence[ir.Value | None]) -> None:
    facts = [f for f in (loom.fact(v) for v in running) if isinstance(f, Running)]
    if not facts:
        raise NotStreamable("it follows the length of the sequence, which a stream does not have")
    fact = Running(max(f.ahead for f in facts))
    for output, copy in zip(node.outputs, loom.copy(node, [loom.new(v) for v in node.inputs]), strict=True):
        loom.bind(output, copy, fact)


def _training(loom: Loom, node: ir.Node) -> bool:
    flag = loom.constant_of(node.inputs[2]) if len(node.inputs) > 2 else None
    return bool(flag is not None and flag.any()) or bool(attribute(node, "is_test", 0))


def identity(loom: Loom, node: ir.Node) -> None:
    """Nothing is woven."""
    loom.bind(node.outputs[0], loom.need(node.inputs[0]), loom.fact(node.inputs[0]))


RULES = dict.fromkeys(OPS, elementwise) | {"Identity": identity}
