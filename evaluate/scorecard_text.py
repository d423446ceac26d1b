"""A scorecard in words, for a terminal of 80 columns."""

from typing import Any

from holdover.evaluate.bxb import LABELS, RATES
from holdover.evaluate.scorecard import DOMINANT, Scorecard

_ESCAPE = {"bxb": "escape beats e j n are S (as bxb)", "de Chazal": "escape beats e j n are N (as de Chazal)"}


def scorecard_text(card: Scorecard) -> str:
    """Gross and average under both maps, S with and without record 232, confusion matrix and records."""
    parts = [f"{len(card.records)} record{'' if len(card.records) == 1 else 's'}:{_wrapped(card.records)}"]
    if card.unscored:
        parts.append(f"NOT SCORED, no test annotations:{_wrapped(card.unscored)}")
    for name in card.counts:
        parts.append(_figures(f"{_ESCAPE[name]}", card.figures(name)))
        if DOMINANT in card.records and len(card.records) > 1:
            rest = card.without(DOMINANT).figures(name)
            supraventricular = {rate: rest[rate] for rate in ("S Se", "S +P")}
            parts.append(_figures(f"the same without record {DOMINANT}", supraventricular))
    parts += [_confusion(card), _records(card)]
    return "\n\n".join(parts) + "\n"


def _wrapped(names: tuple[str, ...]) -> str:
    lines = [" ".join(names[k : k + 12]) for k in range(0, len(names), 12)]
    return "\n  ".join(["", *lines])


def _figures(title: str, figures: dict[str, dict[str, Any]]) -> str:
    lines = [title, f"{'':6}{'gross':>8}{'95 % interval':>18}{'average':>10}{'beats':>18}"]
    for rate, found in figures.items():
        low_high = "-" if found["interval"] is None else "{:.2f} to {:.2f}".format(*found["interval"])
        beats = f"{found['part']}/{found['whole']}"
        lines.append(f"{rate:6}{_cell(found['gross']):>8}{low_high:>18}{_cell(found['average']):>10}{beats:>18}")
    return "\n".join(lines)


def _confusion(card: Scorecard) -> str:
    name, table = next(iter(card.counts.items()))
    lines = [f"reference (rows) by test (columns), {_ESCAPE[name]}", "   " + "".join(f"{c.lower():>8}" for c in LABELS)]
    lines += [f" {row} " + "".join(f"{n:8d}" for n in counts) for row, counts in zip(LABELS, table.sum(0), strict=True)]
    return "\n".join(lines)


def _records(card: Scorecard) -> str:
    name = next(iter(card.counts))
    lines = [f"by record, {_ESCAPE[name]}", f"{'':12}" + "".join(f"{rate:>9}" for rate in RATES)]
    for record, found in card.by_record(name).items():
        lines.append(f"{record:12}" + "".join(f"{_cell(value):>9}" for value in found.values()))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
