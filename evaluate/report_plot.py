"""The interval plot of a report: each record's rates with their intervals, as SVG that takes the page's colours."""

from collections.abc import Iterator
from html import escape
from typing import Any, NamedTuple

from holdover.evaluate.scorecard import Scorecard

PANELS = {"Q": "QRS complexes", "V": "ventricular (V)", "S": "supraventricular (S)"}
_AXES = (99.0, 98.0, 95.0, 90.0, 80.0, 50.0, 0.0)
_LEFT, _TOP, _ROW, _WIDTH, _GAP = 110, 44, 20, 270, 26


class _Dot(NamedTuple):
    """A rate in per cent and its interval; `rate` is Se or +P, `row` counts from the top."""

    row: int
    rate: str
    percent: float
    low: float
    high: float


def interval_plot(card: Scorecard) -> str:
    """An SVG of one row a record, below that of all together, one panel each for QRS, V and S; Se above +P."""
    names = ["all, gross", *card.records]
    height = _TOP + _ROW * len(names) + 34
    width = _LEFT + len(PANELS) * (_WIDTH + _GAP)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="sensitivity and positive predictivity by record">',
        *(_text(_LEFT - 8, _y(k) + 4, name, "end") for k, name in enumerate(names)),
    ]
    for k, (letter, title) in enumerate(PANELS.items()):
        dots = list(_dots(card, letter))
        parts += _panel(_LEFT + k * (_WIDTH + _GAP), title, dots, len(names))
    return "\n".join([*parts, "</svg>"])


def _dots(card: Scorecard, letter: str) -> Iterator[_Dot]:
    gross = card.figures("bxb")
    rows: list[tuple[int, dict[str, Any], str]] = [(0, gross, "gross")]
    rows += [(k, rates, "percent") for k, rates in enumerate(card.by_record("bxb").values(), 1)]
    for row, rates, key in rows:
        for rate in ("Se", "+P"):
            found = rates[f"{letter} {rate}"]
            if (percent := found[key]) is not None:
                low, high = found["interval"] or (percent, percent)
                yield _Dot(row, rate, percent, low, high)


def _panel(left: float, title: str, dots: list[_Dot], rows: int) -> Iterator[str]:
    lowest = min((dot.low for dot in dots), default=0.0)
    start = next(edge for edge in _AXES if edge <= lowest)
    bottom = _y(rows) - _ROW / 2

    def x(percent: float) -> float:
        return left + (percent - start) / (100 - start) * _WIDTH

    yield _text(left, 16, title, "start", "title")
    for k in range(5):
        tick = start + k * (100 - start) / 4
        yield f'<line class="grid" x1="{x(tick):.1f}" y1="{_TOP - 12}" x2="{x(tick):.1f}" y2="{bottom:.1f}"/>'
        yield _text(x(tick), bottom + 16, f"{tick:g}", "middle")
    below = _y(1) - _ROW / 2
    yield f'<line class="rule" x1="{left}" y1="{below:.1f}" x2="{left + _WIDTH}" y2="{below:.1f}"/>'
    for dot in dots:
        y = _y(dot.row) + (-4 if dot.rate == "Se" else 4)
        name = "se" if dot.rate == "Se" else "pp"
        yield f'<line class="{name}" x1="{x(dot.low):.1f}" y1="{y:.1f}" x2="{x(dot.high):.1f}" y2="{y:.1f}"/>'
        yield f'<circle class="{name}" cx="{x(dot.percent):.1f}" cy="{y:.1f}" r="3"/>'


def _y(row: int) -> float:
    return _TOP + _ROW * (row + 0.25)


def _text(x: float, y: float, text: str, anchor: str, name: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{name}">{escape(text)}</text>'
