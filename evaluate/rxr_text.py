"""Reports of a run-by-run comparison, character for character as `rxr` writes them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdover.evaluate.annotations import AnnotationPair
from holdover.evaluate.rxr import RunScore

_COLUMNS = "Record CTs CFN CTp CFP STs SFN STp SFP LTs LFN LTp LFP  CSe C+P SSe S+P LSe L+P\n"

HEADINGS = {False: _COLUMNS, True: "(SVE run detection)\n" + _COLUMNS}
"""First lines of a file of line-format reports on ventricular and on supraventricular runs."""

_RATES = (
    ("            Couplet sensitivity", "CTs", "CFN"),
    ("  Couplet positive predictivity", "CTp", "CFP"),
    ("          Short run sensitivity", "STs", "SFN"),
    ("Short run positive predictivity", "STp", "SFP"),
    ("           Long run sensitivity", "LTs", "LFN"),
    (" Long run positive predictivity", "LTp", "LFP"),
)


@dataclass(frozen=True)
class RunReport:
    """A comparison of runs and its texts; `sve` says that they are supraventricular."""

    pair: AnnotationPair
    score: RunScore
    sve: bool

    def standard(self) -> str:
        """The report of `-s`, and one half of that of `-S`."""
        sensitivity = _matrix(self.score.sensitivity) + "\n      (Run Sensitivity Summary Matrix)\n\n\n"
        predictivity = _matrix(self.score.predictivity) + "\n (Run Positive Predictivity Summary Matrix)\n\n"
        return self._title() + sensitivity + predictivity + self._named_rates()

    def condensed(self) -> str:
        """The report of `-c`, and one half of that of `-C`."""
        sensitivity = _condensed(self.score.sensitivity) + "\n    (Run Sensitivity Summary Matrix)\n\n\n"
        predictivity = _condensed(self.score.predictivity) + "\n (Run Positive Predictivity Summary Matrix)\n\n"
        return self._title() + sensitivity + predictivity + self._named_rates()

    def line(self) -> str:
        """The report of `-l`, and one half of that of `-L`, without headings."""
        tallies = self.score.tallies()
        counts = " ".join(f"{count:3d}" for count in tallies.values())
        rates = "".join(_bare(tallies[true], tallies[true] + tallies[false]) for _, true, false in _RATES)
        return f"{self.pair.record:>4} {counts} {rates}\n"

    def listing(self) -> str:
        """What `-v` lists: each run whose lengths differ, with the window searched, by sensitivity and predictivity."""
        text = ""
        for what, differing in zip(("sensitivity", "positive predictivity"), self.score.mismatches, strict=True):
            text += f"\n{'S' if self.sve else ''}VE Run-by-run comparison for {what}\n"
            text += "".join(f"{reference}/{test}({low}-{high})\n" for reference, test, low, high in differing)
        return text

    def _title(self) -> str:
        return (
            f"{'S' if self.sve else ''}VE run-by-run comparison results for record {self.pair.record}\n"
            f"Reference annotator: {self.pair.reference.annotator}\n"
            f"     Test annotator: {self.pair.test.annotator}\n\n"
        )

    def _named_rates(self) -> str:
        tallies = self.score.tallies()
        lines = [_named(title, tallies[true], tallies[true] + tallies[false]) for title, true, false in _RATES]
        return "".join(lines) + "\n"


def _matrix(counts: NDArray[np.int64]) -> str:
    lines = ["               Algorithm Run Length", "          0    1    2    3    4    5   >5", "     " + "_" * 36]
    for row in range(len(counts)):
        cells = [f"{count:4d}" for count in counts[row]]
        cells[0] = cells[0] if row else "    "
        lines.append(f"  {'>5' if row == 6 else f' {row}'} | " + " ".join(cells))
    return "\n".join(lines) + "\n"


def _condensed(counts: NDArray[np.int64]) -> str:
    bounds = [0, 1, 2, 3, 6]
    cells = np.add.reduceat(np.add.reduceat(counts, bounds, axis=0), bounds, axis=1)
    lines = ["          Algorithm Run Length", "         nc    v    c    s    l", "     " + "_" * 26]
    for name, row in zip(("NC", " V", " C", " S", " L"), cells, strict=True):
        texts = [f"{count:4d}" for count in row]
        texts[0] = "    " if name == "NC" else texts[0]
        lines.append(f"  {name} | " + " ".join(texts))
    return "\n".join(lines) + "\n"


def _percent(part: int, whole: int) -> int:
    return int((100.0 * part) / whole + 0.5)


def _named(title: str, part: int, whole: int) -> str:
    rate = "   - " if whole <= 0 else f" {_percent(part, whole):3d}%"
    return f"{title}:{rate} ({part}/{whole})\n"


def _bare(part: int, whole: int) -> str:
    return "   -" if whole <= 0 else f" {_percent(part, whole):3d}"
