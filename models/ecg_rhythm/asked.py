"""What was asked of the model, and where each figure of it stands in what `judge.py` found."""

from collections.abc import Callable, Mapping
from math import inf
from statistics import fmean
from typing import Any, NamedTuple

MAPS = {"escape beats S": "bxb", "escape beats N": "de Chazal"}
"""What the card calls the scorer's maps of beat codes."""

Json = Mapping[str, Any]


class Asked(NamedTuple):
    """A figure that was asked for: least (or most) to ship with (inf: nothing), aim, and its place in `judged.json`."""

    name: str
    floor: tuple[float, ...]
    target: tuple[float, ...]
    found: Callable[[Json], tuple[float, ...]]
    lower: bool = False


def record_macro(part: Json, code: str, letter: str = "S") -> float:
    """F1 in per cent, mean over the records that have such beats in the reference; 0 where none is found."""
    rows = [row for row in part["maps"][code]["records"].values() if row[f"{letter} Se"]["whole"]]
    return fmean(200 * r[f"{letter} Se"]["part"] / sum(r[f"{letter} {k}"]["whole"] for k in ("Se", "+P")) for r in rows)


def told_high(judged: Json) -> dict[str, list[float]]:
    """Of DS2 and svdb: false high-priority alarms where there should be none, and the hours."""
    return {k: [judged[part]["calm"][k] for part in ("ds2", "svdb")] for k in ("alarms", "hours")}


def _gross(part: str, *names: str, code: str = "de Chazal", within: str = "figures") -> Callable[[Json], Any]:
    return lambda j: tuple(j[part]["maps"][code][within][name]["gross"] or 0.0 for name in names)


def _pooled(judged: Json, of: Callable[[Json], Json]) -> tuple[float, float, float]:
    """Se, +P and F1 of QRS complexes over DS1 and DS2."""
    cells = {rate: [of(judged[part])[f"Q {rate}"] for part in ("ds1", "ds2")] for rate in ("Se", "+P")}
    se, pp = (100 * sum(c["part"] for c in row) / sum(c["whole"] for c in row) for row in cells.values())
    return se, pp, 2 * se * pp / (se + pp)


def _run_rates(judged: Json, length: str) -> tuple[float, float]:
    true, missed, right, false = judged["ds2"]["runs"][length]
    return 100 * true / max(true + missed, 1), 100 * right / max(right + false, 1)


def _af_duration(judged: Json) -> tuple[float, float]:
    rows = [row for row in judged["ds2"]["af"]["records"].values() if row[1]]
    found, wanted, true, told = (sum(row[i] for row in rows) for i in range(4))
    return 100 * found / wanted, 100 * true / max(told, 1e-9)


def _sveb(words: str, code: str) -> list[Asked]:
    without = _gross("ds2", "S F1", code=code, within="figures without 232")
    return [
        Asked(f"SVEB, DS2, {words}", (45, 45), (65, 70), _gross("ds2", "S Se", "S +P", code=code)),
        Asked(f"without 232, F1, {words}", (42,), (60,), without),
        Asked(f"record-macro F1, {words}", (40,), (50,), lambda j: (record_macro(j["ds2"], code),)),
    ]


def _wide(part: Json) -> Json:
    figures: Json = part["maps"]["bxb"]["figures"]
    return figures


ASKED = [
    Asked("QRS, 44 records, 150 ms", (99.85,) * 2, (99.93,) * 2, lambda j: _pooled(j, _wide)[:2]),
    Asked("QRS, 44 records, 50 ms, F1", (99.0,), (99.6,), lambda j: _pooled(j, lambda part: part["qrs_50_ms"])[2:]),
    Asked("VEB, DS2", (93, 93), (96, 97), _gross("ds2", "V Se", "V +P")),
    *(asked for words, code in MAPS.items() for asked in _sveb(words, code)),
    Asked("svdb 840-849, F1, VEB; SVEB", (82, 60), (90, 72), _gross("svdb", "V F1", "S F1")),
    Asked("couplets", (85, 85), (92, 92), lambda j: _run_rates(j, "couplets")),
    Asked("short runs", (60, 70), (80, 80), lambda j: _run_rates(j, "short")),
    Asked("long runs", (75, 75), (90, 90), lambda j: _run_rates(j, "long")),
    Asked("AF duration, AF records of DS2", (85, 85), (95, 95), _af_duration),
    Asked("F1 of A, cinc2017", (70,), (80,), lambda j: (100 * j["cinc2017"]["f1"],)),
    Asked("VF/VT by alarms, vfdb, Se; Sp", (80, 95), (90, 97), lambda j: tuple(j["vfdb"]["se_sp"]["alarms"])),
    Asked("VF/VT by the net, vfdb, Se; Sp", (80, 95), (90, 97), lambda j: tuple(j["vfdb"]["se_sp"]["net"])),
    Asked("QRS +P at 12 dB; 6 dB", (94, 85), (97, 92), lambda j: tuple(j["stress"][db]["Q +P"] for db in ("12", "6"))),
    Asked("beats a minute, 5 uV", (0,), (0,), lambda j: (j["heartless"]["5 uV"],), lower=True),
    Asked(
        "beats a minute, `em`, the worse lead",
        (5,),
        (1,),
        lambda j: (max(v for name, v in j["heartless"].items() if name.startswith("em")),),
        lower=True,
    ),
    Asked(
        "false high-priority alarms, records without any",
        (inf,),
        (0,),
        lambda j: (float(sum(told_high(j)["alarms"])),),
        lower=True,
    ),
]
"""Se and +P in per cent unless another thing is said."""
