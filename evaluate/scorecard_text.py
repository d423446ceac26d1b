"""A scorecard in words, for a terminal of 80 columns."""

import textwrap
from typing import Any

from holdover.evaluate.bxb import LABELS, RATES
from holdover.evaluate.scorecard import DOMINANT, MAPS, Scorecard

ESCAPE = {"bxb": "escape beats e j n are S (as bxb)", "de Chazal": "escape beats e j n are N (as de Chazal)"}
"""What a map of beat codes means, in words."""

AGAINST = {"rules": "what the rules raise on the reference beats", "rhythm": "the reference's rhythm marks"}
"""What alarms are held against, in words."""


def scorecard_text(card: Scorecard) -> str:
    """Gross and average under both maps, S with and without record 232, confusion matrix, alarms and records."""
    parts = [f"{len(card.records)} record{'' if len(card.records) == 1 else 's'}:{_wrapped(card.records)}"]
    if card.unscored:
        parts.append(f"NOT SCORED:{_wrapped(card.unscored)}")
    for name in MAPS:
        parts.append(_figures(ESCAPE[name], card.figures(name)))
        if card.has_dominant:
            rest = card.without(DOMINANT).figures(name)
            supraventricular = {rate: rest[rate] for rate in ("S Se", "S +P", "S F1")}
            parts.append(_figures(f"the same without record {DOMINANT}", supraventricular))
    parts += [_confusion(card), _records(card), *_alarms(card)]
    return "\n\n".join(parts) + "\n"


def _wrapped(names: tuple[str, ...]) -> str:
    lines = [" ".join(names[k : k + 12]) for k in range(0, len(names), 12)]
    return "\n  ".join(["", *lines])


def _figures(title: str, figures: dict[str, dict[str, Any]]) -> str:
    lines = [title, f"{'':6}{'gross':>8}{'95 % interval':>18}{'average':>10}{'beats':>18}"]
    for rate, found in figures.items():
        low_high = "-" if found["interval"] is None else "{:.2f} to {:.2f}".format(*found["interval"])
        beats = "" if found["part"] is None else f"{found['part']}/{found['whole']}"
        line = f"{rate:6}{cell(found['gross']):>8}{low_high:>18}{cell(found['average']):>10}{beats:>18}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _confusion(card: Scorecard) -> str:
    lines = [f"reference (rows) by test (columns), {ESCAPE['bxb']}", "   " + "".join(f"{c.lower():>8}" for c in LABELS)]
    total = card.counts("bxb").sum(axis=0)
    lines += [f" {row} " + "".join(f"{n:8d}" for n in counts) for row, counts in zip(LABELS, total, strict=True)]
    return "\n".join(lines)


def _records(card: Scorecard) -> str:
    lines = [f"by record, {ESCAPE['bxb']}", f"{'':12}" + "".join(f"{rate:>9}" for rate in RATES) + f"{'RR ms':>9}"]
    rr_error_ms = {score.record: score.rr_error_ms for score in card.scores}
    for record, found in card.by_record("bxb").items():
        rates = "".join(f"{cell(value['percent']):>9}" for value in found.values())
        lines.append(f"{record:12}{rates}{cell(rr_error_ms[record]):>9}")
    return "\n".join(lines)


def _alarms(card: Scorecard) -> list[str]:
    found = card.alarms()
    if found is None:
        return []
    parts = [_against(kind, table) for kind, table in found["against"].items() if table["labels"]]
    technical = ", ".join(f"{n} {label.replace('_', ' ')}" for label, n in found["technical"].items()) or "none"
    return [*parts, _folded(f"technical alarms: {technical}; {found['technical hours']:.2f} h in all")]


def _against(kind: str, table: dict[str, Any]) -> str:
    lines = [
        f"alarms against {AGAINST[kind]}, {table['hours']:.1f} h",
        f"{'':55}false  latency, s",
        f"{'':27}{'events':>7}{'Se':>6}{'alarms':>7}{'+P':>6}{'/24 h':>8}{'p50':>6}{'p95':>6}{'p100':>6}",
    ]
    rows = {label.replace("_", " "): figures for label, figures in table["labels"].items()}
    rows |= {f"all of {priority} priority": figures for priority, figures in table["priorities"].items()}
    return "\n".join([*lines, *(_alarm_line(name, figures) for name, figures in rows.items())])


def _alarm_line(name: str, figures: dict[str, Any]) -> str:
    counts = f"{figures['reference']:>7}{cell(figures['Se'], 1):>6}{figures['alarms']:>7}{cell(figures['+P'], 1):>6}"
    late = "".join(f"{cell(value, 1):>6}" for value in figures["latency_s"].values())
    return f"{name:27.27}{counts}{cell(figures['false in 24 h'], 1):>8}{late}"


def _folded(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 80))


def cell(value: float | None, places: int = 2) -> str:
    """A figure with so many places, or a dash where there is none."""
    return "-" if value is None else f"{value:.{places}f}"
