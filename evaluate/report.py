"""A scorecard as one page of HTML that needs nothing else: tables, a plot, definitions, and what was run."""

import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from typing import Any

from holdover.evaluate.bxb import LABELS, RATES
from holdover.evaluate.report_plot import interval_plot
from holdover.evaluate.report_words import DEFINITIONS, PAGE
from holdover.evaluate.scorecard import DOMINANT, MAPS, Scorecard
from holdover.evaluate.scorecard_text import AGAINST, ESCAPE, cell
from holdover.runtime.alert import NOTICE

_VERSIONS = ("holdover", "numpy", "wfdb")


def report(card: Scorecard, command: Sequence[str]) -> str:
    """The page; `command` is told as what was run."""
    n = len(card.records)
    sections = {
        "Beats": _headline(card),
        "By record": interval_plot(card) + _legend() + _records(card),
        "Confusion matrix": _confusion(card),
        **_alarms(card),
        "What the words mean": DEFINITIONS,
        "What was run": _run(card, command),
    }
    return PAGE.format(
        title=f"Score of {escape(card.terms.test)} against {escape(card.terms.annotator)}",
        about=f"{n} record{'' if n == 1 else 's'}{_unscored(card)}",
        notice=escape(NOTICE),
        sections="\n".join(f"<section><h2>{name}</h2>{body}</section>" for name, body in sections.items()),
    )


def _unscored(card: Scorecard) -> str:
    names = " ".join(card.unscored)
    return f"; <strong>not scored: {escape(names)}</strong>" if names else ""


def _headline(card: Scorecard) -> str:
    groups = {ESCAPE["bxb"]: card.figures("bxb")}
    if card.has_dominant:
        groups[f"{ESCAPE['bxb']}, without record {DOMINANT}"] = _only_s(card.without(DOMINANT).figures("bxb"))
    groups[ESCAPE["de Chazal"]] = _only_s(card.figures("de Chazal"))
    if card.has_dominant:
        groups[f"{ESCAPE['de Chazal']}, without record {DOMINANT}"] = _only_s(
            card.without(DOMINANT).figures("de Chazal")
        )
    head = ["", "gross, %", "95 % interval", "average, %", "beats"]
    return _table(head, [row for title, figures in groups.items() for row in _figure_rows(title, figures)])


def _only_s(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in figures if name.startswith("S ")}


def _figure_rows(title: str, figures: Mapping[str, Any]) -> list[list[str]]:
    rows = [[f"<em>{title}</em>"]]
    for name, found in figures.items():
        beats = "" if found["part"] is None else f"{found['part']:,} of {found['whole']:,}"
        gross = f"<strong>{cell(found['gross'])}</strong>"
        rows.append([name, gross, _interval(found["interval"]), cell(found["average"]), beats])
    return rows


def _interval(interval: Sequence[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _legend() -> str:
    return '<p><i class="se"></i> Se <i class="pp"></i> +P, per cent; lines are 95 % intervals</p>'


def _records(card: Scorecard) -> str:
    rr_error_ms = {score.record: score.rr_error_ms for score in card.scores}
    head = ["record", *RATES, "RR error, ms"]
    rows = []
    for record, rates in card.by_record("bxb").items():
        cells = [_share(found) for found in rates.values()]
        rows.append([escape(record), *cells, cell(rr_error_ms[record])])
    return _table(head, rows)


def _share(found: Mapping[str, Any]) -> str:
    return f"{cell(found['percent'])}<small> {found['part']}/{found['whole']}</small>" if found["whole"] else "-"


def _confusion(card: Scorecard) -> str:
    parts = []
    for name in MAPS:
        total = card.counts(name).sum(axis=0)
        rows = []
        for label, counts in zip(LABELS, total.tolist(), strict=True):
            shades = [100.0 * n / max(sum(counts), 1) for n in counts]
            cells = (f'<b style="--share:{s:.0f}%">{n:,}</b>' for n, s in zip(counts, shades, strict=True))
            rows.append([label, *cells])
        parts.append(_table([ESCAPE[name], *(label.lower() for label in LABELS)], rows))
    return "<p>Reference in rows, test in columns.</p>" + "".join(parts)


def _alarms(card: Scorecard) -> dict[str, str]:
    found = card.alarms()
    if found is None:
        return {}
    head = [
        "alarm", "priority", "events", "found", "Se, %", "alarms", "true", "+P, %", "false in 24 h",
        "p50, s", "p95, s", "p100, s",
    ]  # fmt: skip
    parts = []
    for kind, table in found["against"].items():
        if table["labels"]:
            rows = [_alarm_row(label.replace("_", " "), figures) for label, figures in table["labels"].items()]
            rows += [_alarm_row(f"all of {priority} priority", f) for priority, f in table["priorities"].items()]
            parts.append(f"<p>Against {AGAINST[kind]}, {table['hours']:.1f} h of signal.</p>{_table(head, rows)}")
    delays, silences = (", ".join(f"{delay:.3f}" for delay in found[name]) for name in ("delay_s", "silence_s"))
    technical = ", ".join(f"{n} {label.replace('_', ' ')}" for label, n in found["technical"].items()) or "none"
    parts.append(
        f"<p>Technical alarms: {escape(technical)}; {found['technical hours']:.2f} h in all. "
        f"A delay of {delays} s is in the latencies, in those of an asystole {silences} s.</p>"
    )
    return {"Alarms": "".join(parts)}


def _alarm_row(name: str, found: Mapping[str, Any]) -> list[str]:
    late = [cell(value) for value in found["latency_s"].values()]
    return [
        escape(name), found["priority"] or "-", str(found["reference"]), str(found["found"]), cell(found["Se"]),
        str(found["alarms"]), str(found["true"]), cell(found["+P"]), cell(found["false in 24 h"]), *late,
    ]  # fmt: skip


def _run(card: Scorecard, command: Sequence[str]) -> str:
    terms = card.terms_json()
    limits = ", ".join(f"{name} {json.dumps(value)}" for name, value in terms.pop("limits").items())
    facts = {
        "command": f"<code>{escape(' '.join(command))}</code>",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{p} {version(p)}" for p in _VERSIONS)]),
        "who judged": escape("; ".join(card.models())) or "the test annotations do not say",
        "terms": escape(", ".join(f"{name} {value}" for name, value in terms.items() if value is not None)),
        "limits of the rules": escape(limits),
    }
    hashes = [[escape(score.record), *(f"<code>{h[:16]}</code>" for h in score.sha256)] for score in card.scores]
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f"<dl>{listed}</dl>" + _table(["SHA-256 begins", "reference", "test"], hashes)


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML; a row of a single cell is a heading over the columns."""
    names = [f"<th>{name}</th>" for name in head]
    body = "".join(
        f'<tr><th colspan="{len(names)}">{row[0]}</th></tr>'
        if len(row) == 1
        else f"<tr><th>{row[0]}</th>{''.join(f'<td>{text}</td>' for text in row[1:])}</tr>"
        for row in rows
    )
    return f"<div><table><thead><tr>{''.join(names)}</tr></thead><tbody>{body}</tbody></table></div>"
