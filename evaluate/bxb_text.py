"""Reports of a beat-by-beat comparison, character for character as `bxb` writes them."""

from dataclasses import dataclass

from holdover.evaluate.annotations import BXB_CLASSES, AnnotationPair
from holdover.evaluate.bxb import BeatScore, compare_beats
from holdover.evaluate.period import Period, samples

_TITLES = {
    "Q Se": "           QRS sensitivity",
    "Q +P": " QRS positive predictivity",
    "V Se": "           VEB sensitivity",
    "V +P": " VEB positive predictivity",
    "V FPR": "   VEB false positive rate",
    "S Se": "          SVEB sensitivity",
    "S +P": "SVEB positive predictivity",
}
_FIGURES = {False: ("Q Se", "Q +P", "V Se", "V +P", "V FPR"), True: ("Q Se", "Q +P", "V Se", "V +P", "S Se", "S +P")}

_LINE = {
    False: "N:NSFQ:5 V:NSFQ FQ:NSFQ OX:NSFQ N:V V:V:4 FQ:V OX:V N:OX V:OX FQ:OX",
    True: "N:NFQ:5 S:NFQ V:NFQ FQ:NFQ OX:NFQ N:S S:S V:S FQ:S OX:S N:V S:V V:V:4 FQ:V OX:V N:OX S:OX V:OX FQ:OX",
}
"""Cells of a line: reference classes, test classes, width where it is not 3."""

HEADINGS = {
    False: (
        "Record Nn' Vn' Fn' On'  Nv   Vv  Fv' Ov' No' Vo' Fo'  Q Se   Q +P   V Se   V +P  V FPR\n",
        "Record Nx   Vx   Fx   Qx  % beats  % N    % V    % F   Total Shutdown\n"
        "                           missed missed missed missed      Time\n",
    ),
    True: (
        "Record Nn' Sn' Vn' Fn' On'  Ns  Ss  Vs  Fs' Os' Nv  Sv   Vv  Fv' Ov' No' So' Vo' Fo'"
        "  Q Se   Q +P   V Se   V +P   S Se   S +P RR err\n",
        "Record Nx   Sx   Vx   Fx   Qx  % beats  % N    % S    % V    % F   Total Shutdown\n"
        "                                missed missed missed missed missed      Time\n",
    ),
}
"""First lines of the two files of line-format reports, without and with supraventricular beats."""


@dataclass(frozen=True)
class BeatReport:
    """A comparison of beats and its texts; `sveb` tells supraventricular ectopic beats apart from normal ones.

    The texts come in two parts, on beats and on shutdown, since `bxb` writes them to two places.
    """

    pair: AnnotationPair
    score: BeatScore
    sveb: bool

    def standard(self) -> tuple[str, str]:
        """The reports of `-s` and `-S`."""
        return self._title() + self._matrix() + self._named_rates(), self._shutdown_table()

    def condensed(self) -> tuple[str, str]:
        """The reports of `-c` and `-C`."""
        return self._title() + self._condensed_matrix() + self._named_rates(), self._shutdown_table()

    def line(self) -> tuple[str, str]:
        """The reports of `-l` and `-L`, without their headings."""
        return self._line(), self._shutdown_line()

    def listing(self) -> str:
        """What `-v` lists: each pair whose classes differ, with the samples of both."""
        return "".join(f"{match}\n" for match in self.score.mismatches)

    def _title(self) -> str:
        return (
            f"Beat-by-beat comparison results for record {self.pair.record}\n"
            f"Reference annotator: {self.pair.reference.annotator}\n"
            f"     Test annotator: {self.pair.test.annotator}\n\n"
        )

    def _matrix(self) -> str:
        letters = "NSVFQOX" if self.sveb else "NVFQOX"
        columns = "".join(f"    {letter.lower()}" for letter in letters)
        lines = ["               Algorithm", f"    {columns}", "   " + "_" * (5 * len(letters) + 1)]
        for row in letters:
            cells = letters[:-2] if row in "OX" else letters
            lines.append(f" {row} | " + " ".join(f"{self.score.n(row, cell):4d}" for cell in cells))
        return "\n".join(lines) + "\n\n"

    def _condensed_matrix(self) -> str:
        columns = ["NFQ", "S", "V", "OX"] if self.sveb else ["NSFQ", "V", "OX"]
        rows = [("  N  ", "N"), ("  S  ", "S"), ("  V  ", "V"), (" F+Q ", "FQ"), (" O+X ", "OX")]
        lines = ["         Algorithm", "      n+f+q " + ("   s    v  o+x" if self.sveb else "   v  o+x")]
        lines.append("     " + "_" * (5 * len(columns) + 1))
        for title, row in rows:
            if row != "S" or self.sveb:
                cells = columns[:-1] if row == "OX" else columns
                lines.append(f"{title}| " + " ".join(f"{self.score.n(row, cell):4d}" for cell in cells))
        return "\n".join(lines) + "\n\n"

    def _named_rates(self) -> str:
        lines = [_named(_TITLES[figure], *self.score.rate(figure), _places(figure)) for figure in _FIGURES[self.sveb]]
        error = self.score.rr_error_ms(self.pair.rate_hz)
        rms = "     -" if error is None else f"{error:6.2f} ms"
        return "".join(lines) + (f"     RMS RR interval error: {rms}" if self.sveb else "") + "\n"

    def _line(self) -> str:
        cells = [cell.split(":") for cell in _LINE[self.sveb].split()]
        counts = [f"{self.score.n(row, column):{width[0] if width else 3}d}" for row, column, *width in cells]
        rates = [_bare(*self.score.rate(figure), _places(figure)) for figure in _FIGURES[self.sveb]]
        error = self.score.rr_error_ms(self.pair.rate_hz)
        rms = "     -" if error is None else f" {error:6.2f}"
        return f"{self.pair.record:>4} " + " ".join(counts) + "".join(rates) + (rms if self.sveb else "") + "\n"

    def _shutdown_rates(self) -> list[tuple[str, int, int]]:
        n = self.score.n
        every = ("\n  Beats missed in shutdown", n("NVFQ", "X"), self.score.rate("Q Se")[1])
        letters = "NSVF" if self.sveb else "NVF"
        return [every, *((f"      {row} missed in shutdown", n(row, "X"), n(row, "NSVFQOX")) for row in letters)]

    def _shutdown_table(self) -> str:
        lines = [_named(title, part, whole, 2) for title, part, whole in self._shutdown_rates()]
        return "".join(lines) + f"       Total shutdown time: {self._shutdown_s():5d} seconds\n"

    def _shutdown_line(self) -> str:
        missed = [f"{self.score.n(row, 'X'):4d}" for row in ("NSVFQ" if self.sveb else "NVFQ")]
        rates = [_bare(part, whole, 2) for _, part, whole in self._shutdown_rates()]
        beats = " ".join(str(self.score.n(row, "NSVFQOX")) for row in "NSVFQ")
        lead = f"{self.pair.record:>4} " + " ".join(missed) + "  "
        return lead + "".join(rates) + f"{self._shutdown_s():5d} seconds {beats}\n"

    def _shutdown_s(self) -> int:
        half = samples(".5", self.pair.rate_hz)
        return int((self.score.shutdown + half) / samples("1", self.pair.rate_hz))


def beat_report(pair: AnnotationPair, period: Period, *, sveb: bool) -> BeatReport:
    """Compare a record's beats; without `sveb` its supraventricular ectopic beats count as normal."""
    classes = {code: "N" if label == "S" and not sveb else label for code, label in BXB_CLASSES.items()}
    return BeatReport(pair, compare_beats(pair, period, classes), sveb)


def _places(figure: str) -> int:
    return 3 if figure == "V FPR" else 2


def _named(title: str, part: int, whole: int, places: int) -> str:
    rate = "     - " if whole <= 0 else f"{100.0 * part / whole:6.{places}f}%"
    return f"{title}: {rate} ({part}/{whole})\n"


def _bare(part: int, whole: int, places: int) -> str:
    return "      -" if whole <= 0 else f" {100.0 * part / whole:6.{places}f}"
