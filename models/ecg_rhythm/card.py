"""Gather what the seeds reached, choose one on validation, and write model.onnx, results.json and CARD.md."""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any

from holdover.export.contract_io import write_whole
from holdover.runtime.errors import HoldoverError, SourceError

HERE = Path(__file__).parent
FIGURES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "AF duration Se, DS2": lambda s: s["ds2"]["af"]["se"],
    "AF duration +P, DS2": lambda s: s["ds2"]["af"]["ppv"],
    "AF duration +P, DS2, flutter aside": lambda s: s["ds2"]["af_flutter_aside"]["ppv"],
    "F1 of A, cinc2017": lambda s: 100 * s["cinc2017"]["f1"],
    "VF by the net, vfdb, Se": lambda s: s["vfdb"]["se_sp"]["net"][0],
    "VF by the net, vfdb, Sp": lambda s: s["vfdb"]["se_sp"]["net"][1],
    "VF and VT alarms, vfdb, Se": lambda s: s["vfdb"]["se_sp"]["alarms"][0],
    "VF and VT alarms, vfdb, Sp": lambda s: s["vfdb"]["se_sp"]["alarms"][1],
}
"""What the table of seeds shows, of what `judge.py` found."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the three files; 0 if it went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "runs", type=Path, nargs="+", help="folders with model.onnx, results.json, judged.json of a seed"
    )
    parser.add_argument("--out", type=Path, default=HERE, help="where to write (default: beside this file)")
    options = parser.parse_args(arguments)
    try:
        write(options.runs, options.out)
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename} cannot be written ({error.strerror}); give another --out", file=sys.stderr)
        return 1
    return 0


def write(runs: Sequence[Path], out: Path) -> None:
    """Choose and write.

    Raises
    ------
    SourceError
        A run lacks a file, or one of them is not JSON.
    """
    found = {run: _read(run / "results.json") | {"judged": _read(run / "judged.json")} for run in runs}
    best = max(found, key=lambda run: validation_score(found[run]["validation"]))
    results = found[best] | {"seeds": {str(r["seed"]): _summary(r) for r in found.values()}}
    results["ablations"] = _read(best / "ablations.json")
    write_whole(out / "results.json", (json.dumps(results, indent=1, sort_keys=True) + "\n").encode())
    write_whole(out / "CARD.md", card(results).encode())
    shutil.copyfile(best / "model.onnx", out / "model.onnx.part")
    (out / "model.onnx.part").replace(out / "model.onnx")


def validation_score(found: Mapping[str, Any]) -> float:
    """By which the seed to ship is chosen: the mean of the F1 of A and of Se and Sp of VF; higher is better."""
    return fmean([100 * found["A f1"], *found["VF se/sp"]])


def card(results: Mapping[str, Any]) -> str:
    """The text of CARD.md."""
    template = Template((HERE / "CARD.template.md").read_text(encoding="utf-8"))
    seeds, judged = results["seeds"], results["judged"]
    return template.substitute(
        parameters=f"{results['parameters']:,}",
        file_bytes=f"{results['file_bytes']:,}",
        state_floats=results["state_floats"],
        steps=f"{results['steps']:,}",
        seed=results["seed"],
        count=len(seeds),
        minutes=round(results["train_seconds"] / 60),
        torch=results["torch"],
        onnxruntime=results["verification"]["onnxruntime"],
        chunkings=results["verification"]["chunkings"],
        max_error=f"{results['verification']['max_error']:.1e}",
        weights=results["weights"][:15],
        date=judged["date"],
        outputs=_table(_outputs(results)),
        seeds=_table(_seeds(seeds)),
        validation=_table(_validation(seeds)),
        main=_table(_main(judged)),
        confusion=_table(_confusion(judged)),
        records=_table(_records(judged["ds2"])),
        svdb=_table(_records(judged["svdb"])),
        stress=_table(_stress(judged)),
        fibrillation=_table(_fibrillation(judged)),
        heartless=", ".join(f"{name} {value:g}" for name, value in sorted(judged["heartless"].items())),
        cinc=", ".join(f"{name} {n}" for name, n in sorted(judged["cinc2017"]["counts"].items())),
        alarms=_table(_alarms(judged)),
        ablations=_table(_ablations(results["ablations"])),
    )


def _summary(run: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of every seed."""
    figures = {name: round(figure(run["judged"]), 4) for name, figure in FIGURES.items()}
    kept = {k: v for k, v in run["validation"].items() if k != "counts"}
    return {"weights": run["weights"], "validation": kept, "figures": figures}


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path} cannot be read ({error}); make it with train.py --out or judge.py -o") from error
    return found


def _table(rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * (lines[0].count("|") - 1), *lines[1:]])


def _outputs(results: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield "output", "delay", "settles after", "what it is"
    for name, said in _SAID.items():
        delay, settle = (results[key][name] / 120 for key in ("delay_samples", "settle_samples"))
        sooner = [f"{label} {n / 120:.2f} s" for label, n in results["settle_labels"].get(name, {}).items()]
        yield f"`{name}`", f"{delay:.2f} s", ", ".join([f"{settle:.2f} s", *sooner]), said


_SAID = {
    "beat": "logit: a beat's fiducial point is at this frame",
    "offset": "model samples from the frame's place to the fiducial point",
    "class": "logits of N, S, V; meaningful at frames with a beat",
    "rhythm": "logits of AF (atrial fibrillation or flutter), VF (ventricular, or tachycardia), N (any other)",
    "quality": "logit: the signal is too noisy to judge",
}


def _seeds(seeds: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield "", "mean", "standard deviation", "least", "most"
    for name in FIGURES:
        values = [seed["figures"][name] for seed in seeds.values()]
        mean = fmean(values)
        spread = (sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)) ** 0.5
        yield name, *(f"{v:.2f}" for v in (mean, spread, min(values), max(values)))


def _validation(seeds: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield "seed", "F1 of A, cinc2017", "VF Se / Sp, vfdb", "score"
    for name, seed in sorted(seeds.items()):
        v = seed["validation"]
        vf = " / ".join(f"{x:.1f}" for x in v["VF se/sp"])
        yield name, f"{100 * v['A f1']:.1f}", vf, f"{validation_score(v):.2f}"


def _main(judged: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield "DS2 (first 5 minutes unscored)", "Se", "+P", "F1", "95 % over records"
    for of, maps in (("bxb", "escape beats are S"), ("de Chazal", "escape beats are N")):
        figures = judged["ds2"]["maps"][of]["figures"]
        for letter, name in (("Q", "QRS"), ("V", "VEB"), ("S", "SVEB")):
            se, pp, f1 = (figures[f"{letter} {what}"] for what in ("Se", "+P", "F1"))
            low, high = f1["interval"]
            yield f"{name} ({maps})", se["gross"], pp["gross"], f1["gross"], f"F1 {low} to {high}"
    yield "SVEB without 232 (escape beats are N)", "", "", f"{_without(judged, 'ds2', '232'):.2f}", ""
    if "ds1" in judged:
        se, pp = (_pooled(judged, f"Q {what}") for what in ("Se", "+P"))
        yield "QRS, 44 records", f"{se:.2f}", f"{pp:.2f}", f"{2 * se * pp / (se + pp):.2f}", ""


def _confusion(judged: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    table = judged["ds2"]["maps"]["de Chazal"]["confusion"]
    yield "reference, called", *table["labels"]
    for label, row in zip(table["labels"], table["reference by test"], strict=True):
        yield label, *row


def _records(part: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield "record", "beats", "QRS Se / +P", "V", "V Se / +P", "S", "S Se / +P"
    for name, row in sorted(part["maps"]["de Chazal"]["records"].items()):
        cells = [f"{_percent(row[f'{k} Se'])} / {_percent(row[f'{k} +P'])}" for k in "QVS"]
        yield name, row["Q Se"]["whole"], cells[0], row["V Se"]["whole"], cells[1], row["S Se"]["whole"], cells[2]


def _stress(judged: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield "signal to noise, dB", "QRS Se", "QRS +P", "VEB F1"
    for db, row in sorted(judged["stress"].items(), key=lambda item: -int(item[0])):
        yield db, row["Q Se"], row["Q +P"], row["V F1"]


def _fibrillation(judged: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield "record", "annotated", "of that found", "told", "of that true"
    for name, (found, wanted, true, told) in sorted(judged["ds2"]["af"]["records"].items()):
        if wanted or told:
            yield name, *(f"{v:.0f}" for v in (wanted, found, told, true))


def _alarms(judged: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield "alarm (DS2, by the rules on the reference's beats)", "priority", "should be", "Se", "+P", "false in 24 h"
    for label, row in judged["ds2"]["alarms"]["against"]["rules"]["labels"].items():
        yield f"`{label}`", row["priority"], row["reference"], row["Se"], row["+P"], row["false in 24 h"]


def _ablations(found: Mapping[str, Any]) -> Iterable[Sequence[object]]:
    yield "validation, F1", "mitdb QRS", "VEB", "SVEB", "svdb QRS", "VEB", "SVEB"
    for name, row in found.items():
        yield name, *(f"{row[s][k]:.1f}" for s in ("mitdb", "svdb") for k in ("qrs_f1", "veb_f1", "sveb_f1"))


def _percent(cell: Mapping[str, Any]) -> str:
    return "-" if cell["percent"] is None else f"{cell['percent']:.2f}"


def _pooled(judged: Mapping[str, Any], name: str) -> float:
    cells = [judged[part]["maps"]["de Chazal"]["figures"][name] for part in ("ds1", "ds2")]
    return float(100 * sum(c["part"] for c in cells) / sum(c["whole"] for c in cells))


def _f1(rows: Sequence[Mapping[str, Any]], letter: str) -> float:
    hit = sum(row[f"{letter} Se"]["part"] for row in rows)
    all_of_them = sum(row[f"{letter} {k}"]["whole"] for row in rows for k in ("Se", "+P"))
    return float(200 * hit / max(all_of_them, 1))


def _without(judged: Mapping[str, Any], part: str, record: str) -> float:
    rows = judged[part]["maps"]["de Chazal"]["records"]
    return _f1([row for name, row in rows.items() if name != record], "S")


if __name__ == "__main__":
    sys.exit(main())
