"""Cumulative sums: the sum so far is carried."""

import onnx_ir as ir

from holdover.export.fact import Stream
from holdover.export.loom import END, Loom, attribute, stream_of
from holdover.export.refusal import NotStreamable
from holdover.export.rules.axes import over_running, same_node
from holdover.export.rules.heads import batch_size


def cumsum(loom: Loom, node: ir.Node) -> None:
    """The last sum is put before the new frames, so that additions keep their order."""
    x, out = node.inputs[0], node.outputs[0]
    if not isinstance(loom.fact(x), Stream):
        over_running(loom, node)
        return
    assert x is not None
    fact = stream_of(loom, x)
    where = loom.constant_of(node.inputs[1])
    if where is None or int(where.reshape(-1)[0]) % loom.whole.rank(x) != fact.axis:
        same_node(loom, node, fact)
        return
    if attribute(node, "reverse", 0):
        raise NotStreamable("it sums from the end: the output at the first step needs the last sample")
    name = out.name or "cumsum"
    shape = [1 if i == fact.axis else batch_size(d.size, d.batch) for i, d in enumerate(loom.dims(x))]
    carried = loom.state(f"{name}.sum", shape, loom.whole.values(x)[0].dtype)
    every = loom.op("Concat", [carried.before, loom.need(x)], f"{name}.all", axis=fact.axis)
    sums = loom.op("CumSum", [every, loom.need(node.inputs[1])], f"{name}.sums")
    carried.after = loom.cut(sums, fact.axis, -1, name=f"{name}.last")
    start, end = (0, -1) if attribute(node, "exclusive", 0) else (1, END)
    loom.bind(out, loom.cut(sums, fact.axis, start, end, name=name), fact)


RULES = {"CumSum": cumsum}
