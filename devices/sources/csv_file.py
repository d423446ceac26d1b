"""Recordings in text: one row for each sample, columns for channels, and maybe one for the time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import numpy as np

from holdover.devices.sources.recording import block_of, bounds, checked_rate, existing, pick
from holdover.devices.sources.table import Layout, Table, last_stamp, layout_of, tables
from holdover.devices.sources.units import normal
from holdover.runtime.chunk import Chunk, Source
from holdover.runtime.clock import SampleClock
from holdover.runtime.errors import SourceError

UNIX_S = 1e8
"""Stamps beyond this many seconds are Unix time (3 March 1973), not seconds since the recording began."""


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
        (milliseconds if the name ends so, as in "time_ms"), or ISO 8601 (UTC where no zone is given). Rows that come
        late, twice or after a hole get the places that their stamps say.
    separator
        Between cells: ",", ";", a tab, or a space.

    Raises
    ------
    SourceError
        If the file is not text, the rate cannot be known, the lead is not there; and while it is read, if a cell is
        not a number, with its row (as an editor counts) and column.
    """
    path = existing(path, "a text file of samples")
    layout = layout_of(path, separator, leads, time)
    which = pick(lead, layout.channels, str(path))
    first = next(tables(path, layout, which))
    if rate_hz is None and first.t is None:
        raise SourceError(f"{path} has no column of time and so does not say its rate; give rate_hz")
    rate = checked_rate(_rate_of(first, path) if rate_hz is None else rate_hz, str(path))
    length = layout.rows if first.t is None else _span(first, last_stamp(path, layout), rate, layout.rows)
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
        stop=end if stop is not None else None,
    )


@dataclass(slots=True)
class CsvFile:
    """A text file as a source: read once, from the front, in blocks."""

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
        """Let `chunks` begin at a place; False if it is outside the recording."""
        if not 0 <= sample <= (self.length or 0):
            return False
        self.start = sample
        return True

    def close(self) -> None:
        """End `chunks`."""
        self._closed.set()

    def _runs(self) -> Iterator[Chunk]:
        clock = SampleClock(self.rate_hz)
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


def _rate_of(first: Table, path: Path) -> float:
    """The rate that stamps tell: their mean step without the holes, since stamps in whole ms hide the step itself."""
    steps = np.diff(first.t) if first.t is not None else np.empty(0)
    steps = steps[steps > 0]
    if not len(steps):
        raise SourceError(f"{path}: its stamps do not advance, so they do not tell the rate; give rate_hz")
    steps = steps[steps < 1.6 * np.median(steps)]
    rate = 1 / float(np.mean(steps))
    whole = round(rate)
    return float(whole) if whole and abs(rate - whole) < 1e-3 * whole else rate


def _span(first: Table, last: float | None, rate_hz: float, rows: int) -> int:
    """The place after the last sample, as the first and last stamps say; the rows, if the clock went back meanwhile."""
    begin = 0.0 if first.t is None else float(first.t[0])
    return rows if last is None or last <= begin else round((last - begin) * rate_hz) + 1
