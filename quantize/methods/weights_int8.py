"""Weights in 8 bits, everything else in float: the step costs what it did."""

import onnx

from holdover.quantize.calibration import Calibration, concatenated
from holdover.quantize.grid import round_weights
from holdover.quantize.method import Made, Parent, Refused
from holdover.quantize.streamed import proven, streamed


def weights_int8(parent: Parent, calibration: Calibration) -> Made | Refused:
    """Every large weight on a grid of 8 bits, a scale for each output; see `Method`."""
    signal = concatenated(calibration.signals.values())
    if parent.whole is not None:
        whole = onnx.ModelProto()
        whole.CopyFrom(parent.whole)
        return streamed(whole, parent.contract, signal) if round_weights(whole) else NOTHING
    model = parent.model
    return proven(model, dict(parent.contract.document), signal) if round_weights(model) else NOTHING


NOTHING = Refused("no weight is large enough to be worth it")
