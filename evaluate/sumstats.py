"""Gross and average statistics over records, from line-format reports, character for character as `sumstats`."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from holdover.evaluate import bxb_text, epicmp_text, rxr_text
from holdover.evaluate.period import clock, samples
from holdover.runtime.errors import SourceError, UsageError

_MS_HZ = 1000.0
"""Durations are read and added in milliseconds."""


@dataclass(frozen=True)
class _Row:
    """One record's line: its counts by column, and its other fields as text."""

    n: dict[str, int]
    text: list[str]


_BEATS = ["Nn", "Vn", "Fn", "On", "Nv", "Vv", "Fv", "Ov", "No", "Vo", "Fo"]
_SVEB_BEATS = [
    "Nn",
    "Sn",
    "Vn",
    "Fn",
    "On",
    "Ns",
    "Ss",
    "Vs",
    "Fs",
    "Os",
    "Nv",
    "Sv",
    "Vv",
    "Fv",
    "Ov",
    "No",
    "So",
    "Vo",
    "Fo",
]
_RUNS = ["CTs", "CFN", "CTp", "CFP", "STs", "SFN", "STp", "SFP", "LTs", "LFN", "LTp", "LFP"]
_EPISODES = ["TPs", "FN", "TPp", "FP"]


def summary(text: str, name: str) -> str:
    """The report with its sum, gross and average lines; `name` is what to call it in an error.

    Raises
    ------
    SourceError
        The text is no line-format report with headings, or one of its lines cannot be read.
    """
    for heading, columns, tail in _formats():
        first = heading.splitlines(keepends=True)[0]
        if text.startswith(first):
            return _summed(text, name, len(heading.splitlines()), columns, tail)
    raise SourceError(
        f"{name} is no line-format report with column headings, as bxb, rxr and mxm write with -l or -L FILE and "
        "epicmp with -l"
    )


def _formats() -> list[tuple[str, list[str], Callable[[list[_Row]], str]]]:
    beats, shutdown = bxb_text.HEADINGS[False]
    sveb_beats, sveb_shutdown = bxb_text.HEADINGS[True]
    return [
        (beats, _BEATS, _beat_lines),
        (sveb_beats, _SVEB_BEATS, _sveb_beat_lines),
        (shutdown, ["Nx", "Vx", "Fx", "Qx"], _shutdown_lines),
        (sveb_shutdown, ["Nx", "Sx", "Vx", "Fx", "Qx"], _sveb_shutdown_lines),
        (rxr_text.HEADINGS[False], _RUNS, _run_lines),
        (rxr_text.HEADINGS[True], _RUNS, _run_lines),
        (epicmp_text.heading("AF"), _EPISODES, _episode_lines),
        (epicmp_text.heading("VF"), _EPISODES, _episode_lines),
        ("(Measurement errors)\n\n\n", [], _measurement_lines),
    ]


def _summed(text: str, name: str, skip: int, columns: list[str], tail: Callable[[list[_Row]], str]) -> str:
    lines = text.splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines[skip:], skip + 1):
        fields = line.split()
        try:
            counts = {column: int(field) for column, field in zip(columns, fields[1:], strict=False)}
            rows.append(_Row(counts, fields[1 + len(columns) :]))
            if len(counts) < len(columns):
                raise ValueError("too few columns")
        except ValueError as error:
            raise SourceError(f"{name}, line {number}: not a line of this report: {line.rstrip()!r}") from error
    try:
        lines_after = tail(rows)
    except (ValueError, IndexError, UsageError) as error:
        raise SourceError(f"{name}: a line of this report lacks a figure at its end: {error}") from error
    records = f"{len(rows)} record" + ("" if len(rows) == 1 else "s")
    return "".join(lines) + lines_after + f"\nSummary of results from {records}\n"


def _total(rows: Iterable[_Row], columns: str) -> int:
    return sum(row.n[column] for row in rows for column in columns.split())


def _gross(rows: list[_Row], figure: tuple[str, str]) -> tuple[float, float]:
    return float(_total(rows, figure[0])), float(_total(rows, figure[1]))


def _average(rows: list[_Row], figure: tuple[str, str]) -> tuple[float, float]:
    """Sum of each record's rate, and the number of records that have one."""
    pairs = [(_total([row], figure[0]), _total([row], figure[1])) for row in rows]
    rates = [part / whole for part, whole in pairs if whole]
    return sum(rates), float(len(rates))


def _percent(part: float, whole: float, form: str = "6.2f", none: str = "      -") -> str:
    return none if whole <= 0 else f" {100.0 * part / whole:{form}}"


def _rounded(part: float, whole: float) -> str:
    return _percent(part, whole, "3.0f", "   -")


_ALL = {
    "Q Se": ("Nn Nv Vn Vv Fn Fv", "Nn Nv Vn Vv Fn Fv No Vo Fo"),
    "Q +P": ("Nn Nv Vn Vv Fn Fv", "Nn Nv Vn Vv Fn Fv On Ov"),
    "V Se": ("Vv", "Vn Vv Vo"),
    "V +P": ("Vv", "Nv Vv Ov"),
    "V FPR": ("Nv Ov", "Nn Fn On Nv Ov"),
}

_SVEB_HITS = "Nn Ns Nv Sn Ss Sv Vn Vs Vv Fn Fs Fv"
_SVEB_ALL = {
    "Q Se": (_SVEB_HITS, _SVEB_HITS + " No So Vo Fo"),
    "Q +P": (_SVEB_HITS, _SVEB_HITS + " On Os Ov"),
    "V Se": ("Vv", "Vn Vs Vv Vo"),
    "V +P": ("Vv", "Nv Sv Vv Ov"),
    "S Se": ("Ss", "Sn Ss Sv So"),
    "S +P": ("Ss", "Ns Ss Vs Os"),
}


def _beat_lines(rows: list[_Row]) -> str:
    counts = " ".join(f"{_total(rows, c):{'4' if c == 'Vv' else '3'}d}" for c in _BEATS[1:])
    forms = ["6.3f" if name == "V FPR" else "6.2f" for name in _ALL]
    gross = "".join(_percent(*_gross(rows, figure), form) for figure, form in zip(_ALL.values(), forms, strict=True))
    mean = "".join(_percent(*_average(rows, figure), form) for figure, form in zip(_ALL.values(), forms, strict=True))
    return (
        "_" * 86
        + f"\nSum  {_total(rows, 'Nn'):6d} {counts}\n"
        + f"{'Gross':<54}{gross}\n{'Average':<54}{mean}\n"
        + f"Total QRS complexes: {_total(rows, _ALL['Q Se'][1])}  Total VEBs: {_total(rows, _ALL['V Se'][1])}\n"
    )


def _sveb_beat_lines(rows: list[_Row]) -> str:
    counts = " ".join(f"{_total(rows, c):{'4' if c == 'Vv' else '3'}d}" for c in _SVEB_BEATS[1:])
    gross = "".join(_percent(*_gross(rows, figure)) for figure in _SVEB_ALL.values())
    mean = "".join(_percent(*_average(rows, figure)) for figure in _SVEB_ALL.values())
    errors = [float(row.text[6]) for row in rows if row.text[6] != "-"]
    totals = [_total(rows, _SVEB_ALL[figure][1]) for figure in ("Q Se", "V Se", "S Se")]
    return (
        "_" * 132
        + f"\nSum {_total(rows, 'Nn'):6d} {counts}\n"
        + f"{'Gross':<83}{gross}\n{'Average':<83}{mean}{_percent(sum(errors) / 100.0, len(errors))}\n"
        + "Total QRS complexes: {}  Total VEBs: {}  Total SVEBs: {}\n".format(*totals)
    )


def _shutdown_lines(rows: list[_Row]) -> str:
    """The totals of beats come after the word `seconds`: N, S (0 here), V, F, Q."""
    totals = [[int(field) for field in row.text[6:11]] for row in rows]
    missed = {letter: [row.n[f"{letter}x"] for row in rows] for letter in "NVFQ"}
    whole = {letter: [total[k] for total in totals] for letter, k in (("N", 0), ("V", 2), ("F", 3), ("Q", 4))}
    beats = [sum(column) for column in zip(*whole.values(), strict=True)]
    lost = [sum(column) for column in zip(*missed.values(), strict=True)]
    # sumstats adds each record's beats to the gross totals twice: its gross rates are half of what they should be.
    gross = [(sum(lost), 2 * sum(beats)), *((sum(missed[k]), 2 * sum(whole[k])) for k in "NVF")]
    mean = [_mean(lost, beats), *(_mean(missed[k], whole[k]) for k in "NVF")]
    sums = " ".join(f"{sum(missed[letter]):4d}" for letter in "NVFQ")
    seconds = sum(int(row.text[4]) for row in rows)
    return (
        "_" * 68
        + f"\nSum   {sums}                               {seconds:4d} seconds\n"
        + f"{'Gross':<25}{''.join(_percent(*pair) for pair in gross)}\n"
        + f"{'Average':<25}{''.join(_percent(*pair) for pair in mean)}\n"
    )


def _mean(parts: list[int], wholes: list[int]) -> tuple[float, float]:
    rates = [part / whole for part, whole in zip(parts, wholes, strict=True) if whole]
    return sum(rates), float(len(rates))


def _sveb_shutdown_lines(rows: list[_Row]) -> str:
    sums = " ".join(f"{_total(rows, f'{letter}x'):4d}" for letter in "NSVFQ")
    seconds = sum(int(row.text[5]) for row in rows)
    return "_" * 72 + f"\nSum  {sums}                                      {seconds:4d} seconds\n"


_RUN_RATES = [(f"{c}T{s}", f"{c}T{s} {c}F{f}") for c in "CSL" for s, f in (("s", "N"), ("p", "P"))]


def _run_lines(rows: list[_Row]) -> str:
    sums = " ".join(f"{_total(rows, column):3d}" for column in _RUNS[1:])
    gross = "".join(_rounded(*_gross(rows, figure)) for figure in _RUN_RATES)
    mean = "".join(_rounded(*_average(rows, figure)) for figure in _RUN_RATES)
    totals = [_total(rows, _RUN_RATES[k][1]) for k in (0, 2, 4)]
    return (
        "_" * 77
        + f"\nSum   {_total(rows, 'CTs'):4d} {sums}\n{'Gross':<55}{gross}\n{'Average':<55}{mean}\n"
        + "Total couplets: {}  Total short runs: {}  Total long runs: {}\n".format(*totals)
    )


def _episode_lines(rows: list[_Row]) -> str:
    """The overlap is estimated from the rounded rates, times the longer of the two durations."""
    reference = [samples(row.text[4], _MS_HZ) for row in rows]
    test = [samples(row.text[5], _MS_HZ) for row in rows]
    se = [_fraction(row.text[2]) for row in rows]
    predictivity = [_fraction(row.text[3]) for row in rows]
    overlap = 0
    for r, t, s, p in zip(reference, test, se, predictivity, strict=True):
        overlap = int(overlap + (r * s if r > t else t * p))
    sums = " ".join(f"{_total(rows, column):4d}" for column in _EPISODES)
    figures = (("TPs", "TPs FN"), ("TPp", "TPp FP"))
    gross = [_gross(rows, figure) for figure in figures] + [(overlap, sum(reference)), (overlap, sum(test))]
    mean = [_average(rows, figure) for figure in figures]
    mean += [_having(se, reference), _having(predictivity, test)]
    times = f"{clock(sum(reference), _MS_HZ)}   {clock(sum(test), _MS_HZ)}"
    return (
        "_" * 72
        + f"\nSum    {sums}                   {times}\n"
        + f"{'Gross':<27}{''.join(_rounded(*pair) for pair in gross)}\n"
        + f"{'Average':<27}{''.join(_rounded(*pair) for pair in mean)}\n"
    )


def _having(rates: list[float], durations: list[int]) -> tuple[float, float]:
    kept = [rate for rate, duration in zip(rates, durations, strict=True) if duration > 0]
    return sum(kept), float(len(kept))


def _fraction(text: str) -> float:
    return 0.0 if text == "-" else float(text) / 100.0


def _measurement_lines(rows: list[_Row]) -> str:
    if not rows:
        return "_" * 50 + "\nAverage   -\t\t   -\n"
    error, mean = (100.0 * sum(float(row.text[k]) for row in rows) / (100.0 * len(rows)) for k in (0, 1))
    return "_" * 50 + f"\nAverage {error:7.4f}\t\t{mean:g}\n"
