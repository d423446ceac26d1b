"""Live lines of text to samples; a line that cannot be read is a missing sample, counted and told."""

import math
import re
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.cell import number, samples
from holdover.devices.sources.device import TELL_AGAIN_S, log
from holdover.runtime.errors import SourceError

LEAD_OFF = "!"
"""What a device writes instead of a number while an electrode is off."""

MAX_LINE = 4096

_CELLS = re.compile(r"\s*[,;]\s*|[ \t]+")


@dataclass(frozen=True, slots=True)
class Samples:
    """What some lines said: x (lines, channels), NaN where missing; off (lines,); t (lines,), NaN if there is none."""

    x: NDArray[np.float32]
    off: NDArray[np.bool_]
    t: NDArray[np.float64]


class Columns(NamedTuple):
    """How many numbers a line has, which of them are the channels, and which is the time, None if none is."""

    width: int
    channels: tuple[int, ...]
    time: int | None


class LineParser:
    """Text as it arrives, in any pieces, to samples.

    Attributes
    ----------
    bad, garbage
        How many lines could not be read, and how many bytes they had.

    Examples
    --------
    >>> parser = LineParser("doc", channels=2)
    >>> parser.push(b"0.5,0.25\\n0.75;").x.tolist()
    [[0.5, 0.25]]
    >>> parser.push(b"1\\n!\\n").x.tolist()
    [[0.75, 1.0], [nan, nan]]
    """

    def __init__(
        self,
        name: str,
        channels: int,
        stamped: bool = False,
        gain: float = 1.0,
        offset: float = 0.0,
        *,
        lead_off: str = LEAD_OFF,
        columns: Columns | None = None,
    ) -> None:
        if not isinstance(lead_off, str) or not lead_off or _CELLS.search(lead_off):
            raise SourceError(f"{name}: lead_off = {lead_off!r} cannot be; expected a word, such as {LEAD_OFF!r}")
        self.name = name
        self.channels = channels
        self.stamped = stamped
        self.gain = gain
        self.offset = offset
        self.lead_off = lead_off
        self.bad = self.garbage = 0
        self._looks_like_number = number(lead_off) is not None
        self._columns = columns or Columns(
            channels + stamped, tuple(range(stamped, channels + stamped)), 0 if stamped else None
        )
        self._width = self._columns.width
        self._half = b""
        self._skipping = False
        self._untold = 0
        self._told = -math.inf

    def push(self, data: bytes) -> Samples:
        """Parse the lines that are whole; the half one waits for its end."""
        *whole, half = (self._half + data).split(b"\n")
        if whole and self._skipping:
            del whole[0]
            self._skipping = False
        if len(half) > MAX_LINE and not self._skipping:
            self._count(half)
            self._skipping = True
        self._half = b"" if self._skipping else half
        return self._parse([line for line in whole if self._fits(line)])

    def lose(self, torn: bool = False) -> None:
        """Forget the half line that waits: its other half is lost. `torn`: the next may be a half one too."""
        self._half, self._skipping = b"", torn

    def finish(self) -> Samples:
        """Parse the last line, which had no end."""
        return self.push(b"\n" if self._half else b"")

    def _fits(self, line: bytes) -> bool:
        if len(line) > MAX_LINE:
            self._count(line)
        return len(line) <= MAX_LINE

    def _parse(self, lines: list[bytes]) -> Samples:
        off = np.zeros(len(lines), np.bool_)
        rows = self._plain(lines)
        if rows is None:
            read = [self._row(line) for line in lines]
            rows = np.array([values for values, _ in read], np.float64)
            off = np.array([mark for _, mark in read], np.bool_)
        rows = rows.reshape(-1, self._width)
        x = (rows[:, self._columns.channels] - self.offset) * self.gain
        time = self._columns.time
        t = np.full(len(rows), np.nan) if time is None else rows[:, time].copy()
        return Samples(samples(x), off, t)

    def _plain(self, lines: list[bytes]) -> NDArray[np.float64] | None:
        """The fast way for one number a line; None to look more closely."""
        if self._width != 1 or self._looks_like_number or any(b"_" in line for line in lines):
            return None
        try:
            values = np.fromiter(map(float, lines), np.float64, len(lines))
        except ValueError:
            return None
        return values if np.isfinite(values).all() else None

    def _row(self, line: bytes) -> tuple[list[float], bool]:
        """The numbers of a line, NaN where there is none, and whether it says that an electrode is off."""
        missing = [math.nan] * self._width
        text = line.decode("ascii", errors="replace").strip()
        if text in ("", self.lead_off):
            return missing, text == self.lead_off
        cells = _CELLS.split(text)
        if len(cells) == self._width + 1 and not cells[-1]:
            cells.pop()
        values = [math.nan if cell == self.lead_off else number(cell) for cell in cells]
        if len(cells) != self._width or None in values:
            self._count(line)
        if len(cells) != self._width:
            return missing, False
        return [math.nan if value is None else value for value in values], self.lead_off in cells

    def _count(self, line: bytes) -> None:
        """Count a bad line; tell of them once a minute."""
        self.bad += 1
        self.garbage += len(line) + 1
        self._untold += 1
        if time.monotonic() - self._told < TELL_AGAIN_S:
            return
        wanted = f"{'a time and ' if self.stamped else ''}{self.channels} number{'s' if self.channels > 1 else ''}"
        example = line[:40].decode("ascii", errors="replace")
        log.warning("%s: %d bad line(s), such as %r; expected %s", self.name, self._untold, example, wanted)
        self._told, self._untold = time.monotonic(), 0
