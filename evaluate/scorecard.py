"""The friendly whole: many records at once, gross and average, with the spread that so few patients leave."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from holdover.evaluate.alarms import TOLERANCE_S, AlarmScore, alarm_figures, compare_alarms
from holdover.evaluate.annotations import (
    BXB_CLASSES,
    DE_CHAZAL_CLASSES,
    AnnotationPair,
    read_annotations,
    read_pair,
)
from holdover.evaluate.bxb import LABELS, compare_beats
from holdover.evaluate.figures import figures, record_figures
from holdover.evaluate.period import LEARNING, WINDOW, Period, period_of
from holdover.runtime.detect.limits import Limits
from holdover.runtime.errors import SourceError

MAPS = {"bxb": BXB_CLASSES, "de Chazal": DE_CHAZAL_CLASSES}
"""Maps of beat codes to AAMI classes: escape beats (e j n) are S in the first, N in the second."""

DOMINANT = "232"
"""The record that holds three of four supraventricular ectopic beats of DS2."""


@dataclass(frozen=True)
class Terms:
    """What is compared: names of annotators, and times as in `period`; `limits` are those of the rules."""

    test: str = "blm"
    annotator: str = "atr"
    alarms: str = "alm"
    start: str = LEARNING
    end: str | None = None
    window: str = WINDOW
    tolerance_s: float = TOLERANCE_S
    limits: Limits | None = None

    def period(self, pair: AnnotationPair) -> Period:
        """The part of a record that is compared, in samples."""
        return period_of(pair, self.start, self.end, self.window)


@dataclass(frozen=True)
class RecordScore:
    """One record: counts of beats by map, (reference class, test class) in the order of `LABELS`, and its alarms.

    `sha256` is that of the reference and of the test annotations, as they lie on disk.
    """

    record: str
    counts: dict[str, NDArray[np.int64]]
    rr_error_ms: float | None
    alarms: AlarmScore | None
    sha256: tuple[str, str]


@dataclass(frozen=True)
class Scorecard:
    """The scores of records, and the names of those that have a reference and no test annotations."""

    scores: tuple[RecordScore, ...]
    unscored: tuple[str, ...] = ()
    terms: Terms = Terms()

    @property
    def records(self) -> tuple[str, ...]:
        """Names of the records that are scored."""
        return tuple(score.record for score in self.scores)

    @property
    def has_dominant(self) -> bool:
        """Whether record 232 is one of several."""
        return DOMINANT in self.records and len(self.records) > 1

    def counts(self, name: str) -> NDArray[np.int64]:
        """Counts of beats under a map, (records, reference class, test class)."""
        return np.stack([score.counts[name] for score in self.scores])

    def without(self, record: str) -> "Scorecard":
        """The same without one record."""
        return Scorecard(tuple(score for score in self.scores if score.record != record), self.unscored, self.terms)

    def figures(self, name: str) -> dict[str, dict[str, Any]]:
        """Each of `FIGURES` under a map, over all records."""
        return figures(self.counts(name))

    def by_record(self, name: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Each record's rates under a map."""
        return {score.record: record_figures(score.counts[name]) for score in self.scores}

    def as_json(self) -> dict[str, Any]:
        """All of it, ready for `json.dumps`."""
        maps = {}
        for name in MAPS:
            maps[name] = {
                "figures": self.figures(name),
                "confusion": {"labels": list(LABELS), "reference by test": self.counts(name).sum(axis=0).tolist()},
                "records": self.by_record(name),
            }
            if self.has_dominant:
                maps[name][f"figures without {DOMINANT}"] = self.without(DOMINANT).figures(name)
        return {
            "records": list(self.records),
            "unscored": list(self.unscored),
            "terms": self.terms_json(),
            "maps": maps,
            "rr_error_ms": {score.record: score.rr_error_ms for score in self.scores},
            "alarms": self.alarms(),
            "models": self.models(),
            "sha256": {
                score.record: dict(zip(("reference", "test"), score.sha256, strict=True)) for score in self.scores
            },
        }

    def alarms(self) -> dict[str, Any] | None:
        """The figures of all alarms, None where no record has an alarm file."""
        scores = [score.alarms for score in self.scores if score.alarms is not None]
        return {"records": len(scores), **alarm_figures(scores)} if scores else None

    def models(self) -> list[str]:
        """Who judged, as the alarm files say."""
        makers = {score.alarms.maker.model for score in self.scores if score.alarms}
        return sorted(model for model in makers if model)

    def terms_json(self) -> dict[str, Any]:
        """What was compared, ready for `json.dumps`."""
        named = {key: value for key, value in asdict(self.terms).items() if key != "limits"}
        return named | {"limits": msgspec.to_builtins(self.terms.limits or Limits())}


def score_records(out: Path, reference: Path, terms: Terms | None = None) -> Scorecard:
    """Compare every record of a folder, or one record, with its reference.

    Raises
    ------
    SourceError
        There is nothing to compare, or a file cannot be read.
    UsageError
        The terms cannot be.
    """
    terms = terms or Terms()
    places, unscored = _places(out, reference, terms)
    return Scorecard(tuple(score_record(*place, terms) for place in places), unscored, terms)


def score_record(out: Path, reference: Path, terms: Terms) -> RecordScore:
    """Compare one record; both places are without the annotator's ending. Raises as `score_records` does."""
    pair = _pair(out, reference, terms)
    span = terms.period(pair)
    found = {name: compare_beats(pair, span, classes) for name, classes in MAPS.items()}
    error = found["bxb"].rr_error_ms(pair.rate_hz)
    alarms = None
    if Path(f"{out}.{terms.alarms}").is_file():
        file = read_annotations(str(out), terms.alarms, pair.rate_hz, pair.length, may_be_empty=True)
        alarms = compare_alarms(file, pair.reference, pair.rate_hz, span, terms.limits, terms.tolerance_s)
    return RecordScore(
        pair.record,
        {name: score.counts for name, score in found.items()},
        None if error is None else round(error, 2),
        alarms,
        (_sha256(pair.reference.path), _sha256(pair.test.path)),
    )


def _places(out: Path, reference: Path, terms: Terms) -> tuple[list[tuple[Path, Path]], tuple[str, ...]]:
    """Places of test and reference annotations by record, and the reference's records that the test lacks."""
    stems = [_stem(file) for file in sorted(out.glob(f"*.{terms.test}"))] if out.is_dir() else [out]
    if not stems:
        raise SourceError(f"{out} has no annotations to score (*.{terms.test}); name their annotator with --test")
    if not reference.is_dir():
        if len(stems) > 1:
            raise SourceError(f"{reference} is no folder, and {out} has {len(stems)} records; expected a folder")
        return [(stems[0], reference)], ()
    scored = {stem.name for stem in stems}
    known = {_stem(file).name for file in reference.glob(f"*.{terms.annotator}")}
    return [(stem, reference / stem.name) for stem in stems], tuple(sorted(known - scored)) if out.is_dir() else ()


def _stem(file: Path) -> Path:
    return file.with_suffix("")


def _pair(out: Path, reference: Path, terms: Terms) -> AnnotationPair:
    known = read_pair(str(reference), terms.annotator, terms.annotator)
    found = read_annotations(str(out), terms.test, known.rate_hz, known.length, may_be_empty=True)
    return AnnotationPair(out.name, known.rate_hz, known.length, known.reference, found)


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
