"""`holdover quantize`: a float model in, a smaller one out that still decides the same."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdover.runtime.errors import ModelError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from holdover.quantize.drift import Drift
    from holdover.quantize.gate import Bound
    from holdover.quantize.method import Parent
    from holdover.quantize.quantizing import Chosen

EPILOG = """\
MODEL is the whole-sequence graph that 'holdover export --keep-whole FILE'
leaves: it is quantized, made streaming and proven anew. A file that streams
already can have its weights in 8 bits, or 16-bit activations.

methods:
  auto          tries the first four below, and takes the smallest that passes
                the gate and is not slower; it may well be float32
  weights-int8  weights in 8 bits, computed in float: a step costs what it did
  static-int8   products and convolutions in 8 bits, their memory in integers
  step-int8     recurrent layers too, the cell state in float32
  int16         activations in 16 bits, weights in 8
  dynamic-int8  onnxruntime's: fed one hop at a time, never batched

the gate, on records that were not calibrated on:
  labels, beats, alerts   share that is the same as the parent's
  scores                  1 - difference / spread, of all other outputs
  V.f1, V.se, V.pp, S...  change against the reference annotations, by class
without --gate: V.f1>=-0.005,S.f1>=-0.01,labels>=0.995,beats>=0.995, of that
what can be measured; labels>=0.995,scores>=0.95 of a model without beats

examples:
  holdover export model.onnx -o m.onnx --keep-whole whole.onnx --rate 360 ...
  holdover quantize whole.onnx -o small.onnx --calibrate 101 106 108 \\
           --held-out 118 119 --gate "V.f1>=-0.005,S.f1>=-0.01,labels>=0.995"

If the gate does not hold, nothing is written, and the exit code is 4."""

CALIBRATE_S = 300.0
AUTO = "auto"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover quantize`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a whole-sequence graph with its draft contract, or a streaming model")
    add("-o", "--output", required=True, metavar="FILE", help="the smaller streaming model to write")
    add("--calibrate", nargs="+", required=True, metavar="RECORD", help="recordings to take ranges from, or folders")
    add("--held-out", nargs="+", metavar="RECORD",
        help="recordings to judge by (default: the last quarter of those to calibrate on)")  # fmt: skip
    add("--method", default=AUTO, metavar="NAME", help="see below (default: auto)")
    add("--gate", metavar="BOUNDS", help='such as "V.f1>=-0.005,labels>=0.995" (default: see below)')
    add("--ranges", default="minmax", choices=("minmax", "percentile", "entropy"),
        help="how ranges follow from what was seen (default: %(default)s)")  # fmt: skip
    add("--seconds", type=float, default=CALIBRATE_S, metavar="S",
        help="of each recording to calibrate on (default: %(default)g)")  # fmt: skip
    add("--name", help="of the smaller model in its contract (default: its parent's)")
    add("--lead", help="by name (default: the model's, or the only one)")
    add("--rate", type=float, metavar="HZ", help="of a CSV or NPZ that does not say")
    add("--unit", help="of a CSV or NPZ that does not say")
    add("--ref", metavar="DIR", help="folder of reference annotations (default: where the records are)")
    add("--annotator", metavar="NAME", default="atr", help="of the reference (default: %(default)s)")
    add("--report", metavar="FILE.html", help="write how far the two drift apart, as a page with plots")
    add("--hours", type=float, metavar="H", help="of the held-out recordings, repeated, for the report")
    add("--json", action="store_true", help="the report as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Quantize, prove, judge, write, report; 0.

    Raises
    ------
    HoldoverError
        Something cannot be read, the method refuses, or the gate does not hold; nothing is written.
    """
    from holdover.quantize import report
    from holdover.quantize.quantizing import document

    bounds = _check(args)
    chosen, drift = _quantize(args, bounds)
    _write(args.output, chosen.data)
    if drift and args.report:
        from holdover.quantize.drift_page import page

        _write(args.report, page(drift, chosen).encode())
    if args.json:
        print(json.dumps(document(chosen) | ({"drift": drift.document()} if drift else {}), indent=1))
        return 0
    print("\n".join(report.lines(chosen)))
    if drift:
        print("\n".join(report.drift_lines(drift)))
    elif args.report:
        print(f"{args.report} was not written: the model stays as it is, there is no drift to report")
    print(f"wrote {args.output} ({len(chosen.data) / 1024:.1f} kB)")
    return 0


def _check(args: argparse.Namespace) -> "tuple[Bound, ...] | None":
    from holdover.quantize.gate import parse
    from holdover.quantize.methods.table import METHODS

    if args.method not in (AUTO, *METHODS):
        raise UsageError(f"there is no method {args.method!r}; choose {AUTO}, {', '.join(METHODS)}")
    if not 10 <= args.seconds <= 86400 or (args.hours is not None and not 0 < args.hours <= 1000):
        raise UsageError("--seconds is 10 to 86400, --hours above 0 and at most 1000")
    if Path(args.output).resolve() == Path(args.model).resolve():
        raise UsageError("the output is the model: choose another name, the float model is needed again")
    for place in (p for p in (args.output, args.report) if p):
        folder = Path(place).resolve().parent
        if not folder.is_dir():
            raise UsageError(f"there is no folder {folder} to write {Path(place).name} into")
    return parse(args.gate) if args.gate else None


def _quantize(args: argparse.Namespace, bounds: "tuple[Bound, ...] | None") -> "tuple[Chosen, Drift | None]":
    from holdover.apps.quantize_records import judged_by, progress, read_records, split
    from holdover.quantize.calibration import Calibration, check, concatenated
    from holdover.quantize.drift import drift
    from holdover.quantize.judge import Judge
    from holdover.quantize.parent import parent_of, read
    from holdover.quantize.quantizing import quantize

    given = read(args.model)
    calibrate, held_out = split(args.calibrate, args.held_out)
    with progress(quiet=args.json) as tell:
        tell("reading the recordings")
        signals = read_records(calibrate, given.contract, args, args.seconds)
        judging = read_records(held_out, given.contract, args, None)
        check({**judging, **signals}, given.contract)
        calibration = Calibration(signals, args.ranges)
        tell("the float parent, streaming")
        parent = _renamed(parent_of(given, concatenated(signals.values())), args.name)
        tell("the float parent, judged")
        judge = Judge(parent.data, judging, judged_by(held_out, parent.contract, args))
        chosen = quantize(parent, calibration, judge, args.method, bounds, tell)
        if not (args.report or args.hours) or chosen.best is None:
            return chosen, None
        tell("how far the two drift apart")
        return chosen, drift(parent.data, chosen.data, _long(list(judging.values()), given.contract, args.hours))


def _renamed(parent: "Parent", name: str | None) -> "Parent":
    """A parent whose children are called so."""
    from holdover.runtime.contract import Contract

    if name is None:
        return parent
    return replace(parent, contract=Contract.of({**parent.contract.document, "name": name}))


def _long(signals: "list[NDArray[np.float32]]", contract: Any, hours: float | None) -> "NDArray[np.float32]":
    """The recordings end to end, once or for so many hours."""
    import numpy as np

    once = np.concatenate(signals)
    if hours is None:
        return once
    return np.resize(once, (round(hours * 3600 * contract.signal.rate_hz), once.shape[1]))


def _write(path: str, data: bytes) -> None:
    from holdover.export.contract_io import write_whole

    try:
        write_whole(path, data)
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror}; nothing half-written was left") from error
