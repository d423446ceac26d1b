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
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from machine import RESULTS, stated
from numpy.typing import NDArray
from onnx import numpy_helper

from holdover.apps.quantize_records import judged_by, read_records
from holdover.export.contract_io import attach
from holdover.export.describe import Statement
from holdover.export.exporting import Options, export
from holdover.export.original import Original
from holdover.export.proof import engine_of
from holdover.quantize.calibration import Calibration, concatenated
from holdover.quantize.cost import step_costs
from holdover.quantize.drift import drift
from holdover.quantize.isolation import isolation
from holdover.quantize.judge import Judge
from holdover.quantize.method import Made, Parent, Refused
from holdover.quantize.methods.static_int8 import named
from holdover.quantize.methods.table import METHODS
from holdover.runtime.contract import Contract
from holdover.runtime.errors import HoldoverError

Array = NDArray[np.float32]
Row = dict[str, Any]

MODEL = Path(__file__).parent.parent / "models" / "ecg_beats" / "model.onnx"
CALIBRATE = ("101", "106", "108", "109", "112", "114", "115", "116", "122", "124", "201", "203", "207", "208", "209",
             "215", "220", "230")  # fmt: skip
HELD_OUT = ("118", "119", "205", "223")
"""The recipe's training and validation records; the test half is not touched."""
CALIBRATE_S = 300.0
HOPS = (1, 8, 45)
RATE_HZ, STRIDE = 120.0, 6
PEER = "peer: quantize_dynamic"
LITERT = "peer: LiteRT"
LITERT_S = 1800.0


# Nets with random weights, (batch, 1, time) to (batch, frames, 3)


def recurrent(kind: str, hidden: int, layers: int = 1) -> Any:
    """A strided convolution, recurrent layers, a head."""
    from torch import nn

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 48, STRIDE, stride=STRIDE)
            self.rnn = getattr(nn, kind)(48, hidden, layers, batch_first=True)
            self.head = nn.Linear(hidden, 3)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(self.conv(x).relu().transpose(1, 2))[0])

    return Net()


def dilated(reach: int, ahead: bool) -> Any:
    """Residual convolutions, causal and dilated, or looking ahead as far as back."""
    import torch
    from torch import nn

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 48, STRIDE, stride=STRIDE)
            gaps = [1] * reach if ahead else [2**k for k in range(reach)]
            self.blocks = nn.ModuleList(nn.Conv1d(48, 48, 3, dilation=d, padding=d if ahead else 0) for d in gaps)
            self.head = nn.Conv1d(48, 3, 1)

        def forward(self, x: Any) -> Any:
            y = self.conv(x).relu()
            for block in self.blocks:
                d = block.dilation[0]
                y = y + block(y if ahead else torch.nn.functional.pad(y, (2 * d, 0))).relu()
            return self.head(y).transpose(1, 2)

    return Net()


def attentive(window: int) -> Any:
    """A strided convolution, attention over the last frames, a layer, a head."""
    import torch
    from torch import nn

    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 48, STRIDE, stride=STRIDE)
            self.three = nn.Linear(48, 3 * 48)
            self.layer, self.head = nn.Linear(48, 96), nn.Linear(96, 3)

        def forward(self, x: Any) -> Any:
            y = self.conv(x).relu().transpose(1, 2)
            q, k, v = self.three(y).chunk(3, -1)
            place = torch.arange(y.shape[1])
            back = place[:, None] - place
            scores = (q @ k.transpose(1, 2) / 48**0.5).masked_fill((back < 0) | (back >= window), float("-inf"))
            return self.head(self.layer(y + scores.softmax(-1) @ v).relu())

    return Net()


NETS: dict[str, Callable[[], Any]] = {
    "LSTM 64": lambda: recurrent("LSTM", 64),
    "LSTM 2 x 64": lambda: recurrent("LSTM", 64, 2),
    "GRU 64": lambda: recurrent("GRU", 64),
    "RNN 64": lambda: recurrent("RNN", 64),
    "TCN": lambda: dilated(4, ahead=False),
    "symmetric convolutions": lambda: dilated(3, ahead=True),
    "attention": lambda: attentive(20),
    "LSTM 256": lambda: recurrent("LSTM", 256),
    "LSTM 512": lambda: recurrent("LSTM", 512),
    "GRU 512": lambda: recurrent("GRU", 512),
}
LARGE = ("LSTM 256", "LSTM 512", "GRU 512")
"""Too slow for a day of drift by every method; as is what is fed a hop at a time, the shipped model apart."""


def net(make: Callable[[], Any], signal: Array) -> Parent:
    """A torch module as a float parent, its whole-sequence graph kept."""
    import torch

    from holdover.export.original import SourceOptions
    from holdover.export.sources.torch_export import export as read_module

    torch.manual_seed(0)
    original = read_module(make(), SourceOptions(input_shape=("batch", 1, "time")))
    said = Statement("net", RATE_HZ, ("MLII",), "mV", labels=("N", "S", "V"))
    done = export(original, Options(said, signal=signal[: 60 * 120], described="a recording"))
    return Parent(done.model.SerializeToString(), original.sha256, done.contract, done.whole)


def shipped(signal: Array) -> Parent:
    """The shipped weights as a whole-sequence graph, and the streaming graph that is made of it."""
    from holdover.models.ecg_beats.whole import build
    from holdover.quantize.streamed import parent_words

    model = onnx.load(MODEL)
    contract = engine_of(MODEL.read_bytes()).contract
    whole = build({t.name: numpy_helper.to_array(t) for t in model.graph.initializer})
    leads = tuple(c.name for c in contract.signal.channels)
    said = Statement(contract.name, contract.signal.rate_hz, leads, "mV")
    done = export(Original(whole, "onnx", "0" * 64), Options(said, signal=signal[: 60 * 120], described="a recording"))
    streaming = parent_words(done.model, contract, done.contract)
    return Parent(streaming.SerializeToString(deterministic=True), "0" * 64, engine_contract(streaming), whole)


def as_shipped() -> Parent:
    """The file that is shipped, which streams already."""
    data = MODEL.read_bytes()
    return Parent(data, "0" * 64, engine_of(data).contract)


def engine_contract(model: onnx.ModelProto) -> Contract:
    """The contract that an engine reads."""
    return engine_of(model.SerializeToString()).contract


def peer(parent: Parent) -> bytes:
    """What `quantize_dynamic` makes of the streaming file, with the contract's word that it takes a hop at a time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.onnx"
        quantize_dynamic(named(parent.model), place, weight_type=QuantType.QInt8)
        model = onnx.load(place)
    onnx.helper.set_model_props(model, {})
    attach(model, dict(parent.contract.document) | {"chunk_invariant": "grid", "grid": parent.contract.hop})
    data: bytes = model.SerializeToString()
    return data


def litert(name: str, python: Path, signal: Array) -> Row:
    """What LiteRT makes of an LSTM net; ratios are to its own float model."""
    import torch

    torch.manual_seed(0)
    weights = {n: v.numpy() for n, v in NETS[name]().state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "net.npz"
        np.savez(place, signal=signal[: round(LITERT_S * RATE_HZ), 0], **weights)
        words = [str(python), str(Path(__file__).parent / "quantize_litert.py"), str(place)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    size, us = found["bytes"], found["step_us"]
    return {"model": name, "method": LITERT, "bytes": size["int8"], "smaller": round(size["float32"] / size["int8"], 2),
            "us_1": us["int8"], "x_1": round(us["int8"] / us["float32"], 2),
            "drift": {"hours": LITERT_S / 3600, "worst_hour": found["drift"]}}  # fmt: skip


# What is measured


def candidates(parent: Parent, calibration: Calibration) -> Iterator[tuple[str, bytes | Made | Refused]]:
    """What the peer and each method make of a parent."""
    for method, make in {PEER: None, **METHODS}.items():
        try:
            yield method, make(parent, calibration) if make else peer(parent)
        except HoldoverError as error:
            yield method, Refused(str(error))


def rows(name: str, parent: Parent, calibration: Calibration, judge: Judge, day: Array, short: int) -> Iterator[Row]:
    """A row for the parent, for the peer, and for each method."""
    yield {"model": name, "method": "float32", **facts(parent, parent.data, None, judge, None)}
    for method, made in candidates(parent, calibration):
        if isinstance(made, Refused):
            yield {"model": name, "method": method, "refused": made.reason}
            continue
        error = made.proof.max_error if isinstance(made, Made) else None
        data = data_of(made)
        signal = day if judge.finds_beats or engine_of(data).contract.bitwise else day[:short]
        yield {"model": name, "method": method, **facts(parent, data, error, judge, signal)}


def timed(name: str, parent: Parent, calibration: Calibration, there: list[Row]) -> Iterator[Row]:
    """The rows that are there, their steps timed anew."""
    made: dict[str, Any] = {"float32": parent.data, **dict(candidates(parent, calibration))}
    for row in there:
        if row["model"] == name:
            found = made.get(row["method"])
            yield (
                row
                if "refused" in row or found is None or isinstance(found, Refused)
                else row | steps(parent, data_of(found))
            )


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


def facts(parent: Parent, data: bytes, error: float | None, judge: Judge, day: Array | None) -> Row:
    """Size, cost, drift, parity, invariance, isolation."""
    found: Row = {"bytes": len(data), "smaller": round(len(parent.data) / len(data), 2)}
    found |= steps(parent, data)
    if day is None:
        return found
    signal = concatenated(judge.held_out.values())
    apart = isolation(data, signal)
    found |= {"proof_error": error, "bitwise": engine_of(data).contract.bitwise, "isolation": apart.document()}
    found["parity"] = {n: [round(p.value, 4), round(p.there, 4), p.worst] for n, p in judge.parity(data).items()}
    gone = drift(parent.data, data, day)
    found["drift"] = {
        "hours": gone.hours,
        "worst_hour": max(max(v) for v in gone.by_hour.values()),
        "first_tenth": max(gone.first.values()),
        "last_tenth": max(gone.last.values()),
        "largest": gone.worst,
        "recovery_s": max(gone.burst.recovery_s.values()),
        "free": max(gone.free.values()),
        "forced": max(gone.forced.values()),
    }
    return found


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


def table(found: list[Row]) -> Iterator[str]:
    """The table of `docs/quantize.md`."""
    head = ("net", "method", "kB", "step at 1, 8, 45 hops", "drift, worst hour", "hours", "largest", "agreement",
            "block", "leaks")  # fmt: skip
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in found:
        if "refused" not in row:
            times = ", ".join(f"{row[f'x_{hops}']:.2f}" for hops in HOPS if f"x_{hops}" in row)
            gone = f"{row['drift']['worst_hour']:.1e}" if "drift" in row else ""
            hours = f"{row['drift']['hours']:g}" if "drift" in row else ""
            cells = [row["model"], row["method"], f"{row['bytes'] / 1024:.0f}", times, gone, hours, largest(row),
                     agreed(row), cut(row), leaked(row)]  # fmt: skip
            yield f"| {' | '.join(cells)} |"


def largest(row: Row) -> str:
    """The largest difference of a score, logit or offset, in its own unit."""
    gone: dict[str, float] = row.get("drift", {}).get("largest", {})
    return f"{max(gone.values()):.2g}" if gone else ""


def agreed(row: Row) -> str:
    """V.f1, S.f1 and labels, or labels alone."""
    parity = row.get("parity", {})
    return ", ".join(f"{n} {parity[n][0]:+.4f}" for n in ("V.f1", "S.f1", "labels") if n in parity)


def cut(row: Row) -> str:
    """Whether the bits depend on the block."""
    if "bitwise" not in row:
        return ""
    return "same bits" if row["bitwise"] else "a hop at a time"


def leaked(row: Row) -> str:
    """The largest change of what is not concerned."""
    apart = row.get("isolation")
    if apart is None:
        return ""
    worst = max(float(value or 0.0) for value in apart.values())
    return f"{worst:.1e}" if worst else "none"


def merged(path: Path, found: list[Row], order: list[str]) -> list[Row]:
    """New rows and those of other models that are there already, models in an order."""
    models = {row["model"] for row in found}
    there = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [row for row in there if row["model"] not in models]
    return sorted(kept + found, key=lambda row: order.index(row["model"]))


def write(path: Path, found: list[Row], order: list[str]) -> None:
    """New rows beside those that are there."""
    result = {**stated(("numpy", "onnx", "onnxruntime", "torch")), "threads": 1, "calibrated_on": CALIBRATE,
              "held_out": HELD_OUT, "rows": merged(path, found, order)}  # fmt: skip
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


def main() -> None:
    """Measure, show, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("HOLDOVER_DATA", "data")))
    parser.add_argument("--hours", type=float, default=24.0, help="of ECG to look for drift in")
    parser.add_argument("--short-hours", type=float, default=0.5, help="the same, where that would take hours")
    parser.add_argument("--only", nargs="*", help="models by name; rows of the others are kept (default: all)")
    parser.add_argument("--litert", type=Path, metavar="PYTHON", help="with tensorflow-cpu and ai-edge-litert")
    parser.add_argument("--json", type=Path, default=RESULTS / "quantize.json", help="where the figures go")
    parser.add_argument("--steps", action="store_true", help="only time the steps of the rows that are there anew")
    parser.add_argument("--table", action="store_true", help="print what is there as a table for the docs, and stop")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(json.loads(options.json.read_text())["rows"])))
        return
    contract = as_shipped().contract
    calibration = Calibration(records(options.data, CALIBRATE, contract, CALIBRATE_S))
    held_out = records(options.data, HELD_OUT, contract, None)
    signal = concatenated(calibration.signals.values())
    once = concatenated(held_out.values())
    places = [options.data / "mitdb" / n for n in HELD_OUT]
    score = judged_by(places, contract, words())
    found: list[Row] = []
    makers: dict[str, tuple[Callable[[], Parent], Any]] = {
        "ecg-beats": (lambda: shipped(signal), score),
        "ecg-beats, as shipped": (as_shipped, score),
        **{name: (lambda make=make: net(make, signal), None) for name, make in NETS.items()},  # type: ignore[misc]
    }
    print(f"{'model':<14}{'method':<24}{'kB':>7}{'x at 1':>6}{'at 45':>6}{'drift':>9}")
    for name, (make, judged) in makers.items():
        if options.only and name not in options.only:
            continue
        parent = make()
        if options.steps:
            there = json.loads(options.json.read_text())["rows"]
            found = list(timed(name, parent, calibration, there))
            write(options.json, found, list(makers))
            continue
        judge = Judge(parent.data, held_out, judged)
        hours = options.short_hours if name in LARGE else options.hours
        day = np.resize(once, (round(hours * 3600 * RATE_HZ), 1))
        for row in rows(name, parent, calibration, judge, day, round(options.short_hours * 3600 * RATE_HZ)):
            show(row)
            found.append(row)
        if options.litert and name.startswith("LSTM") and " x " not in name:
            found.append(litert(name, options.litert, once))
            show(found[-1])
        write(options.json, found, list(makers))


if __name__ == "__main__":
    main()
