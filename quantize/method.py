"""What a method of quantization takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx

from holdover.export.proof import Proof
from holdover.quantize.calibration import Calibration
from holdover.runtime.contract import Contract


@dataclass(frozen=True)
class Parent:
    """The float model that is made smaller.

    Attributes
    ----------
    data : bytes
        The streaming file.
    sha256 : str
        Of the file that was given.
    contract : Contract
        Of the streaming file.
    whole : onnx.ModelProto or None
        The whole-sequence graph that the streaming one was made from, where it was kept.
    """

    data: bytes
    sha256: str
    contract: Contract
    whole: onnx.ModelProto | None = None

    @property
    def model(self) -> onnx.ModelProto:
        """A copy of the streaming graph, to be changed."""
        return onnx.load_from_string(self.data)


@dataclass(frozen=True)
class Made:
    """A smaller streaming model, proven; its contract does not yet say how it was made.

    Attributes
    ----------
    model : onnx.ModelProto
        With a contract.
    proof : Proof
        Against the whole-sequence graph that was quantized alike, or against itself in one call.
    against : str
        Which of the two.
    notes : tuple of str
        What the reader should know.
    """

    model: onnx.ModelProto
    proof: Proof
    against: str
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Refused:
    """Why a method cannot be used on a model, and what to do."""

    reason: str


Method = Callable[[Parent, Calibration], Made | Refused]
