"""Beats and their classes before and after fine-tuning, over records as far as they are annotated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.models.ecg_beats.data import RATE_HZ
from holdover.models.ecg_beats.score import UNSCORED_S, Counts, count, decode
from holdover.models.ecg_rhythm.data import Record, view
from holdover.models.ecg_rhythm.net import Net
from holdover.models.ecg_rhythm.score import runner

SETTLED_S = 10.0
"""From here on a held-out record is judged."""

Array = NDArray[Any]


def judged(net: Net, records: Sequence[Record], after_s: float) -> Counts:
    """Beats found, missed and invented, and their classes, over the records from a time on where they are annotated."""
    run, shift = runner(net), UNSCORED_S - after_s
    total: dict[str, int] = {}
    for record in records:
        at, kind = decode(run(view(record)))
        known = _annotated(record, at)
        counts = count(record.at / RATE_HZ + shift, record.kind, at[known] + shift, kind[known])
        total = {k: total.get(k, 0) + v for k, v in counts.items()}
    return total


def _annotated(record: Record, at_s: Array) -> NDArray[np.bool_]:
    """Which places lie where beats are annotated one by one."""
    at, (low, high) = at_s[:, None] * RATE_HZ, record.unknown.T
    return np.asarray(~((at >= low) & (at < high)).any(1))


def mistakes(counts: Counts) -> int:
    """Beats missed or invented, and calls of S or V missed or wrong; fewer is better."""
    return sum(v for k, v in counts.items() if not k.endswith("_hit"))


def table(whose: str, before: Counts, after: Counts) -> list[str]:
    """Lines with Se and +P before and after, and the mistakes."""
    lines = [f"{whose:<14}    beats   before Se     +P    after Se     +P"]
    for key, name in (("qrs", "QRS"), ("V", "V"), ("S", "S")):
        real = before[f"{key}_hit"] + before[f"{key}_miss"]
        lines.append(f"  {name:<12} {real:>8,}   {_shares(before, key):>16}   {_shares(after, key):>16}")
    return [*lines, f"  {'mistakes':<12} {'':>8}   {mistakes(before):>16,}   {mistakes(after):>16,}"]


def _shares(counts: Counts, key: str) -> str:
    hit, miss, false = (counts[f"{key}_{what}"] for what in ("hit", "miss", "false"))
    return "".join(f"{100 * hit / all_:7.2f}" if all_ else "      -" for all_ in (hit + miss, hit + false))
