"""The picture as one page of HTML that needs nothing else: a table of the alarms, and the chart."""

import base64
import html

from holdover.apps.picture.strip import Sheet, Span, Strip, summary
from holdover.runtime.alert import NOTICE

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.45 system-ui, sans-serif; color: #16213a; max-width: 1640px; margin: 0 auto; padding: 1rem; }}
img {{ width: 100%; height: auto; border: 1px solid #e3c4bd; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid #ddd; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
i {{ display: inline-block; width: .8rem; height: .8rem; margin-right: .5rem; }}
footer {{ color: #666; font-size: .85rem; }}
</style></head><body>
<h1>{title}</h1><p>{summary}</p>
{table}
<img alt="strip chart of {title}" src="data:image/png;base64,{image}">
<footer>holdover: {notice}</footer>
</body></html>
"""


def page(image: bytes, strip: Strip, sheet: Sheet, title: str) -> str:
    """The page around a chart in PNG."""
    return _PAGE.format(
        title=html.escape(title or "recording"),
        summary=html.escape(summary(strip, sheet)),
        table=_table(strip),
        image=base64.b64encode(image).decode(),
        notice=html.escape(NOTICE),
    )


def _table(strip: Strip) -> str:
    if not strip.spans:
        return "<p>No alarms.</p>"
    head = "".join(f"<th>{name}</th>" for name in ("alarm", "kind", "priority", "begins", "ends", "lasts"))
    body = "".join(_line(strip, span) for span in strip.spans)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _line(strip: Strip, span: Span) -> str:
    a, b = strip.local(span)
    ends = "goes on" if span.end is None else strip.clock(b)
    label, kind, priority = map(html.escape, (span.label.replace("_", " "), span.kind, span.priority))
    numbers = "".join(
        f'<td class="number">{text}</td>' for text in (strip.clock(a), ends, f"{(b - a) / strip.rate_hz:.1f} s")
    )
    return (
        f'<tr><td><i style="background:{span.color}"></i>{label}</td><td>{kind}</td><td>{priority}</td>{numbers}</tr>'
    )
