"""Rates of beats over records: gross, average, and how far they may be from what other records would give."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.evaluate.bxb import LABELS, RATES

FIGURES = (*RATES, "Q F1", "V F1", "S F1")
"""The rates, and F1 of each class: the harmonic mean of its sensitivity and positive predictivity."""

_DRAWS = 2000
_SEED = 57
_Z95 = 1.959964


def figures(table: NDArray[np.int64]) -> dict[str, dict[str, Any]]:
    """Each of `FIGURES` from counts, (records, reference class, test class) in the order of `LABELS`.

    Of each the part and the whole, gross and average in per cent, and the 95 % interval of the gross: a bootstrap over
    records (2,000 draws, fixed seed), None for a single record. F1 has no part and whole. A figure is None where there
    is nothing to be counted.
    """
    weights = np.random.default_rng(_SEED).multinomial(len(table), [1 / len(table)] * len(table), size=_DRAWS)
    gross, each = _rates(table.sum(axis=0, keepdims=True)), _rates(table)
    spread = _rates(np.tensordot(weights, table, axes=1))
    found: dict[str, dict[str, Any]] = {}
    for figure in FIGURES:
        part, whole = (int(n.sum()) for n in _parts(table, figure)) if figure in RATES else (None, None)
        found[figure] = {
            "part": part,
            "whole": whole,
            "gross": _number(gross[figure][0]),
            "average": _number(_mean(each[figure])),
            "interval": _interval(spread[figure]) if len(table) > 1 else None,
        }
    return found


def record_figures(counts: NDArray[np.int64]) -> dict[str, dict[str, Any]]:
    """Each rate of one record: part, whole, per cent, and Wilson's 95 % interval (as if beats were independent)."""
    found = {}
    for rate in RATES:
        part, whole = (int(n[0]) for n in _parts(counts[np.newaxis], rate))
        percent = round(100.0 * part / whole, 2) if whole else None
        found[rate] = {"part": part, "whole": whole, "percent": percent, "interval": wilson(part, whole)}
    return found


def wilson(part: int, whole: int) -> list[float] | None:
    """The 95 % interval of a proportion, in per cent, after Wilson (J Am Stat Assoc 22:209, 1927); None of nothing.

    >>> wilson(9, 10)
    [59.58, 98.21]
    """
    if not whole:
        return None
    share, z2 = part / whole, _Z95**2
    centre, half = share + z2 / (2 * whole), _Z95 * (share * (1 - share) / whole + z2 / (4 * whole**2)) ** 0.5
    return [round(100 * (centre + sign * half) / (1 + z2 / whole), 2) for sign in (-1, 1)]


def _rates(table: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Each figure in per cent, one for each row of the table; NaN where nothing is there to be counted."""
    rates = {rate: _percent(*_parts(table, rate)) for rate in RATES}
    for letter in "QVS":
        se, predictivity = rates[f"{letter} Se"], rates[f"{letter} +P"]
        both = np.where(se + predictivity > 0, se + predictivity, np.nan)
        rates[f"{letter} F1"] = np.where(se + predictivity == 0, 0.0, 2 * se * predictivity / both)
    return rates


def _parts(table: NDArray[np.int64], rate: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    sums = []
    for rows, columns in RATES[rate]:
        chosen = table[:, [LABELS.index(row) for row in rows]][:, :, [LABELS.index(column) for column in columns]]
        sums.append(chosen.sum(axis=(1, 2)))
    return sums[0], sums[1]


def _percent(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, 100.0 * part / np.maximum(whole, 1), np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _interval(values: NDArray[np.float64]) -> list[float] | None:
    kept = values[~np.isnan(values)]
    return [round(float(q), 2) for q in np.percentile(kept, [2.5, 97.5])] if len(kept) else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 2)
