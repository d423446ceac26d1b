"""Matrix products with constants: time is never summed over."""

from dataclasses import replace

import onnx_ir as ir

from holdover.export.fact import Running, Stream
from holdover.export.loom import Loom, attribute, stream_of, streams
from holdover.export.refusal import NotStreamable
from holdover.export.rules.attention import attention
from holdover.export.rules.axes import over_running
from holdover.export.rules.elementwise import meet

_TIME = "it multiplies over the time axis: the output at the first step needs the last sample"


def matmul(loom: Loom, node: ir.Node) -> None:
    """Frames times a matrix; the product of two streams is attention."""
    a, b = node.inputs[:2]
    timed = streams(loom, (a, b))
    if not timed:
        over_running(loom, node)
        return
    if any(isinstance(loom.fact(v), Running) for v in (a, b)):
        raise NotStreamable("it multiplies a sequence with a value over the whole sequence")
    if len(timed) == 2:
        _two_streams(loom, node)
        return
    assert a is not None
    assert b is not None
    fact = stream_of(loom, timed[0])
    rank, out = loom.whole.rank(timed[0]), loom.whole.rank(node.outputs[0])
    contracted = rank - 1 if timed[0] is a else max(rank - 2, 0)
    if fact.axis == contracted:
        raise NotStreamable(_TIME)
    offset = out - max(rank, 2) if rank > 1 else 0
    loom.bind(node.outputs[0], loom.copy(node, [loom.new(a), loom.new(b)])[0], replace(fact, axis=fact.axis + offset))


def _two_streams(loom: Loom, node: ir.Node) -> None:
    a, b = (v for v in node.inputs[:2] if v is not None)
    rank = loom.whole.rank(node.outputs[0])
    left, right = stream_of(loom, a), stream_of(loom, b)
    ra, rb = loom.whole.rank(a), loom.whole.rank(b)
    if left.axis == ra - 2 and right.axis == rb - 1:
        attention(loom, node)
        return
    if (left.axis == ra - 1) or (right.axis == rb - 2):
        raise NotStreamable(_TIME)
    if left.axis - ra != right.axis - rb:
        raise NotStreamable("it multiplies two sequences along different axes")
    fact, met = meet(loom, [a, b], rank, node.outputs[0].name or "matmul")
    loom.bind(node.outputs[0], loom.copy(node, [met[a], met[b]])[0], fact)


def gemm(loom: Loom, node: ir.Node) -> None:
    """Rows times a matrix; a row is a frame, or time was used up."""
    if _is_running(loom, node):
        return
    a = node.inputs[0]
    fact = stream_of(loom, a)
    if streams(loom, node.inputs[1:]):
        raise NotStreamable("it multiplies two sequences")
    if fact.axis != (1 if attribute(node, "transA", 0) else 0):
        raise NotStreamable(_TIME)
    loom.bind(node.outputs[0], loom.copy(node, [loom.new(v) for v in node.inputs])[0], replace(fact, axis=0))


def _is_running(loom: Loom, node: ir.Node) -> bool:
    if any(isinstance(loom.fact(v), Stream) for v in node.inputs):
        return False
    return over_running(loom, node)


RULES = {"MatMul": matmul, "Gemm": gemm, "FusedMatMul": matmul, "FusedGemm": gemm}
