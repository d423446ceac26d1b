"""Dynamic 8 bits, as onnxruntime does it: ranges are taken from each call, which must be one hop of one stream."""

import tempfile
from pathlib import Path

import onnx

from holdover.quantize.calibration import Calibration, concatenated
from holdover.quantize.grid import round_weights
from holdover.quantize.method import Made, Parent, Refused
from holdover.quantize.methods.static_int8 import named
from holdover.quantize.streamed import proven

TAKEN = ("LSTM", "MatMul")
NOTES = ("ranges are taken from each call: results depend on the block, so it is fed one hop at a time and never "
         "batched",)  # fmt: skip


def dynamic_int8(parent: Parent, calibration: Calibration) -> Made | Refused:
    """onnxruntime's `quantize_dynamic` on the streaming graph; see `Method`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    if not any(n.op_type in TAKEN for n in parent.model.graph.node):
        return Refused("it has neither an LSTM nor a product, and onnxruntime has no other dynamic kernel that pays; "
                       "weights-int8 may do")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_dynamic(named(parent.model), path, weight_type=QuantType.QInt8, op_types_to_quantize=list(TAKEN))
        model = onnx.load(path)
    round_weights(model)
    one_stream(model)
    document = dict(parent.contract.document) | {"chunk_invariant": "grid", "grid": parent.contract.hop}
    return proven(model, document, concatenated(calibration.signals.values()), NOTES)


def one_stream(model: onnx.ModelProto) -> None:
    """Fix the batch at one, so that an engine refuses to batch streams."""
    for value in [*model.graph.input, *model.graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "batch":
                dim.dim_value = 1
