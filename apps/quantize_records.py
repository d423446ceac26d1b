"""The recordings of a quantization: read at the model's rate, judged by their reference where they have one."""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from holdover.apps.feed import open_recording
from holdover.devices.sources import kind_of, records_in
from holdover.quantize.gate import Beats, Score
from holdover.runtime.contract import Contract
from holdover.runtime.engine import Engine
from holdover.runtime.errors import SourceError, UsageError
from holdover.runtime.resample import Resampler

Array = NDArray[np.float32]

CLASSES = {"Q": "Q", "V": "V", "S": "S"}
HELD_OUT_PART = 4
"""One record of so many is held out where none is named."""


def split(calibrate: Sequence[str], held_out: Sequence[str] | None) -> tuple[list[Path], list[Path]]:
    """Records to calibrate on, and those to judge by.

    Raises
    ------
    UsageError
        One record alone cannot be both, and none may be in both lists.
    """
    ranges = _paths(calibrate)
    if held_out:
        judging = _paths(held_out)
        if both := sorted({p.stem for p in ranges} & {p.stem for p in judging}):
            raise UsageError(f"{', '.join(both)} is calibrated on and held out; a model is judged by records that it "
                             "has not seen")  # fmt: skip
        return ranges, judging
    if len(ranges) < 2:
        raise UsageError("one recording cannot be calibrated on and judged by: name another with --held-out, or two "
                         "with --calibrate")  # fmt: skip
    count = -(-len(ranges) // HELD_OUT_PART)
    return ranges[:-count], ranges[-count:]


def _paths(records: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for record in records:
        found += records_in(record) if Path(record).is_dir() else [Path(record)]
    return list(dict.fromkeys(found))


def read_records(
    paths: Sequence[Path], contract: Contract, args: argparse.Namespace, seconds: float | None
) -> dict[str, Array]:
    """The signals by record, (samples, channels), at the model's rate and in its unit, stretches without data left out.

    Raises
    ------
    SourceError
        A record cannot be read, or lacks the lead.
    """
    found = {}
    for path in paths:
        if path.stem in found:
            raise UsageError(f"two records are called {path.stem}; give them other names")
        found[path.stem] = _read(path, contract, args, seconds)
    return found


def _read(path: Path, contract: Contract, args: argparse.Namespace, seconds: float | None) -> Array:
    feed = open_recording(path, contract, args.lead, **_options(path, args))
    rate_hz = contract.signal.rate_hz
    try:
        resampler = Resampler(feed.source.rate_hz, rate_hz, len(contract.signal.channels))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    parts: list[Array] = []
    samples = 0
    try:
        for chunk in feed.chunks():
            x = np.ascontiguousarray(chunk.x[np.isfinite(chunk.x).all(axis=1)], np.float32)
            parts.append(resampler.push(x))
            samples += len(parts[-1])
            if seconds and samples >= seconds * rate_hz:
                break
    finally:
        feed.source.close()
    if not parts or not samples:
        raise SourceError(f"{path} holds no finite samples; expected a recording")
    return np.concatenate(parts)[: round(seconds * rate_hz) if seconds else None]


def _options(path: Path, args: argparse.Namespace) -> dict[str, object]:
    if kind_of(path) not in ("csv", "npz"):
        return {}
    return {k: v for k, v in {"rate_hz": args.rate, "unit": args.unit}.items() if v is not None}


def judged_by(paths: Sequence[Path], contract: Contract, args: argparse.Namespace) -> Score | None:
    """What a model decides on records; None for a model that finds no beats."""
    if contract.by_meaning("event_logit") is None:
        return None

    def score(engine: Engine) -> Mapping[str, Beats]:
        with tempfile.TemporaryDirectory() as folder:
            return {path.stem: _beats(path, engine, args, Path(folder)) for path in paths}

    return score


def _beats(path: Path, engine: Engine, args: argparse.Namespace, folder: Path) -> Beats:
    from holdover.apps import recording

    result = recording.play(path, engine, lead=args.lead, options=_options(path, args))
    beats = sorted((a for a in result.annotations if a.is_beat), key=lambda a: a.at)
    starts = [a.phase for a in result.alerts if a.phase.phase == "start"]
    return Beats(
        np.array([a.at for a in beats]) / result.rate_hz,
        tuple(a.symbol for a in beats),
        tuple((p.label, p.onset / result.rate_hz) for p in starts),
        _counts(path, result, args, folder),
    )


def _counts(path: Path, result: object, args: argparse.Namespace, folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """Hits and misses of each class against the reference, as EC57 counts them; nothing without a reference."""
    from holdover.apps.recording import Result, write_wfdb
    from holdover.evaluate.figures import record_figures
    from holdover.evaluate.scorecard import Terms, score_record

    assert isinstance(result, Result)
    reference = Path(args.ref or path.parent) / path.stem
    if not reference.with_suffix(f".{args.annotator}").is_file():
        return {}
    write_wfdb(folder, path.stem, result.annotations, "blm", result.rate_hz)
    rates = record_figures(score_record(folder / path.stem, reference, Terms(annotator=args.annotator)).counts["bxb"])
    found = {}
    for name, letter in CLASSES.items():
        se, pp = rates[f"{letter} Se"], rates[f"{letter} +P"]
        found[name] = (int(se["part"]), int(se["whole"]), int(pp["part"]), int(pp["whole"]))
    return found


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line that moves on standard error where that is a terminal: what is done, and for how long."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield lambda _what: None
        return
    console = Console(file=sys.stderr)
    columns = (TextColumn("quantize"), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda what: bar.update(task, description=what)
