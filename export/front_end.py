"""Processing written into a whole-sequence graph, before its inputs and behind its outputs: raw signal in.

The steps are part of the graph that is made streaming: their memory is carried, and proven, like any other. Before the
first sample the signal counts as 0, as in `scipy.signal.sosfilt`. Arithmetic is in double precision: a high-pass at
0.05 Hz and 1000 Hz, written as an RNN node in float32, is 55 mV off over an electrode offset of 300 mV, 0.04 mV in the
best of its forms.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from holdover.export.front_end_graph import FrontGraph, cascade, gather, lay
from holdover.export.front_end_sections import Array, Step
from holdover.export.front_end_steps import KINDS, Processing, check, fading
from holdover.export.measure import settling
from holdover.export.proof import Proof, engine_of, noise
from holdover.export.whole import Dim, Layout, Whole
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ModelError, UsageError

MAX_SETTLE = 50_000
"""Samples beyond which the settling of a slow filter is not waited for."""


def around(whole: Whole, processing: Processing, rate_hz: float) -> Whole:
    """The same model over the raw signal, its outputs processed.

    Parameters
    ----------
    whole : Whole
        As its author wrote it.
    processing : Processing
        None leaves the model as it is.
    rate_hz : float
        Of the signal.

    Returns
    -------
    Whole
        With steps before them, its inputs are (batch, time, channels), named `<input>.raw`.

    Raises
    ------
    UsageError
        Steps that cannot be, or an output that does not exist or has no frames.
    ModelError
        The model has tensors of the names that would be given.
    """
    if not (processing.before or processing.after):
        return whole
    check(processing.before, rate_hz)
    model = onnx.ModelProto()
    model.CopyFrom(whole.proto)
    fronts = [_front(y, processing.before, rate_hz) for y in whole.layouts] if processing.before else []
    backs = [_back(whole, name, steps, rate_hz) for name, steps in processing.after.items()]
    _free(model, [*fronts, *backs])
    for g in backs:
        _rename(model.graph, g.name, f"{g.name}.raw")
    nodes = [*(n for g in fronts for n in g.nodes), *model.graph.node, *(n for g in backs for n in g.nodes)]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend(t for g in (*fronts, *backs) for t in g.constants)
    return Whole(model, _raw(model, whole.layouts) if fronts else whole.layouts)


def _raw(model: onnx.ModelProto, layouts: Sequence[Layout]) -> list[Layout]:
    """Inputs for the raw signal in place of the model's own."""
    raw = [Layout(f"{y.name}.raw", ("batch", "time", y.channels)) for y in layouts]
    del model.graph.input[:]
    model.graph.input.extend(helper.make_tensor_value_info(y.name, TensorProto.FLOAT, y.dims) for y in raw)
    return raw


def _free(model: onnx.ModelProto, graphs: Sequence[FrontGraph]) -> None:
    taken = {o for n in model.graph.node for o in n.output} | {t.name for t in model.graph.initializer}
    new = {o for g in graphs for n in g.nodes for o in n.output} - {g.name for g in graphs}
    new |= {f"{g.name}.raw" for g in graphs} | {t.name for g in graphs for t in g.constants}
    if both := sorted(taken & new):
        raise ModelError(f"the model has a tensor {both[0]}, which preprocessing would be named; rename it")


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """A tensor, wherever it is used, but in the list of outputs."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, old, new)


def _front(layout: Layout, steps: Sequence[Step], rate_hz: float) -> FrontGraph:
    """From the raw signal to an input of the model."""
    g = FrontGraph(layout.name, layout.channels)
    x = g.op("Transpose", [g.op("Cast", [f"{layout.name}.raw"], to=TensorProto.DOUBLE)], perm=[1, 0, 2])
    lay(g, _stepped(g, x, steps, rate_hz), layout)
    return g


def _back(whole: Whole, name: str, steps: Sequence[Step], rate_hz: float) -> FrontGraph:
    """From what the model says to an output, at the rate of its frames."""
    outputs = [o.name for o in whole.proto.graph.output]
    if name not in outputs:
        raise UsageError(f"--after {name}: there is no such output; the model has {', '.join(outputs)}")
    value = ir.Value(name=name)
    dims, seen = whole.dims(value), whole.values(value)
    if [d.time for d in dims].count(True) != 1 or seen[0].dtype != np.float32:
        raise UsageError(f"--after {name}: it has shape {seen[0].shape} and holds {seen[0].dtype}; expected frames of "
                         "float32 over time")  # fmt: skip
    check(steps, rate_hz / _pace(whole, name))
    layout = Layout(name, tuple(_axis(d) for d in dims))
    g = FrontGraph(name, layout.channels)
    x = gather(g, g.op("Cast", [f"{name}.raw"], to=TensorProto.DOUBLE), layout)
    lay(g, _stepped(g, x, steps, rate_hz / _pace(whole, name)), layout)
    return g


def _axis(dim: Dim) -> int | str:
    return "time" if dim.time else "batch" if dim.batch else dim.size


def _pace(whole: Whole, name: str) -> float:
    """Samples a frame."""
    value = ir.Value(name=name)
    axis = next(i for i, d in enumerate(whole.dims(value)) if d.time)
    short, long, _ = whole.values(value)
    return float((whole.lengths[1] - whole.lengths[0]) / (long.shape[axis] - short.shape[axis]))


def _stepped(g: FrontGraph, x: str, steps: Sequence[Step], rate_hz: float) -> str:
    """Steps in their order; filters that follow one another are one cascade."""
    sections: list[Array] = []
    for step in steps:
        kind = KINDS[step["kind"]]
        if kind.sections is not None:
            sections.append(kind.sections(step, rate_hz))
            continue
        assert kind.nodes is not None
        x, sections = kind.nodes(g, _flushed(g, x, sections), step, rate_hz), []
    return g.op("Cast", [_flushed(g, x, sections)], to=TensorProto.FLOAT)


def _flushed(g: FrontGraph, x: str, sections: Sequence[Array]) -> str:
    return cascade(g, x, np.vstack(list(sections))) if sections else x


def settled(proof: Proof, data: bytes, processing: Processing) -> Proof:
    """The proof with `settle` no shorter than the steps need to forget, however large the offset before a reset.

    Parameters
    ----------
    proof : Proof
        As measured over a signal as long as the states need to take their shape.
    data : bytes
        The streaming model.
    processing : Processing
        In it; where it forgets more slowly than the test signal lasts, settling is measured again, over a longer one.
    """
    engine = engine_of(data)
    slow = _forgetting(processing, engine.contract)
    longest = max(slow.values())
    found = proof.settle
    if min(found.values()) < 0 and 0 < longest <= MAX_SETTLE:
        c = engine.contract
        samples = 2 * (2 * longest + c.first_chunk_min + 160 * c.hop)
        found = settling(engine, noise(2, samples, len(c.signal.channels), 12))
    unknown = longest > MAX_SETTLE
    return replace(proof, settle={n: max(v, slow[n]) if v >= 0 or unknown else v for n, v in found.items()})


def _forgetting(processing: Processing, contract: Contract) -> dict[str, int]:
    """Samples until the steps have forgotten, by output."""
    rate_hz = contract.signal.rate_hz
    first = sum(fading(step, rate_hz) for step in processing.before)
    return {
        o.name: first
        + sum(fading(s, rate_hz / o.samples_per_frame) * o.samples_per_frame for s in processing.after.get(o.name, ()))
        for o in contract.outputs
    }
