"""Static 8 bits: the ranges of products and convolutions are fixed beforehand, recurrent layers stay float."""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from holdover.export.whole import Layout, clean, layouts
from holdover.quantize.calibration import Array, Calibration, concatenated
from holdover.quantize.grid import is_worth_it, round_weights
from holdover.quantize.method import Made, Parent, Refused
from holdover.quantize.streamed import streamed

PRODUCTS = ("Conv", "MatMul", "Gemm")
BESIDE = ("Relu", "MaxPool")
"""Operators that stay among integers between products."""
METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}


def static_int8(parent: Parent, calibration: Calibration) -> Made | Refused:
    """Q/DQ around products, before the graph is made streaming: its memory is then of integers; see `Method`."""
    if parent.whole is None:
        return FROM_WHOLE
    model = clean(parent.whole)
    if not large_products(model):
        return Refused("it has no product or convolution large enough to be worth it; weights-int8 may do")
    return in_integers(model, parent, calibration)


def in_integers(model: onnx.ModelProto, parent: Parent, calibration: Calibration, notes: tuple[str, ...] = ()) -> Made:
    """A whole-sequence graph with its large products in 8 bits, other large weights on a grid, made streaming."""
    quantized = quantize_products(model, layouts(model), calibration)
    round_weights(quantized)
    return streamed(quantized, parent.contract, concatenated(calibration.signals.values()), notes)


FROM_WHOLE = Refused(
    "the model is streaming already, and history among integers can only be had from the whole-sequence graph: start "
    "from the file that 'holdover export --keep-whole' leaves, or take weights-int8"
)


def large_products(model: onnx.ModelProto) -> list[str]:
    """Outputs of products with a constant that is worth 8 bits; filters and means of a few numbers are not."""
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return [
        n.output[0]
        for n in model.graph.node
        if n.op_type in PRODUCTS and n.input[1] in weights and is_worth_it(weights[n.input[1]])
    ]


def quantize_products(model: onnx.ModelProto, inputs: tuple[Layout, ...], calibration: Calibration) -> onnx.ModelProto:
    """Q/DQ by onnxruntime around the large products of a whole-sequence graph.

    Weights have 7 bits and a sign for each output: on x86 without VNNI, sums of two products of 8 bits are cut off
    (vpmaddubsw), and results would be other ones than on ARM.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    given = named(model)
    keep = {n.name for n in given.graph.node if n.output[0] in set(large_products(given))}
    others = [n.name for n in given.graph.node if n.op_type in PRODUCTS and n.name not in keep]
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(None):  # onnxruntime tells of its histograms
        path = Path(folder) / "model.onnx"
        quantize_static(
            given, path, reader(feeds(inputs, calibration)), quant_format=QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            op_types_to_quantize=[*PRODUCTS, *BESIDE], nodes_to_exclude=others,
            calibrate_method=CalibrationMethod[METHODS[calibration.ranges]],
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )  # fmt: skip
        return onnx.load(path)


def feeds(inputs: tuple[Layout, ...], calibration: Calibration) -> Iterator[dict[str, Array]]:
    """Graph inputs of each recording, whole."""
    edges = np.cumsum([0, *(i.channels for i in inputs)])
    for x in calibration.batches(1):
        yield {i.name: i.of(x[..., a : a + i.channels]) for i, a in zip(inputs, edges, strict=False)}


def reader(given: Iterator[dict[str, Any]]) -> Any:
    """What onnxruntime's calibrators read from."""
    from onnxruntime.quantization import CalibrationDataReader

    class Recordings(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(given, None)

    return Recordings()


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes have names, and that says it was prepared: else onnxruntime warns."""
    given = copy.deepcopy(model)
    for k, node in enumerate(given.graph.node):
        node.name = node.name or f"node{k}"
    known = {p.key: p.value for p in given.metadata_props}
    onnx.helper.set_model_props(given, known | {"onnx.quant.pre_process": "onnxruntime.quant"})
    return given
