"""What windows of a signal say of it: no ECG, or one that is to be doubted.

Judged in microvolts, outside the model, by what the windows up to now hold. A window's edge is a place on the sample
clock, so the verdict does not depend on how samples arrive; it holds from the window's end to the end of the next.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.detect.limits import Limits, SignalLimits
from holdover.runtime.quality_episodes import DOUBTS
from holdover.runtime.quality_measures import (
    NEVER,
    WINDOW_S,
    Array,
    Measures,
    Windows,
    mains_basis,
    measure,
    revived,
    runs,
)  # fmt: skip
from holdover.runtime.snapshot import Memory

MIN_RATE_HZ = 64.0
"""Slower signals are not judged: a window would be fewer than 16 samples, and no ECG is sampled so."""

MAINS_LEFT = 0.4
"""Of the amplitude of mains, what may be left when it is taken out: its frequency wanders, and inputs clip it."""

SPAN = 6
"""Windows in a row, 1.5 s, that a dead or noisy signal is seen in; with those that one may begin in, 1.75 s."""
AFTER_JUMP = 4
"""Quiet windows in a row after a jump that tell a lost electrode from one that was knocked."""
POP_MOST = 44
"""So many quiet windows after a jump, 11 s, are no longer laid to it: the heart may have stopped."""
AGAIN, WITHIN = 13, 40
"""A line that beats have just kept from being flat is so only after 3.25 s, for 10 s: the heart may be slow."""
AFTER_T_S, AFTER_BEAT_S = 0.75, 1.5
"""So much sooner than an asystole both are found: a flat line begins after a T wave, an electrode is lost at any time
between two beats, and windows begin where the clock says."""
DRIFT = 10
"""Windows, 2.5 s, for which a dead line that drifts must drift one way; with 14 breaths a minute it turns sooner."""

FLAT, MAINS, POP, NOISE = 3, 5, 6, 7
WINDOW_REASONS = {MAINS: "mains_only", POP: "electrode_pop", NOISE: "noise_only"}
"""Why a signal is unusable, beside a flat line; continued in `holdover.runtime.quality.REASONS`."""

NOISE_HOLD, JUMP_HOLD, QUIET_HOLD = 20, 20, 40
"""Windows, 5 s and 10 s, for which a doubt is kept up after what raised it."""


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

    def push(self, at: int, x: NDArray[np.float32], signal: SignalLimits, limits: Limits) -> Verdicts:
        """Take samples (samples, channels), mV, NaN where missing; say what the windows that they end come to."""
        ends, windows = self.windows.push(at, x)
        if not len(ends):
            return Verdicts(ends, np.zeros(0, np.int8), np.zeros((0, len(DOUBTS)), bool))
        measures = measure(windows, self._basis, self._lag)
        if self._recent is None or self._runs is None:
            self._recent = np.full((4, SPAN - 1, x.shape[1]), np.nan)
            self._runs = np.zeros((len(_RUNS), x.shape[1]), np.int64)
            self._runs[_RUNS.index("still") :] = NEVER
        return Verdicts(ends, *self._judge(measures, signal, limits))

    def _judge(self, m: Measures, signal: SignalLimits, limits: Limits) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        assert self._recent is not None
        n = len(m.level)
        low, high, left, level = recent = np.concatenate([self._recent, [m.low, m.high, m.left, m.level]], axis=1)
        self._recent = recent[:, n:].copy()
        last = np.arange(n)[:, np.newaxis] + np.arange(SPAN)
        times = _Times.of(limits)
        part = last[:, -times.span :]
        within = high[part].max(axis=1) - low[part].min(axis=1) <= signal.flat_uv
        straight = _width(level[last], left[last]) <= signal.flat_uv
        step = m.level - level[last[:, -2]]
        mains = (m.mains >= signal.mains_uv) & (m.left <= signal.flat_uv + MAINS_LEFT * m.mains)
        mains_run, quiet_run, loud_run, noise_run, straight_run, up, down, still = self._run(
            "mains", mains, m.left < signal.quiet_uv, ~mains & (m.noise >= signal.noise_only_uv),
            ~mains & (m.noise >= signal.noise_uv), straight, step > 0, step < 0,
            ~_jumped(m, level[last[:, :4]], 1e3 * signal.jump_mv),
        )  # fmt: skip
        drifts = (straight_run > times.drift - SPAN) & (np.maximum(up, down) >= times.drift - 1)
        flat, late = self._flat(within, times)
        flat, late = (flat | drifts) & (m.most > m.least), (late | drifts) & (m.most > m.least)
        calm, lively = self._run("calm", noise_run < SPAN, ~flat)
        popped = (quiet_run >= AFTER_JUMP) & (quiet_run < POP_MOST) & (still <= quiet_run + AFTER_JUMP)
        reasons = np.zeros(n, np.int8)
        for reason, dead in ((NOISE, loud_run >= SPAN), (POP, popped), (MAINS, mains_run >= SPAN), (FLAT, late)):
            reasons[dead.any(axis=1)] = reason
        doubts = (calm < NOISE_HOLD, still < JUMP_HOLD, lively < QUIET_HOLD)
        return reasons, np.stack([doubt.any(axis=1) for doubt in doubts], axis=1)

    def _flat(self, within: NDArray[np.bool_], times: "_Times") -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether each window ends a flat line, and one that is long enough where beats have just broken one."""
        assert self._runs is not None
        before, alive = self._runs[0].copy(), self._runs[-1]
        (run,) = self._run("flat", within)
        late, since = revived(run, before, times.flat - times.span + 1, times.again - times.span + 1, WITHIN, alive)
        self._runs[-1] = since[-1]
        return run > times.flat - times.span, late

    def _run(self, first: str, *holds: NDArray[np.bool_]) -> NDArray[np.int64]:
        """For how many windows in a row each has held, (len(holds), windows, channels); carried from `first` on."""
        assert self._runs is not None
        part = slice(_RUNS.index(first), _RUNS.index(first) + len(holds))
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


_RUNS = ("flat", "mains", "quiet", "loud", "noise", "straight", "up", "down", "still", "calm", "lively", "alive")


@dataclass(frozen=True, slots=True)
class _Times:
    """How many windows a flat line takes, those that are looked at together, and those of a line that is not as clear.

    Attributes
    ----------
    flat, span
        A flat line; `NEVER` for none.
    again
        One that beats have just broken.
    drift
        A line that drifts.
    """

    flat: int
    span: int
    again: int
    drift: int

    @classmethod
    def of(cls, limits: Limits) -> "_Times":
        flat = math.ceil(limits.flat_s / WINDOW_S)
        if not flat:
            return cls(NEVER, SPAN, NEVER, NEVER)
        most = {
            name: max(min(windows, math.floor((limits.asystole_s - since_beat) / WINDOW_S)), flat, SPAN)
            for name, windows, since_beat in (("again", AGAIN, AFTER_T_S), ("drift", DRIFT, AFTER_BEAT_S))
        }
        return cls(flat, min(flat, SPAN), **most)


def _jumped(m: Measures, before: Array, jump: float) -> NDArray[np.bool_]:
    """Whether all of a window is displaced from the median of the levels before it, (windows, 4, channels)."""
    before = np.sort(before, axis=1)
    baseline = (before[:, 1] + before[:, 2]) / 2
    return (m.least - baseline >= jump) | (baseline - m.most >= jump)


def _width(level: Array, left: Array) -> Array:
    """Peak to peak of what no straight line over windows explains, of (windows, span, channels) (windows, channels)."""
    t = np.arange(level.shape[1])[:, np.newaxis] - (level.shape[1] - 1) / 2
    slope = (level * t).sum(axis=1, keepdims=True) / max(float(np.square(t).sum()), 1.0)
    rest = level - level.mean(axis=1, keepdims=True) - slope * t
    return np.asarray((rest + left / 2).max(axis=1) - (rest - left / 2).min(axis=1))
