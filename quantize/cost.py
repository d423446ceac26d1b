"""What a step costs, models in turns; in time of the thread, so that what else the machine does hardly counts.

Of the calls the tenth percentile is taken, which a busy machine moves less than the median. The least cannot be used,
since a thread's clock jumps where the thread is taken off.
"""

import time
from collections.abc import Sequence

import numpy as np

from holdover.export.proof import engine_of
from holdover.runtime.engine import Lane

TURN = 10
ROUNDS = 60
PERCENTILE = 10


def step_costs(models: Sequence[bytes], hops: int = 1) -> list[float]:
    """Microseconds of a block of so many hops for each model, the models taking turns on one thread."""
    lanes = [_warm(data, hops) for data in models]
    took: list[list[float]] = [[] for _ in models]
    for _ in range(ROUNDS):
        for (lane, block), times in zip(lanes, took, strict=True):
            lane.push(block)
            for _ in range(TURN):
                start = time.thread_time()
                lane.push(block)
                times.append(time.thread_time() - start)
    return [float(np.percentile(times, PERCENTILE)) * 1e6 for times in took]


def _warm(data: bytes, hops: int) -> "tuple[Lane, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]":
    engine = engine_of(data)
    c = engine.contract
    first = -(-c.first_chunk_min // c.grid) * c.grid
    steady = max((s.steady_after for s in c.states), default=0)
    size = hops * c.hop if c.bitwise else -(-hops * c.hop // c.grid) * c.grid
    x = np.random.default_rng(2).normal(size=(max(first, size), len(c.signal.channels))).astype(np.float32)
    lane = engine.lane()
    lane.push(x[:first])
    for _ in range(100 + steady // size):
        lane.push(x[:size])
    return lane, x[:size]
