"""Bytes to packets: lines of text, or frames."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from holdover.devices.sources.frame_codec import FrameCodec, Layout
from holdover.devices.sources.frames import Frames
from holdover.devices.sources.line_parser import LEAD_OFF, Columns, LineParser, Samples
from holdover.devices.sources.order import slack_s
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.protocentral import ProtoCentral
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
STRETCH_S = 0.5
"""Stamped samples are handed on in packets of at most this length, since only the first of each has its time."""

LAYOUTS: dict[str, Callable[[str, Scale], Layout]] = {"frames": Frames, "protocentral": ProtoCentral}
FORMATS = ("lines", *LAYOUTS)


class Codec(Protocol):
    """Makes packets of bytes, in whatever pieces they come."""

    def push(self, data: bytes) -> list[Packet]:
        """The packets that are whole; what is half waits for its rest."""
        ...

    def finish(self) -> list[Packet]:
        """What waits is all there is: at the end of the input, or of a datagram."""
        ...

    def lose(self, torn: bool) -> None:
        """Forget what waits: its rest is lost. `torn`: what comes next may begin in the middle."""
        ...


def codec_of(whose: str, form: str, scale: Scale, rate_hz: float, time: str | None, lead_off: str) -> Codec:
    """The codec of a format.

    Raises
    ------
    SourceError
        If there is no such format, or an option cannot be, or not with this format.
    """
    if form not in FORMATS:
        raise SourceError(f"{whose}: format = {form!r} cannot be; expected one of {', '.join(FORMATS)}")
    if time not in (None, *SECONDS):
        raise SourceError(f"{whose}: time = {time!r} cannot be; expected one of {', '.join(SECONDS)}, or none")
    if form == "lines":
        return LineCodec(whose, scale, rate_hz, None if time is None else SECONDS[time], lead_off)
    if time is not None or lead_off != LEAD_OFF:
        raise SourceError(f"{whose}: time and lead_off are for lines of text; format = {form!r} has its own")
    return FrameCodec(LAYOUTS[form](whose, scale))


class LineCodec:
    """Lines of text, each a sample; where they have the device's time, `seconds` is its unit."""

    def __init__(
        self,
        whose: str,
        scale: Scale,
        rate_hz: float,
        seconds: float | None = None,
        lead_off: str = LEAD_OFF,
        columns: Columns | None = None,
    ) -> None:
        self.parser = LineParser(
            whose,
            len(scale.channels),
            seconds is not None,
            scale.gain,
            scale.offset,
            lead_off=lead_off,
            columns=columns,
        )
        self._seconds = seconds
        self._step_s = 1 / rate_hz
        self._slack_s = slack_s(rate_hz)
        self._stamp = float("nan")
        self._garbage = 0

    def push(self, data: bytes) -> list[Packet]:
        """The samples of the lines that are whole."""
        return self._packets(self.parser.push(data))

    def finish(self) -> list[Packet]:
        """The sample of the last line, which had no end."""
        return self._packets(self.parser.finish())

    def lose(self, torn: bool) -> None:
        """Forget the half line that waits; where the next may be torn, pass it over."""
        self.parser.lose(torn)

    def _packets(self, samples: Samples) -> list[Packet]:
        garbage, self._garbage = self.parser.garbage - self._garbage, self.parser.garbage
        off = samples.off if samples.off.any() else None
        if self._seconds is None:
            return [Packet(samples.x, off, garbage=garbage)] if len(samples.x) or garbage else []
        t = self._times(samples)
        known = np.flatnonzero(~np.isnan(t))
        samples, t = Samples(samples.x[known], samples.off[known], t[known]), t[known]
        return [
            Packet(samples.x[part], None if off is None else samples.off[part], time=float(t[part.start]))
            for part in self._stretches(t)
        ] + ([Packet(samples.x[:0], garbage=garbage)] if garbage else [])

    def _times(self, samples: Samples) -> Any:
        """Seconds, (lines,); a line whose time could not be read follows the one before it."""
        t = samples.t * (self._seconds or 1.0)
        for i in np.flatnonzero(np.isnan(t)):
            t[i] = (t[i - 1] if i else self._stamp) + self._step_s
        self._stamp = float(t[-1]) if len(t) else self._stamp
        return t

    def _stretches(self, t: Any) -> list[slice]:
        """Where samples follow one another as their rate says, and for no longer than `STRETCH_S`."""
        uneven = np.abs(np.diff(t) - self._step_s) > self._slack_s
        most = max(round(STRETCH_S / self._step_s), 1)
        edges = sorted({0, len(t), *(np.flatnonzero(uneven) + 1).tolist(), *range(0, len(t), most)})
        return [slice(a, b) for a, b in pairwise(edges)]
