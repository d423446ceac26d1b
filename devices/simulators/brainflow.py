"""A recording as a file for BrainFlow's playback board, which takes the place of a real one."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from holdover.devices.simulators.impair import Sent

ROWS, NUMBER, FIRST, TIME = 32, 0, 1, 30
"""The table of the synthetic board: its rows, and those of the package number, the first channel and the time."""
MODULUS = 256
RATE_HZ = 250.0


def write_playback(path: str | Path, sent: Iterable[Sent], speed: float = 1.0) -> None:
    """Write what a link lets through, as the synthetic board's recording, `speed` times as fast.

    The playback board goes by the time stamps, and the package number tells what was lost.
    """
    with Path(path).open("w") as file:
        for item in sent:
            if item.packet is None:
                continue
            n = len(item.packet)
            table = np.zeros((n, ROWS))
            table[:, NUMBER] = ((item.packet.count or 0) + np.arange(n)) % MODULUS
            table[:, FIRST : FIRST + item.packet.x.shape[1]] = item.packet.x
            table[:, TIME] = 1e9 + (item.due_s + (np.arange(n) - n + 1) / RATE_HZ) / speed
            np.savetxt(file, table, "%.6f", delimiter="\t")
