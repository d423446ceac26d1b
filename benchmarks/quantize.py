"""What each method of quantization does to the shipped model and to other nets: size, cost, drift, decisions.

The shipped model has its own weights and is judged by its four validation records. The others, seven families and three
large ones, have random weights, take one lead at 120 Hz and give three classes 20 times a second. Peers, in the same
run: onnxruntime's `quantize_dynamic` on the streaming file as it is, called a hop at a time; LiteRT with 8-bit weights
(dynamic range), for the LSTM nets, where `--litert` names a Python that has tensorflow-cpu and ai-edge-litert; and the
float parent itself.
"""

import argparse
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, stated
from numpy.typing import NDArray
from quantize_nets import NETS, RATE_HZ, as_shipped, net, shipped
from quantize_peers import LITERT, LITERT_NETS, PEER, litert, peer
from quantize_table import HOPS, table

from holdover.apps.quantize_records import judged_by, read_records
from holdover.export.proof import engine_of
from holdover.quantize.calibration import Calibration, concatenated
from holdover.quantize.cost import step_costs
from holdover.quantize.drift import Drift, drifts
from holdover.quantize.isolation import isolation
from holdover.quantize.judge import Judge
from holdover.quantize.method import Made, Parent, Refused
from holdover.quantize.methods.table import METHODS
from holdover.runtime.contract import Contract
from holdover.runtime.errors import HoldoverError

Array = NDArray[np.float32]
Row = dict[str, Any]

CALIBRATE = ("101", "106", "108", "109", "112", "114", "115", "116", "122", "124", "201", "203", "207", "208", "209",
             "215", "220", "230")  # fmt: skip
HELD_OUT = ("118", "119", "205", "223")
"""The recipe's training and validation records; the test half is not touched."""
CALIBRATE_S = 300.0
LARGE = ("LSTM 256", "LSTM 512", "GRU 512")
"""A day of drift by every method would take these hours."""


# What is measured


def candidates(parent: Parent, calibration: Calibration) -> Iterator[tuple[str, bytes | Made | Refused]]:
    """What the peer and each method make of a parent."""
    for method, make in {PEER: None, **METHODS}.items():
        try:
            yield method, make(parent, calibration) if make else peer(parent)
        except HoldoverError as error:
            yield method, Refused(str(error))


def rows(name: str, parent: Parent, calibration: Calibration, judge: Judge, day: Array) -> Iterator[Row]:
    """A row for the parent, for the peer, and for each method."""
    yield {"model": name, "method": "float32", **size(parent, parent.data), **steps(parent, parent.data)}
    made = dict(candidates(parent, calibration))
    files = {method: data_of(found) for method, found in made.items() if not isinstance(found, Refused)}
    gone = dict(zip(files, drifts(parent.data, list(files.values()), day), strict=True))
    for method, found in made.items():
        row: Row = {"model": name, "method": method}
        if isinstance(found, Refused):
            yield row | {"refused": found.reason}
            continue
        error = found.proof.max_error if isinstance(found, Made) else None
        yield row | facts(parent, files[method], judge) | {"proof_error": error, "drift": shown(gone[method])}


def timed(parent: Parent, calibration: Calibration, there: list[Row]) -> Iterator[Row]:
    """The rows of a net, their steps timed anew."""
    made: dict[str, Any] = {"float32": parent.data, **dict(candidates(parent, calibration))}
    for row in there:
        found = made.get(row["method"])
        if found is None or isinstance(found, Refused) or "refused" in row:
            yield row
        else:
            yield row | steps(parent, data_of(found))


def data_of(made: bytes | Made) -> bytes:
    """The file."""
    return made.model.SerializeToString(deterministic=True) if isinstance(made, Made) else made


def steps(parent: Parent, data: bytes) -> Row:
    """Microseconds of a step by hops, and times the parent's."""
    found: Row = {}
    for hops in HOPS:
        before, after = step_costs([parent.data, data], hops)
        found |= {f"us_{hops}": round(after, 1), f"x_{hops}": round(after / before, 2)}
    return found


def size(parent: Parent, data: bytes) -> Row:
    """Bytes, and how many times smaller."""
    return {"bytes": len(data), "smaller": round(len(parent.data) / len(data), 2)}


def facts(parent: Parent, data: bytes, judge: Judge) -> Row:
    """Size, cost, parity, invariance, isolation."""
    apart = isolation(data, concatenated(judge.held_out.values()))
    parity = {n: [round(p.value, 4), round(p.there, 4), p.worst] for n, p in judge.parity(data).items()}
    return {**size(parent, data), **steps(parent, data), "bitwise": engine_of(data).contract.bitwise,
            "isolation": apart.document(), "parity": parity}  # fmt: skip


def shown(gone: Drift) -> Row:
    """The largest of each figure over the outputs."""
    return {
        "hours": gone.hours,
        "worst_hour": max(max(v) for v in gone.by_hour.values()),
        "first_tenth": max(gone.first.values()),
        "last_tenth": max(gone.last.values()),
        "largest": gone.worst,
        "recovery_s": max(gone.burst.recovery_s.values()),
        "free": max(gone.free.values()),
        "forced": max(gone.forced.values()),
    }


# Records, and the table


def records(data: Path, names: tuple[str, ...], contract: Contract, seconds: float | None) -> dict[str, Array]:
    """MLII of some records at the model's rate."""
    return read_records([data / "mitdb" / n for n in names], contract, words(), seconds)


def words() -> argparse.Namespace:
    """What `holdover quantize` would be told of the records."""
    return argparse.Namespace(lead=None, rate=None, unit=None, ref=None, annotator="atr")


def show(row: Row) -> None:
    """A row in 80 columns."""
    if "refused" in row:
        print(f"{row['model']:<14.14}{row['method']:<24}refused")
        return
    line = f"{row['model']:<14.14}{row['method']:<24}{row['bytes'] / 1024:>7.1f}{row['x_1']:>6.2f}"
    line += f"{row['x_45']:>6.2f}" if "x_45" in row else f"{'-':>6}"
    if "drift" in row:
        apart = row.get("isolation", {})
        line += f"{row['drift']['worst_hour']:>9.1e}{'  leaks' if apart.get('later') or apart.get('loud') else ''}"
    print(line, flush=True)


def merged(there: list[Row], found: list[Row], nets: list[str]) -> list[Row]:
    """New rows in place of those that are there, in the order of nets and methods."""
    methods = ["float32", PEER, *METHODS, LITERT]
    rows = {(row["model"], row["method"]): row for row in [*there, *found]}
    return [rows[name, method] for name in nets for method in methods if (name, method) in rows]


def write(path: Path, rows: list[Row]) -> None:
    """The rows, and what they were measured on and with."""
    result = {**stated(("numpy", "onnx", "onnxruntime", "torch")), "threads": 1, "calibrated_on": CALIBRATE,
              "held_out": HELD_OUT, "rows": rows}  # fmt: skip
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__)
    add = made.add_argument
    add("--data", type=Path, default=Path(os.environ.get("HOLDOVER_DATA", "data")))
    add("--hours", type=float, default=24.0, help="of ECG to look for drift in (default: %(default)g)")
    add("--large-hours", type=float, default=0.5, help="the same, for the large nets (default: %(default)g)")
    add("--only", nargs="*", metavar="NET", help="nets by name; rows of the others are kept (default: all)")
    add("--litert", type=Path, metavar="PYTHON", help="with tensorflow-cpu and ai-edge-litert")
    add("--json", type=Path, default=RESULTS / "quantize.json", help="where the figures go")
    add("--steps", action="store_true", help="only time the steps of the rows that are there anew")
    add("--table", action="store_true", help="print what is there as a table for the docs, and stop")
    return made


def main() -> None:
    """Measure, show, and write the figures."""
    options = parser().parse_args()
    there: list[Row] = json.loads(options.json.read_text())["rows"] if options.json.exists() else []
    if options.table:
        print("\n".join(table(there)))
        return
    contract = as_shipped().contract
    calibration = Calibration(records(options.data, CALIBRATE, contract, CALIBRATE_S))
    held_out = records(options.data, HELD_OUT, contract, None)
    signal = concatenated(calibration.signals.values())
    once = concatenated(held_out.values())
    score = judged_by([options.data / "mitdb" / n for n in HELD_OUT], contract, words())
    makers: dict[str, tuple[Callable[[], Parent], Any]] = {
        "ecg-beats": (partial(shipped, signal), score),
        "ecg-beats, as shipped": (as_shipped, score),
        **{name: (partial(net, make, signal), None) for name, make in NETS.items()},
    }
    print(f"{'model':<14}{'method':<24}{'kB':>7}{'x at 1':>6}{'at 45':>6}{'drift':>9}")
    for name, (make, judged) in makers.items():
        if options.only and name not in options.only:
            continue
        parent = make()
        if options.steps:
            found = timed(parent, calibration, [row for row in there if row["model"] == name])
        else:
            hours = options.large_hours if name in LARGE else options.hours
            day = np.resize(once, (round(hours * 3600 * RATE_HZ), 1))
            found = rows(name, parent, calibration, Judge(parent.data, held_out, judged), day)
        for row in found:
            show(row)
            there = merged(there, [row], list(makers))
            write(options.json, there)
        if options.litert and not options.steps and name in LITERT_NETS:
            there = merged(there, [litert(name, options.litert, once)], list(makers))
            write(options.json, there)


if __name__ == "__main__":
    main()
