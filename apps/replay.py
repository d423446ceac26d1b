"""`holdover replay`: recordings in; annotations, alerts and a picture out.

Runs the very loop of the daemon as fast as the machine goes. Records may be
WFDB (name without extension), CSV, NPZ or EDF, or folders of them. Alerts go
to standard output as a table, with --json as one body a line."""

import argparse
import json
import math
import multiprocessing
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from holdover.devices.boards.board import defaults
from holdover.runtime.errors import HoldoverError, UsageError

if TYPE_CHECKING:
    from holdover.apps.picture.gates import Under
    from holdover.apps.recording import Result
    from holdover.evaluate.scorecard import RecordScore
    from holdover.runtime.detect.anomaly import Judged
    from holdover.runtime.detect.limits import Limits
    from holdover.runtime.engine import Engine

Tell = Callable[[int, float], None]
"""Told of samples that were taken, and of what share of a record they are."""

EPILOG = """\
examples:
  holdover replay 208 -o out --plot
  holdover replay mitdb/ -o out -j 2
  holdover replay ecg.csv --rate 250 --lead II -f 1:00:00 -t 1:05:00

  holdover replay mitdb/ -o out -j 2 --lead MLII,first --score

with -o OUT it writes for each record OUT/NAME.blm (beats and signal quality,
WFDB), OUT/NAME.alm (alarms as notes, rhythm, heart rate, WFDB), and for all
OUT/alerts.jsonl. --lead A,B,first takes of each record the first of these that
it has; first is its first channel. With --score standard output tells what
holdover score OUT --ref DIR tells, and the alerts are in OUT/alerts.jsonl
alone."""


class Outcome(NamedTuple):
    """What became of one record: a failure is a value, so that the others go on; one of the score leaves the result."""

    result: "Result | None"
    score: "RecordScore | None"
    failure: HoldoverError | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover replay`."""
    parser.add_argument("records", nargs="+", metavar="RECORD", help="a recording, or a folder of them")
    parser.add_argument("-o", "--output", metavar="OUT", help="folder for what is written")
    parser.add_argument("-f", "--from", dest="start", metavar="TIME", help="begin here: [[hh:]mm:]ss, or s<sample>")
    parser.add_argument("-t", "--to", dest="stop", metavar="TIME", help="end here")
    parser.add_argument("--lead", help="by name, or several by preference (default: the model's, or the only one)")
    parser.add_argument("--rate", type=float, metavar="HZ", help="of a CSV or NPZ that does not say")
    parser.add_argument("--unit", help="of a CSV or NPZ that does not say (default: mV)")
    parser.add_argument("--model", help="an ONNX file, or the name of a shipped model")
    parser.add_argument("--config", metavar="FILE", help="take the limits of this configuration")
    parser.add_argument("--stream", metavar="ID", help="name of the stream in the alerts (default: the record's)")
    parser.add_argument("--speed", type=float, metavar="X", help="times real time (default: as fast as it goes)")
    parser.add_argument(
        "--plot", nargs="?", const="png", choices=("png", "html"), help="draw OUT/NAME.png or .html (default: png)"
    )
    parser.add_argument(
        "--gates", nargs="?", const="keep", choices=("keep", "all"),
        help="draw under the signal what each unit keeps, or all gates and the cell (default: keep)",
    )  # fmt: skip
    parser.add_argument(
        "-j", "--jobs", type=int, default=1, help="processes; 0: what this board bears (default: %(default)s)"
    )
    parser.add_argument("--allow-truncated", action="store_true", help="play what is there of a cut-off record")
    parser.add_argument("--json", action="store_true", help="alert bodies, or the score, as JSON on standard output")
    parser.add_argument("--score", action="store_true", help="score what is written against the records' annotations")
    parser.add_argument("--ref", metavar="DIR", help="folder of the reference (default: where the records are)")
    parser.add_argument("--annotator", metavar="NAME", default="atr", help="of the reference (default: %(default)s)")
    parser.add_argument("--report", metavar="FILE.html", help="write the score as a page with plots")


def run(args: argparse.Namespace) -> int:
    """Replay; 0, or the code of the first record that failed (the others are still done).

    Raises
    ------
    HoldoverError
        The options cannot be, or nothing could be replayed.
    """
    from holdover.apps.replay_score import tell_scores

    _check(args)
    args.jobs = args.jobs or defaults().threads or len(os.sched_getaffinity(0))
    paths = _paths(args.records, args.output)
    out = _folder(args.output)
    began = time.monotonic()
    done: dict[int, Outcome] = {}
    failures: list[HoldoverError] = []
    with _progress(len(paths)) as tell:
        for i, outcome in _each(args, paths, tell):
            done[i] = outcome
            if outcome.failure:
                failures.append(outcome.failure)
                print(f"holdover: {outcome.failure}", file=sys.stderr)
    ordered = [result for i in sorted(done) if (result := done[i].result)]
    if out is not None:
        _write_alerts(out, ordered)
    _report(args, ordered, out, time.monotonic() - began)
    _tell_missing([path.stem for i, path in enumerate(paths) if not done[i].result], len(paths))
    if args.score:
        tell_scores(args, paths, [score for i in sorted(done) if (score := done[i].score)])
    return failures[0].exit_code if failures else 0


def _check(args: argparse.Namespace) -> None:
    from holdover.runtime.mqtt_options import check_name

    if args.plot and not args.output:
        raise UsageError("--plot needs a folder for the picture: add -o OUT")
    if args.gates and not args.plot:
        raise UsageError("--gates is drawn into the picture: add --plot")
    if args.score and not args.output:
        raise UsageError("--score needs a folder for what is scored: add -o OUT")
    if (args.ref or args.report) and not args.score:
        raise UsageError("--ref and --report are of the score: add --score")
    if args.jobs < 0 or (args.speed is not None and not 0 < args.speed < math.inf):
        raise UsageError("--jobs is at least 1, or 0 for what this board bears, and --speed above 0")
    if args.stream is not None:
        check_name("--stream", args.stream)


def _paths(records: Sequence[str], output: str | None) -> list[Path]:
    from holdover.devices.sources import records_in

    paths: list[Path] = []
    for record in records:
        paths += records_in(record) if Path(record).is_dir() else [_record(Path(record))]
    paths = list(dict.fromkeys(paths))
    stems = Counter(path.stem for path in paths)
    if output and (twice := [stem for stem, n in stems.items() if n > 1]):
        raise UsageError(
            f"two records are called {twice[0]}; what is written would overwrite itself: replay them apart"
        )
    return paths


def _record(path: Path) -> Path:
    """The path; of a WFDB record's header, samples or annotations the header, so that a glob names a record once."""
    header = path.with_suffix(".hea")
    return header if path.suffix in (".hea", ".dat", ".atr") and header.is_file() else path


def _folder(output: str | None) -> Path | None:
    if output is None:
        return None
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {output}: {error.strerror}") from error
    if not os.access(output, os.W_OK):
        raise UsageError(f"cannot write into {output}: give another folder with -o")
    return Path(output)


def _each(args: argparse.Namespace, paths: list[Path], tell: Tell) -> Iterator[tuple[int, Outcome]]:
    """Each record's number and what became of it, in this process or in several."""
    if args.jobs == 1 or len(paths) == 1:
        engine, limits = _prepare(args)
        for i, path in enumerate(paths):
            yield i, _one(args, path, engine, limits, tell)
        return
    _prepare(args)  # what is wrong with the options is said here, once
    yield from _in_processes(args, paths, tell)


def _in_processes(args: argparse.Namespace, paths: list[Path], tell: Tell) -> Iterator[tuple[int, Outcome]]:
    """Records shared out among processes, each on a pipe of its own, so that one that dies holds up no other."""
    from holdover.apps.recording import sweep

    context = multiprocessing.get_context("spawn")
    todo = list(enumerate(paths))[::-1]
    workers: dict[Any, Any] = {}
    for _ in range(min(args.jobs, len(paths))):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(args, theirs), daemon=True)
        process.start()
        theirs.close()
        workers[ours] = process
        ours.send(todo.pop())
    try:
        busy = list(workers)
        while busy:
            ready: list[Any] = list(connection.wait(busy))
            for pipe in ready:
                kind, *what = _hear(pipe)
                if kind == "taken":
                    tell(*what)
                    continue
                yield what[0], what[1]
                if todo:
                    with suppress(BrokenPipeError):  # one that has died is noticed when it is heard
                        pipe.send(todo.pop())
                else:
                    busy.remove(pipe)
    finally:
        for pipe, process in workers.items():
            process.terminate()
            process.join()
            pipe.close()
            if args.output and process.pid:
                sweep(Path(args.output), process.pid)


def _hear(pipe: Any) -> tuple[Any, ...]:
    try:
        heard: tuple[Any, ...] = pipe.recv()
    except (EOFError, OSError) as error:
        raise HoldoverError("a process of the replay was killed, for lack of memory perhaps: try -j 1") from error
    return heard


def _work(args: argparse.Namespace, pipe: Any) -> None:
    """What a worker does: records one after another, until the other end is gone."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine, limits = _prepare(args)
    with suppress(EOFError, BrokenPipeError):
        while True:
            i, path = pipe.recv()
            outcome = _one(args, path, engine, limits, lambda n, share: pipe.send(("taken", n, share)))
            pipe.send(("done", i, outcome))


def _prepare(args: argparse.Namespace) -> "tuple[Engine, Limits]":
    from holdover.apps.model.shipped import find_model
    from holdover.runtime.engine import load

    if args.gates:
        from holdover.apps.picture.gates import gates_of

        gates_of(args.model)  # what cannot be tapped is said before anything is played
    return load(find_model(args.model)), _limits(args)


def _limits(args: argparse.Namespace) -> "Limits":
    from holdover.apps.config import read_config
    from holdover.runtime.detect.limits import Limits

    return read_config(args.config).limits if args.config else Limits()


def _one(args: argparse.Namespace, path: Path, engine: "Engine", limits: "Limits", tell: Tell) -> Outcome:
    """Replay one record, write what is its own, and score it where that is asked for."""
    from holdover.apps import recording
    from holdover.apps.replay_score import score_result

    options = _options(args, path)
    taken, share, told = 0, 0.0, time.monotonic()

    def progress(n: int, part: float) -> None:
        nonlocal taken, share, told
        taken, share = taken + n, share + part
        if time.monotonic() - told > 0.1:
            tell(taken, share)
            taken, share, told = 0, 0.0, time.monotonic()

    result = score = None
    judged: list[Judged] = []
    try:
        result = recording.play(
            path, engine, lead=args.lead, limits=limits, options=options, speed=args.speed, progress=progress,
            stream=args.stream, told=judged.append if args.plot else None,
        )  # fmt: skip
        if args.output:
            _write_own(Path(args.output), result, args, engine, options, judged)
        tell(taken, share)
        score = score_result(args, result, limits) if args.score else None
    except HoldoverError as error:
        return Outcome(result, None, error)
    return Outcome(result, score, None)


def _options(args: argparse.Namespace, path: Path) -> dict[str, Any]:
    from holdover.devices.sources import kind_of

    options = {"start": args.start, "stop": args.stop}
    kind = kind_of(path)
    if kind in ("csv", "npz"):
        options |= {"rate_hz": args.rate, "unit": args.unit}
    if kind in ("wfdb", "edf") and args.allow_truncated:
        options["allow_truncated"] = True
    return {key: value for key, value in options.items() if value is not None}


def _write_own(
    out: Path,
    result: "Result",
    args: argparse.Namespace,
    engine: "Engine",
    options: dict[str, Any],
    judged: "Sequence[Judged]",
) -> None:
    from holdover.apps import recording

    name = result.path.stem
    try:
        recording.write_wfdb(out, name, result.annotations, "blm", result.rate_hz)
        recording.write_wfdb(out, name, recording.alarm_marks(result), "alm", result.rate_hz)
        if args.plot:
            x = recording.read_signal(result.path, engine, args.lead, options)
            plot(out / f"{name}.{args.plot}", result, x, engine, _gates(args, result.path, options), judged)
    except OSError as error:
        raise UsageError(f"cannot write into {out}: {error.strerror}; nothing half-written was left") from error


def _gates(args: argparse.Namespace, path: Path, options: dict[str, Any]) -> "Under | None":
    """What draws the gates, where they are asked for."""
    if not args.gates:
        return None
    from holdover.apps.picture.gates import gates_of, under

    return under(gates_of(args.model), args.gates == "all", _limits(args), path, args.lead, options)


def plot(
    path: Path,
    result: "Result",
    x: Any,
    engine: "Engine",
    under: "Under | None" = None,
    judged: "Sequence[Judged]" = (),
) -> None:
    """Draw a result over its signal, (samples,), in the model's unit.

    `under` gives heat maps under it; with what was `judged` of it, it is drawn as a series.
    """
    from holdover.apps.picture.draw import draw
    from holdover.apps.recording import whole
    from holdover.runtime.contract import ANY_UNIT

    unit = engine.contract.signal.channels[0].unit.replace(ANY_UNIT, "")
    title = f"{result.stream} · {result.lead} · {engine.contract.name} {engine.contract.model_version}"
    with whole(path) as part:
        first_s = result.first / result.rate_hz
        draw(part, x, result.rate_hz, result.annotations, spans(result), title, first_s, unit, under, judged)


def spans(result: "Result") -> list[Any]:
    """The episodes of a result, from onset to end."""
    from holdover.apps.picture.draw import Span

    found: dict[tuple[str, int], Span] = {}
    for phase in (alert.phase for alert in result.alerts):
        key = (phase.label, phase.onset)
        if phase.phase == "start":
            found[key] = Span(phase.label, phase.kind, phase.priority, phase.onset, None)
        elif phase.phase == "end" and key in found:
            start = found[key]
            found[key] = Span(phase.label, phase.kind, start.priority, phase.onset, phase.end)
    return list(found.values())


def _write_alerts(out: Path, results: "list[Result]") -> None:
    from holdover.apps.recording import whole
    from holdover.runtime.watch import bodies

    try:
        with whole(out / "alerts.jsonl") as part:
            part.write_bytes(b"".join(bodies(result.alerts) for result in results))
    except OSError as error:
        raise UsageError(f"cannot write {out / 'alerts.jsonl'}: {error.strerror}") from error


def _report(args: argparse.Namespace, results: "list[Result]", out: Path | None, took_s: float) -> None:
    for result in [] if args.score else results:
        for alert in result.alerts:
            print(alert.body_json().decode() if args.json else _line(result, alert))
    seconds = sum(result.seconds for result in results)
    for result in results:
        beats = Counter(a.symbol for a in result.annotations if a.is_beat)
        starts = Counter(a.phase.label for a in result.alerts if a.phase.phase == "start")
        shown = ", ".join(f"{n} {label.replace('_', ' ')}" for label, n in starts.most_common()) or "no alarms"
        classes = " ".join(f"{symbol} {n}" for symbol, n in sorted(beats.items()))
        found = f"{beats.total()} beats ({classes}); " if beats or not starts["calibrating"] else ""
        _say(f"{result.stream} ({result.lead}): {found}{shown}")
        for doubt in result.doubts:
            _say(f"{result.stream}: {doubt}")
    if results:
        rate = seconds / took_s
        where = f"; written to {out}" if out else ""
        _say(f"{_clock(seconds)} of signal in {took_s:.1f} s, {rate:,.0f} times real time{where}")


def _tell_missing(names: Sequence[str], records: int) -> None:
    """Once more at the end, since what was said of them is far above by then."""
    if names and records > 1:
        _say(f"holdover: {len(names)} of {records} records could not be played: {', '.join(names)}")


def _say(text: str) -> None:
    """A line on standard error, folded at 80 columns."""
    print(
        textwrap.fill(text, 80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False), file=sys.stderr
    )


def _line(result: "Result", alert: Any) -> str:
    p = alert.phase
    facts = {k: v for k, v in p.evidence.items() if not isinstance(v, list)}
    text = json.dumps(facts)[1:-1].replace('"', "")
    line = f"{_clock(p.at / result.rate_hz):>11} {result.stream:<8.8} {p.phase:<6} {p.priority:<6} {p.label}"
    return f"{line}  {text}"[:79] if sys.stdout.isatty() else f"{line}  {text}"


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{s:04.1f}"


@contextmanager
def _progress(records: int) -> Iterator[Tell]:
    """A bar on standard error where that is a terminal: records done, samples a second, time left."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda _n, _share: None
        return
    console = Console(stderr=True)
    columns = (TextColumn("replay"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[rate]}"))
    began, taken = time.monotonic(), 0
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("replay", total=records, rate="")

        def tell(samples: int, share: float) -> None:
            nonlocal taken
            taken += samples
            rate = taken / max(time.monotonic() - began, 1e-3)
            bar.update(task, advance=share, rate=f"{rate / 1e6:.2f} M samples/s, left")

        yield tell
