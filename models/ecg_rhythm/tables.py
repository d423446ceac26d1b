"""The tables of CARD.md, out of results.json and baselines.json."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from statistics import fmean, stdev
from typing import Any

from scipy.stats import chi2

from holdover.evaluate.alarms import PRIORITIES
from holdover.models.ecg_beats.data import MODEL_HZ
from holdover.models.ecg_rhythm.asked import ASKED, MAPS, Asked, record_macro
from holdover.models.ecg_rhythm.judge import DS2, SVDB, VFDB

Json = Mapping[str, Any]
Row = Sequence[object]


def tables(results: Json, baselines: Json) -> dict[str, str]:
    """All tables as Markdown, by the names that `CARD.template.md` has for them."""
    judged, ablations = results["judged"], results["ablations"]
    rows = {
        "outputs": _outputs(results),
        "asked": _asked(results),
        "splits": _splits(results["recordings"]),
        "seeds": _seeds(results["seeds"]),
        "main": _main(judged),
        "confusion": _confusion(judged),
        "records": _records(judged["ds2"]),
        "svdb": _records(judged["svdb"]),
        "stress": _stress(judged),
        "af": _fibrillation(judged),
        "vf": _ventricular(judged),
        "cinc": _handheld(judged),
        "heartless": _heartless(judged),
        "alarms": _alarms(judged),
        "false": _false(results["seeds"]),
        "memory": _validated("memory", {name: ((), each) for name, each in ablations["memory"].items()}),
        "families": _families(results["families"]),
        "files": _files(ablations["files"]),
        "baselines": _baselines(judged, baselines),
        "looks": _looks(results["seeds"]),
    }
    return {name: _table(table) for name, table in rows.items()}


def upper_bound(count: int) -> float:
    """The 95 % upper bound of a Poisson mean of which `count` events were seen (Garwood, Biometrika 28:437, 1936).

    >>> round(upper_bound(0), 2)
    3.0
    """
    return float(chi2.ppf(0.95, 2 * (count + 1)) / 2)


SAID = {
    "beat": "logit: a beat's fiducial point is at this frame",
    "offset": "model samples from the frame's place to the fiducial point",
    "class": "logits of N, S, V; meaningful at frames with a beat",
    "rhythm": "logits of AF (atrial fibrillation or flutter), VF (ventricular, or tachycardia), N (any other)",
    "quality": "logit: the signal is too noisy to judge",
}
VALIDATED: dict[str, Callable[[Json], float]] = {
    "mitdb QRS": lambda v: v["mitdb"]["qrs_f1"],
    "mitdb V": lambda v: v["mitdb"]["veb_f1"],
    "mitdb S": lambda v: v["mitdb"]["sveb_f1"],
    "svdb QRS": lambda v: v["svdb"]["qrs_f1"],
    "svdb V": lambda v: v["svdb"]["veb_f1"],
    "svdb S": lambda v: v["svdb"]["sveb_f1"],
    "AF": lambda v: 100 * v["A f1"],
    "VF Se": lambda v: v["VF se/sp"][0],
    "VF Sp": lambda v: v["VF se/sp"][1],
}
"""What the tables of the validation records show: F1 in per cent, but for VF."""
SCORED = ("mitdb V", "mitdb S", "svdb V", "svdb S", "AF")
"""Those by which the seed to ship is chosen."""


def _table(rows: Iterable[Row]) -> str:
    lines = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * (lines[0].count("|") - 1), *lines[1:]])


def _pair(values: Iterable[float]) -> str:
    return " / ".join(f"{v:.2f}" for v in values)


def _outputs(results: Json) -> Iterable[Row]:
    yield "output", "delay", "settles after", "what it is"
    for name, said in SAID.items():
        delay, settle = (results[key][name] / MODEL_HZ for key in ("delay_samples", "settle_samples"))
        sooner = [f"{label} {n / MODEL_HZ:.2f} s" for label, n in results["settle_labels"].get(name, {}).items()]
        yield f"`{name}`", f"{delay:.2f} s", ", ".join([f"{settle:.2f} s", *sooner]), said


def _asked(results: Json) -> Iterable[Row]:
    yield "asked", "floor", "target", "shipped", "mean", "spread", "worst", "reached"
    shipped = results["seeds"][str(results["seed"])]
    for asked in ASKED:
        seeds = list(zip(*(seed["asked"][asked.name] for seed in results["seeds"].values()), strict=True))
        mean, worst = [fmean(v) for v in seeds], [max(v) if asked.lower else min(v) for v in seeds]
        spread = [stdev(v) if len(v) > 1 else 0.0 for v in seeds]
        asked_for = (" / ".join("-" if v == inf else f"{v:g}" for v in each) for each in (asked.floor, asked.target))
        found = (_pair(v) for v in (shipped["asked"][asked.name], mean, spread, worst))
        yield asked.name, *asked_for, *found, reached(asked, mean, worst)
    small = results["ablations"]["files"].get("int8", results["ablations"]["files"]["float"])["file_bytes"]
    for name, floor, target, value in (
        ("parameters", 100_000, 60_000, results["parameters"]),
        ("small file, bytes", 130_000, 100_000, small),
    ):
        asked = Asked(name, (floor,), (target,), lambda _: (), lower=True)
        yield name, f"{floor:,}", f"{target:,}", f"{value:,}", "", "", "", reached(asked, [value], [value])


def _splits(recordings: Json) -> Iterable[Row]:
    yield "", "recordings"
    yield from (("trains", each) for each in recordings["trained_on"])
    for source, names in recordings["validation_records"].items():
        yield "validates", f"{source} {' '.join(names)}"
    yield "validates", "cinc2017, numbers that end in 5"
    for source, names in (("mitdb DS2:", DS2), ("svdb", SVDB), ("vfdb", VFDB)):
        yield "judges", f"{source} {' '.join(names)}"
    yield "judges", "cinc2017, numbers that end in 0; nstdb em"


def reached(asked: Asked, mean: Sequence[float], worst: Sequence[float]) -> str:
    """Target if the mean is there and the worst seed at the floor, floor if the worst seed is, else no."""

    def holds(values: Sequence[float], limits: Sequence[float]) -> bool:
        return all(v <= x if asked.lower else v >= x for v, x in zip(values, limits, strict=True))

    if not holds(worst, asked.floor):
        return "no"
    return "target" if holds(mean, asked.target) else "floor"


def _validation_cells(found: Json) -> list[str]:
    return [f"{of(found):.1f}" for of in VALIDATED.values()]


def validation_score(found: Json) -> float:
    """The mean of the figures that are `SCORED`; higher is better."""
    return fmean(VALIDATED[name](found) for name in SCORED)


def _validated(title: str, rows: Mapping[str, tuple[Sequence[object], Json]], *more: str) -> Iterable[Row]:
    yield title, *more, *VALIDATED
    for name, (cells, found) in rows.items():
        yield name, *cells, *_validation_cells(found)


def _seeds(seeds: Json) -> Iterable[Row]:
    rows = {
        name: ((s["weights"][7:15], f"{validation_score(s['validation']):.2f}"), s["validation"])
        for name, s in sorted(seeds.items())
    }
    return _validated("seed", rows, "weights", "score")


def _families(families: Sequence[Json]) -> Iterable[Row]:
    rows = {f["family"]: ((f["width"], f"{f['parameters']:,}", f"{f['steps']:,}"), f["validation"]) for f in families}
    return _validated("family", rows, "width", "parameters", "steps")


def _files(files: Json) -> Iterable[Row]:
    rows = {
        name: ((f"{f['file_bytes']:,}", f["load_ms"], f["step_us"], f.get("same labels", "")), f)
        for name, f in files.items()
    }
    return _validated("file", rows, "bytes", "load, ms", "step, us", "same labels, %")


def _main(judged: Json) -> Iterable[Row]:
    yield "", "Se, +P, F1 gross", "average", "95 % of gross"
    for part, name in (("ds2", "DS2"), ("svdb", "svdb")):
        for letter, words in (("Q", "QRS, 150 ms"), ("V", "VEB")):
            yield f"{name} {words}", *_cells(judged[part]["maps"]["de Chazal"]["figures"], letter)
        yield f"{name} QRS, 50 ms", *_cells(judged[part]["qrs_50_ms"], "Q")
        for words, code in MAPS.items():
            yield f"{name} SVEB, {words}", *_cells(judged[part]["maps"][code]["figures"], "S")
    for words, code in MAPS.items():
        yield f"DS2 SVEB without 232, {words}", *_cells(judged["ds2"]["maps"][code]["figures without 232"], "S")
        yield f"DS2 SVEB record-macro F1, {words}", "", f"{record_macro(judged['ds2'], code):.2f}", ""


def _cells(figures: Json, letter: str) -> Iterable[str]:
    found = [figures[f"{letter} {rate}"] for rate in ("Se", "+P", "F1")]
    for of in ("gross", "average"):
        yield " / ".join("-" if f[of] is None else f"{f[of]:.2f}" for f in found)
    yield ", ".join("-" if f["interval"] is None else "{:.2f} to {:.2f}".format(*f["interval"]) for f in found)


def _confusion(judged: Json) -> Iterable[Row]:
    table = judged["ds2"]["maps"]["de Chazal"]["confusion"]
    yield "reference, called", *table["labels"]
    for label, row in zip(table["labels"], table["reference by test"], strict=True):
        yield label, *row


def _records(part: Json) -> Iterable[Row]:
    yield "record", "beats", "QRS Se / +P", "V", "V Se / +P", "S", "S Se / +P", "RR error, ms"
    for name, row in sorted(part["maps"]["de Chazal"]["records"].items()):
        cells = {k: f"{_percent(row[f'{k} Se'])} / {_percent(row[f'{k} +P'])}" for k in "QVS"}
        counted = (cell for k in "QVS" for cell in (row[f"{k} Se"]["whole"], cells[k]))
        yield name, *counted, part["rr_error_ms"][name]


def _percent(cell: Json) -> str:
    return "-" if cell["percent"] is None else f"{cell['percent']:.2f}"


def _stress(judged: Json) -> Iterable[Row]:
    yield "signal to noise, dB", "QRS Se", "QRS +P", "VEB F1", "SVEB F1"
    for db, row in sorted(judged["stress"].items(), key=lambda item: -int(item[0])):
        yield db, *(row[name] for name in ("Q Se", "Q +P", "V F1", "S F1"))


def _fibrillation(judged: Json) -> Iterable[Row]:
    yield "record", "annotated, s", "of that found", "told, s", "of that true"
    for name, (found, wanted, true, told) in sorted(judged["ds2"]["af"]["records"].items()):
        if wanted or told:
            yield name, *(f"{v:.0f}" for v in (wanted, found, told, true))
    for name, key in (("all, %", "af"), ("flutter aside, %", "af_flutter_aside")):
        yield name, "", judged["ds2"][key]["se"], "", judged["ds2"][key]["ppv"]


def _ventricular(judged: Json) -> Iterable[Row]:
    yield "record, by", "found", "missed", "rightly none", "false"
    for name, row in sorted(judged["vfdb"]["records"].items()):
        for who in ("alarms", "net"):
            yield f"{name}, {who}", *row[who]


def _handheld(judged: Json) -> Iterable[Row]:
    yield "labelled", "called A", "called another"
    counts = judged["cinc2017"]["counts"]
    for label in "NAO~":
        yield label, counts[f"{label}>A"], counts[f"{label}>other"]


def f1_with_noise(counts: Mapping[str, int]) -> float:
    """F1 of A in per cent as the challenge has it: a recording of noise called A is called wrongly."""
    called, real = sum(counts[f"{label}>A"] for label in "NAO~"), counts["A>A"] + counts["A>other"]
    return 200 * counts["A>A"] / max(called + real, 1)


def _heartless(judged: Json) -> Iterable[Row]:
    names = sorted(judged["heartless"])
    return [names, [f"{judged['heartless'][name]:g}" for name in names]]


def _alarms(judged: Json) -> Iterable[Row]:
    yield "alarm", "priority", "should be", "Se", "told", "+P", "false in 24 h", "latency, s: median, 95 %, worst"
    labels = judged["ds2"]["alarms"]["against"]["rules"]["labels"]
    for label, row in sorted(labels.items(), key=lambda item: PRIORITIES.index(item[1]["priority"])):
        late = ", ".join("-" if (v := row["latency_s"][k]) is None else f"{v:g}" for k in ("p50", "p95", "p100"))
        se, pp = ("-" if row[k] is None else row[k] for k in ("Se", "+P"))
        yield f"`{label}`", row["priority"], row["reference"], se, row["alarms"], pp, row["false in 24 h"], late


def _false(seeds: Json) -> Iterable[Row]:
    yield "seed", "false", "hours", "in 24 h", "95 % upper bound in 24 h"
    for name, seed in sorted(seeds.items()):
        count, hours = (seed["false high"][k] for k in ("alarms", "hours"))
        rates = (f"{24 * n / hours:.2f}" for n in (count, upper_bound(count)))
        yield name, count, f"{hours:.2f}", *rates


def _baselines(judged: Json, baselines: Json) -> Iterable[Row]:
    kinds = [("QRS", "Q"), ("VEB", "V"), ("SVEB", "S")]
    columns = [f"{part} {kind}" for part in ("DS2", "svdb") for kind, _ in kinds]
    yield "Se / +P / F1", *columns, "DS2 SVEB without 232", "DS2 SVEB record-macro F1"
    code = "de Chazal"
    macros = {name: d["ds2"]["maps"][code]["S record-macro F1"] for name, d in baselines["detectors"].items()}
    macros["this model"] = record_macro(judged["ds2"], code)
    for name, parts in {"this model": judged, **baselines["detectors"]}.items():
        maps = {part: parts[part]["maps"][code] for part in ("ds2", "svdb")}
        cells = [next(iter(_cells(maps[part]["figures"], letter))) for part in maps for _, letter in kinds]
        yield name, *cells, next(iter(_cells(maps["ds2"]["figures without 232"], "S"))), f"{macros[name]:.2f}"


def _looks(seeds: Json) -> Iterable[Row]:
    yield "date", "seed", "weights"
    for name, seed in sorted(seeds.items()):
        yield seed["date"], name, f"`{seed['weights']}`"
