"""Ventricular beats in a row: couplet, run, tachycardia."""

from collections.abc import Iterator, Sequence

from holdover.runtime.alert import EndReason, Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.episode import Episode
from holdover.runtime.detect.limits import Limits
from holdover.runtime.snapshot import Memory

VENTRICULAR = frozenset("VEr")
SHOWN = 10
"""Beats of a run whose places are kept as evidence; a run may be hours long."""


class Ventricular:
    """Couplet (exactly 2), run (`run_beats` or more), tachycardia (`vt_beats` or more at `vt_bpm` or faster).

    Counts after EC57 (couplet 2, short run 3 to 5, long run 6 or more); tachycardia after the Computing in Cardiology
    Challenge 2015: five ventricular beats at more than 100/min. The rate is the mean over the run. A run that becomes a
    tachycardia is superseded by it.
    """

    def __init__(self, rate_hz: float, limits: Limits) -> None:
        self.rate_hz = rate_hz
        self.limits = limits
        self._row: list[int] = []
        self._beats = self._last = 0
        self._score = 1.0
        self._couplet = Episode("ventricular_couplet", "low")
        self._run = Episode("ventricular_run", "medium")
        self._vt = Episode("ventricular_tachycardia", "high", latched=True)

    def update(self, beats: Sequence[Annotation], until: int) -> Iterator[Phase]:  # noqa: ARG002 (beats alone decide)
        """See `Rule.update`."""
        for beat in beats:
            if beat.symbol in VENTRICULAR:
                yield from self._longer(beat)
            else:
                yield from self._over(beat.at)

    def _longer(self, beat: Annotation) -> Iterator[Phase]:
        if len(self._row) < SHOWN:
            self._row.append(beat.at)
        self._beats, self._last = self._beats + 1, beat.at
        self._score = min(self._score, beat.score)
        n, onset, limits = self._beats, self._row[0], self.limits
        if n >= limits.vt_beats and self._bpm() >= limits.vt_bpm and not self._vt:
            if self._run:
                yield self._run.end(beat.at, beat.at, "superseded")
            yield self._vt.start(onset, beat.at, self._score, **self._evidence())
        elif n >= limits.run_beats and not self._run and not self._vt:
            yield self._run.start(onset, beat.at, self._score, **self._evidence())

    def _over(self, at: int) -> Iterator[Phase]:
        if self._beats == 2:
            yield self._couplet.start(self._row[0], at, self._score, **self._evidence())
            yield self._couplet.end(self._last, at)
        yield from self._close(at, "recovered")

    def _close(self, at: int, reason: EndReason) -> Iterator[Phase]:
        for episode in (self._run, self._vt):
            if episode:
                yield episode.end(self._last, at, reason, **self._evidence())
        self._row, self._beats, self._last, self._score = [], 0, 0, 1.0

    def interrupt(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:  # noqa: ARG002 (ends at its last beat)
        """See `Rule.interrupt`."""
        yield from self._close(at, reason)

    def _bpm(self) -> float:
        return 60 * self.rate_hz * (self._beats - 1) / (self._last - self._row[0])

    def _evidence(self) -> dict[str, float | list[int]]:
        return {"beats": self._beats, "rate_bpm": round(self._bpm(), 1), "beat_samples": list(self._row)}

    def snapshot(self) -> Memory:
        """What is carried."""
        row = {"row": list(self._row), "beats": self._beats, "last": self._last, "score": self._score}
        return row | {"run": self._run.onset, "vt": self._vt.onset}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._row, self._beats = list(memory["row"]), memory["beats"]
        self._last, self._score = memory["last"], memory["score"]
        self._run.onset, self._vt.onset = memory["run"], memory["vt"]
