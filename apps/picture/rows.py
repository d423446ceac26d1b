"""The strip chart itself: rows of signal with beats above and alarms behind, drawn by matplotlib."""

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.apps.picture.gates import ONLY_ROW_IN, ROW_IN, Band, draw_band, draw_key
from holdover.apps.picture.strip import GROUPS, SHADE, TECHNICAL, URGENCY, Sheet, Span, Strip, summary
from holdover.runtime.alert import NOTICE

DPI = 100

INK = {"N": "#9a9a9a", "S": "#1f5fbf", "V": "#c8102e", "F": "#8a3fa0", "Q": "#7a7a7a"}
BEAT_NAMES = {"N": "normal beat", "S": "supraventricular", "V": "ventricular", "F": "fusion", "Q": "unclassified"}
TRACE = "#16213a"
INK_ALARM = {"high": "#8f0d1f", "medium": "#8a4b00", "low": "#5c4a00", "info": "#1f4e63"}
INK_TECHNICAL = "#3d4657"


def render(strip: Strip, sheet: Sheet, title: str, bands: Sequence[Band] = ()) -> bytes:
    """The chart as a PNG, 1600 pixels wide; under each row of signal its heat maps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(sheet.rows)
    head, row, foot = 1.2, 1.15 if count > 1 else 2.6, 0.75 if bands else 0.55
    heights = [row, *[ROW_IN if count > 1 else ONLY_ROW_IN] * len(bands)]
    height = head + count * sum(heights) + foot
    figure = Figure(figsize=(16, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(count * len(heights), 1, squeeze=False, height_ratios=heights * count)
    axes = grid.reshape(count, len(heights))
    figure.subplots_adjust(left=0.062, right=0.988, top=1 - head / height, bottom=foot / height, hspace=0.16)
    tall, centers = _scale(strip, sheet)
    for i, ((ax, *under), first) in enumerate(zip(axes, sheet.rows, strict=True)):
        _frame(ax, strip, sheet, first, (centers[i], tall))
        _draw_spans(ax, strip, sheet, first)
        _draw_signal(ax, strip, sheet, first)
        _draw_marks(ax, strip, sheet, first)
        for lower, band in zip(under, bands, strict=True):
            draw_band(lower, band, strip, first, sheet.width / strip.rate_hz)
        for each in axes[i]:
            each.tick_params(labelbottom=each is axes[-1, -1])
    axes[-1, -1].set_xlabel("seconds in the row", fontsize=9, color="#444444")
    if bands:
        draw_key(figure, bands, 0.062, height)
    _write_head(figure, strip, sheet, title, height)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a title in letters that the font lacks: boxes, not noise
        figure.savefig(buffer, format="png", metadata={"Software": "holdover"})
    return buffer.getvalue()


def _scale(strip: Strip, sheet: Sheet) -> tuple[float, list[float]]:
    """One height for all rows, so that sizes compare, and the middle of each, so that a wandering baseline fits."""
    lows, highs = [], []
    for first in sheet.rows:
        part = strip.x[first : first + sheet.width]
        part = part[np.isfinite(part)]
        low, high = np.percentile(part, (0.2, 99.8)) if len(part) else (np.nan, np.nan)
        lows.append(low)
        highs.append(high)
    ranges = np.subtract(highs, lows)
    known = ranges[np.isfinite(ranges)]
    tall = float(np.percentile(known, 90)) if len(known) else 0.0
    return max(tall, 1e-3) * 1.15, [0.0 if math.isnan(a) else (a + b) / 2 for a, b in zip(lows, highs, strict=True)]


def _frame(ax: Any, strip: Strip, sheet: Sheet, first: int, scale: tuple[float, float]) -> None:
    from matplotlib.ticker import MaxNLocator, MultipleLocator

    center, tall = scale
    row_s = sheet.width / strip.rate_hz
    ax.set_xlim(0, row_s)
    ax.set_ylim(center - 0.62 * tall, center + 0.82 * tall)
    ax.set_facecolor("#fffdfb")
    ax.xaxis.set_major_locator(MultipleLocator(5 if row_s > 10 else 1))
    ax.xaxis.set_minor_locator(MultipleLocator(1 if row_s > 10 else 0.2))
    ax.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    ax.grid(which="major", color="#f0cfc8", linewidth=0.8)
    ax.grid(which="minor", color="#f8e8e4", linewidth=0.5)
    ax.tick_params(which="both", length=0, labelsize=8, colors="#555555")
    ax.set_axisbelow(True)
    for spine in ax.spines.values():
        spine.set_color("#e3c4bd")
    _say_when(ax, strip, sheet, first)


def _say_when(ax: Any, strip: Strip, sheet: Sheet, first: int) -> None:
    left = {"transform": ax.transAxes, "ha": "right", "va": "center"}
    ax.text(-0.024, 0.5, strip.clock(first), fontsize=10, weight="bold", **left)
    if first and first - sheet.width not in sheet.rows:
        ax.text(-0.03, 1.08, "⋮", fontsize=12, color="#777777", **left)


def _draw_signal(ax: Any, strip: Strip, sheet: Sheet, first: int) -> None:
    part = strip.x[first : first + sheet.width]
    t = np.arange(len(part)) / strip.rate_hz
    t, y = _thinned(t, part)
    ax.plot(t, y, color=TRACE, linewidth=0.75, zorder=3, solid_joinstyle="round")


def _thinned(t: NDArray[np.float64], y: NDArray[np.float64], most: int = 24000) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most so many points: the lowest and the highest of each piece, which look the same on paper."""
    size = math.ceil(2 * len(y) / most)
    if size < 2:
        return t, y
    whole = len(y) // size * size
    pieces = y[:whole].reshape(-1, size)
    both = np.stack([pieces.min(axis=1), pieces.max(axis=1)], axis=1).reshape(-1)
    return np.repeat(t[:whole:size], 2), both


def _draw_marks(ax: Any, strip: Strip, sheet: Sheet, first: int) -> None:
    top = ax.get_xaxis_transform()
    normal = []
    for mark in strip.marks:
        at = mark.at - strip.origin - first
        if not 0 <= at < sheet.width:
            continue
        group = GROUPS.get(mark.symbol)
        if group == "N":
            normal.append(at / strip.rate_hz)
        elif group is not None:
            ax.text(at / strip.rate_hz, 0.985, mark.symbol, transform=top, color=INK[group], fontsize=9.5,
                    weight="bold", ha="center", va="top", zorder=5)  # fmt: skip
        elif mark.symbol == "+" and mark.aux:
            ax.text(at / strip.rate_hz, 0.81, mark.aux.strip("\0"), transform=top, color="#555555", fontsize=8,
                    style="italic", ha="left", va="top", zorder=5, parse_math=False)  # fmt: skip
    ax.plot(normal, np.full(len(normal), 0.93), ".", transform=top, color=INK["N"], markersize=3.5, zorder=4)


def _draw_spans(ax: Any, strip: Strip, sheet: Sheet, first: int) -> None:
    row_s = sheet.width / strip.rate_hz
    taken = [0.0, 0.0, 0.0]
    for span in strip.spans:
        a, b = ((place - first) / strip.rate_hz for place in strip.local(span))
        if b <= 0 or a >= row_s:
            continue
        a_, b_ = max(a, 0.0), min(max(b, a + 0.002 * row_s), row_s)
        _shade(ax, span, a_, b_)
        text = f"{'' if a >= 0 else '… '}{span.label.replace('_', ' ')}"
        long = len(text) * row_s * 0.0052 + 0.01 * row_s
        at = min(a_ + 0.003 * row_s, row_s - long)
        level = next((i for i, until in enumerate(taken) if until <= at), len(taken) - 1)
        taken[level] = at + long
        _label(ax, span, text, at, 0.04 + 0.15 * level)


def _shade(ax: Any, span: Span, a: float, b: float) -> None:
    if span.kind == "technical":
        ax.axvspan(a, b, facecolor="#edf0f4", edgecolor=TECHNICAL, hatch="////", linewidth=0.0, alpha=0.75, zorder=1)
    else:
        ax.axvspan(a, b, facecolor=span.color, alpha=0.2, linewidth=0, zorder=1)
    ax.axvspan(a, b, ymax=0.025, facecolor=span.color, linewidth=0, zorder=4)


def _label(ax: Any, span: Span, text: str, at: float, height: float) -> None:
    ink = INK_TECHNICAL if span.kind == "technical" else INK_ALARM[span.priority]
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.72, "pad": 0.8}
    words = ax.text(at, height, text, transform=ax.get_xaxis_transform(), fontsize=8.5, va="bottom", parse_math=False)
    words.set(color=ink, zorder=6, bbox=box)


def _write_head(figure: Any, strip: Strip, sheet: Sheet, title: str, height: float) -> None:
    name = title or "recording"
    figure.text(0.062, 1 - 0.32 / height, name, fontsize=15, weight="bold", va="center", color=TRACE, parse_math=False)
    figure.text(0.062, 1 - 0.74 / height, summary(strip, sheet), fontsize=9.5, va="center", color="#444444")
    above = 1 - 1.08 / height
    figure.text(0.040, above, "time", fontsize=8, ha="right", va="center", color="#555555")
    figure.text(0.059, above, strip.unit, fontsize=8, ha="right", va="center", color="#555555", parse_math=False)
    figure.text(0.988, 0.10 / height, f"holdover · {NOTICE}", fontsize=8, ha="right", va="bottom", color="#777777")
    handles = _legend(strip)
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.992, 1 - 0.04 / height),
                  ncols=max(1, math.ceil(len(handles) / 2)), fontsize=9, frameon=False, handlelength=1.5,
                  columnspacing=1.4)  # fmt: skip


def _legend(strip: Strip) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    groups = {GROUPS[mark.symbol] for mark in strip.marks if mark.symbol in GROUPS}
    handles: list[Any] = [
        Line2D([], [], linestyle="", marker="." if group == "N" else f"${group}$", markersize=7, color=INK[group],
               label=name)
        for group, name in BEAT_NAMES.items()
        if group in groups
    ]  # fmt: skip
    priorities = {span.priority for span in strip.spans if span.kind == "physiological"}
    handles += [
        Patch(facecolor=SHADE[priority], alpha=0.45, label=f"alarm, {priority} priority")
        for priority in URGENCY
        if priority in priorities
    ]
    if any(span.kind == "technical" for span in strip.spans):
        handles.append(Patch(facecolor="#edf0f4", edgecolor=TECHNICAL, hatch="////", label="technical alarm"))
    return handles
