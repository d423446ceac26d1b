"""Rows of text to columns of numbers, block by block: fast where all is well, and exact where it is not."""

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.cell import number
from holdover.devices.sources.recording import distinct
from holdover.runtime.errors import SourceError

BLOCK_BYTES = 1 << 20
_TIME = re.compile(r"(?:time|timestamp|datetime|t)[ _]?[\[(]?(s|sec|seconds|ms|us)?[\])]?", re.IGNORECASE)
_SCALES = {"ms": 1e-3, "us": 1e-6}

LATEST = datetime(2200, 1, 1, tzinfo=UTC).timestamp()
"""No stamp is later, in seconds; one that is has another unit."""
MILLISECONDS = 1e11
"""Numbers beyond this, in a column of seconds, look like Unix time in a smaller unit: by 1e3, up to nanoseconds."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a text file is laid out.

    Attributes
    ----------
    separator
        Between cells, "" if there is one column only.
    columns
        Names of all columns.
    time
        Which column is the time, None if there is none; `scale` makes its numbers seconds.
    begin, end
        Bytes between which the rows of data are.
    first_row
        Number of the first row of data, as an editor counts.
    rows
        How many rows of data there are.
    """

    separator: str
    columns: tuple[str, ...]
    time: int | None
    scale: float
    begin: int
    end: int
    first_row: int
    rows: int

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the columns that are not the time."""
        return tuple(name for i, name in enumerate(self.columns) if i != self.time)

    def column(self, channel: int) -> int:
        """Which column a channel is."""
        return channel + (self.time is not None and channel >= self.time)


@dataclass(frozen=True, slots=True)
class Table:
    """Some rows: x (rows, channels), float32, NaN where missing; t (rows,), seconds, None without a column of time."""

    x: NDArray[np.float32]
    t: NDArray[np.float64] | None


class _Bad(ValueError):
    """A row that cannot be; its number is added where it is known."""


def layout_of(path: Path, separator: str | None, names: Sequence[str] | None, time: str | None) -> Layout:
    """Find out how a file is laid out; what is given goes before what its first rows suggest."""
    with path.open("rb") as file:
        head = file.read(BLOCK_BYTES)
    if b"\0" in head:
        raise SourceError(f"{path} is not text in UTF-8 but holds zero bytes; save it as plain text")
    lines = head.splitlines(keepends=True)
    skip = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith(b"#")), len(lines))
    if skip == len(lines):
        raise SourceError(f"{path} holds no rows of samples")
    texts = [_text(line) for line in lines[skip : skip + 6]]
    sep = _separator([text for text in texts if text.strip()]) if separator is None else separator
    first, second = (_cells_of_row(path, texts, i, sep, skip) for i in (0, 1))
    named = any(not _is_value(cell) for cell in first)
    begin = sum(map(len, lines[: skip + named]))
    end, rows = _extent(path, begin)
    if not rows:
        raise SourceError(f"{path} has a row of names and no samples")
    columns = _names(path, first if named else None, len(first), names)
    which = _time_column(path, columns, time, second if named else first)
    if which is not None and len(columns) == 1:
        raise SourceError(f"{path} has a column of time and no other; expected samples too")
    return Layout(sep, columns, which, _scale(columns, which), begin, end, skip + named + 1, rows)


def tables(path: Path, layout: Layout, which: Sequence[int]) -> Iterator[Table]:
    """The rows in blocks; of the channels, those in `which`.

    Raises
    ------
    SourceError
        With row and column, where a cell is not a number.
    """
    row = layout.first_row
    columns = [layout.column(channel) for channel in which]
    for block in _blocks(path, layout):
        lines = block.split(b"\n")
        table = _fast(block, lines, layout, columns) or _exact(path, lines, row, layout, columns)
        row += len(lines)
        if len(table.x):
            yield table


def stamps(path: Path, layout: Layout) -> Iterator[NDArray[np.float64]]:
    """The column of time in blocks, seconds; raises as `tables`."""
    return (table.t for table in tables(path, layout, ()) if table.t is not None)


def _blocks(path: Path, layout: Layout) -> Iterator[bytes]:
    rest, left = b"", layout.end - layout.begin
    with path.open("rb") as file:
        file.seek(layout.begin)
        while left > 0:
            piece = file.read(min(BLOCK_BYTES, left))
            if not piece:
                raise SourceError(f"{path} became shorter while it was read")
            left -= len(piece)
            cut = piece.rfind(b"\n") if left else len(piece)
            if cut < 0:
                raise SourceError(f"{path} has a line longer than {BLOCK_BYTES} bytes; expected one sample a row")
            yield rest + piece[:cut]
            rest = piece[cut + 1 :]


def _fast(block: bytes, lines: list[bytes], layout: Layout, columns: Sequence[int]) -> Table | None:
    """The table, if every cell that is needed is plainly a number; None to look more closely."""
    if b"_" in block or b'"' in block:
        return None
    try:
        cells = _split(lines, layout)
        x = np.stack([_floats(cells[i]) for i in columns], axis=1) if columns else np.empty((len(lines), 0), np.float32)
        t = None if layout.time is None else _stamps(cells[layout.time], layout.scale)
    except (ValueError, OverflowError):
        return None
    return None if np.isinf(x).any() or (t is not None and not (np.abs(t) <= LATEST).all()) else Table(x, t)


def _split(lines: list[bytes], layout: Layout) -> list[list[bytes]]:
    if len(layout.columns) == 1:
        return [lines]
    sep = None if layout.separator == " " else layout.separator.encode()
    rows = [line.split(sep) for line in lines]
    if set(map(len, rows)) != {len(layout.columns)}:
        raise ValueError("a row with more or fewer cells")
    return [[row[i] for row in rows] for i in range(len(layout.columns))]


def _floats(cells: list[bytes]) -> NDArray[np.float32]:
    try:
        return np.fromiter(map(float, cells), np.float32, len(cells))
    except ValueError:
        return np.fromiter((float(cell.strip() or b"nan") for cell in cells), np.float32, len(cells))


def _stamps(cells: list[bytes], scale: float) -> NDArray[np.float64]:
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells)) * scale
    except ValueError:
        return np.array([_unix(cell.decode().strip()) for cell in cells], np.float64)


def _exact(path: Path, lines: list[bytes], row: int, layout: Layout, columns: Sequence[int]) -> Table:
    x, t = [], []
    for at, line in enumerate(lines, row):
        text = _text(line)
        if not text.strip() and layout.time is not None:
            continue
        try:
            cells = _row(text, layout)
            x.append([_value(cells[i], layout.columns[i]) for i in columns])
            t.append(0.0 if layout.time is None else _stamp_in(cells[layout.time], layout))
        except _Bad as bad:
            raise SourceError(f"{path}, row {at}{bad}") from None
    values = np.array(x, np.float32).reshape(len(x), len(columns))
    return Table(values, None if layout.time is None else np.array(t, np.float64))


def _row(text: str, layout: Layout) -> list[str]:
    if not text.strip():
        return [""] * len(layout.columns)
    cells = _cells(text, layout.separator)
    if len(cells) != len(layout.columns):
        raise _Bad(f" has {len(cells)} cells; expected {len(layout.columns)} ({', '.join(layout.columns)})")
    return cells


def _value(cell: str, column: str) -> float:
    value = number(cell)
    if value is None:
        hint = "; write a decimal point, not a comma" if "," in cell else ""
        raise _Bad(f", column {column}: {cell[:40]!r} is not a number{hint}")
    return value


def _stamp_in(cell: str, layout: Layout) -> float:
    where = f", column {layout.columns[layout.time or 0]}: {cell[:40]!r}"
    try:
        t = _stamp(cell, layout.scale)
    except _Bad:
        raise _Bad(f"{where} is not a time; expected seconds or ISO 8601") from None
    if abs(t) <= LATEST:
        return t
    if layout.scale == 1 and t > MILLISECONDS:
        unit, short = ("milliseconds", "ms") if t < 1e3 * MILLISECONDS else ("microseconds", "us")
        unit, by = (unit, 1e3 if short == "ms" else 1e6) if t < 1e6 * MILLISECONDS else ("nanoseconds", 1e9)
        name = "" if unit == "nanoseconds" else f" or name the column time_{short}"
        raise _Bad(f"{where}: these stamps look like {unit}; divide them by {by:.0f}{name}")
    raise _Bad(f"{where} is no time between 1970 and 2200; expected seconds or ISO 8601")


def _stamp(cell: str, scale: float) -> float:
    value = number(cell)
    if value is not None and math.isfinite(value):
        return value * scale
    try:
        return _unix(cell.strip())
    except ValueError:
        raise _Bad(cell) from None


def _unix(text: str) -> float:
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _is_value(cell: str) -> bool:
    if number(cell) is not None:
        return True
    try:
        _unix(cell.strip())
    except ValueError:
        return False
    return True


def _text(line: bytes) -> str:
    return line.decode("utf-8-sig", errors="replace").rstrip("\r\n")


def _cells(text: str, separator: str) -> list[str]:
    if separator == " ":
        return text.split()
    if not separator and '"' not in text:
        return [text]
    try:
        return next(csv.reader([text], delimiter=separator or ","), [""])
    except (csv.Error, TypeError) as error:
        why = "it has line ends of old Mac files; save it with those of today" if "\r" in text else error
        raise _Bad(f" cannot be split into cells at {separator!r}: {why}") from None


def _cells_of_row(path: Path, texts: list[str], i: int, separator: str, skipped: int) -> list[str]:
    """The cells of one of the first rows, or of the last of them."""
    i = min(i, len(texts) - 1)
    try:
        return _cells(texts[i], separator)
    except _Bad as bad:
        raise SourceError(f"{path}, row {skipped + i + 1}{bad}") from None


def _separator(lines: list[str]) -> str:
    """What separates the cells: the first of the usual ones that most of the first rows hold, "" if none does."""
    for sep in (";", "\t", ",", " "):
        holding = [line for line in lines if sep in (line.strip() if sep == " " else line)]
        if 2 * len(holding) > len(lines):
            return sep
    return ""


def _extent(path: Path, begin: int) -> tuple[int, int]:
    """Where the rows end, blank lines at the end of the file left out, and how many there are."""
    end, lines = begin, 0
    at, counted = begin, 0
    with path.open("rb") as file:
        file.seek(begin)
        while piece := file.read(BLOCK_BYTES):
            body = piece.rstrip(b"\r\n")
            if body:
                end, lines = at + len(body), counted + body.count(b"\n") + 1
            at, counted = at + len(piece), counted + piece.count(b"\n")
    return end, lines


def _names(path: Path, header: list[str] | None, n: int, given: Sequence[str] | None) -> tuple[str, ...]:
    names = [f"ch{i + 1}" for i in range(n)] if header is None else header
    if given is not None and len(given) != n:
        raise SourceError(f"{path} has {n} columns and {len(given)} names were given ({', '.join(given)})")
    return distinct(names if given is None else given)


def _time_column(path: Path, columns: Sequence[str], given: str | None, sample: Sequence[str]) -> int | None:
    names = [name.lower() for name in columns]
    if given is not None:
        if given.lower() not in names:
            raise SourceError(f"{path} has no column {given!r} for the time; it has {', '.join(columns)}")
        return names.index(given.lower())
    dated = [i for i, cell in enumerate(sample[: len(columns)]) if number(cell) is None and _is_value(cell)]
    return next((i for i, name in enumerate(columns) if _TIME.fullmatch(name)), dated[0] if dated else None)


def _scale(columns: Sequence[str], time: int | None) -> float:
    match = None if time is None else _TIME.fullmatch(columns[time])
    return _SCALES.get((match[1] or "").lower(), 1.0) if match else 1.0
