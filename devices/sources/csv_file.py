"""Recordings in text: one row for each sample, columns for channels, and maybe one for the time."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.recording import MIN_RATE_HZ, block_of, bounds, checked_rate, existing, pick
from holdover.devices.sources.table import Layout, layout_of, stamps, tables
from holdover.devices.sources.units import normal
from holdover.runtime.chunk import Chunk, Source
from holdover.runtime.clock import SampleClock
from holdover.runtime.errors import SourceError

SAME_S = 1e-3
"""Steps of a second or more that differ by less are one."""
UNIX_S = 1e8
"""Stamps beyond this many seconds are Unix time (3 March 1973), not seconds since the recording began."""
SIMPLE = 4000
"""A resampler takes ratios of numbers up to this; so a rate is a fraction with a numerator up to this too, and a
denominator that leaves room for a model's 125 Hz."""


def open(
    path: str | Path,
    *,
    rate_hz: float | None = None,
    lead: str | None = None,
    leads: Sequence[str] | None = None,
    unit: str = "mV",
    time: str | None = None,
    separator: str | None = None,
    start: float | str | None = None,
    stop: float | str | None = None,
    block_s: float = 10.0,
    follow: bool = False,
) -> Source:
    """Open a text file of samples; what is not given is read off its first rows.

    A first row that holds text names the columns. An empty cell, NaN, or an empty row is a missing sample.

    Parameters
    ----------
    rate_hz
        Samples a second; needed unless there is a column of time, whose typical step tells it.
    lead
        Name of the channel to read, None for all columns but the time.
    leads
        Names of the columns, time included, for a file without a row of names.
    time
        Name of the column of time; one called "time", "timestamp" or "t" is found by itself. Seconds
        (milli- or microseconds if the name ends so, as in "time_ms" or "time_us"), or ISO 8601 (UTC where no zone is
        given). Rows that come late, twice or after a hole get the places that their stamps say.
    follow
        Read the rows that are written from now on, without an end, as from a device. The file may be emptied or
        replaced meanwhile.
    separator
        Between cells: ",", ";", a tab, or a space.

    Raises
    ------
    SourceError
        If the file is not text, the rate cannot be known, the lead is not there, a time is none; and while it is
        read, if a cell is not a number, with its row (as an editor counts) and column.
    """
    path = existing(path, "a text file of samples")
    layout = layout_of(path, separator, leads, time)
    which = pick(lead, layout.channels, str(path))
    first = next(tables(path, layout, which), None)
    if first is None:
        raise SourceError(f"{path}, row {layout.first_row}: only blank rows from there on; expected samples")
    if rate_hz is None and first.t is None:
        raise SourceError(f"{path} has no column of time and so does not say its rate; give rate_hz (replay: --rate)")
    rate = checked_rate(_rate_of(stamps(path, layout), path) if rate_hz is None else rate_hz, str(path))
    if follow:
        return _following(path, layout, which, rate, unit, start, stop)
    length, onward = (layout.rows, True) if first.t is None else _extent(stamps(path, layout), rate)
    begin, end = bounds(start, stop, rate, length, str(path))
    return CsvFile(
        name=path.stem,
        rate_hz=rate,
        channels=tuple(layout.channels[i] for i in which),
        units=(normal(unit),) * len(which),
        epoch=float(first.t[0]) if first.t is not None and first.t[0] > UNIX_S else None,
        length=end,
        path=path,
        layout=layout,
        which=which,
        block=block_of(block_s, rate, len(which), str(path)),
        start=begin,
        onward=onward,
        stop=end if stop is not None else None,
    )


def _following(
    path: Path, layout: Layout, which: list[int], rate_hz: float, unit: str, start: object, stop: object
) -> Source:
    from holdover.devices.sources.follow import follow

    if start is not None or stop is not None:
        raise SourceError(f"{path}: a file that is followed is read from now on; leave start and stop out")
    return follow(path, layout, which, rate_hz, unit)


@dataclass(slots=True)
class CsvFile:
    """A text file as a source: read once, from the front, in blocks.

    Attributes
    ----------
    onward
        Whether its stamps never go back, so that each place comes once and one can go on from there.
    """

    name: str
    rate_hz: float
    channels: tuple[str, ...]
    units: tuple[str, ...]
    epoch: float | None
    length: int | None
    path: Path
    layout: Layout
    which: list[int]
    block: int
    start: int
    onward: bool
    stop: int | None
    _closed: Event = field(default_factory=Event, repr=False)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the samples in chunks of at most `block`."""
        begun = self.start == 0
        for run in self._runs():
            if self.stop is not None and run.at >= self.stop:
                return
            if not begun and run.end <= self.start:
                continue
            yield from self._pieces(run, max(0, self.start - run.at) if not begun else 0)
            begun = True
            if self._closed.is_set():
                return

    def seek(self, sample: int) -> bool:
        """Let `chunks` begin at a place; False if it is outside the recording, or the stamps go back in it."""
        if not self.onward or not 0 <= sample <= (self.length or 0):
            return False
        self.start = sample
        return True

    def close(self) -> None:
        """End `chunks`."""
        self._closed.set()

    def _runs(self) -> Iterator[Chunk]:
        clock = SampleClock(self.rate_hz, max_hole_s=math.inf)
        at = 0
        for table in tables(self.path, self.layout, self.which):
            if table.t is None:
                yield Chunk(at, table.x)
                at += len(table.x)
            else:
                yield from (Chunk(place, table.x[rows], fault=fault) for rows, place, fault in clock.place(table.t))

    def _pieces(self, run: Chunk, skip: int) -> Iterator[Chunk]:
        last = len(run) if self.stop is None else min(len(run), self.stop - run.at)
        for i in range(skip, last, self.block):
            if self._closed.is_set():
                return
            yield Chunk(run.at + i, run.x[i : min(i + self.block, last)], fault=run.fault if i == 0 else "")


def _rate_of(blocks: Iterable[NDArray[np.float64]], path: Path) -> float:
    """The rate that stamps tell: their mean step without the holes, since stamps in whole ms hide the step itself.

    Of a step of a second or more that most have, just that one.
    """
    count, seconds, longest, usual = 0, 0.0, 0.0, 0
    last = np.empty(0)
    for t in blocks:
        steps = np.diff(np.concatenate([last, t]))
        steps = steps[steps > 0]
        last = t[-1:]
        if len(steps):
            longest = longest or 1.6 * float(np.median(steps))
            steps = steps[steps < longest]
            count, seconds = count + len(steps), seconds + float(np.sum(steps))
            usual += int(np.count_nonzero(np.abs(steps - longest / 1.6) < SAME_S))
    if not count:
        raise SourceError(f"{path}: its stamps do not advance and do not tell the rate; give rate_hz (replay: --rate)")
    return 1.6 / longest if longest >= 1.6 and 2 * usual > count else _plain_rate(count, seconds)


def _plain_rate(count: int, seconds: float) -> float:
    """The simplest rate near count / seconds that strays less than half a sample from it meanwhile, whole if it can be.

    If none is simple enough to resample from: the nearest if a sample clock does not notice the drift, else one above,
    which leaves a small hole now and then where one below would go back.

    Examples
    --------
    >>> _plain_rate(1000, 3.9999), _plain_rate(900_000, 900_000 / 250.25)
    (250.0, 250.25)
    """
    rate = count / seconds
    if rate < MIN_RATE_HZ:
        return rate
    if rate > SIMPLE:
        return float(round(rate)) if abs(round(rate) - rate) * seconds < 0.5 else rate
    below, above = 0.0, float("inf")
    for d in range(1, 1001 if rate < 1 else SIMPLE // 125 + 1):
        n = round(rate * d)
        near = n / d
        if d > 1 and n > SIMPLE:
            break
        if abs(near - rate) < min(1e-3 * rate, 0.5 / seconds):
            return near
        below = max(below, (n if near <= rate else n - 1) / d)
        above = min(above, (n if near > rate else n + 1) / d)
    nearest = min(below, above, key=lambda near: abs(near - rate))
    return nearest if abs(nearest - rate) * seconds < 0.01 * rate else above


def _extent(blocks: Iterable[NDArray[np.float64]], rate_hz: float) -> tuple[int, bool]:
    """The place after the largest one, and whether places only ever go on."""
    clock = SampleClock(rate_hz, max_hole_s=math.inf)
    end, onward = 0, True
    for t in blocks:
        for rows, at, fault in clock.place(t):
            onward = onward and at >= end and not fault
            end = max(end, at + rows.stop - rows.start)
    return end, onward
