"""The training recordings of four databases: leads, beats by class, rhythm and quality by stretch, at one rate."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, firwin, oaconvolve, resample_poly, sosfiltfilt

from holdover.models.ecg_beats.data import MODEL_HZ, OTHER, RATE_HZ
from holdover.runtime.errors import SourceError

RHYTHMS = ("N", "AF", "VF")
"""Any other rhythm; atrial fibrillation or flutter; ventricular fibrillation, flutter or tachycardia."""
UNKNOWN = -1
_LABELS = {"N": 0, "A": 1, "O": 0, "~": UNKNOWN}
"""Of a whole recording (normal, atrial fibrillation, other, noise), and the rhythm it stands for."""
NOISES = ("bw", "ma")
"""Of the noise stress test database; `em` never trains."""
_END = bytes(2)
"""Of every annotation file in MIT format (WFDB manual, annot(5))."""
_SIGNAL, _ANNOTATED = ("hea", "dat"), ("hea", "dat", "atr")


def numbers(*parts: int | tuple[int, int]) -> tuple[str, ...]:
    """Records by number, and from one to another."""
    spans = [(part, part) if isinstance(part, int) else part for part in parts]
    return tuple(str(n) for low, high in spans for n in range(low, high + 1))


SPLITS: dict[str, dict[str, tuple[str, ...]]] = {
    "mitdb": {
        "train": numbers(101, 106, 108, 109, 112, (114, 116), 122, 124, 201, 203, 205, (207, 209), 215, 220, 223, 230),
        "validation": ("118", "119"),
    },
    "svdb": {
        "train": numbers(800, 802, (804, 808), (810, 812), (820, 822), (824, 829)),
        "validation": ("801", "803", "809", "823"),
    },
    "vfdb": {"train": ("418", "420", "426", "428", "430"), "validation": ("422", "424")},
}
"""MIT-BIH DS1 (the training half of the usual inter-patient split), svdb 800-829, vfdb less what judges; 605 is left
out, being annotated as noise nearly throughout."""

# De Chazal, O'Dwyer, Reilly 2004, IEEE Trans Biomed Eng 51(7), table I: the AAMI classes; escape beats e and j are N.
SYMBOLS = {"NLRBejn": 0, "AaJS": 1, "VEr": 2, "FfQ/": OTHER}
CLASS = {symbol: kind for symbols, kind in SYMBOLS.items() for symbol in symbols}
RHYTHM = {"AFIB": 1, "AFL": 1, "VF": 2, "VFIB": 2, "VFL": 2, "VT": 2, "HGEA": UNKNOWN, "NOISE": UNKNOWN}
"""By the annotators' words; what is not here is `N`."""
SHORTEST_S = 4.0
"""A tachycardia shorter than this is no rhythm to be learned."""


@dataclass(frozen=True)
class Record:
    """One recording, low-passed for 120 Hz but kept at 360 Hz, so that a stretched reading stays clean.

    Attributes
    ----------
    name, source : str
        Its number, and the database.
    leads : array
        (1 or 2, samples), mV; the one to judge by first.
    at, kind : array
        (beats,), samples at 360 Hz of the annotated beats, and index into the labels of ecg-beats or `OTHER`.
    rhythm : array
        (stretches, 3): first sample, the sample after, index into `RHYTHMS` or `UNKNOWN`.
    unknown : array
        (stretches, 2), samples where beats are not annotated one by one.
    bad : array
        (stretches, 2), samples that the annotators call noise.
    ventricular : array
        (stretches, 2), samples of ventricular tachycardia, where beats are V.
    label : str
        Of the whole recording, where there is one: N, A, O, or ~.
    """

    name: str
    source: str
    leads: NDArray[np.float32]
    at: NDArray[np.int64]
    kind: NDArray[np.int64]
    rhythm: NDArray[np.int64]
    unknown: NDArray[np.int64]
    bad: NDArray[np.int64]
    ventricular: NDArray[np.int64]
    label: str = ""


def load(folder: Path, part: str) -> list[Record]:
    """Read the recordings of one part, "train" or "validation".

    Raises
    ------
    SourceError
        A folder or a record is not there, named, or a file is damaged.
    """
    found: list[Record] = []
    for source, splits in SPLITS.items():
        found += load_named(folder / source, splits[part])
    return found + _handheld(folder / "cinc2017", _PARTS[part])


def require(folder: Path) -> None:
    """Raise `SourceError` that names every record that training or validation lacks, of all databases."""
    wanted: dict[str, tuple[Sequence[str], Sequence[str]]] = {
        source: ([*parts["train"], *parts["validation"]], _ANNOTATED) for source, parts in SPLITS.items()
    }
    wanted["nstdb"] = ([*NOISES], _SIGNAL)
    checks: list[Callable[[], object]] = [partial(_require, folder / source, *of) for source, of in wanted.items()]
    checks.append(partial(_labels, folder / "cinc2017"))
    said = []
    for check in checks:
        try:
            check()
        except SourceError as error:
            said.append(str(error))
    if said:
        raise SourceError("\n".join(said))


def load_named(folder: Path, names: Sequence[str]) -> list[Record]:
    """Read records of the database that the folder is called after; raises as `load`."""
    _require(folder, names, _ANNOTATED)
    return [_record(folder / name) for name in names]


def load_handheld(folder: Path, last_digits: str) -> list[Record]:
    """Read the recordings of cinc2017 whose number ends in one of the digits; raises as `load`."""
    return _handheld(folder, lambda name: name[-1] in last_digits)


def noises(folder: Path) -> list[NDArray[np.float32]]:
    """Read baseline wander and muscle artefact of the noise stress test database; electrode motion is for testing only.

    Returns
    -------
    list of array
        (samples,), mV at 120 Hz, each of unit variance.

    Raises
    ------
    SourceError
        The folder or a record is not there.
    """
    _require(folder, NOISES, _SIGNAL)
    leads = [lead[:: RATE_HZ // MODEL_HZ] for n in NOISES for lead in _leads(folder / n)[0]]
    return [np.asarray((x - x.mean()) / x.std(), np.float32) for x in leads]


def view(record: Record, lead: int = 0) -> NDArray[np.float32]:
    """The lead at 120 Hz, (samples,), mV, samples a multiple of 60."""
    x = record.leads[lead, :: RATE_HZ // MODEL_HZ]
    return x[: len(x) // 60 * 60]


_PARTS: Mapping[str, Callable[[str], bool]] = {
    "train": lambda name: name[-1] not in "05",
    "validation": lambda name: name[-1] == "5",
}


def _require(folder: Path, names: Sequence[str], endings: Sequence[str]) -> None:
    missing = [n for n in names if not all((folder / f"{n}.{e}").is_file() for e in endings)]
    if missing:
        endings_said = ", ".join(f".{e}" for e in endings)
        raise SourceError(
            f"{folder} lacks the records {' '.join(missing)} ({endings_said}); get them with python -c "
            f"\"import wfdb; wfdb.dl_database('{folder.name}', 'DATA/{folder.name}')\" and give --data DATA"
        )
    _unchanged(folder, [f"{n}.{e}" for n in names for e in endings])


def _unchanged(folder: Path, files: Sequence[str]) -> None:
    """Raise `SourceError` where a file has another hash than PhysioNet's SHA256SUMS.txt says, if that is there."""
    sums = folder / "SHA256SUMS.txt"
    if not sums.is_file():
        return
    promised = {name: digest for digest, name in (line.split() for line in sums.read_text().splitlines() if line)}
    wrong = [f for f in files if f in promised and sha256((folder / f).read_bytes()).hexdigest() != promised[f]]
    if wrong:
        raise SourceError(
            f"{folder} has files that are not those of {sums.name}: {' '.join(wrong)}; delete them and fetch them again"
        )


def _record(path: Path) -> Record:
    leads, names, rate_hz = _leads(path)
    order = [names.index("MLII"), 1 - names.index("MLII")] if "MLII" in names else [0, 1]
    if not Path(f"{path}.atr").read_bytes().endswith(_END):
        raise SourceError(f"{path}: its files are damaged (.atr is cut off); fetch them anew")
    marks = marks_of(path, rate_hz)
    beats = [(s, CLASS[m]) for s, m, _ in marks if m in CLASS]
    at, kind = (np.array(v, np.int64) for v in (zip(*beats, strict=True) if beats else ((), ())))
    source, end = path.parent.name, leads.shape[1]
    said = stretches(marks, end)
    noise, tachycardia = ([(start, stop) for start, stop, each in said if each == word] for word in ("NOISE", "VT"))
    unknown = fluttering(marks) if beats else np.array([[0, end]])
    x = np.ascontiguousarray(leads[order])
    at = at + early_by(x[0], at[kind == 0]) if source == "svdb" else at
    return Record(path.name, source, x, at, kind, rhythms(said), unknown, spans(noise, 2), spans(tachycardia, 2))


def _labels(folder: Path) -> list[list[str]]:
    """Name and label of each recording of the challenge's training set."""
    table = folder / "REFERENCE.csv"
    if not table.is_file():
        raise SourceError(
            f"{folder} lacks REFERENCE.csv; get the training set of the PhysioNet/CinC Challenge 2017 "
            "(https://physionet.org/content/challenge-2017) there and give --data DATA, the folder above it"
        )
    lines = table.read_text(errors="replace").removeprefix("record,label").split()
    if wrong := [line for line in lines if line.partition(",")[2] not in _LABELS]:
        raise SourceError(f"{table} has the line {wrong[0]!r}; expected NAME,LABEL with one of N A O ~; fetch it anew")
    return [line.split(",") for line in lines]


def _handheld(folder: Path, wanted: Callable[[str], bool]) -> list[Record]:
    rows = [row for row in _labels(folder) if wanted(row[0]) and (folder / f"{row[0]}.hea").is_file()]
    if not rows:
        raise SourceError(f"{folder} has none of the recordings that REFERENCE.csv names; unpack them beside it")
    _require(folder, [name for name, _ in rows], ("hea", "mat"))
    return [_labelled(folder / name, label) for name, label in rows]


def _labelled(path: Path, label: str) -> Record:
    leads, _, _ = _leads(path)
    end = leads.shape[1]
    rhythm = _LABELS[label]
    none, all_of_it = np.empty(0, np.int64), [[0, end]]
    bad = spans(all_of_it if label == "~" else [], 2)
    whole = spans([[0, end, rhythm]], 3)
    return Record(path.name, path.parent.name, leads, none, none, whole, spans(all_of_it, 2), bad, spans([], 2), label)


def marks_of(path: Path, rate_hz: float) -> list[tuple[int, str, str]]:
    """Annotations: sample at 360 Hz, symbol, what is said."""
    import wfdb

    found = _undamaged(wfdb.rdann, path, "atr")
    places = np.rint(found.sample * (RATE_HZ / rate_hz)).astype(int)
    words = [aux.strip("\x00") for aux in found.aux_note]
    return list(zip(places.tolist(), found.symbol, words, strict=True))


def stretches(marks: Sequence[tuple[int, str, str]], end: int) -> list[tuple[int, int, str]]:
    """Stretches from one change of rhythm to the next, and the annotators' word for each."""
    changes = [(s, aux[1:]) for s, _, aux in marks if aux.startswith("(")]
    stops = [s for s, _ in changes[1:]] + [end]
    return [(s, stop, word) for (s, word), stop in zip(changes, stops, strict=False)]


def rhythms(said: Sequence[tuple[int, int, str]]) -> NDArray[np.int64]:
    def kind(start: int, stop: int, word: str) -> int:
        short = word == "VT" and stop - start < SHORTEST_S * RATE_HZ
        return UNKNOWN if short else RHYTHM.get(word, 0)

    return spans([(start, stop, kind(start, stop, word)) for start, stop, word in said], 3)


def fluttering(marks: Sequence[tuple[int, str, str]]) -> NDArray[np.int64]:
    edges = {m: [s for s, k, _ in marks if k == m] for m in "[]"}
    return spans(list(zip(edges["["], edges["]"], strict=True)), 2)


def spans(rows: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(-1, width)


def early_by(x: NDArray[np.float32], at: NDArray[np.int64]) -> int:
    """How many samples the annotations of a record lie before the largest deflection of its normal beats, median."""
    sharp = np.abs(sosfiltfilt(butter(2, (5, 30), "bandpass", fs=RATE_HZ, output="sos"), x))
    near = round(0.08 * RATE_HZ)
    at = at[(at > near) & (at < len(x) - near - 1)]
    around = sharp[at[:, None] + np.arange(-near, near + 1)]
    return int(np.median(around.argmax(1) - near)) if len(at) else 0


def _undamaged(read: Callable[..., Any], path: Path, *more: str) -> Any:
    """What `read` makes of a record; raises `SourceError` if its files are damaged."""
    try:
        return read(str(path), *more)
    except Exception as error:  # whatever wfdb meets in a damaged file
        kind = type(error).__name__
        raise SourceError(f"{path}: its files are damaged ({kind}: {error}); fetch them anew") from error


def _leads(path: Path) -> tuple[NDArray[np.float32], list[str], float]:
    """All leads at 360 Hz, low-passed by the filter of `scipy.signal.resample_poly(x, 1, 3)`, in place."""
    import wfdb

    record = _undamaged(wfdb.rdrecord, path)
    x: NDArray[Any] = np.nan_to_num(record.p_signal.T)
    ratio = RATE_HZ / Fraction(record.fs).limit_denominator(1000)
    if ratio != 1:
        x = resample_poly(x, ratio.numerator, ratio.denominator, axis=1)
    taps = firwin(61, MODEL_HZ / RATE_HZ, window=("kaiser", 5.0))
    return oaconvolve(x, taps[None], mode="same", axes=1).astype(np.float32), list(record.sig_name), record.fs
