"""`holdover devices record`: a source into a WFDB record while it streams, with its alarms as annotations."""

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdover.apps.device.options import source_of
from holdover.runtime.chunk import Chunk, Source
from holdover.runtime.clock import Holdover
from holdover.runtime.errors import SourceError, UsageError

if TYPE_CHECKING:
    from holdover.apps.device.listener import Listener
    from holdover.apps.device.wfdb_writer import Writer
    from holdover.runtime.alert import Alert

ENDINGS = ("hea", "dat", "blm", "alm", "edf")


def run(args: argparse.Namespace) -> int:
    """Record until the input ends, the time is over, or Ctrl-C; 0.

    Raises
    ------
    HoldoverError
        The source cannot be opened or read, its lead is not the model's, or nothing can be written.
    """
    from holdover.apps.device import edf_copy
    from holdover.apps.device.wfdb_writer import Writer
    from holdover.apps.feed import open_table

    if args.seconds is not None and not args.seconds > 0:
        raise UsageError("--seconds is above 0")
    place = _place(args.output)
    if args.edf:
        edf_copy.library()
    source = open_table(source_of(args))
    try:
        listener = _listener(args, source, place)
        with _disk(place):
            writer = Writer(place, source)
            try:
                _stream(_placed(source, writer), writer, listener, _length(args.seconds, source))
            finally:
                writer.close()
            if not writer.count:
                raise SourceError("no sample came, nothing was recorded: is the sensor on, and is anything sent?")
            if listener:
                _tell_alerts(listener.finish())
            if args.edf:
                edf_copy.write(place, listener.result.alerts if listener else [])
    finally:
        source.close()
    _tell(place, writer, source.rate_hz)
    return 0


def _listener(args: argparse.Namespace, source: Source, place: Path) -> "Listener | None":
    if args.no_alarms:
        return None
    from holdover.apps.device.listener import Listener

    return Listener(source, args.model, args.lead, place)


def _length(seconds: float | None, source: Source) -> float:
    return math.inf if seconds is None else round(seconds * source.rate_hz)


def _placed(source: Source, writer: "Writer") -> Iterator[Chunk]:
    """The source's chunks from the first sample on, which gets place 0; a live source's silence is missing samples."""
    clock: Holdover | None = None
    for chunk in source.chunks():
        if clock is None:
            if not len(chunk):
                continue
            clock = Holdover(source.rate_hz, -chunk.at, math.inf if source.length is not None else 2.0)
            came = chunk.arrived - len(chunk) / source.rate_hz
            writer.begin(came if source.epoch is None else source.epoch + chunk.at / source.rate_hz)
        yield clock.push(chunk, time.monotonic())


def _stream(chunks: Iterable[Chunk], writer: "Writer", listener: "Listener | None", length: float) -> None:
    """Chunks to the file and to the model, until there are so many samples; Ctrl-C ends it as the end of input does."""
    told = time.monotonic()
    shown = sys.stderr.isatty()
    with suppress(KeyboardInterrupt):
        for chunk in chunks:
            kept = _until(chunk, length)
            writer.push(kept)
            _tell_alerts(listener.push(kept) if listener else [])
            if shown and time.monotonic() - told > 0.5:
                told = time.monotonic()
                print(f"\r{writer.count:,} samples; Ctrl-C ends it", end="", file=sys.stderr, flush=True)
            if chunk.end >= length:
                break
    if shown:
        print("\r" + " " * 50 + "\r", end="", file=sys.stderr, flush=True)


def _until(chunk: Chunk, length: float) -> Chunk:
    """The part of a chunk that lies before the end."""
    if chunk.end <= length:
        return chunk
    keep = max(int(length) - chunk.at, 0)
    off = None if chunk.lead_off is None else chunk.lead_off[:keep]
    return replace(chunk, at=min(chunk.at, int(length)), x=chunk.x[:keep], lead_off=off)


def _place(output: str) -> Path:
    """Where the record goes; a name that WFDB cannot have, or files that are there, are refused."""
    place = Path(output).expanduser()
    if not place.name or not all(c.isascii() and (c.isalnum() or c in "_-") for c in place.name):
        raise UsageError(f"{place.name!r} cannot be a record's name: letters, digits, _ and -, without an extension")
    for ending in ENDINGS:
        if place.with_name(f"{place.name}.{ending}").exists():
            raise UsageError(f"{place}.{ending} is there already: give another name with -o, or remove it")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder {place.parent}: {error.strerror}") from error
    return place


@contextmanager
def _disk(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"cannot write {place}: {why}; what was synced before stands") from error


def _tell_alerts(alerts: "list[Alert]") -> None:
    for alert in alerts:
        p = alert.phase
        if p.phase == "start":
            print(f"{p.at / alert.scene.rate_hz:9.1f} s  {p.priority:<6} {p.label.replace('_', ' ')}", flush=True)


def _tell(place: Path, writer: "Writer", rate_hz: float) -> None:
    print(f"{place}: {writer.count:,} samples, {writer.count / rate_hz:,.1f} s")
    if writer.clipped:
        print(f"{writer.clipped:,} values were too large for the file and cut: is the unit right?")
    if writer.dropped:
        print(f"{writer.dropped:,} samples came twice or late, and were left out")
