"""What is known of a tensor while a graph is made streaming."""

from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True)
class Static:
    """The same whatever the signal, its length and the batch."""


@dataclass(frozen=True)
class PerBatch:
    """The same for every signal and length; its shape or value follows the batch size."""


@dataclass(frozen=True)
class Length:
    """The same for every signal, but it follows the length: positions, masks, shapes."""


@dataclass(frozen=True)
class Running:
    """Time was used up: the value over all frames so far, that of the whole sequence at its end.

    Attributes
    ----------
    ahead : int
        Samples that must have arrived beyond the last frame it covers.
    """

    ahead: int = 0


@dataclass(frozen=True)
class Merged:
    """Time and batch laid into the first axis.

    Attributes
    ----------
    origin : ir.Value
        The tensor of the original before.
    axes : int
        Its first axes that were laid together.
    """

    origin: ir.Value
    axes: int


@dataclass(frozen=True)
class Stream:
    """A sequence of frames: frame k is there once model sample `k * pace + ahead` has arrived.

    Attributes
    ----------
    axis : int
        The time axis.
    pace : int
        Samples a frame.
    ahead : int
        May be negative: frames of left padding are there before any sample.
    tail : int
        Frames that exist only after the end of the signal, when its length is a whole number of strides.
    ragged : bool
        Whether the number of frames after the end depends on the length.
    merged : Merged, optional
        What the first axis was, where it holds time and batch.
    """

    axis: int
    pace: int = 1
    ahead: int = 0
    tail: int = 0
    ragged: bool = False
    merged: Merged | None = None

    @property
    def needs_end(self) -> bool:
        """Whether its last frames come only when the end is announced."""
        return self.tail > 0 or self.ragged

    def surplus(self, later: "Stream") -> int:
        """Frames by which this one runs ahead of another of the same pace, after whole hops."""
        return (-1 - self.ahead) // self.pace - (-1 - later.ahead) // self.pace


@dataclass(frozen=True)
class Refused:
    """It depends on a node that was refused."""


Fact = Static | PerBatch | Length | Running | Stream | Refused
