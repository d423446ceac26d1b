"""The model that listens along while a source is recorded, and the annotation files of what it says."""

import time
from pathlib import Path

from holdover.apps.feed import Feed
from holdover.apps.model.shipped import find_model
from holdover.apps.recording import Result, alarm_marks, write_wfdb
from holdover.runtime.alert import Alert, Scene
from holdover.runtime.annotation import Annotation
from holdover.runtime.chunk import Chunk, Source
from holdover.runtime.engine import load
from holdover.runtime.watch import Step, Watch, model_id

ANNOTATE_S = 60.0
"""How often the annotation files are written anew, each whole."""


class Listener:
    """A watch over a source; its annotations as NAME.blm, its alarms as NAME.alm."""

    def __init__(self, source: Source, model: str | None, lead: str | None, place: Path) -> None:
        self._place = place
        engine = load(find_model(model))
        self._feed = Feed(source, engine.contract, lead)
        scene = Scene(
            stream=place.name[:64], lead=self._feed.leads[0], rate_hz=source.rate_hz, epoch=source.epoch,
            model=model_id(engine),
        )  # fmt: skip
        self._watch = Watch(engine, scene)
        self._last = 0
        self._annotations: list[Annotation] = []
        self._alerts: list[Alert] = []
        self._written = time.monotonic()

    def push(self, chunk: Chunk) -> list[Alert]:
        """Listen to a chunk; what is raised by it."""
        step = self._watch.push(self._feed.fit(chunk))
        self._last = max(self._last, chunk.end)
        self._keep(step)
        if time.monotonic() - self._written > ANNOTATE_S:
            self.write()
        return step.alerts

    def finish(self) -> list[Alert]:
        """The input has ended: what is left is said, and all is written."""
        step = self._watch.finish()
        self._keep(step)
        self.write()
        return step.alerts

    def write(self) -> None:
        """Write both annotation files."""
        self._written = time.monotonic()
        result = self.result
        for marks, extension in ((result.annotations, "blm"), (alarm_marks(result), "alm")):
            write_wfdb(self._place.parent, self._place.name, marks, extension, result.rate_hz)

    @property
    def result(self) -> Result:
        """What was said so far."""
        watch, scene = self._watch, self._watch.scene
        return Result(
            self._place, scene.stream, scene.lead, scene.rate_hz, 0, self._last, self._annotations, self._alerts,
            watch.delay_s, watch.silence_delay_s, scene.model,
        )  # fmt: skip

    def _keep(self, step: Step) -> None:
        self._annotations += step.annotations
        self._alerts += step.alerts
