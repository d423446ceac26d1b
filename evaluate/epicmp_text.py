"""Reports of an episode-by-episode comparison, character for character as `epicmp` writes them."""

from dataclasses import dataclass
from typing import Literal

from holdover.evaluate.annotations import AnnotationPair
from holdover.evaluate.epicmp import EpisodeScore
from holdover.evaluate.period import clock

_ZERO = "       0.000"


def heading(kind: Literal["AF", "VF"]) -> str:
    """First lines of a file of line-format reports."""
    return f"({kind} detection)\nRecord  TPs   FN  TPp   FP  ESe E+P DSe D+P  Ref duration  Test duration \n"


@dataclass(frozen=True)
class EpisodeReport:
    """A comparison of episodes and its texts."""

    pair: AnnotationPair
    score: EpisodeScore
    kind: Literal["AF", "VF"]

    def standard(self) -> str:
        """The report without `-l`."""
        lines = [
            f"{self.kind} episode-by-episode comparison results for record {self.pair.record}",
            f"Reference annotator: {self.pair.reference.annotator}",
            f"     Test annotator: {self.pair.test.annotator}",
            "",
            f"           Episode sensitivity:{self._episodes(0)}",
            f" Episode positive predictivity:{self._episodes(1)}",
            f"          Duration sensitivity:{self._durations(0)}",
            f"Duration positive predictivity:{self._durations(1)}",
            f"Duration of reference episodes:  {self._clock(self.score.reference.duration)}",
            f"     Duration of test episodes:  {self._clock(self.score.test.duration)}",
        ]
        return "\n".join(lines) + "\n"

    def line(self) -> str:
        """The report of `-l` or `-L`, without its heading."""
        reference, test = self.score.reference, self.score.test
        counts = " ".join(f"{n:4d}" for n in (reference.match, reference.mismatch, test.match, test.mismatch))
        rates = [_bare(tally.match, tally.match + tally.mismatch) for tally in (reference, test)]
        rates += [_bare(tally.overlap, tally.duration) for tally in (reference, test)]
        times = f"  {self._clock(reference.duration)}   {self._clock(test.duration)}"
        return f"{self.pair.record:>6} {counts} " + "".join(rates) + times + "\n"

    def _episodes(self, side: int) -> str:
        tally = (self.score.reference, self.score.test)[side]
        whole = tally.match + tally.mismatch
        return f"{_rate(tally.match, whole)} ({tally.match}/{whole})"

    def _durations(self, side: int) -> str:
        tally = (self.score.reference, self.score.test)[side]
        part, whole = (self._clock(at).lstrip() for at in (tally.overlap, tally.duration))
        return f"{_rate(tally.overlap, tally.duration)} ({part}/{whole})"

    def _clock(self, at: int) -> str:
        return clock(at, self.pair.rate_hz) if at else _ZERO


def _percent(part: int, whole: int) -> int:
    return int((100.0 * part) / whole + 0.5)


def _rate(part: int, whole: int) -> str:
    return "   - " if whole <= 0 else f" {_percent(part, whole):3d}%"


def _bare(part: int, whole: int) -> str:
    return "   -" if whole <= 0 else f" {_percent(part, whole):3d}"
