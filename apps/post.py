"""One stream of a daemon: its source, its watch, and where it stands."""

import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from holdover.apps.config import Config, StreamOptions
from holdover.apps.feed import Feed, open_feed
from holdover.devices.sources.live import Live
from holdover.runtime.alert import Alert, Scene
from holdover.runtime.chunk import Chunk
from holdover.runtime.clock import SILENCE_S, Holdover
from holdover.runtime.detect.limits import Limits
from holdover.runtime.engine import Engine
from holdover.runtime.errors import HoldoverError, LedgerError, ModelError
from holdover.runtime.journal import Journal, JournalError
from holdover.runtime.ledger import Checkpoint, Ledger, LedgerFull
from holdover.runtime.link import LinkFacts
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.watch import Step, Watch, model_id
from holdover.runtime.wire import Open, StreamState, still_open, stream_state

log = logging.getLogger("holdover.daemon")

RETRY_S = 5.0
"""How long after a full disk saving is tried again, and the least time between two complaints of it."""

Item = Chunk | BaseException | None
"""What a reader thread hands over: a chunk, the error that ended it, or None at the end of the input."""


class Post:
    """A stream that is being watched, and its place in the ledger.

    A file is read on from its checkpoint. A live source is written to a journal first, and after a restart the journal
    is read from the checkpoint on, so that nothing is lost but what the sensor gave while nobody listened: that is
    announced as missing.
    """

    def __init__(self, options: StreamOptions, config: Config, engine: Engine, ledger: Ledger) -> None:
        self.id = options.id
        self._engine, self._ledger = engine, ledger
        self._limits = config.limits_of(options)
        self._every_s = config.ledger.checkpoint_s
        self.feed: Feed = open_feed(options.source, engine.contract, options.lead, paced=True)
        self.is_live = self.feed.source.length is None
        self._speed = None if self.is_live else options.speed
        self._journal = self._open_journal(config) if self.is_live else None
        self._watch: Watch | None = None
        self._clock: Holdover | None = None
        self._at = 0
        self._came = self._known = 0
        self._open: list[Open] = []
        self._unsaved: list[tuple[Alert, float | None]] = []
        self._saved_at = self._synced_at = time.monotonic()
        self._retry_at = 0.0
        self._told_at = -math.inf
        self._opened_at = 0.0
        self.ended = False
        self.failed: HoldoverError | None = None

    def _open_journal(self, config: Config) -> Journal:
        source = self.feed.source
        saved = self._ledger.checkpoint(self.id)
        return Journal(
            Path(config.ledger.path).with_suffix(".journal"), self.id, rate_hz=source.rate_hz,
            channels=self.feed.leads, units=self.feed.units, next_at_least=saved.at if saved else 0,
            max_mb=config.ledger.journal_mb,
        )  # fmt: skip

    def resume(self) -> None:
        """Take up the checkpoint, and of a live source the journal that follows it."""
        saved = self._ledger.checkpoint(self.id)
        if saved and saved.model_sha256 != self._engine.sha256:
            log.warning("%s: the checkpoint is another model's (%.8s): beginning anew", self.id, saved.model_sha256)
            saved = replace(saved, memory=b"") if self._journal else None
        if self._journal:
            self._resume_live(saved)
        elif saved and self._fits(saved):
            self._at = saved.at
            self._begin(saved.epoch, saved)
            log.info("%s: going on at sample %d", self.id, saved.at)
        else:
            self._begin(self.feed.source.epoch, None)

    def _fits(self, saved: Checkpoint) -> bool:
        """Whether a checkpoint is of this recording, and the recording can be read on from there."""
        try:
            same = unpack(saved.memory).get("recording") == self._recording
        except ValueError:
            same = False
        if not same:
            log.warning("%s: the checkpoint is of another recording: beginning anew", self.id)
            return False
        if not self.feed.source.seek(saved.at):
            log.warning("%s: cannot go on at sample %d: reading again from the start", self.id, saved.at)
            return False
        return True

    @property
    def _recording(self) -> list[Any]:
        """What tells a recording from another, as far as its source says."""
        source = self.feed.source
        return [source.name, source.rate_hz, list(self.feed.leads), source.length, source.epoch]

    def _resume_live(self, saved: Checkpoint | None) -> None:
        journal = self._journal
        assert journal is not None
        self._at = saved.at if saved else 0
        epoch = saved.epoch if saved else journal.epoch
        if epoch is None:
            return
        journal.epoch = epoch
        self._begin(epoch, saved)
        count = 0
        for number, chunk in journal.read(self._at):
            self._at, count = number + 1, count + 1
            self._take(chunk, arrived=chunk.arrived)
        self._save(resumed=True)
        silent_s = time.time() - journal.last_arrived if math.isfinite(journal.last_arrived) else 0.0
        rate_hz = self.feed.source.rate_hz
        self._clock = Holdover(rate_hz, journal.end + max(int(silent_s * rate_hz), 0))
        log.info("%s: %d journaled blocks taken up; silent for %.1f s", self.id, count, silent_s)

    def _begin(self, epoch: float | None, saved: Checkpoint | None) -> None:
        source = self.feed.source
        scene = Scene(
            stream=self.id, lead=self.feed.leads[0], rate_hz=source.rate_hz, epoch=epoch, model=model_id(self._engine)
        )
        self._watch = Watch(self._engine, scene, self._limits, self.is_live)
        if saved and saved.memory:
            try:
                memory = unpack(saved.memory)
                self._watch.restore(memory)
                self._open = msgspec.convert(memory["open"], list[Open])
            except (ValueError, KeyError, TypeError, ModelError) as error:
                log.warning("%s: the checkpoint cannot be read (%s): the memory begins anew", self.id, error)
                self._watch = Watch(self._engine, scene, self._limits, self.is_live)

    def start(self, hand_over: Callable[["Post", Item], None]) -> None:
        """Begin to read, in a thread that hands over what comes."""

        def read() -> None:
            end: Item = None
            try:
                for chunk in self.feed.chunks(self._speed):
                    hand_over(self, chunk)
            except Exception as error:  # whatever ends the reader is handed over, and told by the main loop
                end = error
            hand_over(self, end)

        threading.Thread(target=read, name=f"source-{self.id}", daemon=True).start()

    def take(self, item: Item) -> None:
        """Take what the reader handed over, and save what must be."""
        if isinstance(item, Chunk):
            self._chunk(item)
        else:
            self._end(item)
        self.tick()

    def _chunk(self, chunk: Chunk) -> None:
        if not self._journal:
            self._take(chunk, chunk.arrived)
            self._at = chunk.end
            return
        if self._watch is None and not self._first(chunk):
            return
        assert self._clock is not None
        before = self._clock.next
        chunk = self._clock.push(chunk, time.monotonic())
        if not len(chunk) and chunk.at <= before and not chunk.fault and self._at:
            return
        self._journaled(self._journal, chunk)

    def _journaled(self, journal: Journal, chunk: Chunk) -> None:
        try:
            self._at = journal.append(chunk) + 1
        except JournalError as error:
            self._complain(error)
        self._take(chunk, chunk.arrived)

    def _first(self, chunk: Chunk) -> bool:
        """Set the epoch, the Unix time of sample 0, by the first samples of a live source, or by its silence."""
        assert self._journal is not None
        now, rate_hz = time.monotonic(), self.feed.source.rate_hz
        self._opened_at = self._opened_at or now
        if not len(chunk) and now - self._opened_at < SILENCE_S:
            return False
        heard = chunk.arrived if len(chunk) and math.isfinite(chunk.arrived) else time.time()
        epoch = round(heard - (len(chunk) / rate_hz if len(chunk) else now - self._opened_at), 3)
        self._journal.epoch = epoch
        self._clock = Holdover(rate_hz)
        self._begin(epoch, None)
        if not len(chunk):
            self._journaled(self._journal, self._clock.push(chunk, self._opened_at))
        return True

    def _take(self, chunk: Chunk, arrived: float) -> None:
        assert self._watch is not None
        self._came = chunk.end
        self._keep(self._watch.push(chunk), arrived)

    def _keep(self, step: Step, arrived: float) -> None:
        self._known = step.until
        self._open = still_open(self._open, step.alerts)
        came = arrived if math.isfinite(arrived) else None
        self._unsaved += [(alert, came) for alert in step.alerts]

    def _end(self, error: BaseException | None) -> None:
        self.ended = True
        if error is not None:
            self.failed = error if isinstance(error, HoldoverError) else HoldoverError(f"{self.id}: {error!r}")
            log.error("%s: the source ended: %s", self.id, error)
        else:
            log.info("%s: the input has ended", self.id)
        if self._watch is not None and error is not None:
            none = np.empty((0, len(self.feed.leads)), np.float32)
            self._chunk(Chunk(0 if self.is_live else self._at, none, fault="source_failed"))
        if self._watch is not None:
            self._keep(self._watch.finish(), math.nan)
        self._saved_at = -math.inf

    def tick(self) -> None:
        """Save what is due: at once with alerts, else every checkpoint_s; the journal is synced every second."""
        now = time.monotonic()
        if self._journal and now - self._synced_at >= 1:
            self._synced_at = now
            try:
                self._journal.sync()
            except JournalError as error:
                self._complain(error)
        if now >= self._retry_at and (self._unsaved or now - self._saved_at >= self._every_s):
            self._save()

    def _save(self, resumed: bool = False) -> None:
        if self._watch is None:
            return
        epoch = self._watch.scene.epoch
        more = {"recording": self._recording, "open": msgspec.to_builtins(self._open)}
        memory = pack({**self._watch.snapshot(), **more})
        checkpoint = Checkpoint(self._engine.sha256, self._at, epoch, memory)
        try:
            if self._journal:
                self._journal.sync()
            self._ledger.commit(self.id, checkpoint, self._unsaved, resumed=resumed)
        except (LedgerFull, JournalError) as error:
            self._retry_at = time.monotonic() + RETRY_S
            self._complain(error)
            return
        self._unsaved = []
        self._saved_at = time.monotonic()
        if self._journal:
            self._journal.keep_from = self._at

    def _complain(self, error: LedgerError) -> None:
        """Say it, once in `RETRY_S`; what could not be saved is kept, and tried again after that time."""
        now = time.monotonic()
        if now - self._told_at >= RETRY_S:
            self._told_at = now
            log.error("%s; %d alert(s) of %s wait in memory", error, len(self._unsaved), self.id)

    def check_limits(self, limits: Limits | None) -> None:
        """Raise `ConfigError` where these cannot be set; None is fine."""
        if limits is not None and self._watch is not None:
            self._watch.check_limits(limits)

    def set_limits(self, limits: Limits) -> None:
        """Judge by other limits from now on."""
        self._limits = limits
        if self._watch:
            self._watch.set_limits(limits)

    @property
    def signal(self) -> bool:
        """Whether there is a signal that is being judged."""
        return not self.ended and self._watch is not None and self._watch.quality.running

    @property
    def lag_s(self) -> float | None:
        """How far what was judged lies behind what came, in seconds of signal; None before the first sample."""
        return round(max(self._came - self._known, 0) / self.feed.source.rate_hz, 3) if self._came else None

    @property
    def state(self) -> StreamState | None:
        """How the stream stands; None before the first sample."""
        if self._watch is None:
            return None
        alarms = [episode for episode in self._open if episode.label != "calibrating"]
        doubtful = any(episode.kind == "technical" for episode in alarms)
        return stream_state(
            alarms, rate_bpm=_tenth(self._watch.heart_rate_bpm) if self.signal else None,
            quality="lost" if not self.signal else "doubtful" if doubtful else "good",
            sample=self._known, time=self._watch.time(self._known),
            calibrating=self._watch.calibrating,
        )  # fmt: skip

    @property
    def link(self) -> LinkFacts | None:
        """What the link to a device has lost and measured; None for a file."""
        return self.feed.source.facts if isinstance(self.feed.source, Live) else None

    @property
    def waiting(self) -> int:
        """Alerts that are not saved yet."""
        return len(self._unsaved)

    def close(self) -> None:
        """Stop reading, save the memory, let go of the journal."""
        self.feed.source.close()
        self._save()
        if self._journal:
            try:
                self._journal.close()
            except JournalError as error:
                self._complain(error)


def _tenth(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
