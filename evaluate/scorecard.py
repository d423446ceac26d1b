"""The friendly whole: many records at once, gross and average, with the spread that so few patients leave."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.evaluate.annotations import (
    BXB_CLASSES,
    DE_CHAZAL_CLASSES,
    AnnotationPair,
    read_annotations,
    read_pair,
)
from holdover.evaluate.bxb import LABELS, RATES, compare_beats
from holdover.evaluate.period import period
from holdover.runtime.errors import SourceError

MAPS = {"bxb": BXB_CLASSES, "de Chazal": DE_CHAZAL_CLASSES}
"""Maps of beat codes to AAMI classes: escape beats (e j n) are S in the first, N in the second."""

DOMINANT = "232"
"""The record that holds three of four supraventricular ectopic beats of DS2."""

_DRAWS = 2000
_SEED = 57


@dataclass(frozen=True)
class Scorecard:
    """Counts of beats by map and record, (records, reference class, test class) in the order of `LABELS`."""

    records: tuple[str, ...]
    unscored: tuple[str, ...]
    counts: dict[str, NDArray[np.int64]]

    def without(self, record: str) -> "Scorecard":
        """The same without one record."""
        kept = [k for k, name in enumerate(self.records) if name != record]
        counts = {name: table[kept] for name, table in self.counts.items()}
        return Scorecard(tuple(self.records[k] for k in kept), self.unscored, counts)

    def figures(self, name: str) -> dict[str, dict[str, Any]]:
        """Each rate under a map: part, whole, gross and average in per cent, and the 95 % interval of the gross.

        The interval is a bootstrap over records (2,000 draws, fixed seed), None for a single record; a rate is None
        where nothing is there to be counted.
        """
        table = self.counts[name]
        weights = np.random.default_rng(_SEED).multinomial(len(table), [1 / len(table)] * len(table), size=_DRAWS)
        drawn = np.tensordot(weights, table, axes=1)
        found = {}
        for rate in RATES:
            part, whole = _parts(table, rate)
            each, spread = _percent(part, whole), _percent(*_parts(drawn, rate))
            gross = _percent(part.sum(keepdims=True), whole.sum(keepdims=True))
            found[rate] = {
                "part": int(part.sum()),
                "whole": int(whole.sum()),
                "gross": _number(gross[0]),
                "average": _number(_mean(each)),
                "interval": _interval(spread) if len(table) > 1 else None,
            }
        return found

    def by_record(self, name: str) -> dict[str, dict[str, float | None]]:
        """Each record's rates under a map, in per cent."""
        columns = {rate: _percent(*_parts(self.counts[name], rate)) for rate in RATES}
        return {
            record: {rate: _number(column[k]) for rate, column in columns.items()}
            for k, record in enumerate(self.records)
        }

    def as_json(self) -> dict[str, Any]:
        """All of it, ready for `json.dumps`."""
        maps = {}
        for name, table in self.counts.items():
            maps[name] = {
                "figures": self.figures(name),
                "confusion": {"labels": list(LABELS), "reference by test": table.sum(axis=0).tolist()},
                "records": self.by_record(name),
            }
            if DOMINANT in self.records and len(self.records) > 1:
                maps[name][f"figures without {DOMINANT}"] = self.without(DOMINANT).figures(name)
        return {"records": list(self.records), "unscored": list(self.unscored), "maps": maps}


def score_records(
    out: Path,
    reference: Path,
    *,
    test: str = "blm",
    annotator: str = "atr",
    start: str | None = None,
    end: str | None = None,
    window: str | None = None,
) -> Scorecard:
    """Compare every record of a folder, or one record, with its reference; times as in `period`.

    Raises
    ------
    SourceError
        There is nothing to compare, or a file cannot be read.
    """
    places, unscored = _places(out, reference, test, annotator)
    tables: dict[str, list[NDArray[np.int64]]] = {name: [] for name in MAPS}
    for place, reference_place in places:
        pair = _pair(place, reference_place, test, annotator)
        span = period(pair.rate_hz, pair.length, start, end, window)
        for name, classes in MAPS.items():
            tables[name].append(compare_beats(pair, span, classes).counts)
    names = tuple(place.name for place, _ in places)
    return Scorecard(names, unscored, {name: np.stack(table) for name, table in tables.items()})


def _places(out: Path, reference: Path, test: str, annotator: str) -> tuple[list[tuple[Path, Path]], tuple[str, ...]]:
    """Places of test and reference annotations by record, and the reference's records that the test lacks."""
    stems = [file.with_suffix("") for file in sorted(out.glob(f"*.{test}"))] if out.is_dir() else [out]
    if not stems:
        raise SourceError(f"{out} has no annotations to score (*.{test}); name their annotator with --test")
    if not reference.is_dir():
        if len(stems) > 1:
            raise SourceError(f"{reference} is no folder, and {out} has {len(stems)} records; expected a folder")
        return [(stems[0], reference)], ()
    scored = {stem.name for stem in stems}
    known = {file.with_suffix("").name for file in reference.glob(f"*.{annotator}")}
    return [(stem, reference / stem.name) for stem in stems], tuple(sorted(known - scored)) if out.is_dir() else ()


def _pair(place: Path, reference: Path, test: str, annotator: str) -> AnnotationPair:
    known = read_pair(str(reference), annotator, annotator)
    found = read_annotations(str(place), test, known.rate_hz, known.length)
    return AnnotationPair(place.name, known.rate_hz, known.length, known.reference, found)


def _parts(table: NDArray[np.int64], rate: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    sums = []
    for rows, columns in RATES[rate]:
        chosen = table[:, [LABELS.index(row) for row in rows]][:, :, [LABELS.index(column) for column in columns]]
        sums.append(chosen.sum(axis=(1, 2)))
    return sums[0], sums[1]


def _percent(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, 100.0 * part / np.maximum(whole, 1), np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _interval(values: NDArray[np.float64]) -> list[float] | None:
    kept = values[~np.isnan(values)]
    return [round(float(q), 2) for q in np.percentile(kept, [2.5, 97.5])] if len(kept) else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)
