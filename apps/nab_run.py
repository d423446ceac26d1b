"""All series of a corpus through a detector, shared out among processes."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from holdover.apps.recording import whole
from holdover.evaluate.nab_corpus import Series
from holdover.runtime.errors import HoldoverError, UsageError

Judge = Callable[[Series], "Judged"]
"""What a detector makes of a series; it goes to other processes, so it is a function of a module, or picklable."""

Tell = Callable[[int], None]
"""Told how many rows were judged."""


class Judged(NamedTuple):
    """What a detector said of one series.

    Attributes
    ----------
    scores
        (rows,), 1 - tail probability: high is anomalous; 0 where it said nothing.
    alerts
        (rows,), where it would have told of an alert, unattended.
    """

    scores: NDArray[np.float64]
    alerts: NDArray[np.bool_]


def judge_all(corpus: Mapping[str, Series], judge: Judge, jobs: int, tell: Tell) -> dict[str, Judged]:
    """Judge each series on its own, the longest first, in so many processes.

    Raises
    ------
    HoldoverError
        What the judge raised, or that one of the processes was killed.
    """
    order = sorted(corpus, key=lambda name: -corpus[name].labels.rows)
    judged = {}
    if jobs == 1:
        for name in order:
            judged[name] = judge(corpus[name])
            tell(corpus[name].labels.rows)
        return judged
    with _processes(min(jobs, len(order))) as processes:
        with _interrupts_ignored():
            waiting: dict[Future[Judged], str] = {processes.submit(judge, corpus[name]): name for name in order}
        for done in as_completed(waiting):
            name = waiting[done]
            judged[name] = _result(done, name)
            tell(corpus[name].labels.rows)
    return judged


def told_once(scores: NDArray[np.float64], rows: int) -> NDArray[np.float64]:
    """Keep the scores that are higher than those of all of so many rows before, and make the others 0.

    So an alert is told once, and again soon after only if it is graver, whatever threshold is then chosen.
    """
    before = np.concatenate([np.full(rows, -np.inf), scores[:-1]])
    return np.where(scores > sliding_window_view(before, rows).max(axis=1), scores, 0.0)


def write_results(place: Path, detector: str, corpus: Mapping[str, Series], judged: Mapping[str, Judged]) -> None:
    """Write what was said as NAB lays it out, one file a series; the column `alert` is ours.

    Raises
    ------
    UsageError
        A file cannot be written.
    """
    for name, series in corpus.items():
        folder, file = name.split("/")
        path = place / folder / f"{detector}_{file}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as part:
                part.write_text(_table(series, judged[name]))
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _table(series: Series, judged: Judged) -> str:
    columns = (series.times.tolist(), series.values.tolist(), judged.scores.tolist(), judged.alerts.tolist())
    rows = (f"{time},{value!r},{score!r},{alert:d}\n" for time, value, score, alert in zip(*columns, strict=True))
    return "timestamp,value,anomaly_score,alert\n" + "".join(rows)


@contextmanager
def progress(rows: int) -> Iterator[Tell]:
    """A bar on standard error where that is a terminal, over so many rows: share done, rows a second, time left."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    except ImportError:
        yield lambda _rows: None
        return
    console = Console(stderr=True)
    columns = (TextColumn("series"), BarColumn(), TaskProgressColumn(show_speed=True), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("series", total=rows)
        yield lambda taken: bar.update(task, advance=taken)


@contextmanager
def _processes(jobs: int) -> Iterator[Executor]:
    """Processes of which none is left afterwards; those that are still at work are ended if something is raised."""
    others = set(multiprocessing.active_children())
    processes = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
    try:
        yield processes
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        processes.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started meanwhile are deaf to Ctrl-C for good: this one ends them, and none tells a traceback."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _result(done: "Future[Judged]", name: str) -> Judged:
    try:
        return done.result()
    except BrokenProcessPool as error:
        raise HoldoverError(
            f"a process was killed while {name} waited, for lack of memory perhaps: try -j 1"
        ) from error
