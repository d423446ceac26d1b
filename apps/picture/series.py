"""The picture of a sensor's series: values in the band expected, how improbable each was, and the alerts."""

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.apps.picture.strip import SHADE, TECHNICAL, Strip
from holdover.runtime.alert import NOTICE
from holdover.runtime.detect.anomaly import Judged

Array = NDArray[np.float64]

INK, BAND, SAID = "#16213a", "#bcd4e6", "#3a7ca5"
DPI = 100
PIECES = 3000
"""Pieces that a long series is drawn in, the lowest and the highest value of each."""
RAREST = 12.0
"""Powers of ten that the axis of probability ends at."""
UNITS = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"), (86400.0, "days"))
QUIET = ("calibrating",)
"""Technical labels that are shaded without a name of their own in the row of names."""


def render(strip: Strip, judged: Sequence[Judged], title: str) -> bytes:
    """Draw a series, its band, its probabilities and its alerts as a PNG.

    Parameters
    ----------
    strip
        The series on its own places, and its alerts.
    judged
        What was judged of it, in order; what was not, is drawn without a band.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 7.2), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.6, 1])
    figure.subplots_adjust(left=0.06, right=0.985, top=0.86, bottom=0.1, hspace=0.07)
    size, unit = _unit(len(strip.x) / strip.rate_hz)
    scale = 1 / strip.rate_hz / size
    _draw_series(above, strip, judged, scale)
    _draw_probability(below, strip, judged, scale)
    for ax in (above, below):
        _draw_spans(ax, strip, scale, named=ax is above)
        _frame(ax, len(strip.x) * scale)
    below.set_xlabel(f"{unit} from the first sample", fontsize=9, color="#444444")
    _head(figure, above, strip, title)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a title in letters that the font lacks: boxes, not noise
        figure.savefig(buffer, format="png", metadata={"Software": "holdover"})
    return buffer.getvalue()


def _unit(seconds: float) -> tuple[float, str]:
    """The largest unit of time of which there are two at least."""
    return next((unit for unit in reversed(UNITS) if seconds >= 2 * unit[0]), UNITS[0])


def _draw_series(ax: Any, strip: Strip, judged: Sequence[Judged], scale: float) -> None:
    x = np.asarray(strip.x, np.float64)
    low, high = _filled(strip, judged, "low"), _filled(strip, judged, "high")
    pieces = _pieces(len(x))
    t = np.arange(len(low[::pieces])) * pieces * scale
    bottom, top = _each(low, pieces, np.fmin), _each(high, pieces, np.fmax)
    ax.fill_between(t, bottom, top, color=BAND, linewidth=0, step="post", label="no alert within", zorder=1.5)
    if pieces == 1:
        said = _filled(strip, judged, "said")
        ax.plot(t, said, color=SAID, linewidth=0.7, alpha=0.8, label="what the model said", zorder=2)
        ax.plot(t, x, color=INK, linewidth=0.9, label="what came", zorder=3)
    else:
        ax.fill_between(t, _each(x, pieces, np.fmin), _each(x, pieces, np.fmax), color=INK, linewidth=0.4, step="post",
                        label="what came", zorder=3)  # fmt: skip
    _limits(ax, x)


def _limits(ax: Any, x: Array) -> None:
    """Room for the values; a band that is wider is cut, since it says little."""
    there = x[np.isfinite(x)]
    if not len(there):
        return
    low, high = float(there.min()), float(there.max())
    room = max(high - low, 1e-6 * max(abs(low), abs(high)), 1e-9)
    ax.set_ylim(low - 0.12 * room, high + 0.3 * room)


def _draw_probability(ax: Any, strip: Strip, judged: Sequence[Judged], scale: float) -> None:
    rare = np.full(len(strip.x), np.nan)
    alarmed = []
    for one in judged:
        at = one.at - strip.origin
        if 0 <= at < len(rare):
            rare[at] = min(-math.log10(max(one.probability, 1e-300)), RAREST)
            if one.beyond:
                alarmed.append(at)
    pieces = _pieces(len(rare))
    top = _each(rare, pieces, np.fmax)
    ax.fill_between(
        np.arange(len(top)) * pieces * scale, 0, top, color=SAID, linewidth=0.8, edgecolor=SAID, step="post"
    )
    ax.plot(np.array(alarmed) * scale, rare[alarmed], ".", color=SHADE["high"], markersize=5, label="beyond the limit")
    ax.set_ylim(0, RAREST * 1.05)
    ax.set_yticks([0, 4, 8, 12], ["1", "1e-4", "1e-8", "1e-12"])
    ax.set_ylabel("tail probability\nof a sample", fontsize=8.5, color="#444444")


def _draw_spans(ax: Any, strip: Strip, scale: float, named: bool) -> None:
    taken = [0.0] * 3
    whole = len(strip.x) * scale
    for span in strip.spans:
        a, b = (place * scale for place in strip.local(span))
        b = max(b, a + 0.0015 * whole)
        color = TECHNICAL if span.kind == "technical" else span.color
        ax.axvspan(a, b, facecolor=color, alpha=0.22, linewidth=0, zorder=1)
        if not named or (span.label in QUIET and a):
            continue
        text = span.label.replace("_", " ")
        at = min(a, whole * (1 - 0.0062 * len(text)))
        level = next((i for i, until in enumerate(taken) if until <= at), None)
        if level is None:
            continue
        taken[level] = at + 0.0062 * len(text) * whole
        words = ax.text(at, 0.97 - 0.065 * level, text, transform=ax.get_xaxis_transform(), fontsize=8.5, va="top")
        words.set(color="#4a5568" if span.kind == "technical" else "#9c4a00", zorder=6, parse_math=False)


def _frame(ax: Any, right: float) -> None:
    ax.set_xlim(0, right)
    ax.set_facecolor("#fcfcfd")
    ax.grid(color="#e6e8ee", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=0, labelsize=8.5, colors="#555555")
    for spine in ax.spines.values():
        spine.set_color("#cfd4de")


def _head(figure: Any, ax: Any, strip: Strip, title: str) -> None:
    alerts = [span for span in strip.spans if span.kind != "technical"]
    hz = strip.rate_hz
    pace = f"{hz:g} Hz" if hz >= 1 else f"one sample in {1 / hz:g} s"
    about = f"{len(strip.x):,} samples, {pace} · {len(alerts)} alerts"
    figure.text(0.06, 0.955, title or "recording", fontsize=15, weight="bold", va="center", color=INK, parse_math=False)
    figure.text(0.06, 0.905, about, fontsize=9.5, va="center", color="#444444")
    figure.text(0.985, 0.012, f"holdover · {NOTICE}", fontsize=8, ha="right", va="bottom", color="#777777")
    ax.set_ylabel(strip.unit, fontsize=9, color="#444444", parse_math=False)
    figure.legend(*ax.get_legend_handles_labels(), loc="upper right", bbox_to_anchor=(0.99, 0.985), ncols=3, fontsize=9,
                  frameon=False)  # fmt: skip


def _filled(strip: Strip, judged: Sequence[Judged], name: str) -> Array:
    """One figure of what was judged at each place, NaN where nothing was."""
    out = np.full(len(strip.x), np.nan)
    for one in judged:
        if 0 <= one.at - strip.origin < len(out):
            out[one.at - strip.origin] = getattr(one, name)
    return np.where(np.isfinite(out), out, np.nan)


def _pieces(n: int) -> int:
    """Samples in a piece."""
    return max(math.ceil(n / PIECES), 1) if n > 2 * PIECES else 1


def _each(x: Array, size: int, pick: Any) -> Array:
    """The lowest or the highest of each piece."""
    return np.asarray(pick.reduceat(x, np.arange(0, len(x), size)))
