"""What a step of the shipped model costs here; measured in a process of its own, so that a crash tells something."""

import statistics
import time
from typing import Any

import numpy as np

from holdover.apps.model.shipped import find_model
from holdover.runtime.chunk import Chunk
from holdover.runtime.engine import load as load_model
from holdover.runtime.snapshot import pack
from holdover.runtime.stream import Stream

SOURCE_HZ = 360.0


def measure_step() -> dict[str, Any]:
    """Load the shipped model, step it on noise, and take the median; called in a process of its own."""
    began = time.perf_counter()
    engine = load_model(find_model())
    load_ms = (time.perf_counter() - began) * 1e3
    c, lane, costs = engine.contract, engine.lane(), []
    hop = c.hop if c.bitwise else c.grid
    noise = np.random.default_rng(0).normal(0, 0.3, (540, hop, len(c.signal.channels))).astype(np.float32)
    for x in noise:
        began = time.perf_counter()
        lane.push(x)
        costs.append(time.perf_counter() - began)
    stream = Stream(engine, SOURCE_HZ)
    stream.push(Chunk(0, noise.reshape(-1, noise.shape[2])[:1000]))
    return {
        "model": c.name,
        "load_ms": round(load_ms, 1),
        "hop_us": hop / c.signal.rate_hz * 1e6,
        "step_us": round(statistics.median(costs[40:]) * 1e6, 2),
        "memory_bytes": len(pack(stream.snapshot())),
    }
