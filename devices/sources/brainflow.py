"""Any board that BrainFlow knows, from OpenBCI's to the one that it makes up."""

import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib.resources import files
from itertools import pairwise
from threading import Event
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.counter import Counter
from holdover.devices.sources.device import Device, LinkLost
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.recording import checked_rate
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError

POLL_S = 0.05
SILENT_S = 10.0
"""A board that gives nothing for so long is opened anew."""
BUFFER_SAMPLES = 1 << 16
SIGNALS = ("ecg", "exg", "eeg", "emg")
"""What the channels of a board are for, in BrainFlow's words; the first that a board has is taken."""
COUNTERS = {"SYNTHETIC": 256, "CYTON": 256, "CYTON_WIFI": 256}
"""Boards whose package number counts samples, and where it begins again; of others it does not, or is not known."""
PLAYBACK = "PLAYBACK_FILE"


def open(
    *,
    board: str | int = "synthetic",
    channels: str | list[int] | None = None,
    leads: Sequence[str] | str | None = None,
    unit: str = "uV",
    gain: float = 1.0,
    offset: float = 0.0,
    counter: int | None = None,
    serial_port: str = "",
    mac_address: str = "",
    ip_address: str = "",
    ip_port: int = 0,
    serial_number: str = "",
    other_info: str = "",
    timeout_s: int = 0,
    path: str = "",
    master_board: str | int | None = None,
) -> Live:
    """Open a board by its name in BrainFlow, as "cyton" or "ganglion", or its number.

    Parameters
    ----------
    channels
        "ecg", "exg", "eeg" or "emg" for all of that kind, or rows of BrainFlow's table; None: the first kind there is.
    leads
        Their names; None: "ch1" and so on.
    unit, gain, offset
        A value is (number - offset) * gain, in `unit`; BrainFlow gives uV.
    counter
        Where the board's package number begins again, if it counts samples; 0: not to use it; None: as is known of it.
    serial_port, mac_address, ip_address, ip_port, serial_number, other_info, timeout_s
        Where the board is, as its page in BrainFlow's documentation says.
    path, master_board
        For "playback_file": the recording, and the board that made it.

    Raises
    ------
    SourceError
        An option that cannot be, or a board that has no such channels. A board that is not there is waited for.
    """
    library = _library()
    number, name = _board(library, board)
    master, its_name = (number, name) if name != PLAYBACK else _board(library, master_board)
    rows = _rows(library, master, its_name, channels)
    names = [f"ch{row}" for row in rows] if leads is None else leads
    scale = Scale.of("brainflow", names, unit, gain, offset)
    if len(scale.channels) != len(rows):
        raise SourceError(f"brainflow: {len(rows)} channels ({rows}) and {len(scale.channels)} names were given")
    params = library.BrainFlowInputParams()
    given = {"serial_port": serial_port, "mac_address": mac_address, "ip_address": ip_address, "ip_port": ip_port,
             "serial_number": serial_number, "other_info": other_info, "timeout": timeout_s, "file": path}  # fmt: skip
    for key, value in given.items():
        setattr(params, key, _of_type(key, value, type(getattr(params, key))))
    if name == PLAYBACK:
        params.master_board = master
    modulus = _of_type("counter", COUNTERS.get(its_name, 0) if counter is None else counter, int)
    return Live(Board(library.BoardShim(number, params), master, rows, modulus, scale))


class Board(Device):
    """The driver: polls a board.

    A package number that counts samples tells of losses. BrainFlow's time stamps do not: they say when this machine
    read a sample, and samples are read in bunches.

    Parameters
    ----------
    shim
        A `brainflow.board_shim.BoardShim`.
    rows
        The channels, as rows of its table.
    modulus
        Of the package number; 0 if it is no use.
    """

    def __init__(self, shim: Any, master: int, rows: Sequence[int], modulus: int, scale: Scale) -> None:
        super().__init__("brainflow", checked_rate(shim.get_sampling_rate(master), "brainflow"), scale)
        self.shim, self.rows, self.modulus = shim, list(rows), modulus
        self._number_row = shim.get_package_num_channel(master)

    def session(self, stop: Event) -> Iterator[Packet]:
        """Prepare the board, stream, and release it."""
        from brainflow.exit_codes import BrainFlowError

        try:
            self.shim.prepare_session()
            self.shim.start_stream(BUFFER_SAMPLES)
            yield from self._stream(stop)
        except BrainFlowError as error:
            raise LinkLost(
                f"BrainFlow says {error}; see that the board is on, plugged in, and of no other program"
            ) from None
        finally:
            if self.shim.is_prepared():
                self.shim.release_session()

    def _stream(self, stop: Event) -> Iterator[Packet]:
        counter = Counter(self.modulus, self.rate_hz) if self.modulus else None
        heard_s = monotonic()
        while not stop.wait(POLL_S):
            table, now_s = self.shim.get_board_data(), monotonic()
            if table.shape[1]:
                heard_s = now_s
                yield from self._packets(table, counter, now_s)
            else:
                yield self.nothing()
            if now_s - heard_s > SILENT_S:
                raise LinkLost(f"the board is open and gave nothing for {SILENT_S:.0f} s")

    def _packets(self, table: NDArray[np.float64], counter: Counter | None, now_s: float) -> Iterator[Packet]:
        x = self.scale.apply(table[self.rows].T)
        if counter is None:
            yield Packet(x)
            return
        counts = counter.push(table[self._number_row].astype(np.int64), now_s)
        edges = [0, *(np.flatnonzero(np.diff(counts) != 1) + 1).tolist(), len(x)]
        for start, stop in pairwise(edges):
            yield Packet(x[start:stop], count=int(counts[start]))


def _library() -> Any:
    from brainflow import board_shim

    if sys.version_info < (3, 12):  # 5.23 asks files() for a module, which 3.11 refuses, and then for pkg_resources
        setattr(board_shim, "files", lambda _: files("brainflow"))  # noqa: B010 - mypy: the module does not export it
    board_shim.BoardShim.disable_board_logger()
    return board_shim


def _board(library: Any, board: str | int | None) -> tuple[int, str]:
    """The number and the name of a board."""
    by_name = {entry.name.removesuffix("_BOARD"): entry.value for entry in library.BoardIds}
    by_number = {value: name for name, value in by_name.items()}
    if isinstance(board, int) and board in by_number:
        return board, by_number[board]
    name = str(board).upper().removesuffix("_BOARD")
    if name in by_name:
        return by_name[name], name
    near = get_close_matches(name, by_name, 3)
    raise SourceError(
        f"brainflow: there is no board {board!r}; did you mean one of {', '.join(near or by_name).lower()}?"
    )


def _rows(library: Any, number: int, name: str, channels: str | list[int] | None) -> list[int]:
    """The rows of the table that hold the channels."""
    described = library.BoardShim.get_board_descr(number)
    kinds = {kind: described[f"{kind}_channels"] for kind in SIGNALS if described.get(f"{kind}_channels")}
    there = range(int(described.get("num_rows", 0)))
    if channels is None and kinds:
        return list(next(iter(kinds.values())))
    if isinstance(channels, str) and channels in kinds:
        return list(kinds[channels])
    if isinstance(channels, list) and channels and all(type(row) is int and row in there for row in channels):
        return channels
    has = ", ".join(f"{kind} {rows}" for kind, rows in kinds.items()) or "no signals that are known"
    raise SourceError(f"brainflow: board {name.lower()} has no channels {channels!r}; it has {has}")


def _of_type(name: str, value: Any, kind: type[int] | type[str]) -> Any:
    if type(value) is not kind or (isinstance(value, int) and value < 0):
        raise SourceError(
            f"brainflow: {name} = {value!r} cannot be; expected {'a number' if kind is int else 'a text'}"
        )
    return value
