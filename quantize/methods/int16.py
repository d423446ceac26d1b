"""Activations of products in 16 bits, weights in 8: for models whose activations are too far spread for 8 bits.

Convolutions stay float: between Q/DQ, onnxruntime rounds their weights once more, with one scale for all of them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from holdover.export.proof import engine_of
from holdover.export.whole import session
from holdover.quantize.calibration import Calibration, concatenated
from holdover.quantize.grid import round_weights
from holdover.quantize.method import Made, Parent, Refused
from holdover.quantize.methods.static_int8 import large_products
from holdover.quantize.streamed import proven
from holdover.runtime.engine import feeds, initial_state

LARGEST = 2**15 - 1
PERCENTILE = 99.999
DOMAIN = "com.microsoft"
"""Q/DQ of 16 bits are standard from opset 21 on only."""
NOTES = ("onnxruntime has no kernels of 16 bits: products are computed in float, so this is for size and for range, "
         "not for speed",)  # fmt: skip


def int16(parent: Parent, calibration: Calibration) -> Made | Refused:
    """Q/DQ of 16 bits before the large products of the streaming graph; see `Method`."""
    model = parent.model
    products = _products(model)
    taken = sorted({n.input[0] for n in model.graph.node if n.output[0] in products})
    if not taken:
        return Refused("it has no product large enough to be worth it, convolutions apart; weights-int8 may do")
    largest = _largest(parent, taken, calibration)
    _insert(model, {name: value for name, value in largest.items() if value})
    round_weights(model)
    return proven(model, dict(parent.contract.document), concatenated(calibration.signals.values()), NOTES)


def _products(model: onnx.ModelProto) -> set[str]:
    large = set(large_products(model))
    return {n.output[0] for n in model.graph.node if n.op_type == "MatMul" and n.output[0] in large}


def _largest(parent: Parent, names: list[str], calibration: Calibration) -> dict[str, float]:
    """The largest magnitude of each tensor over all recordings."""
    model, c = parent.model, engine_of(parent.data).contract
    known = {o.name for o in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    run: Any = session(model)
    found = dict.fromkeys(names, 0.0)
    for x in calibration.batches(c.hop):
        for name, value in zip(names, run.run(names, feeds(c, x, initial_state(c), last=False)), strict=True):
            size = np.abs(value)
            most = np.percentile(size, PERCENTILE) if calibration.ranges == "percentile" else size.max()
            found[name] = max(found[name], float(most))
    return found


def _insert(model: onnx.ModelProto, largest: Mapping[str, float]) -> None:
    """Q and DQ between a tensor and the large products that take it."""
    products = _products(model)
    graph, placed, nodes = model.graph, set[str](), []
    graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int16), "int16.zero"))
    for node in [onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node]:
        name = node.input[0] if node.input else ""
        if node.output[0] in products and name in largest:
            if name not in placed:
                placed.add(name)
                scale = np.asarray(largest[name] / LARGEST, np.float32)
                graph.initializer.append(numpy_helper.from_array(scale, f"{name}.int16.scale"))
                nodes += _pair(name)
            node.input[0] = f"{name}.rounded"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    if DOMAIN not in {o.domain for o in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _pair(name: str) -> list[onnx.NodeProto]:
    how = [f"{name}.int16.scale", "int16.zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *how], [f"{name}.int16"], domain=DOMAIN),
        helper.make_node("DequantizeLinear", [f"{name}.int16", *how], [f"{name}.rounded"], domain=DOMAIN),
    ]
