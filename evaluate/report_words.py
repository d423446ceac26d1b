"""The frame and the words of a report."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
:root {{ --ink: #16213a; --paper: #fff; --faint: #667; --line: #d8dbe2; --se: #1f5fbf; --pp: #b5541c; }}
@media (prefers-color-scheme: dark) {{ @media screen {{
  :root {{ --ink: #e4e7ee; --paper: #14171e; --faint: #9aa3b5; --line: #333946; --se: #7fb0ff; --pp: #f0a36b; }} }} }}
body {{ font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 1080px; margin: 0 auto; padding: 1.2rem; }}
h1 {{ font-size: 1.6rem; margin: 0; }} h2 {{ font-size: 1.15rem; margin: 2rem 0 .5rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .22rem .55rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }}
th:first-child {{ text-align: left; font-weight: 500; }} thead th {{ color: var(--faint); font-weight: 500; }}
th[colspan] {{ padding-top: .8rem; color: var(--faint); }}
td:has(b) {{ padding: 0; }}
b {{ display: block; font-weight: 400; padding: .22rem .55rem; min-width: 3.4rem;
  background: color-mix(in srgb, var(--se) calc(var(--share) * .45), transparent); }}
small, footer, .about {{ color: var(--faint); }}
svg {{ width: 100%; height: auto; font: 11px system-ui, sans-serif; }}
svg text {{ fill: var(--ink); }} svg .title {{ font-size: 13px; font-weight: 600; }}
svg .grid {{ stroke: var(--line); }} svg .rule {{ stroke: var(--faint); }}
svg line.se {{ stroke: var(--se); stroke-width: 2; }} svg circle.se {{ fill: var(--se); }}
svg line.pp {{ stroke: var(--pp); stroke-width: 2; }} svg circle.pp {{ fill: var(--pp); }}
i {{ display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-left: .8rem; }}
i.se {{ background: var(--se); }} i.pp {{ background: var(--pp); }}
dt {{ color: var(--faint); }} dd {{ margin: 0 0 .5rem; overflow-wrap: anywhere; }}
.notice {{ border-left: 4px solid var(--pp); padding: .4rem .8rem; margin: 1rem 0; }}
@media print {{ body {{ font-size: 9.5pt; max-width: none; padding: 0; }} tr, svg {{ break-inside: avoid; }}
  h2 {{ break-after: avoid; }} thead {{ display: table-header-group; }} div {{ overflow: visible; }}
  th, td {{ padding: .1rem .3rem; }} small {{ display: none; }}
  b, i {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }} }}
</style></head><body>
<h1>{title}</h1><p class="about">{about}</p>
<p class="notice">holdover: {notice}.</p>
{sections}
<footer><p>holdover: {notice}.</p></footer>
</body></html>
"""

DEFINITIONS = """
<p><strong>Se</strong>, sensitivity: of what the reference has, the share that the test has too. <strong>+P</strong>,
positive predictivity: of what the test has, the share that is in the reference. <strong>F1</strong>: their harmonic
mean.</p>
<p>Beats are paired as EC57 and the WFDB program <code>bxb</code> do: within the match window, each with the nearest.
<strong>Q</strong> in the name of a rate is any QRS complex. Classes: N normal, V ventricular, S supraventricular
ectopic, F fusion, Q unclassifiable; O is no beat, X no beat during shutdown. F that the test calls V, and Q that it
calls V or S, are no false positives. Detections within reference fibrillation are not counted.</p>
<p><strong>Gross</strong> pools the beats of all records, <strong>average</strong> is the mean over the records that
have the rate. The interval of the gross is a bootstrap over records (2,000 draws): it says how far other patients might
lead. The interval of a single record is Wilson's, as if its beats were independent, so it is too narrow.</p>
<p><strong>Alarms</strong>: an event of the reference is found, and an alarm is true, if the other side has one of the
same label that overlaps it, give or take the tolerance. Only onsets in the scored period count. Latency is from the
reference's onset to where the first matching alarm came true, and the delay with which that is known.</p>
"""
