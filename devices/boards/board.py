"""Which board this is, and what suits it where a user says nothing."""

from dataclasses import dataclass
from pathlib import Path

from holdover.devices.boards.host import ROOT, disk_under, model_name, total_mb

SMALL_MB = 1200
"""A machine with less memory is small, whatever it is called."""


@dataclass(frozen=True)
class Defaults:
    """What is taken where neither the configuration nor the command line says.

    Attributes
    ----------
    threads
        Of recordings replayed side by side; a live stream has one, which is enough for any model of this size.
    gather_s
        Signal that is gathered before the model is called: a larger block costs less, and comes later by that much.
    checkpoint_s
        Seconds between checkpoints where nothing is to be said: an SD card wears by each.
    """

    threads: int
    gather_s: float
    checkpoint_s: float


@dataclass(frozen=True)
class Board:
    """A board by the beginning of its name in the device tree."""

    name: str
    defaults: Defaults


BOARDS = (
    Board("Raspberry Pi Zero 2", Defaults(threads=2, gather_s=0.2, checkpoint_s=120.0)),
    Board("Raspberry Pi 3", Defaults(threads=3, gather_s=0.2, checkpoint_s=60.0)),
    Board("Raspberry Pi Compute Module 3", Defaults(threads=3, gather_s=0.2, checkpoint_s=60.0)),
    Board("Raspberry Pi 4", Defaults(threads=4, gather_s=0.1, checkpoint_s=60.0)),
    Board("Raspberry Pi Compute Module 4", Defaults(threads=4, gather_s=0.1, checkpoint_s=60.0)),
    Board("Raspberry Pi 5", Defaults(threads=4, gather_s=0.1, checkpoint_s=60.0)),
    Board("Raspberry Pi Compute Module 5", Defaults(threads=4, gather_s=0.1, checkpoint_s=60.0)),
)
"""The more cores or memory, the more side by side: a replay holds some 80 MB for each."""

OTHER = Defaults(threads=0, gather_s=0.1, checkpoint_s=30.0)
"""Of a machine that is none of the `BOARDS`; 0 threads: as many as there are cores."""


def known(root: Path = ROOT) -> Board | None:
    """The board that this is, or None if it is none of the `BOARDS`."""
    name = model_name(root) or ""
    return next((board for board in BOARDS if name.startswith(board.name)), None)


def defaults(root: Path = ROOT) -> Defaults:
    """What suits this machine: by its name; else by its memory and by what its root file system lies on."""
    board = known(root)
    if board is not None:
        return board.defaults
    memory, disk = total_mb(root), disk_under(Path("/"), root)
    threads = 2 if memory is not None and memory < SMALL_MB else OTHER.threads
    checkpoint_s = 60.0 if disk is not None and disk.kind == "sd" else OTHER.checkpoint_s
    return Defaults(threads, OTHER.gather_s, checkpoint_s)
