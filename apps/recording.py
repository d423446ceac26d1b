"""One recording through one watch: the work of a replay, in any process."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.apps.doubts import Doubts
from holdover.apps.feed import Feed, open_recording
from holdover.evaluate.event import Maker, alarm_note, maker_note
from holdover.evaluate.marks import rate_marks, rhythm_marks
from holdover.runtime.alert import Alert, ModelId, Scene
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.anomaly import Judged
from holdover.runtime.detect.limits import Limits
from holdover.runtime.engine import Engine
from holdover.runtime.watch import Watch, model_id

Progress = Callable[[int, float], None]
"""Told how many samples have been taken since it was last told, and what share of the recording they are."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a recording came to, on its own sample clock.

    `first` and `last` are the places of the first sample that was played and the one after the last; the delays are
    those of the `Watch`; `doubts` are sentences on what the recording cannot well be.
    """

    path: Path
    stream: str
    lead: str
    rate_hz: float
    first: int
    last: int
    annotations: list[Annotation]
    alerts: list[Alert]
    delay_s: float
    silence_s: float
    model: ModelId
    doubts: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Length of what was played."""
        return (self.last - self.first) / self.rate_hz


def play(
    path: Path,
    engine: Engine,
    *,
    lead: str | None = None,
    limits: Limits | None = None,
    options: Mapping[str, Any] | None = None,
    speed: float | None = None,
    progress: Progress = lambda _n, _share: None,
    stream: str | None = None,
    told: Callable[[Judged], None] | None = None,
) -> Result:
    """Stream a recording through a watch; raises `SourceError` where it cannot be read or lacks the lead."""
    options = dict(options or {})
    if speed:
        options["block_s"] = 0.2
    feed = open_recording(path, engine.contract, lead, **options)
    scene = Scene(
        stream=stream or stream_name(feed.source.name),
        lead=feed.leads[0],
        rate_hz=feed.source.rate_hz,
        epoch=feed.source.epoch,
        model=model_id(engine),
    )
    watch = Watch(engine, scene, limits, told=told)
    doubts = Doubts(scene.lead, scene.rate_hz)
    annotations: list[Annotation] = []
    alerts: list[Alert] = []
    first, last = None, 0
    for chunk in feed.chunks(speed):
        if first is None:
            first = last = chunk.at
        doubts.push(chunk.at, chunk.x)
        step = watch.push(chunk)
        annotations += step.annotations
        alerts += step.alerts
        progress(len(chunk), (chunk.end - last) / max((feed.source.length or chunk.end) - first, 1))
        last = max(last, chunk.end)
    step = watch.finish()
    feed.source.close()
    annotations += step.annotations
    return Result(
        path, scene.stream, scene.lead, scene.rate_hz, first or 0, last, annotations, alerts + step.alerts,
        watch.delay_s, watch.silence_delay_s, scene.model,
        tuple(doubts.said(annotations)) if feed.units[0] == "mV" else (),
    )  # fmt: skip


def stream_name(name: str) -> str:
    """A source's name as it can stand in a topic."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in name)[:64] or "stream"


def read_signal(path: Path, engine: Engine, lead: str | None, options: Mapping[str, Any]) -> NDArray[np.float32]:
    """The samples of the model's first lead, (samples,), in its unit; NaN where missing.

    Raises
    ------
    UsageError
        If that would be more than 500 million, holes included.
    """
    from holdover.runtime.errors import UsageError

    feed: Feed = open_recording(path, engine.contract, lead, **options)
    chunks = list(feed.chunks())
    feed.source.close()
    if not chunks:
        return np.empty(0, np.float32)
    count = max(c.end for c in chunks) - chunks[0].at
    if count > 500_000_000:
        hours = count / feed.source.rate_hz / 3600
        raise UsageError(f"{path}, {hours:.0f} hours, is too long to draw: give a range with -f and -t")
    x = np.full(count, np.nan, np.float32)
    for chunk in chunks:
        if chunk.at >= chunks[0].at:
            x[chunk.at - chunks[0].at : chunk.end - chunks[0].at] = chunk.x[:, 0]
    return x


def write_wfdb(folder: Path, record: str, annotations: Sequence[Annotation], extension: str, rate_hz: float) -> Path:
    """Write annotations as a WFDB annotation file, whole or not at all; returns its path.

    What stands at sample 0 is put at sample 1: wfdb drops a first note or mark of quality at sample 0.
    """
    import wfdb

    path = folder / f"{record}.{extension}"
    with whole(path) as part:
        if annotations:
            wfdb.wrann(
                part.stem, extension, np.array([max(a.at, 1) for a in annotations]),
                symbol=[a.symbol for a in annotations],
                subtype=np.array([a.subtype for a in annotations]), aux_note=[a.aux for a in annotations],
                fs=rate_hz, write_dir=str(folder),
            )  # fmt: skip
        else:
            part.write_bytes(b"\0\0")
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that is to be there whole or not at all: beside it, in a name of this process."""
    part = path.with_name(f"part{os.getpid()}{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path, pid: int) -> None:
    """Remove what a process that was ended had half written."""
    for part in folder.glob(f"part{pid}.*"):
        part.unlink(missing_ok=True)


def alarm_marks(result: Result) -> list[Annotation]:
    """A result's alerts as WFDB notes at the sample where each phase came true, the rhythm and the heart rate in WFDB's
    own marks, and last of all who judged. Irregular intervals are no rhythm where the model itself tells which it is.

    `holdover.evaluate.event` says how the notes are written, `holdover.evaluate.marks` the rest.
    """
    phases = [alert.phase for alert in result.alerts]
    marks = [Annotation(phase.at, '"', aux=alarm_note(phase)) for phase in phases]
    if any(mark.fibrillates is not None for mark in result.annotations):
        phases = [phase for phase in phases if phase.label != "irregular_rhythm"]
    marks += [*rhythm_marks(phases, result.last), *rate_marks(result.annotations, result.rate_hz)]
    marks.sort(key=lambda mark: mark.at)
    model = result.model
    maker = Maker(f"{model.name} {model.version} sha256:{model.sha256}", result.delay_s, result.silence_s)
    return [*marks, Annotation(max([result.last, *(mark.at for mark in marks[-1:])]), '"', aux=maker_note(maker))]
