"""The drift report as one page of HTML that needs nothing else, to be read in a minute."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from holdover.quantize.drift import BURST_S, CALM_S, FORCED_S, Drift
from holdover.quantize.quantizing import Chosen, Tried
from holdover.runtime.alert import NOTICE

WIDTH, HEIGHT, LEFT = 720, 160, 56
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:54rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .7rem;text-align:right;border-bottom:1px solid #ddd}
th:first-child,td:first-child{text-align:left}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
.bad{color:#b00020}.good{color:#1b5e20}svg{max-width:100%;height:auto}footer{color:#666;margin-top:2rem}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}td,th{border-color:#444}text{fill:#ccc}}
"""


def page(drift: Drift, chosen: Chosen) -> str:
    """The page.

    Parameters
    ----------
    drift : Drift
        Of the model that was chosen.
    chosen : Chosen
        What was tried.
    """
    best = chosen.best
    c = chosen.parent.contract
    title = f"{c.name} {c.model_version}, {best.method if best else 'float32'} beside its float parent"
    parts = {
        "In short": _summary(drift, chosen),
        f"Difference by hour, over {drift.hours:.1f} h": _chart(drift.by_hour, "hours", 0) + _errors(drift),
        "An artefact, and back": _chart(drift.burst.error, "seconds", CALM_S) + _burst(drift),
        "Is the error carried on?": _forced(drift),
        "State": _table(("state", "largest difference"), [(escape(n), f"{v:.2e}") for n, v in drift.states.items()]),
        "Every method that was tried": _methods(chosen.tried),
    }
    body = "".join(f"<section><h2>{name}</h2>{part}</section>" for name, part in parts.items())
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
            f"<h1>{escape(title)}</h1>{body}<footer>{escape(NOTICE)}</footer></body></html>")  # fmt: skip


def _summary(drift: Drift, chosen: Chosen) -> str:
    before, after = len(chosen.parent.data), len(chosen.data)
    grows = [n for n, e in drift.last.items() if e > 2 * drift.first[n] + 1e-6]
    late = [n for n, s in drift.burst.recovery_s.items() if s < 0]
    verdicts = [
        (not grows, "the difference does not grow with time", f"the difference grows with time: {', '.join(grows)}"),
        (not late, "it comes back after an artefact", f"it does not come back within a minute: {', '.join(late)}"),
    ]
    said = "".join(f'<li class="{"good" if ok else "bad"}">{escape(good if ok else bad)}</li>'
                   for ok, good, bad in verdicts)  # fmt: skip
    labels = "".join(f"<li>{escape(n)}: {share:.3%} of the frames have the same label</li>"
                     for n, share in drift.labels.items())  # fmt: skip
    best = chosen.best
    parity = "".join(f"<li>{escape(n)} {p.value:+.4f}; least {p.there:+.4f} on {escape(p.worst)}</li>"
                     for n, p in best.telling.items()) if best else ""  # fmt: skip
    step = f"; a step takes {best.step_us:.1f} us, the parent's {best.parent_step_us:.1f} us" if best else ""
    return (f"<p>{before / 1024:.1f} kB to {after / 1024:.1f} kB, {before / after:.2f} times smaller{step}.</p>"
            f"<p>Over {drift.hours:.1f} h:</p><ul>{said}{labels}</ul>"
            f"<p>What is decided, over the held-out records once:</p><ul>{parity}</ul>")  # fmt: skip


def _errors(drift: Drift) -> str:
    rows = [(escape(n), f"{drift.first[n]:.2e}", f"{drift.last[n]:.2e}", f"{drift.worst[n]:.3g}") for n in drift.first]
    return _table(("output", "first tenth", "last tenth", "largest, own unit"), rows) + (
        "<p>Root mean square difference over the parent's own spread.</p>"
    )


def _burst(drift: Drift) -> str:
    rows = [(escape(n), "not within a minute" if s < 0 else f"{s:.0f} s") for n, s in drift.burst.recovery_s.items()]
    return f"<p>{BURST_S:g} s of noise at 20 times the signal, at the line.</p>" + _table(("output", "recovered"), rows)


def _forced(drift: Drift) -> str:
    rows = [(escape(n), f"{drift.free[n]:.2e}", f"{drift.forced[n]:.2e}") for n in drift.free]
    return (f"<p>Over {FORCED_S / 60:g} minutes: with its own state, and with the parent's state given every second. "
            "Where the two are alike, the error is made anew and not carried on.</p>"
            + _table(("output", "its own state", "the parent's state"), rows))  # fmt: skip


def _methods(tried: Iterable[Tried]) -> str:
    rows = []
    for t in tried:
        if t.refused:
            rows.append((escape(t.method), "-", "-", f"refused: {escape(t.refused)}"))
            continue
        how = "passes" if t.passes else escape("; ".join(t.failures))
        rows.append((escape(t.method), f"{len(t.data) / 1024:.1f}", f"{t.slower:.2f}", how))
    return _table(("method", "kB", "times the parent's step", "the gate"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    names = "".join(f"<th>{name}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def _chart(series: Mapping[str, Sequence[float]], unit: str, mark: float) -> str:
    """Lines over time, zero at the bottom; a mark where something happened."""
    most = max((v for values in series.values() for v in values), default=0.0) or 1.0
    count = max((len(v) for v in series.values()), default=1)
    wide, high = WIDTH - LEFT - 10, HEIGHT - 40
    lines = "".join(_line(values, count, most, COLOURS[k % len(COLOURS)]) for k, values in enumerate(series.values()))
    names = "".join(
        f'<text x="{LEFT + 90 * k}" y="12" fill="{COLOURS[k % len(COLOURS)]}" font-size="12">{escape(n)}</text>'
        for k, n in enumerate(series)
    )
    at = LEFT + wide * mark / max(count, 1)
    marked = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="18" y2="{18 + high}" stroke="#888" stroke-dasharray="4"/>'
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="difference over {unit}">{names}'
            f'<text x="2" y="26" font-size="11">{most:.1e}</text><text x="2" y="{18 + high}" font-size="11">0</text>'
            f'<line x1="{LEFT}" x2="{LEFT + wide}" y1="{18 + high}" y2="{18 + high}" stroke="#888"/>'
            f"{marked if mark else ''}{lines}"
            f'<text x="{LEFT + wide}" y="{HEIGHT - 4}" font-size="11" text-anchor="end">{count} {unit}</text></svg>'
            )  # fmt: skip


def _line(values: Sequence[float], count: int, most: float, colour: str) -> str:
    wide, high = WIDTH - LEFT - 10, HEIGHT - 40
    step = wide / max(count, 1)
    points = " ".join(f"{LEFT + step * (k + edge):.1f},{18 + high * (1 - v / most):.1f}"
                      for k, v in enumerate(values) for edge in (0, 1))  # fmt: skip
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
