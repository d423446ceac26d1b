"""A text file of samples that another program goes on writing: its new rows, as they come."""

import os
from collections.abc import Generator, Sequence
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from threading import Event

from holdover.devices.sources.byte_device import ByteDevice
from holdover.devices.sources.codec import LineCodec
from holdover.devices.sources.device import WAIT_S, log
from holdover.devices.sources.feeds import PIECE
from holdover.devices.sources.line_parser import Columns
from holdover.devices.sources.live import Live
from holdover.devices.sources.scale import Scale
from holdover.devices.sources.table import Layout
from holdover.runtime.errors import SourceError


def follow(path: Path, layout: Layout, which: Sequence[int], rate_hz: float, unit: str) -> Live:
    """The rows that are written to a file from now on, as a live source; never ends.

    Parameters
    ----------
    layout
        Of the rows that are there by now.
    which
        The channels to read.
    rate_hz
        Nominal samples a second.

    Raises
    ------
    SourceError
        If its rows cannot be read one by one: times that are no numbers.
    """
    names = [layout.channels[i] for i in which]
    columns = Columns(len(layout.columns), tuple(layout.column(i) for i in which), layout.time)
    scale = Scale.of(str(path), names, unit)
    codec = LineCodec(path.stem, scale, rate_hz, None if layout.time is None else layout.scale, columns=columns)
    _check(path, layout)
    driver = ByteDevice(path.stem, rate_hz, scale, Growing(path), codec, f"see what is written to {path}")
    return Live(driver, window_s=0, sender_waits=True)


class Growing:
    """The bytes that are written to a file, as `tail -F` gives them: also after it was emptied, or replaced."""

    silence_s: float | None = None
    torn, whole = False, False

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._begin = _after_last_line(file)

    def pieces(self, stop: Event) -> Generator[bytes, None, None]:
        """Yield what is written from now on."""
        ended = True
        while not stop.is_set():
            with suppress(FileNotFoundError), self.path.open("rb") as file:
                file.seek(self._begin)
                self._begin = 0
                if not ended:
                    yield b"\n"
                for piece in self._until_replaced(file, stop):
                    ended = piece.endswith(b"\n") if piece else ended
                    yield piece
                log.info("%s was replaced; reading the new file", self.path)
            stop.wait(WAIT_S)
            yield b""

    def close(self) -> None:
        """Do nothing: the file is closed where it is read."""

    def _until_replaced(self, file: BufferedReader, stop: Event) -> Generator[bytes, None, None]:
        while not stop.is_set():
            piece = file.read(PIECE)
            if not piece and self._is_another(file):
                return
            if not piece:
                stop.wait(WAIT_S)
            yield piece

    def _is_another(self, file: BufferedReader) -> bool:
        """Whether the path leads to another file by now, or to the same one emptied; all of the old one was read."""
        try:
            there, here = self.path.stat(), os.fstat(file.fileno())
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino) or there.st_size < file.tell()


def _after_last_line(file: BufferedReader) -> int:
    """Where the row begins that is being written: just after the last end of a line."""
    size = file.seek(0, 2)
    begin = max(size - PIECE, 0)
    file.seek(begin)
    return begin + file.read().rfind(b"\n") + 1


def _check(path: Path, layout: Layout) -> None:
    if layout.time is None:
        return
    with path.open("rb") as file:
        file.seek(layout.begin)
        cell = file.readline().decode("utf-8", "replace").split(layout.separator or None)[layout.time]
    try:
        float(cell)
    except ValueError:
        raise SourceError(
            f"{path}: its times are written as {cell.strip()!r}; of a file that grows only times in seconds can be read"
        ) from None
