"""`holdover score`: compare annotations with a reference by the rules of the field (EC57), as the WFDB programs do."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdover.apps.score_nab import add_nab, score_nab

if TYPE_CHECKING:
    from holdover.evaluate.annotations import AnnotationPair
    from holdover.evaluate.period import Period
    from holdover.evaluate.scorecard import Terms

PROGRAMS = {
    "bxb": "beat by beat: QRS complexes, ventricular, supraventricular beats",
    "rxr": "run by run: couplets, short and long runs of ectopic beats",
    "epicmp": "episode by episode: atrial and ventricular fibrillation",
    "mxm": "measurement by measurement: heart rate and the like",
    "sumstats": "gross and average over records, from a line-format report",
}

NAB = "anomaly detectors on other signals: the Numenta benchmark"

EPILOG = (
    "programs, with the options of their namesakes of the WFDB package:\n"
    + "\n".join(f"  {name:<9} {what}" for name, what in PROGRAMS.items())
    + f"\n\nand\n  {'nab':<9} {NAB}"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the arguments of `holdover score`."""
    parser.add_argument("what", metavar="OUT|PROGRAM", help="a folder or record to score, or one of those below")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, metavar="...", help="its options: holdover score OUT -h, PROGRAM -h"
    )


def run(args: argparse.Namespace) -> int:
    """Score a folder or a record, or run one of the programs; 0.

    Raises
    ------
    HoldoverError
        The options cannot be, a file cannot be read or written, or what is in it cannot be compared.
    """
    name = args.what
    about = {**PROGRAMS, "nab": NAB}.get(name, "all beats of a folder or a record, gross and average")
    parser = argparse.ArgumentParser(prog=f"holdover score {name}", description=about, allow_abbrev=False)
    add, execute = _TABLE.get(name, (_add_whole, _whole))
    parser.set_defaults(out=name)
    add(parser)
    execute(parser.parse_args(args.options))
    return 0


def _add_whole(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ref", metavar="DIR", required=True, help="folder (or record) of the reference annotations")
    parser.add_argument("--test", metavar="NAME", default="blm", help="annotator to score (default: %(default)s)")
    parser.add_argument("--annotator", metavar="NAME", default="atr", help="the reference (default: %(default)s)")
    parser.add_argument("--alarms", metavar="NAME", default="alm", help="annotator of alarms (default: %(default)s)")
    _add_period(parser, window=True)
    parser.add_argument(
        "--tolerance", type=float, default=1.0, metavar="S", help="an alarm may be so far off (default: %(default)s s)"
    )
    parser.add_argument("--config", metavar="FILE", help="hold alarms against the limits of this configuration")
    parser.add_argument("--json", action="store_true", help="all figures as JSON")
    parser.add_argument("--report", metavar="FILE.html", help="write a page with plots")


def _whole(args: argparse.Namespace) -> None:
    from holdover.apps.score_report import tell, write_report
    from holdover.evaluate.scorecard import score_records
    from holdover.runtime.errors import UsageError

    out = Path(args.out)
    if not out.is_dir() and not Path(f"{out}.{args.test}").is_file():
        raise UsageError(
            f"{out} is no folder, no record with annotations {out}.{args.test}, and none of {', '.join(PROGRAMS)}"
        )
    card = score_records(out, Path(args.ref), _terms(args))
    _warn_of_another(card.records, Path(args.ref))
    if args.report:
        write_report(Path(args.report), card)
    tell(card, as_json=args.json)


def _warn_of_another(records: Sequence[str], reference: Path) -> None:
    """Records may be called otherwise by others, but it is more likely that the wrong one was named."""
    for record in [] if reference.is_dir() else records:
        if record != reference.name:
            print(
                f"holdover: warning: {record} is held against {reference.name}, by its name another record; --ref "
                f"{reference.parent} would take {record} of that folder",
                file=sys.stderr,
            )


def _terms(args: argparse.Namespace) -> "Terms":
    from holdover.apps.config import read_config
    from holdover.evaluate.scorecard import Terms
    from holdover.runtime.errors import UsageError

    if not 0 <= args.tolerance <= 60:
        raise UsageError(f"--tolerance {args.tolerance:g} cannot be; expected seconds, 0 to 60")
    given = {name: getattr(args, name) for name in ("start", "end", "window") if getattr(args, name) is not None}
    return Terms(
        test=args.test,
        annotator=args.annotator,
        alarms=args.alarms,
        tolerance_s=args.tolerance,
        limits=read_config(args.config).limits if args.config else None,
        **given,
    )


def _add_period(parser: argparse.ArgumentParser, *, window: bool) -> None:
    parser.add_argument("-f", dest="start", metavar="TIME", help="begin here (default: 5 minutes after the beginning)")
    parser.add_argument("-t", dest="end", metavar="TIME", help="end here (default: at the end of the record)")
    if window:
        parser.add_argument("-w", dest="window", metavar="TIME", help="match window (default: 0.15 seconds)")


class _Report(argparse.Action):
    """Which report is asked for, and where it goes: the last such option counts."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        namespace.report = (str(option_string)[1:], list(values or ()))


def _report_option(parser: argparse.ArgumentParser, letter: str, what: str, files: int = 1) -> None:
    names = ("FILE",) if files == 1 else ("FILE", "FILE2")
    parser.add_argument(f"-{letter}", action=_Report, nargs=files, metavar=names, help=f"append {what}; -: stdout")


def _compared(parser: argparse.ArgumentParser, *, window: bool = False) -> None:
    parser.set_defaults(report=("s", ["-"]))
    parser.add_argument("-r", dest="record", metavar="RECORD", required=True, help="the record, with its folder")
    parser.add_argument(
        "-a", dest="annotators", nargs=2, metavar=("REF", "TEST"), required=True, help="reference and test annotator"
    )
    _add_period(parser, window=window)
    if window:
        parser.add_argument("-v", dest="verbose", action="store_true", help="list all that does not match")


def _add_bxb(parser: argparse.ArgumentParser) -> None:
    _compared(parser, window=True)
    _report_option(parser, "s", "standard report")
    _report_option(parser, "S", "standard report, with supraventricular beats")
    _report_option(parser, "c", "condensed report")
    _report_option(parser, "C", "condensed report, with supraventricular beats")
    _report_option(parser, "l", "line-format reports on beats and on shutdown", 2)
    _report_option(parser, "L", "line-format reports, with supraventricular beats", 2)


def _bxb(args: argparse.Namespace) -> None:
    from holdover.evaluate.bxb_text import HEADINGS, beat_report

    pair, period = _pair(args, "bxb")
    letter, files = args.report
    report = beat_report(pair, period, sveb=letter.isupper())
    if args.verbose:
        sys.stderr.write(report.listing())
    if letter in "lL":
        for file, heading, text in zip(files, HEADINGS[letter == "L"], report.line(), strict=True):
            _append(file, text, heading)
        return
    beats, shutdown = report.standard() if letter in "sS" else report.condensed()
    _append(files[0], beats)
    _append("-", shutdown)


def _add_rxr(parser: argparse.ArgumentParser) -> None:
    _compared(parser, window=True)
    _report_option(parser, "s", "standard report")
    _report_option(parser, "S", "standard report, with supraventricular runs")
    _report_option(parser, "c", "condensed report")
    _report_option(parser, "C", "condensed report, with supraventricular runs")
    _report_option(parser, "l", "line-format report")
    _report_option(parser, "L", "line-format reports on ventricular and on supraventricular runs", 2)


def _rxr(args: argparse.Namespace) -> None:
    from holdover.evaluate.rxr import compare_runs
    from holdover.evaluate.rxr_text import HEADINGS, RunReport

    pair, period = _pair(args, "rxr")
    letter, files = args.report
    for score, sve in zip(compare_runs(pair, period), (False, True) if letter.isupper() else (False,), strict=False):
        report = RunReport(pair, score, sve)
        if args.verbose:
            sys.stdout.write(report.listing())
        if letter in "lL":
            _append(files[sve], report.line(), HEADINGS[sve])
        else:
            _append(files[0], report.standard() if letter in "sS" else report.condensed())


def _add_epicmp(parser: argparse.ArgumentParser) -> None:
    _compared(parser)
    parser.add_argument("-A", dest="af", metavar="FILE", help="append report on atrial fibrillation; -: stdout")
    parser.add_argument("-V", dest="vf", metavar="FILE", help="append report on ventricular fibrillation; -: stdout")
    parser.add_argument("-l", "-L", dest="line", action="store_true", help="write reports in line format")
    parser.add_argument("-x", dest="exclude", action="store_true", help="leave flutter out of +P of AF (EC38:1998)")
    parser.add_argument("-i", dest="shortest", metavar="TIME", help="do not count shorter episodes")
    parser.add_argument("-I", dest="shortest_at_all", metavar="TIME", help="the same, and they match nothing either")


def _epicmp(args: argparse.Namespace) -> None:
    from holdover.evaluate.epicmp import compare_episodes
    from holdover.evaluate.epicmp_text import EpisodeReport, heading
    from holdover.evaluate.period import samples
    from holdover.runtime.errors import UsageError

    if args.af is None and args.vf is None:
        raise UsageError("epicmp: say what to compare, with -A FILE (atrial) or -V FILE (ventricular fibrillation)")
    args.shortest = args.shortest_at_all or args.shortest
    pair, period = _pair(args, "epicmp")
    shortest = samples(args.shortest, pair.rate_hz, pair.length) if args.shortest else 0
    wanted: list[tuple[Literal["AF", "VF"], str | None]] = [("AF", args.af), ("VF", args.vf)]
    for kind, file in wanted:
        if file is not None:
            score = compare_episodes(
                pair,
                period,
                kind,
                exclude_flutter=args.exclude,
                shortest=shortest,
                ignore_shorter=args.shortest_at_all is not None,
            )
            report = EpisodeReport(pair, score, kind)
            _append(file, report.line() if args.line else report.standard(), heading(kind) if args.line else "")


def _add_mxm(parser: argparse.ArgumentParser) -> None:
    _compared(parser)
    _report_option(parser, "s", "standard report")
    _report_option(parser, "l", "line-format report")
    _report_option(parser, "L", "the same")
    parser.add_argument("-m", dest="subtype", type=int, default=0, metavar="TYPE", help="measurement type (default: 0)")
    parser.add_argument("-u", dest="unnormalized", action="store_true", help="error in the measurements' own unit")
    parser.add_argument(
        "--by-definition", action="store_true", help="count each measurement once, none of the first 5 minutes"
    )


def _mxm(args: argparse.Namespace) -> None:
    from holdover.evaluate import mxm

    pair, period = _pair(args, "mxm")
    letter, files = args.report
    compare = mxm.measured_by_definition if args.by_definition else mxm.compare_measurements
    score = compare(pair, period, args.subtype)
    if letter == "s":
        _append(files[0], mxm.standard(pair, score, args.subtype, normalized=not args.unnormalized))
    else:
        _append(files[0], mxm.line(pair, score, normalized=not args.unnormalized), mxm.heading(args.subtype))


def _add_sumstats(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a line-format report with its headings")


def _sumstats(args: argparse.Namespace) -> None:
    from holdover.evaluate.sumstats import summary
    from holdover.runtime.errors import SourceError

    try:
        text = Path(args.file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"cannot read {args.file}: {error}") from error
    sys.stdout.write(summary(text, args.file))


_TABLE = {
    "bxb": (_add_bxb, _bxb),
    "rxr": (_add_rxr, _rxr),
    "epicmp": (_add_epicmp, _epicmp),
    "mxm": (_add_mxm, _mxm),
    "sumstats": (_add_sumstats, _sumstats),
    "nab": (add_nab, score_nab),
}


def _pair(args: argparse.Namespace, program: str) -> "tuple[AnnotationPair, Period]":
    from holdover.evaluate.annotations import read_pair
    from holdover.evaluate.period import period_of

    pair = read_pair(args.record, *args.annotators)
    window = getattr(args, "window", None)
    if any(text is not None for text in (args.start, args.end, window, getattr(args, "shortest", None))):
        print(f"{program}: (warning) nonstandard comparison selected", file=sys.stderr)
    return pair, period_of(pair, args.start, args.end, window)


def _append(file: str, text: str, heading: str = "") -> None:
    """Append to a file, with a heading if it is new, or write to stdout, where there is none."""
    from holdover.runtime.errors import UsageError

    if file == "-":
        sys.stdout.write(text)
        return
    try:
        new = not Path(file).exists()
        with open(file, "a") as out:
            out.write(heading + text if new else text)
    except OSError as error:
        raise UsageError(f"cannot write to {file}: {error.strerror}") from error
