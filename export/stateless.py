"""A graph with explicit states as a whole-sequence graph: it starts from its initial states, and gives no states."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from holdover.export.signature import Carried, Signature

Array = NDArray[Any]


def stateless(model: onnx.ModelProto, form: Signature) -> onnx.ModelProto:
    """The graph with its initial states in the place of the inputs, as wide as the batch of the signal.

    Parameters
    ----------
    model : onnx.ModelProto
        Inputs as `signature` set them; left as it is.
    form : Signature

    Returns
    -------
    onnx.ModelProto
        With the signal as its inputs and the outputs that are not states.
    """
    dropped = onnx.ModelProto()
    dropped.CopyFrom(model)
    graph = dropped.graph
    signals = [i for i in model.graph.input if i.name in {y.name for y in form.layouts}]
    outputs = {o.name: o for o in model.graph.output}
    del graph.input[:], graph.output[:], graph.node[:]
    graph.input.extend(signals)
    graph.output.extend(outputs[n] for n in form.outputs)
    graph.initializer.extend(onnx.numpy_helper.from_array(value, n) for n, value in form.constants.items())
    for state in form.states:
        nodes, weights = _start(state, form)
        graph.node.extend(nodes)
        graph.initializer.extend(onnx.numpy_helper.from_array(value, n) for n, value in weights.items())
    graph.node.extend(model.graph.node)
    pruned = ir.from_proto(dropped)
    RemoveUnusedNodesPass()(pruned)
    return ir.to_proto(pruned)


def _start(state: Carried, form: Signature) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Nodes and weights that give a state its value before the first sample."""
    layout = form.layouts[0]
    if "batch" not in state.shape or "batch" not in layout.dims:
        return [], {state.input: state.initial(1)}
    make: Callable[..., onnx.NodeProto] = onnx.helper.make_node
    part = "/" + state.input
    parts = [f"{part}.batch" if n == "batch" else f"{part}.{axis}" for axis, n in enumerate(state.shape)]
    fill = onnx.numpy_helper.from_array(np.full(1, state.fill, state.dtype))
    nodes = [
        make("Shape", [layout.name], [f"{part}.shape"]),
        make("Gather", [f"{part}.shape", f"{part}.axis"], [f"{part}.batch"], axis=0),
        make("Concat", parts, [f"{part}.sizes"], axis=0),
        make("ConstantOfShape", [f"{part}.sizes"], [state.input], value=fill),
    ]
    sizes = {f"{part}.{axis}": np.array([n], np.int64) for axis, n in enumerate(state.shape) if n != "batch"}
    return nodes, {f"{part}.axis": np.array([layout.dims.index("batch")], np.int64), **sizes}
