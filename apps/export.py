"""`holdover export`: any model in, a proven streaming ONNX file out."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from holdover.export.exporting import Exported, Options
    from holdover.export.original import SourceOptions

from holdover.apps.places import check_places, write
from holdover.runtime.errors import ModelError, UsageError

EPILOG = """\
SOURCE is one of
  model.onnx                made for whole sequences by any exporter, or with
                            its states as inputs already (--states, or by name)
  package.module:factory    what gives, or is, a PyTorch module
  weights.safetensors, .pt  a PyTorch state_dict of RNN, LSTM, GRU and heads
  model.keras               Keras 3; neither Keras nor TensorFlow is needed
  weights.npz               raw weights, W . [h, x] + b for each gate

examples:
  holdover export model.onnx -o beats.onnx --rate 360 --leads MLII --unit mV \\
           --labels N,S,V --test-input 100.dat
  holdover export nets.ecg:make -o beats.onnx --rate 250 --leads II

Every export is proven before it is written: the original and the streamed model
are run side by side, in random pieces, saved and restored, interleaved. What
cannot be streamed exactly is refused, with the node and the reason; nothing is
written then. 'holdover verify' repeats the proof at any time."""

MAX_TEST_S = 60.0
"""Of a test recording, so much is used."""

PROCESSING = (
    ("gain", "G", "times G"),
    ("offset", "O", "plus O"),
    ("difference", None, "each sample less the one before"),
    ("highpass", "HZ[,ORDER]", "Butterworth (default order: 2)"),
    ("lowpass", "HZ[,ORDER]", "Butterworth (default order: 2)"),
    ("notch", "HZ[,Q]", "as against mains (default Q: 30)"),
    ("fir", "FILE", "taps, the first for the newest sample: .npy, or text"),
    ("normalise", "running[,TAU_S[,FLOOR]]|MEAN,STD",
        "less a mean, over a deviation: of the past, fading with TAU_S (default: 10), plus FLOOR (default: "
        "0.01); or fixed, as --normalise=-0.2,1.5"),
    ("after", "OUTPUT", "steps that follow stand behind this output"),
)  # fmt: skip
"""Option, what stands after it, help."""


class _InOrder(argparse.Action):
    """Options whose order counts, one list for all."""

    def __call__(
        self, _parser: argparse.ArgumentParser, args: argparse.Namespace, values: Any, _option: str | None = None
    ) -> None:
        """Add an option, and what stands after it, to the list."""
        args.processing = (*args.processing, (self.dest, values[0] if values else None))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover export`."""
    add = parser.add_argument
    add("source", metavar="SOURCE", help="the model (see below)")
    add("-o", "--output", required=True, metavar="FILE", help="the streaming model to write")
    add("--rate", type=float, required=True, metavar="HZ", help="samples a second that the model was trained on")
    add("--leads", required=True, metavar="A,B", help="channels in the model's order")
    add("--unit", default="mV", help="of the samples (default: mV)")
    add("--labels", metavar="N,S,V", help="classes of the output that has so many")
    add("--meaning", action="append", default=[], metavar="OUTPUT=WHAT",
        help="event_logit, class_logits, rhythm_logits, offset, score, forecast, spread, reconstruction, quality or "
             "gates")  # fmt: skip
    add("--horizon", type=int, default=1, metavar="N",
        help="samples from where a forecast is made to where it holds (default: 1)")  # fmt: skip
    add("--detector", action="append", default=[], metavar="KIND",
        help="that the runtime starts for this model, as anomaly; more than once")  # fmt: skip
    add("--name", help="of the model (default: the source's)")
    add("--model-version", default="0.1.0", metavar="V", help="of the model (default: 0.1.0)")
    add("--license", metavar="ID", help="of the model, kept in its contract")
    add("--trained-on", action="append", default=[], metavar="WHAT", help="kept in the contract; more than once")
    add("--hop", type=int, default=1, metavar="N", help="samples in the smallest block (default: what the model needs)")
    add("--window", type=int, metavar="N", help="cut unbounded attention to the last N frames (an approximation)")
    add("--lookahead", type=float, default=0.0, metavar="S",
        help="let bidirectional layers see S seconds ahead (an approximation)")  # fmt: skip
    add("--tap", choices=("gates",), help="also give the gates of LSTM and GRU layers, and what an RNN carries")
    add("--time-axis", type=int, metavar="N", help="of the inputs, where the graph does not tell; the first axis is 0")
    add("--input-shape", metavar="batch,time,3", help="of a PyTorch module's input; numbers are channels")
    add("--states", metavar="FILE", help="JSON that pairs the states of an ONNX file (default: by name)")
    add("--gate-order", metavar="ifco", help="of raw stacked weights")
    add("--activation", choices=("tanh", "relu"), help="of a plain RNN in raw weights")
    add("--trust", action="store_true", help="open files that can run code (pickled modules)")
    add("--test-input", metavar="FILE", help="a recording to prove it on (default: white noise)")
    add("--keep-whole", metavar="FILE", help="also write the whole-sequence graph, for 'holdover quantize'")
    add("--json", action="store_true", help="the report as one JSON object")
    steps = parser.add_argument_group("preprocessing, written into the file",
        "steps before the inputs, in the order in which they are given")  # fmt: skip
    for option, metavar, what in PROCESSING:
        steps.add_argument(f"--{option}", action=_InOrder, nargs=1 if metavar else 0, metavar=metavar, help=what)
    parser.set_defaults(processing=())


def run(args: argparse.Namespace) -> int:
    """Export, prove, write, report; 0.

    Raises
    ------
    HoldoverError
        The source cannot be read, the model cannot be streamed, the proof failed, or a file cannot be written; nothing
        is written then.
    """
    from holdover.export import report

    done = _export(args)
    files = {args.output: done.model.SerializeToString(deterministic=True)}
    if args.keep_whole:
        files[args.keep_whole] = _kept_whole(done)
    write(files)
    if args.json:
        print(json.dumps(report.document(done), indent=1))
        return 0
    print("\n".join(report.lines(done)))
    size = len(files[args.output]) / 1024
    print(f"wrote {args.output} ({size:.1f} kB, sha256 of the source in its contract)")
    return 0


def _export(args: argparse.Namespace) -> "Exported":
    _check(args)
    from holdover.export.exporting import export
    from holdover.export.sources.table import read

    tell = _teller(quiet=args.json)
    tell("reading the source")
    try:
        options = options_of(args)
        return export(read(args.source, source_options(args)), options, tell)
    finally:
        tell("")


def _check(args: argparse.Namespace) -> None:
    """What can be said before hours of work."""
    from holdover.runtime.detect.rule import FAMILIES

    if not 0 < args.rate < math.inf:
        raise UsageError(f"--rate {args.rate:g}: expected samples a second, above 0")
    if args.hop < 1 or (args.window is not None and args.window < 1) or not 0 <= args.lookahead < math.inf:
        raise UsageError("--hop and --window are at least 1, --lookahead at least 0")
    for option, given in (("--leads", args.leads), ("--labels", args.labels)):
        if given is not None:
            _names(option, given)
    if args.horizon < 1:
        raise UsageError(f"--horizon {args.horizon}: expected samples ahead, at least 1")
    known = ("beats", "anomaly", *FAMILIES)
    if unknown := [kind for kind in args.detector if kind not in known]:
        raise UsageError(f"--detector {unknown[0]}: expected one of {', '.join(known)}")
    taps = (value for kind, value in args.processing if kind == "fir")
    check_places({"-o": args.output, "--keep-whole": args.keep_whole},
                 (args.source, args.states, args.test_input, *taps))  # fmt: skip


def _names(option: str, given: str) -> tuple[str, ...]:
    """Names between commas, none empty, none twice."""
    names = tuple(name.strip() for name in given.split(","))
    if "" in names:
        raise UsageError(f"{option} {given!r} has a name that is empty; expected names between commas, as in I,II")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{option} {given!r} names {twice[0]} twice; expected names that differ")
    return names


def source_options(args: argparse.Namespace) -> "SourceOptions":
    """What the command line says of the source."""
    from holdover.export.original import SourceOptions

    shape = None
    if args.input_shape:
        shape = tuple(int(p) if p.isdigit() else p for p in args.input_shape.split(","))
        if bad := [p for p in shape if p not in ("batch", "time") and not isinstance(p, int)]:
            raise UsageError(f"--input-shape holds {bad[0]!r}; expected batch, time and numbers, as in batch,1,time")
    return SourceOptions(len(args.leads.split(",")), shape, args.gate_order, args.activation, args.trust, args.states)


def options_of(args: argparse.Namespace) -> "Options":
    """What the command line says of the export."""
    from holdover.export.describe import Statement
    from holdover.export.exporting import Options
    from holdover.export.front_end_steps import parse

    meanings = dict(_pair(m) for m in args.meaning)
    provenance = {"license": args.license} if args.license else {}
    if args.trained_on:
        provenance["trained_on"] = args.trained_on
    leads = _names("--leads", args.leads)
    labels = _names("--labels", args.labels) if args.labels is not None else ()
    said = Statement(
        name=args.name or Path(args.source.split(":")[-1]).stem, rate_hz=args.rate, leads=leads, unit=args.unit,
        version=args.model_version, labels=labels, meanings=meanings, provenance=provenance,
        horizon=args.horizon, detectors=tuple({"kind": kind} for kind in args.detector),
    )  # fmt: skip
    processing = parse(args.processing, args.rate)
    signal = test_signal(args.test_input, args.rate, leads, args.unit, None) if args.test_input else None
    described = Path(args.test_input).name if args.test_input else "white noise of unit variance"
    return Options(said, args.hop, args.window, args.lookahead, args.time_axis, signal, described,
                   args.tap is not None, processing)  # fmt: skip


def _pair(text: str) -> tuple[str, str]:
    from typing import get_args

    from holdover.runtime.contract import Meaning

    name, _, meaning = text.partition("=")
    if meaning not in get_args(Meaning):
        raise UsageError(f"--meaning {text}: expected OUTPUT=WHAT, WHAT one of {', '.join(get_args(Meaning))}")
    return name, meaning


def test_signal(
    path: str, rate_hz: float, leads: tuple[str, ...], unit: str, lead: str | None
) -> "NDArray[np.float32]":
    """Up to a minute of a recording, (samples, leads), at the model's rate, in its unit; `lead` as `Feed` takes it."""
    import numpy as np

    from holdover.apps.feed import open_recording
    from holdover.runtime.contract import Contract
    from holdover.runtime.resample import Resampler

    channels = [{"name": name, "unit": unit} for name in leads]
    feed = open_recording(path, Contract.of(_only_signals(rate_hz, channels)), lead)
    resampler = Resampler(feed.source.rate_hz, rate_hz, len(leads))
    parts, samples = [], 0
    for chunk in feed.chunks():
        if not np.isfinite(chunk.x).all():
            continue
        parts.append(resampler.push(np.ascontiguousarray(chunk.x, np.float32)))
        samples += len(parts[-1])
        if samples >= MAX_TEST_S * rate_hz:
            break
    feed.source.close()
    if samples < rate_hz:
        raise ModelError(
            f"{path} holds less than a second of finite samples; expected a recording to prove the model on"
        )
    return np.concatenate(parts)[: int(MAX_TEST_S * rate_hz)]


def _only_signals(rate_hz: float, channels: list[dict[str, str]]) -> dict[str, Any]:
    output = {"name": "y", "kind": "frames", "meaning": "score", "samples_per_frame": 1}
    return {
        "version": 1, "name": "test input", "model_version": "0", "hop": 1, "first_chunk_min": 1, "grid": 1,
        "chunk_invariant": "grid", "states": [], "outputs": [output],
        "signals": [{"input": "x", "axis": 1, "rate_hz": rate_hz, "channels": channels}],
    }  # fmt: skip


def _kept_whole(done: "Exported") -> bytes:
    """The prepared whole-sequence graph; its draft contract is that of the streaming graph."""
    import onnx

    from holdover.runtime.contract import KEY

    whole = onnx.ModelProto()
    whole.CopyFrom(done.whole)
    onnx.helper.set_model_props(whole, {f"{KEY}.draft": done.contract.text()})
    data: bytes = whole.SerializeToString(deterministic=True)
    return data


def _teller(quiet: bool) -> Any:
    """One line that says what is done, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        return lambda _what: None

    def tell(what: str) -> None:
        print(f"\r\033[K{what}{' ...' if what else ''}", end="", file=sys.stderr, flush=True)

    return tell
