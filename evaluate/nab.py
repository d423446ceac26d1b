"""The arithmetic of the Numenta Anomaly Benchmark: what alerts in a labelled series are worth, and the best threshold.

A labelled window is found by its earliest alert, and the earlier the more that is worth; an alert outside costs, less
if it comes soon after a window. One threshold holds for all series of a corpus. From: Lavin and Ahmad, "Evaluating
Real-time Anomaly Detection Algorithms - the Numenta Anomaly Benchmark", ICMLA 2015, and what the benchmark's version
1.1 computes where the paper leaves room (the offsets by one in a window, and the normalised worth of an alert).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PROBATION_SHARE, PROBATION_ROWS = 0.15, 750
FAR = 3.0
NO_ALERTS = math.inf


class Profile(NamedTuple):
    """What a window found, a window missed and a false alert count."""

    name: str
    found: float
    missed: float
    false: float


PROFILES = (
    Profile("standard", 1.0, 1.0, 0.11),
    Profile("reward_low_FP_rate", 1.0, 1.0, 0.22),
    Profile("reward_low_FN_rate", 1.0, 2.0, 0.11),
)


class Tally(NamedTuple):
    """The score of one series (or the sum of several) before it is normalised, its rows by kind, and windows found.

    `tp` and `fp` are rows with an alert in and outside of windows, `tn` and `fn` those without; `score` is better when
    high, and may be negative.
    """

    score: float
    tp: int
    tn: int
    fp: int
    fn: int
    found: int


class Best(NamedTuple):
    """The threshold with the highest score: a row whose anomaly score is at least so high is an alert."""

    threshold: float
    score: float


@dataclass(frozen=True)
class Labels:
    """The labelled windows of one series of `rows` rows: first and last row of each, in order, without overlap."""

    rows: int
    windows: tuple[tuple[int, int], ...]

    @property
    def probation(self) -> int:
        """Rows at the beginning in which a detector may learn: their alerts count nothing."""
        return math.floor(min(PROBATION_SHARE * self.rows, PROBATION_ROWS))

    @cached_property
    def window(self) -> NDArray[np.int64]:
        """(rows,), the window that each row lies in; -1: none."""
        inside = np.full(self.rows, -1)
        for number, (first, last) in enumerate(self.windows):
            inside[first : last + 1] = number
        return inside

    @cached_property
    def worth(self) -> NDArray[np.float64]:
        """(rows,), what an alert is worth there, unweighted: 0 to 1 in a window, -1 to 0 outside."""
        worth = np.full(self.rows, -1.0)
        for number, (first, last) in enumerate(self.windows):
            end = self.windows[number + 1][0] if number + 1 < len(self.windows) else self.rows
            width = last - first + 1
            inside, after = np.arange(first, last + 1), np.arange(last + 1, end)
            worth[inside] = scaled_sigmoid((inside - last - 1) / width) / scaled_sigmoid(np.array(-1.0))
            worth[after] = scaled_sigmoid((after - last) / max(width - 1, 1))
        return worth

    @cached_property
    def counted(self) -> tuple[NDArray[np.int64], ...]:
        """The rows of each window that come after the probation; a window that has none counts nothing."""
        rows = (np.flatnonzero(self.window == number) for number in range(len(self.windows)))
        late = (inside[inside >= self.probation] for inside in rows)
        return tuple(inside for inside in late if inside.size)


def scaled_sigmoid(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """What an alert is worth by its place: -1 at the left edge of a window, 0 at the right, beyond 3 as good as far.

    Equation 1 of the paper with A_TP = 1 and A_FP = 1 (the slope of 5 is the benchmark's).
    """
    return np.where(y > FAR, -1.0, 2 / (1 + np.exp(5 * np.minimum(y, FAR))) - 1)


def tally(labels: Labels, alerts: NDArray[np.bool_], profile: Profile) -> Tally:
    """Score the alerts, (rows,), of one series.

    Examples
    --------
    >>> labels = Labels(rows=100, windows=((40, 59),))
    >>> alerts = np.isin(np.arange(100), [3, 50, 51, 70])  # in the probation, twice in the window, after it
    >>> scored = tally(labels, alerts, PROFILES[0])
    >>> round(scored.score, 4), scored[1:]
    (0.7613, (2, 64, 1, 18, 1))
    """
    counted = alerts.copy()
    counted[: labels.probation] = False
    outside = labels.window < 0
    false = counted & outside
    score = profile.false * float(labels.worth[false].sum())
    hits = [rows[counted[rows]] for rows in labels.counted]
    score += sum(profile.found * float(labels.worth[hit[0]]) if hit.size else -profile.missed for hit in hits)
    tp, fp = int((counted & ~outside).sum()), int(false.sum())
    beyond = outside[labels.probation :]
    found = sum(hit.size > 0 for hit in hits)
    return Tally(score, tp, int(beyond.sum()) - fp, fp, int((~beyond).sum()) - tp, found)


def total(tallies: Sequence[Tally]) -> Tally:
    """Sum over series, of which there must be one."""
    score, *counts = map(sum, zip(*tallies, strict=True))
    return Tally(score, *counts)


def normalised(score: float, windows: int, profile: Profile) -> float:
    """Scale a sum over a corpus with so many windows: no alert at all is 0, each window at its first row is 100.

    Below 0 is worse than silence. NaN where there is no window.
    """
    if not windows:
        return math.nan
    null, perfect = -profile.missed * windows, profile.found * windows
    return 100 * (score - null) / (perfect - null)


def best_threshold(corpus: Mapping[str, Labels], scores: Mapping[str, NDArray[np.float64]], profile: Profile) -> Best:
    """Find the one threshold for all series with the highest sum of scores, as NAB does: it tries each score there is.

    Where several are as good, the highest. `NO_ALERTS` if it is best to say nothing.
    """
    levels, gains = map(np.concatenate, zip(*_steps(corpus, scores, profile), strict=True))
    null = -profile.missed * sum(len(labels.counted) for labels in corpus.values())
    order = np.argsort(-levels, kind="stable")
    level, reached = levels[order], null + np.cumsum(gains[order])
    whole = np.append(level[1:] != level[:-1], True)
    candidates, sums = np.append(NO_ALERTS, level[whole]), np.append(null, reached[whole])
    best = int(sums.argmax())
    return Best(float(candidates[best]), float(sums[best]))


def _steps(
    corpus: Mapping[str, Labels], scores: Mapping[str, NDArray[np.float64]], profile: Profile
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """What the sum gains as the threshold comes down to each row's score."""
    steps = [(np.empty(0), np.empty(0))]
    for name, labels in corpus.items():
        score = scores[name]
        outside = np.flatnonzero(labels.window < 0)
        outside = outside[outside >= labels.probation]
        steps.append((score[outside], profile.false * labels.worth[outside]))
        for rows in labels.counted:
            falling = rows[np.argsort(-score[rows], kind="stable")]
            earliest = np.maximum.accumulate(np.append(-profile.missed, profile.found * labels.worth[falling]))
            steps.append((score[falling], np.diff(earliest)))
    return steps
