"""Heart rate as monitors compute it, and its limits."""

from collections.abc import Iterator, Sequence

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.beat_rule import VENTRICULAR, BeatRule

INTERVALS = 12
SLOW_S = 1.2
FEWEST, RUN_MOST = 4, 8


def bpm_of(rr_s: float) -> float:
    """The rate of an RR interval in seconds, beats a minute."""
    return 60 / rr_s


def heart_rate_bpm(rr_s: Sequence[float], run: int = 0) -> float | None:
    """Mean rate over the last RR intervals, None while there are fewer than four.

    The last 12 intervals without the longest and the shortest; where the last three are all longer than 1.2 s, the
    last four alone; in a run of ventricular beats, its own, at most the last eight (as the manuals of Mindray and
    Philips monitors describe it).

    Parameters
    ----------
    rr_s
        RR intervals, the newest last, seconds.
    run
        How many of the last intervals lie between ventricular beats.

    Examples
    --------
    >>> heart_rate_bpm([0.8] * 12)
    75.0
    >>> heart_rate_bpm([0.8] * 8 + [1.5] * 4)
    40.0
    >>> heart_rate_bpm([0.8] * 8 + [0.4] * 4, run=4)
    150.0
    """
    if len(rr_s) < FEWEST:
        return None
    if run >= FEWEST:
        used = list(rr_s[-min(run, RUN_MOST) :])
    elif min(rr_s[-3:]) > SLOW_S:
        used = list(rr_s[-FEWEST:])
    elif len(rr_s) >= INTERVALS:
        used = sorted(rr_s[-INTERVALS:])[1:-1]
    else:
        used = list(rr_s)
    return round(bpm_of(sum(used) / len(used)), 3)


class Rate(BeatRule):
    """Tachycardia above and bradycardia below the limits.

    Over when the rate has been back inside by the hysteresis for `rate_back_s`, so that one that swings about a limit
    is one alarm.
    """

    labels = ("tachycardia", "bradycardia")
    carried = ("row", "inside")

    def forget(self) -> None:
        """See `BeatRule.forget`."""
        self.row = 0
        self.inside: list[int | None] = [None, None]

    @property
    def bpm(self) -> float | None:
        """The heart rate now, beats a minute."""
        return heart_rate_bpm(list(self.rr)[-INTERVALS:], max(self.row - 1, 0))

    def beat(self, beat: Annotation) -> Iterator[Phase]:
        """See `BeatRule.beat`."""
        self.row = self.row + 1 if beat.symbol in VENTRICULAR else 0
        if (bpm := self.bpm) is None:
            return
        limits, back = self.limits, self.limits.rate_hysteresis_bpm
        fast, slow = limits.tachycardia_bpm, limits.bradycardia_bpm
        yield from self._judge(0, bpm, fast, bpm > fast, bpm <= fast - back)
        yield from self._judge(1, bpm, slow, bpm < slow, bpm >= slow + back)

    def _judge(self, which: int, bpm: float, limit: float, beyond: bool, back: bool) -> Iterator[Phase]:
        assert self.last is not None
        episode, at = self.episodes[which], self.last
        if not back:
            self.inside[which] = None
        elif self.inside[which] is None:
            self.inside[which] = at
        if beyond and not episode:
            yield episode.start(at, at, None, rate_bpm=round(bpm, 1), limit_bpm=limit, rr_ms=self.rr_ms())

    def wait(self, now: int) -> Iterator[Phase]:
        """See `BeatRule.wait`."""
        ends = []
        for episode, since in zip(self.episodes, self.inside, strict=True):
            if episode and since is not None and (at := since + round(self.limits.rate_back_s * self.rate_hz)) < now:
                ends.append((at, since, episode))
        for at, since, episode in sorted(ends, key=lambda end: end[0]):
            yield episode.end(since, at, rate_bpm=self.bpm and round(self.bpm, 1))
