"""What `holdover replay --score` adds: each record scored where it was replayed, all told together at the end."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdover.apps.recording import Result
    from holdover.evaluate.scorecard import RecordScore, Terms
    from holdover.runtime.detect.limits import Limits


def score_result(args: argparse.Namespace, result: "Result", limits: "Limits") -> "RecordScore":
    """Score what was written of a recording; of a part that was played, the first 5 minutes are not scored.

    Raises
    ------
    SourceError
        The reference is missing, or cannot be compared.
    UsageError
        No more than 5 minutes were played.
    """
    from holdover.evaluate.period import samples
    from holdover.evaluate.scorecard import score_record

    terms = _terms(args, limits)
    if args.start is not None:
        terms = replace(terms, start=f"s{result.first + samples(terms.start, result.rate_hz)}")
    if args.stop is not None:
        terms = replace(terms, end=f"s{result.last}")
    name = result.path.stem
    return score_record(Path(args.output) / name, Path(args.ref or result.path.parent) / name, terms)


def tell_scores(args: argparse.Namespace, paths: Sequence[Path], scores: "Sequence[RecordScore]") -> None:
    """Write the scorecard of all records to standard output and, if wanted, as a page; nothing if none was scored."""
    from holdover.apps.score_report import tell, write_report
    from holdover.evaluate.scorecard import Scorecard

    if not scores:
        return
    done = {score.record for score in scores}
    card = Scorecard(tuple(scores), tuple(path.stem for path in paths if path.stem not in done), _terms(args, None))
    if args.report:
        write_report(Path(args.report), card)
    tell(card, as_json=args.json)


def _terms(args: argparse.Namespace, limits: "Limits | None") -> "Terms":
    from holdover.evaluate.scorecard import Terms

    return Terms(annotator=args.annotator, limits=limits)
