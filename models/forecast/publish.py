"""From trained weights to model.onnx with its contract, and results.json."""

import hashlib
import json
import os
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from holdover.export import contract_io
from holdover.export.describe import Statement
from holdover.export.exporting import Options, export
from holdover.export.feeding import engine_of, feed, pieces
from holdover.export.original import Original
from holdover.models.forecast import judge
from holdover.models.forecast.features import view
from holdover.models.forecast.graph import build
from holdover.models.forecast.net import HIDDEN, Net, weights
from holdover.models.forecast.series import many
from holdover.runtime.engine import initial_state
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.errors import ContractError

Array = NDArray[Any]

RATE_HZ = 1.0
"""Nominal: the model takes samples as they come."""
HELD_OUT = 20_000
"""Seed of the series to judge on; training never gets there."""
LENGTH, PROVEN = 6144, 24
FAR_TOLERANCE = 5e-3
"""Largest difference from the net in double precision and torch, in units of a series' typical move."""
SETTLED = 1.05
"""Settled is a forecast whose error after a reset is at most so many times that with the full past."""
WINDOW, RESETS = 32, (2100, 3100, 4100, 5100)


def publish(net: Net, facts: Mapping[str, Any], folder: Path, judged: int) -> None:
    """Export, prove, judge, and write model.onnx and results.json into the folder; print the figures.

    Parameters
    ----------
    net : Net
        The weights to ship.
    facts : mapping
        Of the training.
    folder : Path
        Written to.
    judged : int
        Generated series to judge on.

    Raises
    ------
    ContractError
        The graph does not give what the net gives.
    """
    x = many(HELD_OUT, judged, LENGTH)
    model, document = _proven(net, facts, x)
    contract = contract_io.attach(model, document)
    size = contract_io.save(model, folder / "model.onnx")
    engine = engine_of((folder / "model.onnx").read_bytes())
    results = {
        **facts,
        "parameters": sum(v.size for v in weights(net).values()),
        "file_bytes": size,
        "weights": contract.document["provenance"]["weights"],
        "state_floats": sum(v.size for v in initial_state(contract).values()),
        "verification": contract.document["verification"],
        "settle_samples": {o.name: o.settle for o in contract.outputs},
        "torch": torch.__version__.split("+")[0],
        "onnxruntime": onnxruntime.__version__,
        "generated": judge.table([judge.misses(engine, row) for row in x]),
        "nab": _on_nab(engine),
    }
    contract_io.write_whole(
        folder / "results.json",
        (json.dumps(results, indent=1, sort_keys=True) + "\n").encode(),
    )
    print(json.dumps(results, indent=1, sort_keys=True))


def _proven(net: Net, facts: Mapping[str, Any], x: Array) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The streaming model and its contract, held against the whole-sequence graph and against torch."""
    whole = build(weights(net))
    source = Original(
        whole,
        "onnx",
        hashlib.sha256(whole.SerializeToString(deterministic=True)).hexdigest(),
        {"x": 1},
    )
    detectors = ({"kind": "anomaly"},)
    meanings = {"forecast": "forecast", "spread": "spread"}
    said = Statement("forecast", RATE_HZ, ("value",), "any", meanings=meanings, detectors=detectors,
                     provenance=_provenance(net, facts))  # fmt: skip
    signal = (x[0] - x[0].mean()) / x[0].std()
    done = export(source, Options(said, signal=signal[:, None], described="a generated series"))
    engine = engine_of(done.model.SerializeToString(deterministic=True))
    document = dict(done.contract.document)
    document["signals"] = [{**signal, "any_rate": True} for signal in document["signals"]]
    settle = settled(engine, x)
    document["outputs"] = [{**o, "settle": settle} for o in document["outputs"]]
    measured = {
        "against_torch": _far(net, engine, x[:PROVEN]),
        "series": len(x[:PROVEN]),
        "samples": LENGTH,
    }
    document["verification"] = {
        **document["verification"],
        "generated": measured,
        "settle": _method(len(x)),
    }
    return done.model, document


def _provenance(net: Net, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "weights": contract_io.weights_hash(weights(net)),
        "trained_on": ["generated series (series.py), nothing recorded"],
        "license": "Apache-2.0",
        "recipe": "models/forecast/train.py",
        "steps": facts["steps"],
        "seed": facts["seed"],
        "torch": torch.__version__.split("+")[0],
    }


def whole_sequence(net: Net, x: Array) -> tuple[Array, Array]:
    """Forecast and spread of whole series (series, time), by SciPy's recurrences and torch, without the graph."""
    seen = view(x.astype(np.float64))
    given = (
        torch.from_numpy(np.asarray(part, np.float32)) for part in (seen.features, seen.below, seen.skill, seen.size)
    )
    with torch.no_grad():
        up, spread, _ = net(*given, torch.zeros(1, len(x), HIDDEN))
    return x + up.numpy(), seen.size * np.exp(spread.numpy())


def _far(net: Net, engine: OrtEngine, x: Array) -> float:
    """Largest difference from torch, in typical moves, over whole series that come in random pieces."""
    rng = np.random.default_rng(0)
    wanted = whole_sequence(net, x)[0]
    worst = 0.0
    for row, due in zip(x, wanted, strict=True):
        found = feed(engine, row[:, None], pieces(len(row), rng))["forecast"][:, 0]
        worst = max(
            worst,
            float(np.abs(found - due).max() / (np.abs(np.diff(row)).mean() + np.abs(row).max() * 1e-3)),
        )
    if not worst <= FAR_TOLERANCE:
        raise ContractError(f"the streamed model is {worst:.1e} typical moves from the net in torch, at most "
                            f"{FAR_TOLERANCE:g} was expected")  # fmt: skip
    return float(f"{worst:.2e}")


def settled(engine: OrtEngine, x: Array) -> int:
    """Samples after a reset from which on the error is that with the full past, over all series x (series, time)."""
    length = x.shape[1] - max(RESETS) - 1
    full = _misses(engine, x)
    unit = full.mean(1, keepdims=True) + 1e-12
    after, before = np.zeros(length), np.zeros(length)
    for start in RESETS:
        fresh = _misses(engine, x[:, start : start + length + 1])
        after += np.minimum(fresh / unit, 10).mean(0)
        before += np.minimum(full[:, start : start + length] / unit, 10).mean(0)
    windows = length // WINDOW
    ratio = after[: windows * WINDOW].reshape(windows, -1).sum(1) / before[: windows * WINDOW].reshape(windows, -1).sum(
        1
    )
    late = np.flatnonzero(ratio > SETTLED)
    return int((late[-1] + 1) * WINDOW) if len(late) else 1


def _windows(x: Array) -> Array:
    return np.asarray(x[: len(x) // WINDOW * WINDOW].reshape(-1, WINDOW).sum(1))


def _misses(engine: OrtEngine, x: Array) -> Array:
    found, _ = engine.step(x[..., None], initial_state(engine.contract, len(x)))
    return np.asarray(np.abs(x[:, 1:] - found["forecast"][:, :-1, 0]), np.float64)


def _method(series: int) -> str:
    return (f"mean absolute error of the forecast over {series} generated series after {len(RESETS)} resets each, in "
            f"windows of {WINDOW} samples, at most {SETTLED} times that with the full past from there on")  # fmt: skip


def _on_nab(engine: OrtEngine) -> dict[str, Any] | None:
    """Figures on the Numenta Anomaly Benchmark, of which nothing was trained on; None without its data."""
    place = Path(os.environ.get("HOLDOVER_DATA", "")) / "nab"
    if not place.is_dir():
        return None
    folders = judge.nab(place)
    found = {name: [judge.misses(engine, x) for x in series.values()] for name, series in folders.items()}
    return {"all": judge.table(list(chain(*found.values())))} | {name: judge.table(f) for name, f in found.items()}
