"""`holdover score nab`: a detector of anomalies on the corpus of the Numenta Anomaly Benchmark."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from holdover.evaluate.nab_card import Outcome, Scores
    from holdover.evaluate.nab_corpus import Series

    Corpus = Mapping[str, Series]

MOST_A_WEEK = 10_080
"""Once a minute."""

UNATTENDED = "unattended, expected false alerts a week: {:g}; set without these labels"

ABOUT = """\
Score a detector on the Numenta Anomaly Benchmark (NAB), with its arithmetic.

RESULTS is a folder of what any detector said, one file a series,
<data folder>/[<detector>_]<series>.csv, with the columns timestamp and
anomaly_score, as NAB's own results have them. With --run the series are
streamed through a model and its detector instead."""


def add_nab(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover score nab`."""
    parser.description = ABOUT
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("results", nargs="?", metavar="RESULTS", help="folder of results to score")
    parser.add_argument("--run", metavar="MODEL", help="a shipped model or a file, run on all series instead")
    parser.add_argument("--nab", metavar="DIR", help="the corpus: a copy of NAB (default: $HOLDOVER_DATA/nab)")
    parser.add_argument("--threshold", type=float, metavar="X", help="score alerts at this threshold too, 0 to 1")
    parser.add_argument(
        "--per-week",
        type=float,
        metavar="N",
        help="score alerts unattended too, with so many false ones expected (with --run: 1); of RESULTS, whose scores "
        "must then be 1 - tail probability",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="with --run, write the results as NAB lays them out")
    parser.add_argument(
        "-j", "--jobs", type=int, default=0, metavar="N", help="processes (default: what this board bears)"
    )
    parser.add_argument("--json", action="store_true", help="all figures as JSON, of each series too")


def score_nab(args: argparse.Namespace) -> None:
    """Score results on the corpus, and tell.

    Raises
    ------
    HoldoverError
        The options cannot be, or a file cannot be read or is not what it should be.
    """
    from holdover.evaluate.nab_corpus import read_corpus, read_published
    from holdover.evaluate.nab_text import nab_text

    _check(args)
    place = _corpus_place(args.nab)
    corpus, published = read_corpus(place), read_published(place)
    name, outcomes = _run(args, corpus) if args.run else _read(args, corpus)
    if args.json:
        said = {"outcomes": {o.title: o.as_json() for o in outcomes}, "published": published}
        print(json.dumps(said, indent=1))
    else:
        sys.stdout.write(nab_text(name, outcomes, published))


def _check(args: argparse.Namespace) -> None:
    from holdover.runtime.errors import UsageError

    if (args.results is None) == (args.run is None):
        raise UsageError("say what to score: holdover score nab RESULTS, a folder of scores, or else --run MODEL")
    if args.output and not args.run:
        raise UsageError("--output is for what --run gives; RESULTS are there already")
    if args.jobs < 0:
        raise UsageError(f"--jobs {args.jobs} cannot be; expected at least 1, or 0 for what this board bears")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise UsageError(f"--threshold {args.threshold:g} cannot be; expected an anomaly score, 0 to 1")
    if args.per_week is not None and not 0 < args.per_week <= MOST_A_WEEK:
        raise UsageError(f"--per-week {args.per_week:g} cannot be; expected false alerts a week, such as 1")


def _corpus_place(named: str | None) -> Path:
    from holdover.runtime.errors import UsageError

    folder = os.environ.get("HOLDOVER_DATA")
    if named is None and not folder:
        raise UsageError("where is the corpus? Give --nab DIR, a copy of github.com/numenta/NAB")
    return Path(named) if named is not None else Path(str(folder)) / "nab"


def _read(args: argparse.Namespace, corpus: "Corpus") -> "tuple[str, list[Outcome]]":
    """What stands in a folder of results."""
    from holdover.evaluate.nab_card import at_rate, fixed
    from holdover.evaluate.nab_corpus import read_results

    scores = read_results(Path(args.results), corpus)
    outcomes = _chosen(args, corpus, scores)
    if args.per_week is not None:
        outcomes.append(fixed(UNATTENDED.format(args.per_week), corpus, at_rate(corpus, scores, args.per_week)))
    return Path(args.results).resolve().name, outcomes


def _run(args: argparse.Namespace, corpus: "Corpus") -> "tuple[str, list[Outcome]]":
    """What a model and its detector say of the series, and what the daemon would have told."""
    from holdover.apps.model.shipped import find_model
    from holdover.apps.nab_judge import ModelJudge, detector_of
    from holdover.apps.nab_run import judge_all, progress, write_results
    from holdover.devices.boards.board import defaults
    from holdover.evaluate.nab_card import fixed
    from holdover.runtime.engine import load

    per_week = 1.0 if args.per_week is None else args.per_week
    model = find_model(args.run)
    contract = load(model).contract
    detector_of(contract)  # what is wrong with the model is said here, once
    jobs = args.jobs or defaults().threads or len(os.sched_getaffinity(0))
    with progress(sum(series.labels.rows for series in corpus.values())) as tell:
        judged = judge_all(corpus, ModelJudge(model, per_week / 7), jobs, tell)
    if args.output:
        write_results(Path(args.output), contract.name, corpus, judged)
    outcomes = _chosen(args, corpus, {name: one.scores for name, one in judged.items()})
    alerts = {name: one.alerts for name, one in judged.items()}
    return contract.name, [*outcomes, fixed(UNATTENDED.format(per_week), corpus, alerts)]


def _chosen(args: argparse.Namespace, corpus: "Corpus", scores: "Scores") -> "list[Outcome]":
    """At thresholds that somebody chose: NAB's optimiser, and who wrote the command."""
    from holdover.evaluate.nab_card import at_threshold, fixed, optimised

    outcomes = [optimised(corpus, scores)]
    if args.threshold is not None:
        outcomes.append(fixed(f"threshold {args.threshold:g}", corpus, at_threshold(scores, args.threshold)))
    return outcomes
