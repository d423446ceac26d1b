"""The rows of `quantize.py` as the table of `docs/quantize.md`."""

from collections.abc import Iterator
from typing import Any

Row = dict[str, Any]

HOPS = (1, 8, 45)
"""Blocks of which a step is timed."""


def table(found: list[Row]) -> Iterator[str]:
    """The table of `docs/quantize.md`."""
    head = ("net", "method", "kB", "step at 1, 8, 45 hops", "drift, worst hour", "hours", "largest", "agreement",
            "block", "leaks")  # fmt: skip
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in found:
        if "refused" not in row:
            times = ", ".join(f"{row[f'x_{hops}']:.2f}" for hops in HOPS if f"x_{hops}" in row)
            gone = f"{row['drift']['worst_hour']:.1e}" if "drift" in row else ""
            hours = f"{row['drift']['hours']:g}" if "drift" in row else ""
            cells = [row["model"], row["method"], f"{row['bytes'] / 1024:.0f}", times, gone, hours, largest(row),
                     agreed(row), cut(row), leaked(row)]  # fmt: skip
            yield f"| {' | '.join(cells)} |"


def largest(row: Row) -> str:
    """The largest difference of a score, logit or offset, in its own unit."""
    gone: dict[str, float] = row.get("drift", {}).get("largest", {})
    return f"{max(gone.values()):.2g}" if gone else ""


def agreed(row: Row) -> str:
    """V.f1, S.f1 and labels, or labels alone."""
    parity = row.get("parity", {})
    return ", ".join(f"{n} {parity[n][0]:+.4f}" for n in ("V.f1", "S.f1", "labels") if n in parity)


def cut(row: Row) -> str:
    """Whether the bits depend on the block."""
    if "bitwise" not in row:
        return ""
    return "same bits" if row["bitwise"] else "a hop at a time"


def leaked(row: Row) -> str:
    """The largest change of what is not concerned."""
    apart = row.get("isolation")
    if apart is None:
        return ""
    worst = max(float(value or 0.0) for value in apart.values())
    return f"{worst:.1e}" if worst else "none"
