"""What the tests of anomaly detection share: naive models of any rate, and a watch over a sensor."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from holdover.runtime.alert import Alert, Scene
from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.limits import Limits
from holdover.runtime.engine import Engine, load
from holdover.runtime.watch import Watch, model_id
from tests.graphs import document, graph

RATE_HZ = 1 / 300
DAY = 288

Samples = NDArray[np.float32]


def naive(channels: int = 1, meaning: str = "forecast", output: dict[str, Any] | None = None, **options: Any) -> Engine:
    """A model that says the next sample will be as the last, or says a score; of any rate and unit, one detector."""
    contract = document([], channels=channels)
    names = [{"name": f"ch{i}", "unit": "any"} for i in range(channels)]
    contract["signals"][0] |= {"any_rate": True, "channels": names}
    horizon = 1 if meaning == "forecast" else 0
    contract["outputs"][0] |= {"meaning": meaning, "horizon": horizon, "width": channels, **(output or {})}
    contract["detectors"] = [{"kind": "anomaly", **options}]
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(graph([helper.make_node("Identity", ["x"], ["y"])], {}, contract, channels), Path(folder) / "m.onnx")
        return load(Path(folder) / "m.onnx")


@cache
def plain() -> Engine:
    """The naive forecaster of one channel, with the options as they are."""
    return naive()


def a_watch(
    engine: Engine | None = None,
    limits: Limits | None = None,
    rate_hz: float = RATE_HZ,
    lead: str = "ch0",
    **more: Any,
) -> Watch:
    """A watch over a sensor, one sample in five minutes."""
    engine = engine or plain()
    scene = Scene(stream="pump", lead=lead, rate_hz=rate_hz, epoch=1.7e9, model=model_id(engine))
    return Watch(engine, scene, limits, **more)


def one_chunk(x: NDArray[Any], at: int = 0) -> Chunk:
    """Samples as they are, (samples,) or (samples, channels)."""
    return Chunk(at, np.asarray(x, np.float32).reshape(len(x), x.size // max(len(x), 1) or 1))


def alerts(watch: Watch, *chunks: Chunk) -> list[Alert]:
    """All that is said of chunks, and at the end."""
    return [alert for step in (*map(watch.push, chunks), watch.finish()) for alert in step.alerts]


def starts(said: list[Alert], label: str) -> list[int]:
    """Where alerts of a label come true."""
    return [a.phase.at for a in said if a.phase.label == label and a.phase.phase == "start"]
