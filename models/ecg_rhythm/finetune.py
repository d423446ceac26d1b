"""Teach ecg-rhythm a user's own annotated records; what it became is written unless it judges held-out ones worse."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from holdover.runtime.errors import HoldoverError, UsageError

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as asked; 0 if a model was written."""
    options = _options().parse_args(arguments)
    try:
        _run(options)
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error}; make room or name another --out", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


def _run(options: argparse.Namespace) -> None:
    try:
        import torch

        from holdover.models.ecg_rhythm.teach import run
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; fine-tuning needs pip install 'holdover[train]'") from error
    torch.set_num_threads(1)
    run(options)


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m holdover.models.ecg_rhythm.finetune", description=__doc__)
    add = parser.add_argument
    add("--records", type=Path, required=True, metavar="FOLDER", help="recordings, each with its NAME.atr")
    add("--out", type=Path, required=True, metavar="FOLDER", help="for model.onnx and results.json")
    add("--model", type=Path, default=HERE / "model.onnx", metavar="FILE", help="to begin with (default: ecg-rhythm)")
    add("--name", help="of the new model (default: the old one's, and -finetuned)")
    add("--lead", metavar="NAMES", help="as for holdover replay: one, or several by preference")
    add("--unit", help="of CSV and NPZ files that do not say it")
    add("--rate", type=float, metavar="HZ", help="of CSV and NPZ files that do not say it")
    add("--data", metavar="FOLDER", help="with the public databases (default: HOLDOVER_DATA, or none)")
    add("--validation", nargs="+", metavar="NAME", help="records to hold out (default: every fifth)")
    add("--steps", type=int, default=400, metavar="N", help="training steps (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of all chance (default: %(default)s)")
    add("--even-if-worse", action="store_true", help="write it though the held-out records got worse")
    return parser


if __name__ == "__main__":
    sys.exit(main())
