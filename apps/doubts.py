"""Whether a recording can be what it is said to be: its unit, and which way up it is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from holdover.apps.device.look import short
from holdover.runtime.annotation import Annotation

LOOK_S = 60.0
"""Of a recording's beginning that is looked at."""
SIZE_MV = (0.05, 20.0)
"""Peak to peak, 99 % of the samples: what an ECG and its baseline never are is outside."""
UPRIGHT = frozenset({"i", "ii", "mli", "mlii", "v4", "v5", "v6", "mlv5", "la-ra", "ll-ra"})
"""Leads in which a normal QRS complex points up in most hearts."""
DOWN = 2.0
"""How much further down than up normal beats point where a lead is upside down: of the 46 MLII leads of the MIT-BIH
Arrhythmia Database one is beyond (108, at 19; the next is 117 at 1.2)."""
BEATS = 20
HALF_S, NEAR_S = 0.3, 0.1

Array = NDArray[np.float32]


class Doubts:
    """The beginning of a recording, kept to be looked at once its beats are known.

    Parameters
    ----------
    lead
        What the channel is called.
    rate_hz
        Samples a second.
    """

    def __init__(self, lead: str, rate_hz: float) -> None:
        self._lead, self._rate_hz = lead, rate_hz
        self._parts: list[Array] = []
        self._left = round(LOOK_S * rate_hz)
        self._first: int | None = None

    def push(self, at: int, x: Array) -> None:
        """Take samples (samples, channels), mV, that begin at a place; those after the first minute are let go."""
        if self._left <= 0 or not len(x):
            return
        if self._first is None:
            self._first = self._next = at
        hole = np.full(min(max(at - self._next, 0), self._left), np.nan, np.float32)
        fresh = x[max(self._next - at, 0) :, 0]
        taken = np.concatenate([hole, fresh])[: self._left]
        self._parts.append(taken)
        self._left -= len(taken)
        self._next = max(self._next, at + len(x))

    def said(self, annotations: Sequence[Annotation]) -> list[str]:
        """What is doubtful, a sentence each; `annotations` are those of the recording, on its clock."""
        x = np.concatenate(self._parts) if self._parts else np.empty(0, np.float32)
        there = x[np.isfinite(x)]
        if len(there) < self._rate_hz:
            return []
        low, high = np.percentile(there, (0.5, 99.5))
        size = float(high - low)
        least, most = SIZE_MV
        if size > most or 0 < size < least:
            like = "microvolts or counts" if size > most else "volts, or no electrode is on"
            return [
                f"{self._lead} is {short(size)} mV peak to peak, as no ECG is: are its numbers {like}? State the unit"
            ]
        normal = [a.at - (self._first or 0) for a in annotations if a.symbol == "N"]
        down = _down(x.astype(np.float64), normal, self._rate_hz)
        if down is None or down < DOWN or self._lead.lower() not in UPRIGHT:
            return []
        return [
            f"{self._lead} seems to be upside down: normal beats point down {down:.0f} times as far as up. Are two "
            "electrodes exchanged? The model was trained on both ways up"
        ]


def _down(x: NDArray[np.float64], beats: Sequence[int], rate_hz: float) -> float | None:
    """How much further beats reach down than up from the level around them, in the median; None with few beats."""
    half, near = round(HALF_S * rate_hz), round(NEAR_S * rate_hz)
    pieces = [x[b - half : b + half] for b in beats if half <= b <= len(x) - half]
    pieces = [p for p in pieces if np.isfinite(p).all()]
    if len(pieces) < BEATS:
        return None
    level = np.array([p - np.median(p) for p in pieces])[:, half - near : half + near]
    up, down = np.median(level.max(axis=1)), np.median(-level.min(axis=1))
    return float(down / max(up, 1e-3))
