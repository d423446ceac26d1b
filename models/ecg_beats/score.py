"""Validation: beats and classes out of the net's outputs, matched one to one with the annotations."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d
from scipy.special import expit, log_softmax

from holdover.models.ecg_beats.data import LABELS, MODEL_HZ, OTHER
from holdover.models.ecg_beats.net import BEAT_DELAY, CLASS_DELAY, LAST, SHAPE

WINDOW_S = 0.15
UNSCORED_S = 300.0
THRESHOLD = 0.8

Counts = dict[str, int]


def decode(y: NDArray[Any], threshold: float = THRESHOLD) -> tuple[NDArray[Any], NDArray[Any]]:
    """Beats of one recording.

    Parameters
    ----------
    y : array
        (frames, 5 or more), the net's output.

    Returns
    -------
    at, kind : array
        (beats,), place in seconds and index into `LABELS`.
    """
    p = np.pad(expit(y[:, 0]), 1)
    q = p[:-2] + p[1:-1] + p[2:]
    peak = np.flatnonzero((q >= threshold) & (q == maximum_filter1d(q, 9)))
    hop = SHAPE.front_end.hop
    at = hop * peak + LAST - BEAT_DELAY + y[peak, 1]
    log_p = log_softmax(y[:, 2:5], axis=1)
    later = np.clip(peak + (CLASS_DELAY - BEAT_DELAY) // hop, 1, len(y) - 2)
    kind = (log_p[later - 1] + 2 * log_p[later] + log_p[later + 1]).argmax(1)
    return at / MODEL_HZ, kind


def count(truth_at: NDArray[Any], truth_kind: NDArray[Any], at: NDArray[Any], kind: NDArray[Any]) -> Counts:
    """Match the nearest pairs first, one to one, within 150 ms, from five minutes on, and count.

    Calls of S or V on a beat that is annotated fusion or unclassifiable count neither way.

    Parameters
    ----------
    truth_at, truth_kind, at, kind : array
        (beats,), place in seconds and index into `LABELS` (or `OTHER`): annotated, and found.
    """
    pairs = _match(truth_at, at)
    keep = [(i, j) for i, j in pairs if (i < 0 or truth_at[i] >= UNSCORED_S) and (j < 0 or at[j] >= UNSCORED_S)]
    counts = {"qrs_hit": sum(i >= 0 and j >= 0 for i, j in keep)}
    counts |= {"qrs_miss": sum(j < 0 for _, j in keep), "qrs_false": sum(i < 0 for i, _ in keep)}
    for index, label in enumerate(LABELS[1:], 1):
        hit = sum(i >= 0 and j >= 0 and truth_kind[i] == index == kind[j] for i, j in keep)
        real = sum(i >= 0 and truth_kind[i] == index for i, _ in keep)
        called = sum(j >= 0 and kind[j] == index and (i < 0 or truth_kind[i] != OTHER) for i, j in keep)
        counts |= {f"{label}_hit": hit, f"{label}_miss": real - hit, f"{label}_false": called - hit}
    return {k: int(v) for k, v in counts.items()}


def rates(counts: list[Counts]) -> dict[str, float]:
    """Sensitivity, positive predictivity and F1 in percent, gross over the records; higher is better."""
    total = {k: sum(c[k] for c in counts) for k in counts[0]}
    table = {}
    for key, name in (("qrs", "qrs"), ("V", "veb"), ("S", "sveb")):
        hit, miss, false = (total[f"{key}_{what}"] for what in ("hit", "miss", "false"))
        table[f"{name}_se"] = round(100 * hit / max(hit + miss, 1), 2)
        table[f"{name}_ppv"] = round(100 * hit / max(hit + false, 1), 2)
        table[f"{name}_f1"] = round(200 * hit / max(2 * hit + miss + false, 1), 2)
    return table


def _match(truth: NDArray[Any], found: NDArray[Any]) -> list[tuple[int, int]]:
    """Pairs of indices, nearest first; -1 for a beat without a partner."""
    low, high = (np.searchsorted(found, truth + d) for d in (-WINDOW_S, WINDOW_S))
    near = [(abs(found[j] - truth[i]), i, j) for i in range(len(truth)) for j in range(low[i], high[i])]
    pairs: list[tuple[int, int]] = []
    free_i, free_j = set(range(len(truth))), set(range(len(found)))
    for _, i, j in sorted(near):
        if i in free_i and j in free_j:
            pairs.append((i, int(j)))
            free_i.remove(i)
            free_j.remove(j)
    return pairs + [(i, -1) for i in free_i] + [(-1, j) for j in free_j]
