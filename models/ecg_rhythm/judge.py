"""Judge a model file on the recordings that are kept for it, and on DS1, through the shipped commands.

Each run of this is a look at data that must stay unseen: log it in the card.
"""

import argparse
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdover.apps import recording
from holdover.apps.cli import main as holdover
from holdover.models.ecg_beats.data import MODEL_HZ
from holdover.models.ecg_rhythm.data import RHYTHM, SPLITS, UNKNOWN, numbers
from holdover.models.ecg_rhythm.figures import write_figures
from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.conditions import CONDITIONS
from holdover.runtime.engine import Engine, load
from holdover.runtime.errors import SourceError
from holdover.runtime.stream import Stream

DS1 = [*SPLITS["mitdb"]["train"], *SPLITS["mitdb"]["validation"]]
DS2 = numbers(100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, (212, 214), 219, (221, 222), 228, (231, 234))
SVDB = numbers((840, 849))
VFDB = ["609", "611", "614"]
STRESS_DB = (24, 18, 12, 6, 0, -6)
LEADS = "MLII,ECG1,first"
WINDOW_S = 10
UNSCORED_S = 300.0
AFTER_S = 8.0
"""A handheld recording is judged from here on."""

Array = NDArray[Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what was found as JSON; 0 if it went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the model file")
    parser.add_argument("--data", type=Path, required=True, help="folder with mitdb/, svdb/, vfdb/, nstdb/, cinc2017/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file for the figures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(default: all)")
    options = parser.parse_args(arguments)
    return write_figures(options.output, lambda: judge(options.model, options.data, options.parts))


def judge(model: Path, data: Path, parts: Sequence[str]) -> dict[str, Any]:
    """The figures of a model file, by part."""
    engine = load(model)
    head = {"date": datetime.now(UTC).date().isoformat(), "weights": engine.contract.document["provenance"]["weights"]}
    with TemporaryDirectory() as folder:
        look = _Look(model, engine, data, Path(folder))
        return head | {name: PARTS[name](look) for name in parts}


class _Look(NamedTuple):
    model: Path
    engine: Engine
    data: Path
    place: Path


def _mitdb(look: _Look) -> dict[str, Any]:
    """DS2: beats, alarms, runs and atrial fibrillation."""
    source, out = look.data / "mitdb", look.place / "ds2"
    found = beats(look.model, source, DS2, out) | {"runs": runs(source, DS2, out), "af": episodes(source, DS2, out)}
    return found | {"af_flutter_aside": episodes(source, DS2, out, "-x")}


PARTS: dict[str, Callable[[_Look], dict[str, Any]]] = {
    "ds2": _mitdb,
    "svdb": lambda look: beats(look.model, look.data / "svdb", SVDB, look.place / "svdb"),
    "cinc2017": lambda look: handheld(look.engine, look.data / "cinc2017"),
    "vfdb": lambda look: fibrillation(look.engine, look.data / "vfdb"),
    "stress": lambda look: stress(look.model, look.data, look.place / "stress"),
    "heartless": lambda look: heartless(look.engine, look.data / "nstdb"),
    "ds1": lambda look: beats(look.model, look.data / "mitdb", DS1, look.place / "ds1"),
}
"""What is judged; DS1, most of which trained, for the figures of all 44 records."""


def beats(model: Path, source: Path, names: Sequence[str], out: Path) -> dict[str, Any]:
    """Replay records and score them: `holdover replay` and `holdover score`, at 150 ms and at 50 ms."""
    _replay(model, [source / name for name in names], out)
    scores = {
        width: json.loads(printed("score", out, "--ref", source, "-w", width, "--json")) for width in (".15", ".05")
    }
    kept = ("maps", "alarms", "rr_error_ms")
    whole = {key: scores[".15"][key] for key in kept} | {"calm": calm(source, names, out)}
    return whole | {"qrs_50_ms": {k: v for k, v in scores[".05"]["maps"]["bxb"]["figures"].items() if k[0] == "Q"}}


def calm(source: Path, names: Sequence[str], out: Path) -> dict[str, Any]:
    """High-priority alarms told, all false, where the reference has none by its beats nor by its rhythm; and hours."""
    records: dict[str, list[str]] = {}
    hours = 0.0
    for name in names:
        against = json.loads(printed("score", out / name, "--ref", source, "--json"))["alarms"]["against"]
        if not any(_graver(kind["labels"]) for kind in against.values()):
            records[name], hours = _grave(out / name), hours + against["rules"]["hours"]
    return {"records": records, "alarms": sum(map(len, records.values())), "hours": round(hours, 3)}


def _graver(labels: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the reference has what a high-priority alarm is for, told or not."""
    return any(row["reference"] and CONDITIONS[label].priority == "high" for label, row in labels.items())


def _grave(path: Path) -> list[str]:
    """Labels of the high-priority alarms that came true in the scored time, fibrillation among them."""
    import wfdb

    marks = wfdb.rdann(str(path), "alm")
    notes = [aux.split() for s, aux in zip(marks.sample, marks.aux_note, strict=True) if s >= UNSCORED_S * marks.fs]
    return [words[1] for words in notes if words[:1] == ["start"] and words[2:4] == ["high", "physiological"]]


def runs(source: Path, names: Sequence[str], out: Path) -> dict[str, list[int]]:
    """Ventricular couplets, short and long runs: true and missed, true and false, summed over records."""
    lines = [_compared("rxr", n, "blm", ("-L", "-", "-"), source, out).splitlines()[0] for n in names]
    totals = np.sum([[int(v) for v in line.split()[1:13]] for line in lines], 0)
    return dict(zip(("couplets", "short", "long"), totals.reshape(3, 4).tolist(), strict=True))


def episodes(source: Path, names: Sequence[str], out: Path, *options: str) -> dict[str, Any]:
    """Seconds of atrial fibrillation: found and in the reference, true and told, by record and in all.

    With `-x` flutter counts neither way (EC38:1998); without, it is no fibrillation.
    """
    found = {}
    for n in names:
        text = _compared("epicmp", n, "alm", ("-A", "-", *options), source, out)
        times = re.findall(r"Duration (?:sens|posi).*\(([\d:.]+)/([\d:.]+)\)", text)
        found[n] = [_seconds(t) for pair in times for t in pair] or [0.0] * 4
    total = np.sum(list(found.values()), 0)
    se, pp = total[0] / max(total[1], 1e-9), total[2] / max(total[3], 1e-9)
    return {"records": found, "se": round(100 * float(se), 2), "ppv": round(100 * float(pp), 2)}


def handheld(engine: Engine, folder: Path) -> dict[str, Any]:
    """F1 of A over the recordings whose number ends in 0: A where most of a recording is said to fibrillate."""
    table = folder / "REFERENCE.csv"
    if not table.is_file():
        raise SourceError(f"{folder} lacks REFERENCE.csv; unpack the training set of the CinC Challenge 2017 there")
    rows = [line.split(",") for line in table.read_text().split()]
    rows = [row for row in rows if row[0][-1] == "0" and (folder / f"{row[0]}.hea").is_file()]
    called = [(label, _fibrillates(engine, folder / name)) for name, label in rows]
    counts = {f"{label}>{'A' if a else 'other'}": 0 for label in "NAO~" for a in (True, False)}
    for label, share in called:
        counts[f"{label}>{'A' if share > 0.5 else 'other'}"] += 1
    hit, false = counts["A>A"], counts["N>A"] + counts["O>A"]
    return {"counts": counts, "f1": round(2 * hit / max(2 * hit + false + counts["A>other"], 1), 4)}


def fibrillation(engine: Engine, folder: Path) -> dict[str, Any]:
    """Windows of 10 s with VF, flutter or tachycardia: true, missed, rightly none, false; by the net and by alarms."""
    found: dict[str, Any] = {}
    for name in VFDB:
        wanted = _dangerous(folder / name)
        said = {"net": _shares(engine, folder / name)[:, 2] > 0.5, "alarms": _alarmed(engine, folder / name)}
        found[name] = {who: _windows(wanted, flags) for who, flags in said.items()}
    total = {who: np.sum([found[n][who] for n in VFDB], 0).tolist() for who in ("net", "alarms")}
    rates = {who: [round(100 * a / (a + b), 2), round(100 * c / (c + d), 2)] for who, (a, b, c, d) in total.items()}
    return {"records": found, "se_sp": rates}


def stress(model: Path, data: Path, out: Path) -> dict[str, Any]:
    """118 and 119 with electrode motion, as the noise stress test database makes them; QRS by signal to noise."""
    import wfdb

    noise = wfdb.rdrecord(str(data / "nstdb" / "em")).p_signal
    found = {}
    for db in STRESS_DB:
        place = out / f"{db}"
        place.mkdir(parents=True)
        for name in ("118", "119"):
            _noisy(data / "mitdb" / name, noise, db, place)
        _replay(model, [place / "118", place / "119"], place / "out")
        score = json.loads(printed("score", place / "out", "--ref", place, "--json"))
        found[str(db)] = {k: v["gross"] for k, v in score["maps"]["bxb"]["figures"].items()}
    return found


def heartless(engine: Engine, folder: Path) -> dict[str, float]:
    """Beats a minute in electrode motion alone, and in 5 uV of noise, of what a watch lets through."""
    rng = np.random.default_rng(0)
    found = {}
    for name in ("em", "ma", "bw"):
        for lead in ("noise1", "noise2"):
            result = recording.play(folder / name, engine, lead=lead)
            found[f"{name} {lead}"] = _per_minute(result)
    with TemporaryDirectory() as place:
        path = Path(place) / "open.npz"
        np.savez(path, x=0.005 * rng.standard_normal(600 * 360), rate_hz=360.0)
        found["5 uV"] = _per_minute(recording.play(path, engine))
    return found


def _per_minute(result: recording.Result) -> float:
    count = sum(mark.is_beat for mark in result.annotations)
    return round(60 * count * result.rate_hz / (result.last - result.first), 2)


def _replay(model: Path, records: Sequence[Path], out: Path) -> None:
    missing = [str(path) for path in records if not path.with_suffix(".hea").is_file()]
    if missing:
        raise SourceError(f"these records are not there: {' '.join(missing)}; fetch them with wfdb.dl_database")
    printed("replay", *records, "-o", out, "--model", model, "--lead", LEADS)


def _compared(program: str, name: str, test: str, options: Sequence[str], source: Path, out: Path) -> str:
    """What a program of the WFDB package's prints of a record, its reference in one folder and the test in another."""
    before = os.environ.get("WFDB")
    os.environ["WFDB"] = f"{source} {out}"
    try:
        return printed("score", program, "-r", name, "-a", "atr", test, *options)
    finally:
        del os.environ["WFDB"]
        os.environ.update({} if before is None else {"WFDB": before})


def printed(*words: object) -> str:
    """What a command prints; raises `SourceError` if it fails."""
    said, wrong = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
        status = holdover([str(word) for word in words])
    if status:
        raise SourceError(f"holdover {' '.join(map(str, words[:3]))} failed: {wrong.getvalue().strip()}")
    return said.getvalue()


def _seconds(text: str) -> float:
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total


def _frames(engine: Engine, path: Path) -> tuple[Array, float, int]:
    """The rhythm output over a recording as a stream gives it, the source's rate, and its length."""
    import wfdb

    record = wfdb.rdrecord(str(path))
    x = np.nan_to_num(record.p_signal[:, :1]).astype(np.float32)
    stream = Stream(engine, float(record.fs))
    parts = [stream.push(Chunk(0, x)), stream.finish()]
    return np.concatenate([f.values["rhythm"] for f in parts]), float(record.fs), len(x)


def _shares(engine: Engine, path: Path) -> Array:
    """Probabilities of the rhythms at each source sample, (samples, rhythms); those of the nearest frame before."""
    logits, rate_hz, length = _frames(engine, path)
    spec = next(o for o in engine.contract.outputs if o.name == "rhythm")
    odds = np.exp(logits - logits.max(1, keepdims=True))
    places = np.arange(length) * float(Fraction(MODEL_HZ) / Fraction(rate_hz))
    index = np.clip(((places - spec.first_at) / spec.samples_per_frame).astype(int), 0, len(odds) - 1)
    shares: Array = (odds / odds.sum(1, keepdims=True))[index]
    return shares


def _fibrillates(engine: Engine, path: Path) -> float:
    shares = _shares(engine, path)[:, 1]
    skip = min(int(AFTER_S * 300), len(shares) // 2)
    return float(shares[skip:].mean())


def _dangerous(path: Path) -> Array:
    """1 where vfdb's annotators have fibrillation, flutter or tachycardia, 0 where not, -1 where they do not know."""
    import wfdb

    marks, length = wfdb.rdann(str(path), "atr"), wfdb.rdheader(str(path)).sig_len
    changes = [(s, a.strip("\x00")[1:]) for s, a in zip(marks.sample, marks.aux_note, strict=True) if a.startswith("(")]
    wanted = np.full(length, UNKNOWN)
    for (start, word), stop in zip(changes, [*(s for s, _ in changes[1:]), length], strict=True):
        kind = RHYTHM.get(word, 0)
        wanted[start:stop] = kind if kind == UNKNOWN else int(kind == 2)
    return wanted


def _alarmed(engine: Engine, path: Path) -> Array:
    """Where an alarm of ventricular fibrillation or tachycardia lasts."""
    result = recording.play(path, engine, lead="first")
    flags = np.zeros(result.last, bool)
    opened: dict[tuple[str, int], int] = {}
    for alert in result.alerts:
        p = alert.phase
        if p.label not in ("ventricular_fibrillation", "ventricular_tachycardia"):
            continue
        opened[p.label, p.onset] = result.last if p.end is None else p.end
    for (_, onset), end in opened.items():
        flags[onset:end] = True
    return flags


def _windows(wanted: Array, said: Array) -> list[int]:
    size = WINDOW_S * 250
    n = min(len(wanted), len(said)) // size
    truth, told = (v[: n * size].reshape(n, size) for v in (wanted, said))
    known = (truth != UNKNOWN).all(1)
    real, found = truth[known].mean(1) > 0.5, told[known].mean(1) > 0.5
    return [int(v.sum()) for v in (real & found, real & ~found, ~real & ~found, ~real & found)]


def _noisy(path: Path, noise: Array, db: int, place: Path) -> None:
    """A record with noise added from 5 minutes on, two minutes with and two without (WFDB's `nst` and `nstdbgen`)."""
    import wfdb

    record, marks = wfdb.rdrecord(str(path)), wfdb.rdann(str(path), "atr")
    x, rate = record.p_signal.copy(), int(record.fs)
    beats = [s for s, m in zip(marks.sample, marks.symbol, strict=True) if m in "NLRAaJSVFejE/fQ"]
    on = (np.arange(len(x)) >= 300 * rate) & ((np.arange(len(x)) - 300 * rate) // (120 * rate) % 2 == 0)
    track = np.resize(noise, x.shape)
    for lead in range(x.shape[1]):
        power = _height(x[:, lead], beats, rate) ** 2 / 8
        gain = np.sqrt(power / (_rms(noise[:, lead], rate) ** 2 * 10 ** (db / 10)))
        x[:, lead] += gain * track[:, lead] * on
    wfdb.wrsamp(path.name, fs=rate, units=record.units, sig_name=record.sig_name, p_signal=x, fmt=["16"] * 2,
                adc_gain=record.adc_gain, baseline=[0, 0], write_dir=str(place))  # fmt: skip
    (place / f"{path.name}.atr").write_bytes(path.with_suffix(".atr").read_bytes())


def _height(x: Array, beats: Sequence[int], rate: int) -> float:
    """Mean height of the first 300 complexes (100 ms), a twentieth at each end left out, as `sigamp` has it."""
    half = rate // 20
    sizes = sorted(float(np.ptp(x[b - half : b + half])) for b in beats[:300] if b > half)
    cut = len(sizes) // 20
    return float(np.mean(sizes[cut : len(sizes) - cut]))


def _rms(x: Array, rate: int) -> float:
    """Mean deviation (root of mean squares) in the first 300 seconds, one by one, the ends left out likewise."""
    sizes = sorted(float(np.std(x[i : i + rate])) for i in range(0, 300 * rate, rate))
    return float(np.mean(sizes[15:-15]))


if __name__ == "__main__":
    sys.exit(main())
