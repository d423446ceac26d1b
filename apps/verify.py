"""`holdover verify`: repeat the proof that a streaming model gives what its original gives."""

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdover.export.proof import Proof

from holdover.apps.export import _teller, source_options, test_signal
from holdover.runtime.errors import ModelError

EPILOG = """\
examples:
  holdover verify beats.onnx                       against itself in one call
  holdover verify beats.onnx --against model.onnx  against the original

The exit code is 0 where every check holds, 4 where one does not."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover verify`."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a streaming model that holdover wrote")
    add("--against", metavar="SOURCE", help="the original it was exported from, as for 'holdover export'")
    add("--test-input", metavar="FILE", help="a recording to prove it on (default: white noise)")
    add("--time-axis", type=int, metavar="N", help="of the original's inputs")
    add("--input-shape", metavar="batch,time,3", help="of a PyTorch module's input")
    add("--states", metavar="FILE", help="JSON that pairs the states of an ONNX file (default: by name)")
    add("--gate-order", metavar="ifco", help="of raw stacked weights")
    add("--activation", choices=("tanh", "relu"), help="of a plain RNN in raw weights")
    add("--trust", action="store_true", help="open files that can run code (pickled modules)")
    add("--json", action="store_true", help="the proof as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Prove again and say how it came out; 0, or 4 with every check that does not hold."""
    from holdover.export import report
    from holdover.export.sources.onnx_file import canary
    from holdover.runtime.engine import load, read_model

    canary(read_model(args.model)[0])
    contract = load(args.model).contract
    tell = _teller(quiet=args.json)
    tell("proving")
    try:
        proof = _prove(args)
    finally:
        tell("")
    if args.json:
        print(json.dumps(proof.document() | {"refusals": list(proof.refusals)}, indent=1))
    else:
        against = args.against or "itself in one call"
        print("\n".join([f"{contract.name} {contract.model_version}", *report.proof_lines(proof, contract, against)]))
    if proof.refusals:
        raise ModelError("the proof does not hold:\n  " + "\n  ".join(proof.refusals))
    return 0


def _prove(args: argparse.Namespace) -> "Proof":
    from holdover.export.exporting import itself, verify
    from holdover.export.proof import prove
    from holdover.export.sources.table import read
    from holdover.runtime.contract import Contract
    from holdover.runtime.engine import read_model
    from holdover.runtime.engines.ort import OrtEngine

    data, sha256 = read_model(args.model)
    contract: Contract = OrtEngine(data, sha256, args.model).contract
    leads = tuple(c.name for c in contract.signal.channels)
    signal, described = None, "white noise of unit variance"
    if args.test_input:
        signal = test_signal(args.test_input, contract.signal.rate_hz, leads, contract.signal.channels[0].unit, None)
        described = args.test_input
    if args.against is None:
        return prove(data, itself(data), None, signal, described)
    args.leads = ",".join(leads)
    original = read(args.against, source_options(args))
    return verify(data, contract, original, args.time_axis, signal, described)
