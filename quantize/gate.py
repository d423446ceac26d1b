"""Whether a smaller model still decides as its parent does, on records that it was not calibrated on."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.engine import Engine
from holdover.runtime.errors import UsageError

NEAR_S = 0.15
"""Two models mean the same beat within this; as EC57 matches beats."""
ALERT_S = 1.0
_BOUND = re.compile(r"\s*([A-Za-z_][\w.]*)\s*>=\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Beats:
    """What a model decided on one record.

    Attributes
    ----------
    at : array
        (beats,), seconds, rising.
    labels : tuple of str
        Of each.
    alerts : tuple of (str, float)
        Label and onset in seconds of each alarm.
    counts : mapping of str to (int, int, int, int)
        By class, against a reference: part and whole of its sensitivity, part and whole of its positive predictivity;
        empty without a reference.
    """

    at: NDArray[np.float64]
    labels: tuple[str, ...]
    alerts: tuple[tuple[str, float], ...] = ()
    counts: Mapping[str, tuple[int, int, int, int]] | None = None


Score = Callable[[Engine], Mapping[str, Beats]]
"""What a model decides on the held-out records, by record."""


@dataclass(frozen=True)
class Parity:
    """One measure of how far two models agree.

    Attributes
    ----------
    value : float
        Over all records; for figures of a class, the change from the parent, negative is worse.
    worst : str
        The record where it is lowest.
    there : float
        What it is there.
    """

    value: float
    worst: str
    there: float


@dataclass(frozen=True)
class Bound:
    """The least that a measure may be."""

    measure: str
    least: float

    def __str__(self) -> str:
        """As it is given."""
        return f"{self.measure}>={self.least:g}"


def parse(text: str) -> tuple[Bound, ...]:
    """Bounds from "V.f1>=-0.005,labels>=0.995".

    Raises
    ------
    UsageError
        Another form.

    Examples
    --------
    >>> [str(b) for b in parse("V.f1>=-0.005, labels>=0.995")]
    ['V.f1>=-0.005', 'labels>=0.995']
    """
    bounds = []
    for part in text.split(","):
        found = _BOUND.fullmatch(part)
        if not found:
            raise UsageError(
                f'--gate holds {part.strip()!r}; expected MEASURE>=NUMBER, as in "V.f1>=-0.005,labels>=0.995"'
            )
        bounds.append(Bound(found[1], float(found[2])))
    return tuple(bounds)


def check_measured(bounds: Iterable[Bound], parity: Mapping[str, Parity]) -> None:
    """Hold a gate against what can be measured.

    Raises
    ------
    UsageError
        A bound on what is not.
    """
    for bound in bounds:
        if bound.measure not in parity:
            known = ", ".join(parity) or "nothing"
            raise UsageError(f"--gate names {bound.measure}, which cannot be measured here; measured: {known}")


def failed(bounds: Iterable[Bound], parity: Mapping[str, Parity]) -> list[str]:
    """A sentence for each bound that does not hold."""
    sentences = []
    for bound in bounds:
        found = parity[bound.measure]
        if not found.value >= bound.least:
            sentences.append(f"{bound.measure} is {found.value:+.4f}, the gate asks for {bound.least:+g}; "
                             f"least on {found.worst}: {found.there:+.4f}")  # fmt: skip
    return sentences


def would_pass(bounds: Iterable[Bound], parity: Mapping[str, Parity]) -> str:
    """A gate of the same measures that holds, as it is given."""
    loose = [Bound(b.measure, min(b.least, np.floor(parity[b.measure].value * 1e4) / 1e4)) for b in bounds]
    return ",".join(map(str, loose))


def beat_parity(parent: Mapping[str, Beats], child: Mapping[str, Beats]) -> dict[str, Parity]:
    """Agreement on beats, labels and alerts, and the change of each class's figures, over records.

    Parameters
    ----------
    parent, child : mapping of str to Beats
        By record.
    """
    pairs = {record: (parent[record], child[record]) for record in parent}
    found = {name: _shared(pairs, count) for name, count in _COUNTS.items()}
    for label in sorted({label for pair in pairs.values() for beats in pair for label, _ in beats.alerts}):
        found[f"alerts.{label}"] = _shared(pairs, partial(_alerts, only=label))
    classes = {c for beats in parent.values() for c in beats.counts or {}}
    for c in sorted(classes):
        for figure, of in _FIGURES.items():
            change = _changed(pairs, c, of)
            if change is not None:
                found[f"{c}.{figure}"] = change
    return found


def frame_parity(parent: Mapping[str, Mapping[str, Any]], child: Mapping[str, Mapping[str, Any]], classes: Iterable[str]
                 ) -> dict[str, Parity]:  # fmt: skip
    """Agreement frame by frame, for models that find no beats.

    Parameters
    ----------
    parent, child : mapping of str to mapping of str to array
        By record, by output: (frames, width).
    classes : iterable of str
        Outputs that are logits of classes: `labels` is the share of frames with the same one. Of all others `scores` is
        1 less the root mean square difference over the parent's spread (of each column), the least over the outputs.
    """
    logits = set(classes)
    labels: dict[str, float] = {}
    scores: dict[str, float] = {}
    for record, said in parent.items():
        other = child[record]
        same = [np.mean(v.argmax(1) == other[n].argmax(1)) for n, v in said.items() if n in logits and len(v)]
        near = [_near(v, other[n]) for n, v in said.items() if n not in logits and len(v)]
        labels |= {record: float(min(same))} if same else {}
        scores |= {record: float(min(near))} if near else {}
    return {name: _least(by) for name, by in (("labels", labels), ("scores", scores)) if by}


def _near(a: NDArray[Any], b: NDArray[Any]) -> float:
    spread = float(np.sqrt(a.astype(np.float64).var(axis=0).mean())) or 1.0
    return 1.0 - float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2))) / spread


def _least(by_record: Mapping[str, float]) -> Parity:
    worst = min(by_record, key=lambda record: by_record[record])
    return Parity(float(np.mean(list(by_record.values()))), worst, by_record[worst])


Pairs = Mapping[str, tuple[Beats, Beats]]


def _shared(pairs: Pairs, count: Callable[[Beats, Beats], tuple[int, int]]) -> Parity:
    by = {record: count(*pair) for record, pair in pairs.items()}
    shares = {record: part / whole if whole else 1.0 for record, (part, whole) in by.items()}
    worst = min(shares, key=lambda record: shares[record])
    part, whole = (sum(n) for n in zip(*by.values(), strict=True))
    return Parity(part / whole if whole else 1.0, worst, shares[worst])


def _beats(a: Beats, b: Beats) -> tuple[int, int]:
    """Beats of both over those of either."""
    both = len(_matched(a, b))
    return both, len(a.at) + len(b.at) - both


def _labels(a: Beats, b: Beats) -> tuple[int, int]:
    """Of the beats of both; where there is none, of the first's: a model that finds nothing agrees on nothing."""
    pairs = _matched(a, b)
    return sum(a.labels[i] == b.labels[j] for i, j in pairs), len(pairs) or len(a.at)


def _alerts(a: Beats, b: Beats, only: str | None = None) -> tuple[int, int]:
    """Alarms of the same label and about the same onset, over those of either; of all labels, or of one."""
    mine, left = ([x for x in beats.alerts if only in (None, x[0])] for beats in (a, b))
    many, both = len(mine) + len(left), 0
    for label, onset in mine:
        near = [k for k, (other, at) in enumerate(left) if other == label and abs(at - onset) <= ALERT_S]
        if near:
            left.pop(min(near, key=lambda k: abs(left[k][1] - onset)))
            both += 1
    return both, many - both


_COUNTS = {"labels": _labels, "beats": _beats, "alerts": _alerts}


def _matched(a: Beats, b: Beats) -> list[tuple[int, int]]:
    """Pairs of beats, each with the nearest of the other where it is the nearest of that one too."""
    if not len(a.at) or not len(b.at):
        return []
    ab, ba = _nearest(a.at, b.at), _nearest(b.at, a.at)
    return [(i, int(j)) for i, j in enumerate(ab) if ba[j] == i and abs(a.at[i] - b.at[j]) <= NEAR_S]


def _nearest(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.int64]:
    right = np.clip(np.searchsorted(b, a), 1, max(len(b) - 1, 1))
    left = right - 1
    right = np.minimum(right, len(b) - 1)
    return np.where(np.abs(b[left] - a) <= np.abs(b[right] - a), left, right)


def _se(n: NDArray[np.int64]) -> float:
    return float(n[0] / n[1]) if n[1] else float("nan")


def _pp(n: NDArray[np.int64]) -> float:
    return float(n[2] / n[3]) if n[3] else float("nan")


def _f1(n: NDArray[np.int64]) -> float:
    """Harmonic mean of the two; 0 where the class is there and never called."""
    if not n[1]:
        return float("nan")
    se, pp = _se(n), _pp(n) if n[3] else 0.0
    return 2 * se * pp / (se + pp) if se + pp else 0.0


_FIGURES = {"f1": _f1, "se": _se, "pp": _pp}


def _changed(pairs: Pairs, c: str, of: Callable[[NDArray[np.int64]], float]) -> Parity | None:
    """The change of a figure of a class, over all records and on the worst; None if the parent has none."""
    counts = {r: [np.array((b.counts or {}).get(c, (0,) * 4)) for b in pair] for r, pair in pairs.items()}
    before, after = (of(np.sum([n[k] for n in counts.values()], axis=0)) for k in (0, 1))
    if np.isnan(before):
        return None
    by = {r: np.nan_to_num(of(n[1])) - of(n[0]) for r, n in counts.items() if not np.isnan(of(n[0]))}
    worst = min(by, key=lambda record: by[record], default="none")
    return Parity(float(np.nan_to_num(after)) - before, worst, float(by.get(worst, 0.0)))
