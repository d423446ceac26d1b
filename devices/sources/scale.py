"""What a device's numbers mean: which leads they are of, and how counts become a unit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.cell import samples
from holdover.devices.sources.recording import checked_number, distinct
from holdover.devices.sources.units import normal
from holdover.runtime.errors import SourceError


@dataclass(frozen=True, slots=True)
class Scale:
    """Leads, their unit, and value = (number - offset) * gain.

    Examples
    --------
    >>> Scale.of("adc", "II", "mV", gain=0.005, offset=1024).apply(np.array([[1024], [1224]])).tolist()
    [[0.0], [1.0]]
    """

    channels: tuple[str, ...]
    units: tuple[str, ...]
    gain: float
    offset: float

    @classmethod
    def of(cls, whose: str, leads: Sequence[str] | str, unit: str, gain: Any = 1.0, offset: Any = 0.0) -> "Scale":
        """Check the options of a device.

        Raises
        ------
        SourceError
            A gain or offset that is no number, a gain of zero, no lead, or a lead or unit that is not a text.
        """
        names = leads.split(",") if isinstance(leads, str) else list(leads)
        if not names or not all(isinstance(name, str) for name in [*names, unit]):
            raise SourceError(f'{whose}: leads = {leads!r}, unit = {unit!r} cannot be; expected names, such as "II"')
        factor = checked_number(gain, "gain", whose)
        if factor == 0:
            raise SourceError(f"{whose}: gain = 0 makes every sample 0; give the {unit} of one count")
        channels = distinct(names)
        return cls(channels, (normal(unit),) * len(channels), factor, checked_number(offset, "offset", whose))

    def apply(self, counts: NDArray[Any]) -> NDArray[np.float32]:
        """Numbers as the device sends them, of any shape, in the unit; NaN where they are not finite."""
        with np.errstate(over="ignore", invalid="ignore"):
            return samples((counts.astype(np.float64) - self.offset) * self.gain)
