"""A simulated amplifier that streams a recording over the lab streaming layer."""

from collections.abc import Iterable, Sequence
from threading import Event
from typing import Any

import numpy as np

from holdover.devices.simulators.impair import Sent, in_time

STARTED_S = 1000.0
"""The device's clock at its first sample."""


class Outlet:
    """A stream on the network, until it is closed.

    Parameters
    ----------
    leads, unit
        Names of the channels, and the unit of all.
    dtype
        Of the numbers, as LSL names it ("float32", "int16", ...).
    """

    def __init__(
        self,
        name: str,
        rate_hz: float,
        leads: Sequence[str],
        unit: str = "microvolts",
        *,
        stype: str = "ECG",
        source_id: str = "simulated",
        dtype: str = "float32",
    ) -> None:
        from mne_lsl.lsl import StreamInfo

        self.rate_hz, self.dtype = rate_hz, np.dtype(dtype)
        self._info = StreamInfo(name, stype, len(leads), rate_hz, dtype, source_id)
        self._info.set_channel_names(list(leads))
        self._info.set_channel_units([unit] * len(leads))
        self._outlet: Any = None
        self.plug()

    @property
    def heard(self) -> bool:
        """Whether somebody listens."""
        return self._outlet is not None and bool(self._outlet.has_consumers)

    def plug(self) -> None:
        """Be on the network, again."""
        from mne_lsl.lsl import StreamOutlet

        self._outlet = StreamOutlet(self._info)

    def close(self) -> None:
        """Be gone."""
        self._outlet = None

    def play(self, sent: Iterable[Sent], stop: Event, speed: float = 1.0) -> None:
        """Push what a link lets through, when it is due, stamped by the device's clock."""
        for item in in_time(sent, stop, speed):
            if item.packet is None:
                (self.plug if item.plugged else self.close)()
            elif self._outlet is not None and len(item.packet):
                at = (item.packet.count or 0) + np.arange(len(item.packet))
                x = np.ascontiguousarray(item.packet.x, self.dtype)
                self._outlet.push_chunk(x, timestamp=STARTED_S + at / self.rate_hz)
