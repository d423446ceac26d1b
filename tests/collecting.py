"""What the tests of live sources share: a source that is read in a thread, as a watch would."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.live import Live
from holdover.runtime.chunk import Chunk
from tests.brokers import wait_until


class Collector:
    """All that a source gives."""

    def __init__(self, source: Live) -> None:
        self.source = source
        self.chunks: list[Chunk] = []
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for chunk in self.source.chunks():
                self.chunks.append(chunk)
        except Exception as error:
            self.failure = error

    @property
    def x(self) -> NDArray[np.float32]:
        """The samples so far, one after the other."""
        return np.concatenate([np.empty((0, len(self.source.channels)), np.float32), *(c.x for c in list(self.chunks))])

    @property
    def end(self) -> int:
        """The place after the last sample so far."""
        return max((chunk.end for chunk in list(self.chunks) if len(chunk)), default=0)

    @property
    def faults(self) -> list[str]:
        """What was found wrong so far."""
        return [chunk.fault for chunk in list(self.chunks) if chunk.fault]

    def until(self, n: int, timeout_s: float = 15.0) -> NDArray[np.float32]:
        """Wait for n samples; all that came."""
        wait_until(lambda: len(self.x) >= n or self.failure, f"{n} samples came", timeout_s)
        assert self.failure is None
        return self.x

    def stop(self) -> None:
        """Close the source; it ends soon."""
        self.source.close()
        self._thread.join(5)
        assert not self._thread.is_alive()


@contextmanager
def collecting() -> Iterator[Callable[[Live], Collector]]:
    """Starts collectors, and stops them all in the end."""
    started: list[Collector] = []

    def start(source: Live) -> Collector:
        started.append(Collector(source))
        return started[-1]

    yield start
    for collector in started:
        collector.stop()
