"""The tables and the plot of `docs/memory.md` from `results/memory.json`; run alone, it draws them again."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = Path(__file__).parents[1] / "results" / "memory.json"
MARKERS = "osD^v*X"
FLOOR = 1e-20
"""Slopes are drawn no smaller."""
BEGIN, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"


def write(result: Mapping[str, Any]) -> None:
    """Put the tables between the marks of the page, and draw the plot beside it."""
    page = DOCS / "memory.md"
    head, rest = page.read_text().split(BEGIN)
    tail = rest.split(END)[1]
    page.write_text(head + BEGIN + "\n" + tables(result) + END + tail)
    plot(result, DOCS / "memory.png")


def tables(result: Mapping[str, Any]) -> str:
    """What was measured, as Markdown."""
    return "\n".join([*_stated(result), *_accuracy(result), *_gradient(result), *_cost(result)]) + "\n"


def _stated(result: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {v}" for name, v in result["versions"].items())
    training = ", ".join(f"{t['task']} {t['training']:,}" for t in result["families"][0]["tasks"])
    yield (f"{result['cpu']}, {result['cores']} cores, one thread, Python {result['python']}, {versions}, "
           f"{result['date']}; {result['seconds'] / 60:.0f} minutes. Width {result['width']}, window "
           f"{result['window']}, Adam ({result['learning_rate']}) with {result['batch']} sequences a step, "
           f"{result['seeds']} seeds, so many steps of training at most: {training}.")  # fmt: skip
    yield ""


def _names(result: Mapping[str, Any]) -> list[str]:
    return [t["task"] for t in result["families"][0]["tasks"]]


def _accuracy(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"Right answers, %, of {result['tested']} sequences never trained on, each seed (guessing: 50, adding 8):"
    yield from _rows(result, lambda t: " / ".join(f"{100 * r['accuracy']:.0f}" for r in t["runs"]))


def _gradient(result: Mapping[str, Any]) -> Iterator[str]:
    yield "Slope of the last output at the first sample over that at the last, before training and after, median:"
    yield from _rows(result, lambda t: " → ".join(_power(t["runs"], k) for k in ("gradient_before", "gradient_after")))


def _power(runs: list[dict[str, float]], key: str) -> str:
    value = median(r[key] for r in runs)
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e+").replace("e+0", "")


def _rows(result: Mapping[str, Any], cell: Any) -> Iterator[str]:
    names = _names(result)
    yield ""
    yield f"| | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for f in result["families"]:
        yield f"| {f['family']} | {' | '.join(cell(t) for t in f['tasks'])} |"
    yield ""


def _cost(result: Mapping[str, Any]) -> Iterator[str]:
    yield "As exported, proven and run by this runtime, one sample a step, one stream:"
    yield ""
    yield "| | parameters | times the RNN's | state, bytes | a step, us | recomputing its window, us | error |"
    yield "|---|---|---|---|---|---|---|"
    least = min(f["parameters"] for f in result["families"])
    for f in result["families"]:
        recompute = f"{f['recompute_us']:,.0f} ({f['window']:,} samples)"
        yield (f"| {f['family']} | {f['parameters']:,} | {f['parameters'] / least:.1f} | {f['state_bytes']:,} | "
               f"{f['step_us']:.1f} | {recompute} | {f['max_error']:.0e} |")  # fmt: skip
    yield ""


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Accuracy and gradient by the number of steps to be remembered."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for f, marker in zip(result["families"], MARKERS, strict=False):
        line = {"marker": marker, "markersize": 7, "alpha": 0.75, "label": f["family"]}
        tasks = [t for t in f["tasks"] if t["task"].startswith("recall")]
        lags = [int(t["task"].split()[1]) for t in tasks]
        left.semilogx(lags, [100 * max(r["accuracy"] for r in t["runs"]) for t in tasks], **line)
        slopes = [max(median(r["gradient_before"] for r in t["runs"]), FLOOR) for t in tasks]
        right.loglog(lags, slopes, **line)
    left.set(xlabel="steps that a bit must be kept", ylabel="right answers, best seed, %", xticks=lags)
    right.set(xlabel="steps back", ylabel=f"slope there over slope now, untrained ({FLOOR:g}: or less)", xticks=lags)
    for ax in (left, right):
        ax.set_xticklabels(lags)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.savefig(path, metadata={"Software": "holdover"})


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text()))
