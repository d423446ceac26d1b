"""What windows of a signal say of it: no ECG, or one that is to be doubted.

Judged in microvolts, outside the model, by what the windows up to now hold. A window's edge is a place on the sample
clock, so the verdict does not depend on how samples arrive; it holds from the window's end to the end of the next.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.alert import EndReason, Phase, PhaseName, Priority
from holdover.runtime.detect.limits import SignalLimits
from holdover.runtime.quality_measures import WINDOW_S, Array, Measures, Windows, mains_basis, measure, runs
from holdover.runtime.snapshot import Memory

MIN_RATE_HZ = 64.0
"""Slower signals are not judged: a window would be fewer than 16 samples, and no ECG is sampled so."""

MAINS_LEFT = 0.4
"""Of the amplitude of mains, what may be left when it is taken out: its frequency wanders, and inputs clip it."""

SPAN = 6
"""Windows in a row, 1.5 s, that a dead or noisy signal is seen in; with those that one may begin in, 1.75 s."""
AFTER_JUMP = 4
"""Quiet windows in a row after a jump that tell a lost electrode from one that was knocked."""
NEVER = 1 << 40

FLAT, MAINS, POP, NOISE = 3, 5, 6, 7
WINDOW_REASONS = {MAINS: "mains_only", POP: "electrode_pop", NOISE: "noise_only"}
"""Why a signal is unusable, beside a flat line; continued in `holdover.runtime.quality.REASONS`."""

DOUBTS = ("noise", "baseline_jump")
"""What is announced while detection goes on."""
NOISE_HOLD, JUMP_HOLD = 20, 8
"""Windows, 5 s and 2 s, for which a doubt is kept up after what raised it."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What windows say, from the end of each on: why the signal is unusable, or 0, and which doubts there are.

    Attributes
    ----------
    ends
        (windows,), places just after them.
    reasons
        (windows,), as `holdover.runtime.quality.REASONS` numbers them.
    doubts
        (windows, doubts), bool, in the order of `DOUBTS`.
    """

    ends: NDArray[np.int64]
    reasons: NDArray[np.int8]
    doubts: NDArray[np.bool_]


class Judge:
    """Says of each window whether the signal can be used, and what is doubtful about it.

    Parameters
    ----------
    rate_hz
        At least `MIN_RATE_HZ`.
    """

    def __init__(self, rate_hz: float) -> None:
        self.windows = Windows(round(WINDOW_S * rate_hz))
        self._basis = mains_basis(self.windows.length, rate_hz)
        self._lag = max(round(0.01 * rate_hz), 1)
        self._recent: Array | None = None
        self._runs: NDArray[np.int64] | None = None

    def push(self, at: int, x: NDArray[np.float32], limits: SignalLimits, flat_s: float) -> Verdicts:
        """Take samples (samples, channels), mV, NaN where missing; say what the windows that they end come to.

        A flat line is one of `flat_s`; 0 for never.
        """
        ends, windows = self.windows.push(at, x)
        if not len(ends):
            return Verdicts(ends, np.zeros(0, np.int8), np.zeros((0, len(DOUBTS)), bool))
        measures = measure(windows, self._basis, self._lag)
        if self._recent is None or self._runs is None:
            self._recent = np.full((3, SPAN - 1, x.shape[1]), np.nan)
            self._runs = np.zeros((len(_RUNS), x.shape[1]), np.int64)
            self._runs[_RUNS.index("still") :] = NEVER
        return Verdicts(ends, *self._judge(measures, limits, math.ceil(flat_s / WINDOW_S)))

    def _judge(self, m: Measures, limits: SignalLimits, flat: int) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        assert self._recent is not None
        n = len(m.level)
        low, high, level = recent = np.concatenate([self._recent, [m.low, m.high, m.level]], axis=1)
        self._recent = recent[:, n:].copy()
        last = np.arange(n)[:, np.newaxis] + np.arange(SPAN)
        span = min(flat, SPAN) or SPAN
        width = high[last[:, -span:]].max(axis=1) - low[last[:, -span:]].min(axis=1)
        mains = (m.mains >= limits.mains_uv) & (m.left <= limits.flat_uv + MAINS_LEFT * m.mains)
        flat_run, mains_run, quiet_run, loud_run, noise_run, still = self._run(
            0, width <= limits.flat_uv, mains, m.left < limits.quiet_uv, ~mains & (m.noise >= limits.noise_only_uv),
            ~mains & (m.noise >= limits.noise_uv), ~_jumped(m, level[last[:, :4]], 1e3 * limits.jump_mv),
        )  # fmt: skip
        (calm,) = self._run(len(_RUNS) - 1, noise_run < SPAN)
        reasons = np.zeros(n, np.int8)
        for reason, dead in (
            (NOISE, loud_run >= SPAN),
            (POP, (quiet_run >= AFTER_JUMP) & (still <= quiet_run + AFTER_JUMP)),
            (MAINS, mains_run >= SPAN),
            (FLAT, (flat_run > flat - span) & (flat > 0) & (m.most > m.least)),
        ):
            reasons[dead.any(axis=1)] = reason
        return reasons, np.stack([(calm < NOISE_HOLD).any(axis=1), (still < JUMP_HOLD).any(axis=1)], axis=1)

    def _run(self, first: int, *holds: NDArray[np.bool_]) -> NDArray[np.int64]:
        """For how many windows in a row each has held, (len(holds), windows, channels); carried from `first` on."""
        assert self._runs is not None
        part = slice(first, first + len(holds))
        run = runs(np.stack(holds, axis=1), self._runs[part])
        self._runs[part] = run[-1]
        return run.swapaxes(0, 1)

    def snapshot(self) -> Memory:
        """What is carried."""
        runs = None if self._runs is None else self._runs.copy()
        return {"windows": self.windows.snapshot(), "recent": self._recent, "runs": runs}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self.windows.restore(memory["windows"])
        runs = memory["runs"]
        self._recent, self._runs = memory["recent"], None if runs is None else runs.copy()


_RUNS = ("flat", "mains", "quiet", "loud", "noise", "still", "calm")


class Doubts:
    """Episodes of what is doubtful while detection goes on."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._open)

    def update(self, doubts: NDArray[np.bool_], at: int, may_start: bool) -> Iterator[Phase]:
        """What is doubtful from a place on, in the order of `DOUBTS`."""
        for label, doubted in zip(DOUBTS, doubts.tolist(), strict=True):
            if label in self._open and not doubted:
                yield technical(label, "end", self._open.pop(label), at, end=at, end_reason="recovered")
            elif doubted and may_start and label not in self._open:
                self._open[label] = at
                yield technical(label, "start", at, at, evidence={"detection": "goes on, beats may be wrong"})

    def end(self, at: int, reason: EndReason) -> Iterator[Phase]:
        """No more can be said, or something graver is."""
        opened, self._open = self._open, {}
        for label, onset in opened.items():
            yield technical(label, "end", onset, at, end=at, end_reason=reason)

    def snapshot(self) -> Memory:
        """What is carried."""
        return dict(self._open)

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave."""
        self._open = dict(memory)


def technical(label: str, phase: PhaseName, onset: int, at: int, priority: Priority = "low", **more: Any) -> Phase:
    """A phase of a technical alarm."""
    return Phase(label=label, phase=phase, onset=onset, at=at, kind="technical", priority=priority, **more)


def _jumped(m: Measures, before: Array, jump: float) -> NDArray[np.bool_]:
    """Whether all of a window is displaced from the median of the levels before it, (windows, 4, channels)."""
    before = np.sort(before, axis=1)
    baseline = (before[:, 1] + before[:, 2]) / 2
    return (m.least - baseline >= jump) | (baseline - m.most >= jump)
