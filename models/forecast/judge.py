"""How far the model's forecasts miss, beside simple forecasts, each of them in its best form by hindsight."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from holdover.models.forecast.features import LAGS, MEANS, pole
from holdover.runtime.chunk import Chunk
from holdover.runtime.engine import Engine
from holdover.runtime.errors import SourceError
from holdover.runtime.stream import Stream

Array = NDArray[Any]

UNSCORED = 0.15
"""The first part of each series, over which nobody is judged."""
RIVALS = ("last", "season", "mean")
"""The last value; the value a season ago, the best of `LAGS`; a running mean, the best of `MEANS`."""


def forecasts(engine: Engine, x: Array) -> tuple[Array, Array]:
    """What the shipped file says of one series, (time,), as the runtime runs it: forecast and spread of each next."""
    stream = Stream(engine, engine.contract.signal.rate_hz)
    values = stream.push(Chunk(0, np.asarray(x, np.float32)[:, None])).values
    return values["forecast"][:, 0], values["spread"][:, 0]


def misses(engine: Engine, x: Array) -> dict[str, float]:
    """Mean absolute errors on one series, (time,), by forecaster; `size` is the mean of the spread."""
    x = np.asarray(x, np.float64)
    first = int(UNSCORED * len(x))
    d = np.diff(x)
    means = (d + lfilter([pole(tau)], [1, -pole(tau)], np.diff(x, prepend=x[0]))[:-1] for tau in MEANS)
    forecast, spread = forecasts(engine, x)
    return {
        "model": _size((x[1:] - forecast[:-1])[first:]),
        "last": _size(d[first:]),
        "season": min(_size((x[lag:] - x[:-lag])[max(first + 1 - lag, 0) :]) for lag in LAGS if 2 * lag < len(x)),
        "mean": min(_size(miss[first:]) for miss in means),
        "size": _size(spread[first:-1]),
    }


def _size(miss: Array) -> float:
    return float(np.abs(miss).mean())


def table(found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """By rival, over what `misses` found of each series: our error over the rival's (quartiles), and how often less.

    Series on which a rival makes no error at all are left out for that rival, and not counted in its `of`.
    """
    ours = [m["model"] for m in found]
    rows = {rival: _row(ours, [m[rival] for m in found]) for rival in RIVALS}
    rows["best"] = _row(ours, [min(m[rival] for rival in RIVALS) for m in found])
    fit = [m["model"] / m["size"] for m in found if m["model"] > 0]
    return {"series": len(found), "rivals": rows, "error_over_spread": _quartiles(fit)}


def _row(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if b > 0]
    ratios = [a / b for a, b in pairs]
    return {"ratio": _quartiles(ratios), "better": round(sum(r < 1 for r in ratios) / len(ratios), 3), "of": len(pairs)}


def _quartiles(values: Sequence[float]) -> list[float]:
    return [float(f"{q:.3f}") for q in np.quantile(values, [0.25, 0.5, 0.75])]


def nab(folder: Path) -> dict[str, dict[str, Array]]:
    """The series of the Numenta Anomaly Benchmark by folder and name, values alone.

    Raises
    ------
    SourceError
        The folder holds no `data/*/*.csv`.
    """
    found: dict[str, dict[str, Array]] = {}
    for path in sorted(folder.glob("data/*/*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))[1:]
        found.setdefault(path.parent.name, {})[path.stem] = np.array([float(row[1]) for row in rows])
    if not found:
        raise SourceError(f"{folder} holds no data/*/*.csv; expected the Numenta Anomaly Benchmark, v1.1")
    return found
