"""What the file sources share: a recording of known length that can be read from any sample on."""

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.chunk import Chunk
from holdover.runtime.errors import SourceError

MIN_RATE_HZ = 1e-5
MAX_RATE_HZ = 1e6
PAGE = 1 << 18
"""Values read at a time, all channels together: a few megabytes, whatever the recording's length."""

Reader = Callable[[int, int], NDArray[np.float32]]


@dataclass(slots=True)
class Recording:
    """A recording in a file, read block by block; a `holdover.runtime.chunk.Source`.

    Attributes
    ----------
    length
        The place just after the last sample that is played.
    read
        Gives the samples from one place to just before another: (samples, channels), float32, NaN where missing.
    block
        Samples in a chunk, at most.
    start
        The place of the first sample that is played. Places are those of the file, wherever playing starts, so
        that they agree with the file's annotations.
    """

    name: str
    rate_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    epoch: float | None
    length: int | None
    read: Reader = field(repr=False)
    block: int
    start: int = 0
    _closed: Event = field(default_factory=Event, repr=False)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the samples in chunks of `block`, the last one shorter."""
        page = self.block * max(1, PAGE // (self.block * max(1, len(self.channels))))
        stop = self.length or 0
        for at in range(self.start, stop, page):
            x = self.read(at, min(at + page, stop))
            for i in range(0, len(x), self.block):
                if self._closed.is_set():
                    return
                yield Chunk(at + i, x[i : i + self.block])

    def seek(self, sample: int) -> bool:
        """Let `chunks` begin at a place; False if it is outside the recording."""
        if not 0 <= sample <= (self.length or 0):
            return False
        self.start = sample
        return True

    def close(self) -> None:
        """End `chunks`."""
        self._closed.set()


def existing(path: str | Path, what: str) -> Path:
    """The path, if a file with something in it is there.

    Raises
    ------
    SourceError
        If it is missing, a folder, unreadable or empty.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise SourceError(f"{path} is a folder; expected {what}")
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); expected {what}") from None
    if not first:
        raise SourceError(f"{path} is empty; expected {what}")
    return path


def checked_rate(rate_hz: Any, whose: str) -> float:
    """The rate as a number of samples a second, from `MIN_RATE_HZ` to `MAX_RATE_HZ`; SourceError otherwise."""
    rate = checked_number(rate_hz, "rate_hz", whose)
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise SourceError(
            f"{whose}: a rate of {rate:g} Hz cannot be; expected {MIN_RATE_HZ:g} to {MAX_RATE_HZ:.0f}; "
            "give rate_hz, or if time stamps tell the rate, check their unit (time_ms, time_us)"
        )
    return rate


def checked_number(value: Any, option: str, whose: str) -> float:
    """An option's value as a finite number; SourceError naming the option otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise SourceError(f"{whose}: {option} = {value!r} is not a number")
    return number


def block_of(block_s: Any, rate_hz: float, channels: int, whose: str) -> int:
    """Samples in a chunk of `block_s` seconds, at least 1 and at most what a page of memory holds."""
    seconds = checked_number(block_s, "block_s", whose)
    if seconds <= 0:
        raise SourceError(f"{whose}: block_s = {block_s} cannot be; expected a length above 0, such as 10")
    return max(1, min(round(seconds * rate_hz), PAGE // max(1, channels)))


def place(when: Any, rate_hz: float, whose: str) -> int:
    """A point in a recording as a sample: seconds, "120s", "mm:ss", "hh:mm:ss", or "s43200" in samples.

    Examples
    --------
    >>> [place(t, 360.0, "100") for t in (2, "2s", "0:02", "0:00:02.0", "s720")]
    [720, 720, 720, 720, 720]
    """
    text = str(when).strip()
    try:
        at = int(text[1:]) if text[:1] == "s" else round(_seconds(text.removesuffix("s")) * rate_hz)
    except (ValueError, OverflowError):
        at = -1
    if at < 0 or isinstance(when, bool):
        raise SourceError(
            f'{whose}: {when!r} is no time; expected seconds, "120s", "mm:ss", "hh:mm:ss" or "s<samples>"'
        )
    return at


def _seconds(text: str) -> float:
    parts = [float(part) for part in text.split(":")]
    if len(parts) > 3 or any(part < 0 for part in parts) or any(part >= 60 for part in parts[1:]):
        raise ValueError(text)
    return sum(part * 60.0**i for i, part in enumerate(reversed(parts)))


def bounds(start: Any, stop: Any, rate_hz: float, length: int, whose: str) -> tuple[int, int]:
    """First place and the one after the last; a `stop` past the end means the end, a `start` there is an error."""
    first = 0 if start is None else place(start, rate_hz, whose)
    last = length if stop is None else min(place(stop, rate_hz, whose), length)
    if first >= last:
        raise SourceError(
            f"{whose}: nothing between start = {start} and stop = {stop}; the recording has {length} samples, "
            f"{length / rate_hz:.3f} s at {rate_hz:g} Hz"
        )
    return first, last


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once: where a name comes again it gets a number ("ECG", "ECG#2"), and "ch1" if it is blank."""
    seen: dict[str, int] = {}
    result = []
    for i, raw in enumerate(names, 1):
        name = raw.strip() or f"ch{i}"
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(result)


def pick(lead: str | None, channels: Sequence[str], whose: str) -> list[int]:
    """Which channels to read: the one of this name (letter case only matters if it has to), or all for None.

    Raises
    ------
    SourceError
        If there is none of this name; the message lists those that are.
    """
    if lead is None:
        return list(range(len(channels)))
    if lead in channels:
        return [list(channels).index(lead)]
    alike = [i for i, name in enumerate(channels) if name.lower() == str(lead).lower()]
    if len(alike) == 1:
        return alike
    near = difflib.get_close_matches(str(lead), channels, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise SourceError(f"{whose} has no lead {lead!r}; it has {', '.join(channels)}{hint}")
