"""An axis of a tensor as it was watched."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Dim:
    """One axis of a tensor, as watched.

    Attributes
    ----------
    size : int
        With one stream at the first length.
    batch, time : bool
        Whether it grows with the batch, with the length.
    """

    size: int
    batch: bool = False
    time: bool = False

    @property
    def fixed(self) -> bool:
        """Whether it is a plain number."""
        return not (self.batch or self.time)
