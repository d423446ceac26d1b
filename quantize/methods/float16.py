"""Float of 16 bits: refused."""

from holdover.quantize.calibration import Calibration
from holdover.quantize.method import Made, Parent, Refused


def float16(_parent: Parent, _calibration: Calibration) -> Made | Refused:
    """Always a refusal; see `Method`."""
    return Refused(
        "onnxruntime has no kernels of 16-bit float for recurrent layers on a CPU: it converts back and forth, which "
        "is slower than float32, and 1.32 crashes the process on a converted LSTM or GRU; take weights-int8, which is "
        "smaller and as fast"
    )
