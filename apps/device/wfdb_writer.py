"""A WFDB record that grows while it is written, and is whole at any moment but for its last second."""

import math
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from holdover.apps.recording import whole
from holdover.devices.sources.units import POWERS, factor
from holdover.runtime.chunk import Chunk, Source

SYNC_S = 1.0
"""How often the samples are synced and the header made true: what a power cut may cost."""
MOST = {16: 2**15 - 1, 32: 2**31 - 1}
"""Largest count of each format; the one below the smallest means that a sample is missing (WFDB, signal(5))."""
STEP_MV = 0.001
"""Of a potential, in format 16: 1 uV, up to 32.7 mV either way."""
STEP = 2.0**-14
"""Of another unit, in format 32."""


class Writer:
    """NAME.dat grows, NAME.hea is replaced each second.

    Attributes
    ----------
    count
        Samples written of each channel, holes included.
    clipped, dropped
        Values that were too large for the file, and samples that were there already.
    """

    def __init__(self, place: Path, source: Source) -> None:
        self._place, self._source = place, source
        potentials = all(unit in POWERS for unit in source.units)
        self._bits = 16 if potentials else 32
        self._steps = [STEP_MV / factor(unit, "mV") if potentials else STEP for unit in source.units]
        self._file = place.with_name(f"{place.name}.dat").open("wb")
        self._began = ""
        self._synced = time.monotonic()
        self.count = self.clipped = self.dropped = 0

    def begin(self, epoch: float | None) -> None:
        """The first sample is known, and its Unix time, if the source tells."""
        if epoch is not None and math.isfinite(epoch):
            self._began = f" {datetime.fromtimestamp(epoch, UTC):%H:%M:%S.%f %d/%m/%Y}"

    def push(self, chunk: Chunk) -> None:
        """Write samples at their place: a hole is filled with missing ones, what repeats is dropped."""
        again = min(max(self.count - chunk.at, 0), len(chunk))
        self.dropped += again
        self._put(np.full((max(chunk.at - self.count, 0), len(self._steps)), np.nan, np.float32))
        self._put(chunk.x[again:])
        if time.monotonic() - self._synced > SYNC_S:
            self.sync()

    def sync(self) -> None:
        """Have the disk hold what was written, and the header say so."""
        self._synced = time.monotonic()
        self._file.flush()
        os.fsync(self._file.fileno())
        if self.count:
            self._write_header()

    def close(self) -> None:
        """Write what is left; of a record without a sample, nothing stays."""
        self.sync()
        self._file.close()
        if not self.count:
            Path(self._file.name).unlink()

    def _put(self, x: NDArray[np.float32]) -> None:
        most = MOST[self._bits]
        counts = np.round(x.astype(np.float64) / self._steps)
        there = np.isfinite(counts)
        self.clipped += int((there & (np.abs(counts) > most)).sum())
        kept = np.where(there, np.clip(np.nan_to_num(counts), -most, most), -most - 1)
        self._file.write(kept.astype(f"<i{self._bits // 8}").tobytes())
        self.count += len(x)

    def _write_header(self) -> None:
        source, name = self._source, self._place.name
        lines = [f"{name} {len(source.channels)} {source.rate_hz:.12g} {self.count}{self._began}"]
        for lead, unit, step in zip(source.channels, source.units, self._steps, strict=True):
            gain = f"{1 / step:.9g}(0)/{unit.replace(' ', '_') or 'NU'}"
            lines.append(f"{name}.dat {self._bits} {gain} {self._bits} 0 0 0 0 {lead}")
        with whole(self._place.with_name(f"{name}.hea")) as part:
            part.write_text("\n".join(lines) + "\n")
