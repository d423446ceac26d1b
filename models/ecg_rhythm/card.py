"""Gather what the seeds reached and write model.onnx, results.json and CARD.md; without runs, CARD.md anew."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from holdover.apps.inspect import inspect
from holdover.export.cnn_lstm import CnnLstm
from holdover.export.contract_io import write_together
from holdover.models.ecg_rhythm.asked import ASKED, told_high
from holdover.models.ecg_rhythm.tables import f1_with_noise, tables
from holdover.runtime.errors import HoldoverError, SourceError, UsageError

HERE = Path(__file__).parent
PARTS = ("ds1", "ds2", "svdb", "cinc2017", "vfdb", "stress", "heartless")
MADE = {
    "results.json": "train.py (of a seed), or name the runs (of all)",
    "judged.json": "judge.py",
    "ablations.json": "ablate.py",
    "baselines.json": "baselines.py",
}
"""What makes each file."""

Json = Mapping[str, Any]
Row = Sequence[object]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files; 0 if it went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*", help="a folder for each seed, that of the shipped one first")
    parser.add_argument("--families", type=Path, nargs="*", default=[], help="files that families.py wrote")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write (default: beside this file)")
    options = parser.parse_args(arguments)
    try:
        if options.families and not options.runs:
            raise UsageError("--families without runs; name the runs as well, that of the shipped seed first")
        results = gathered(options.runs, options.families) if options.runs else _read(options.out / "results.json")
        files = [(options.out / "CARD.md", card(results, _read(HERE / "baselines.json")).encode())]
        write_together([*files, *(_shipped(options.runs[0], results, options.out) if options.runs else ())])
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyError as error:
        print(f"error: a run's files, or another's, lack {error}; make them with this version", file=sys.stderr)
        return SourceError.exit_code
    except OSError as error:
        print(f"error: {options.out} cannot be written ({error.strerror}); give another --out", file=sys.stderr)
        return 1
    return 0


def gathered(runs: Sequence[Path], families: Sequence[Path]) -> dict[str, Any]:
    """What results.json says: all of the first run, and of the others what is compared.

    Raises
    ------
    SourceError
        A file is missing or no JSON, or judged by halves, or of other weights than the run's.
    """
    found = [_run(folder) for folder in runs]
    graph = inspect(str(runs[0] / "model.onnx"))
    return found[0] | {
        "seeds": {str(run["seed"]): _summary(run) for run in found},
        "ablations": _read(runs[0] / "ablations.json"),
        "families": [_read(path) for path in families],
        "multiply_adds": graph["multiply_adds"],
        "states": len(graph["states"]),
        "recordings": {part: graph["provenance"][part] for part in ("trained_on", "validation_records")},
    }


def _shipped(run: Path, results: Json, out: Path) -> list[tuple[Path, bytes]]:
    text = json.dumps(results, indent=1) + "\n"
    return [(out / "results.json", text.encode()), (out / "model.onnx", (run / "model.onnx").read_bytes())]


def card(results: Json, baselines: Json) -> str:
    """The text of CARD.md."""
    ablations = results["ablations"]
    words = {
        "seed": results["seed"],
        "floor_uv": f"{1000 * CnnLstm().front_end.floor_mv:g}",
        "count": len(results["seeds"]),
        "minutes": round(results["train_seconds"] / 60),
        "onnxruntime": results["verification"]["onnxruntime"],
        "chunkings": results["verification"]["chunkings"],
        "max_error": f"{results['verification']['max_error']:.1e}",
        "multiply_adds": f"{results['multiply_adds']['per_s'] / 1e6:.1f}",
        "class_delays": ", ".join(f"{s:.2f} s" for s in ablations["delays"].values()),
        **{name: f"{results[name]:,}" for name in ("parameters", "file_bytes", "state_floats", "steps")},
        **{name: results[name] for name in ("torch", "states", "weights")},
        **{name: ablations["files"]["float"][name] for name in ("step_us", "load_ms")},
        "processor": ablations["processor"],
        "f1_with_noise": f"{f1_with_noise(results['judged']['cinc2017']['counts']):.2f}",
    }
    template = Template((HERE / "CARD.template.md").read_text(encoding="utf-8"))
    return template.substitute(words, **tables(results, baselines))


def _run(folder: Path) -> dict[str, Any]:
    run, judged = _read(folder / "results.json"), _read(folder / "judged.json")
    if missing := [part for part in PARTS if part not in judged]:
        raise SourceError(f"{folder}/judged.json lacks {' '.join(missing)}; make it with judge.py without --parts")
    if judged["weights"] != run["weights"]:
        raise SourceError(f"{folder}: what was judged has other weights than results.json; judge RUN/model.onnx again")
    return run | {"judged": judged}


def _summary(run: Json) -> dict[str, Any]:
    judged = run["judged"]
    return {
        "weights": run["weights"],
        "date": judged["date"],
        "validation": {k: v for k, v in run["validation"].items() if k != "counts"},
        "asked": {asked.name: [round(v, 2) for v in asked.found(judged)] for asked in ASKED},
        "false high": {name: sum(values) for name, values in told_high(judged).items()},
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SourceError(
            f"{path} cannot be read ({reason}); make it with {MADE.get(path.name, 'families.py')}"
        ) from error
    return found


if __name__ == "__main__":
    sys.exit(main())
