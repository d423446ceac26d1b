"""A user's own annotated records, as the recipe reads its own; those to learn from, and those held out."""

import argparse
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, oaconvolve, resample_poly

from holdover.apps.doubts import SIZE_MV
from holdover.apps.feed import open_recording
from holdover.devices.sources import kind_of, records_in
from holdover.evaluate.annotations import read_annotations
from holdover.models.ecg_beats.data import MODEL_HZ, RATE_HZ
from holdover.models.ecg_rhythm import data
from holdover.models.ecg_rhythm.data import Record
from holdover.runtime.contract import Contract
from holdover.runtime.errors import SourceError, UsageError

ANNOTATOR = "atr"
LEAST_S = 60.0
EDGE = 5 * RATE_HZ
"""Samples that are kept before the first beat and after the last."""
PAUSE_S = 10.0
"""A longer time without a beat is taken for one that nobody annotated."""
BESIDE = round(0.3 * RATE_HZ)
"""Samples from a beat within which there is no other."""
EVERY_FIFTH = 5

Array = NDArray[Any]


def read(options: argparse.Namespace, contract: Contract) -> list[Record]:
    """The user's records, all of them, or an error that names each that cannot be learned from.

    Raises
    ------
    SourceError
        No folder, or records that lack annotations, beats, a lead, a unit, or length.
    """
    found, wrong = [], []
    for path in records_in(options.records):
        try:
            found.append(_record(path.with_suffix(""), path, contract, options))
        except (SourceError, UsageError) as error:
            wrong.append(f"{path.stem}: {error}")
    if wrong:
        said = "\n  ".join(wrong)
        raise SourceError(
            f"{len(wrong)} of {len(found) + len(wrong)} records cannot be learned from; mend them, or move them out "
            f"of {options.records}\n  {said}"
        )
    return found


def _record(base: Path, path: Path, contract: Contract, options: argparse.Namespace) -> Record:
    x, rate_hz = _signal(path, contract, options)
    annotations = read_annotations(str(base), ANNOTATOR, rate_hz, round(len(x) / RATE_HZ * rate_hz))
    marks = data.marks_of(base, rate_hz)
    beats = [(s, data.CLASS[m]) for s, m, _ in marks if m in data.CLASS and s < len(x)]
    if not beats:
        symbols = "".join(data.CLASS)
        raise SourceError(f"none of its {len(annotations)} annotations is a beat ({symbols}); annotate its beats")
    at, kind = (np.array(v, np.int64) for v in zip(*beats, strict=True))
    at = at + data.early_by(x, at[kind == 0])
    start, stop = max(at[0] - EDGE, 0), min(at[-1] + EDGE, len(x))
    if stop - start < LEAST_S * RATE_HZ:
        raise SourceError(f"annotated over {(at[-1] - at[0]) / RATE_HZ:.0f} s; expected {LEAST_S:.0f} s or more")
    marks = [(s - start, symbol, aux) for s, symbol, aux in marks]
    return _part(base.name, x[start:stop], marks, at - start, kind)


def _part(name: str, x: Array, marks: Sequence[tuple[int, str, str]], at: Array, kind: Array) -> Record:
    said = data.stretches(marks, len(x))
    noise, tachycardia = ([(a, b) for a, b, each in said if each == word] for word in ("NOISE", "VT"))
    unknown = np.concatenate([_flutter(marks), _silent(at, len(x))])
    spans = (data.spans(noise, 2), data.spans(tachycardia, 2))
    return Record(name, "own", x[None], at, kind, data.rhythms(said), unknown, *spans)


def _signal(path: Path, contract: Contract, options: argparse.Namespace) -> tuple[NDArray[np.float32], float]:
    """The lead in mV, low-passed at 360 Hz as `Record` has it; and the rate that it was recorded at."""
    stated = {k: v for k, v in (("unit", options.unit), ("rate_hz", options.rate)) if v is not None}
    feed = open_recording(path, contract, options.lead, **stated if kind_of(path) in ("csv", "npz") else {})
    chunks = list(feed.chunks())
    x = np.full(max((c.end for c in chunks), default=0), np.nan)
    for chunk in chunks:
        x[chunk.at : chunk.end] = chunk.x[:, 0]
    rate_hz = feed.source.rate_hz
    _check_signal(x, rate_hz, feed.leads[0])
    there = np.isfinite(x)
    x = np.interp(np.arange(len(x)), np.flatnonzero(there), x[there])
    ratio = Fraction(RATE_HZ) / Fraction(rate_hz).limit_denominator(1000)
    if ratio != 1:
        x = resample_poly(x, ratio.numerator, ratio.denominator)
    taps = firwin(61, MODEL_HZ / RATE_HZ, window=("kaiser", 5.0))
    return oaconvolve(x, taps, mode="same").astype(np.float32), rate_hz


def _check_signal(x: Array, rate_hz: float, lead: str) -> None:
    if len(x) < LEAST_S * rate_hz:
        raise SourceError(f"{len(x) / rate_hz:.0f} s long; expected {LEAST_S:.0f} s or more")
    there = x[np.isfinite(x)]
    if len(there) < LEAST_S * rate_hz:
        raise SourceError(f"only {len(there) / rate_hz:.0f} s of {lead} are there, the rest is missing")
    low, high = np.percentile(there, (0.5, 99.5))
    least, most = SIZE_MV
    if not least <= high - low <= most:
        raise SourceError(
            f"{lead} is {high - low:.3g} mV peak to peak, as no ECG is ({least:g} to {most:g} mV); correct its unit"
        )


def _flutter(marks: Sequence[tuple[int, str, str]]) -> NDArray[np.int64]:
    edges = [symbol for _, symbol, _ in marks if symbol in "[]"]
    if edges != ["[", "]"] * (len(edges) // 2):
        raise SourceError("its marks of flutter, [ and ], do not come in pairs; add the one that is missing")
    return data.fluttering(marks)


def _silent(at: Array, end: int) -> NDArray[np.int64]:
    """Stretches (stretches, 2) in which nobody annotated: before the first beat, after the last, and long pauses."""
    low, high = np.array([0, *(at + BESIDE)]), np.array([*(at - BESIDE), end])
    long = np.diff(at, prepend=-np.inf, append=np.inf) > PAUSE_S * RATE_HZ
    return np.stack([low, high], 1)[long & (low < high)]


def split(records: Sequence[Record], validation: Sequence[str] | None) -> tuple[list[Record], list[Record]]:
    """Records to learn from, and those held out: the ones named, else every fifth, at least the last.

    Raises
    ------
    UsageError
        Fewer than two records, a name that none has, or none left to learn from.
    """
    if len(records) < 2:
        raise UsageError(
            f"there is {len(records)} record; two or more are needed, as one must be held out to judge what was learned"
        )
    names = [r.name for r in records]
    if unknown := sorted(set(validation or ()) - set(names)):
        raise UsageError(f"--validation {' '.join(unknown)}: no such record; there are {' '.join(names)}")
    held = set(validation or names[EVERY_FIFTH - 1 :: EVERY_FIFTH] or names[-1:])
    if held == set(names):
        raise UsageError("--validation names all records; leave some to learn from")
    return [r for r in records if r.name not in held], [r for r in records if r.name in held]
