"""The tables of `docs/peers.md` from `results/peers.json`; run alone, it writes them again."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
RESULTS = Path(__file__).parents[1] / "results" / "peers.json"
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"

KINDS = {
    "recurrent layers": ("rnn", "lstm", "gru", "stack", "no_batch", "batch_of_one", "time_first"),
    "pooling": ("max_pool", "average_pool", "pool_2d"),
    "convolutions": ("conv", "residual", "joined", "chomp", "twice", "paces"),
    "padding, cuts": ("pad", "cut"),
    "attention": ("attention",),
    "integers": ("int8", "uint8"),
    "over all time": ("last", "mean", "sum", "max", "min", "global", "two_means", "moments", "everything", "cumsum"),
    "whole nets": ("two_", "several", "cnn_lstm", "tcn", "unet", "conformer"),
    "norms, shapes": ("",),
}
"""Kinds of graphs by how their names begin; the first that fits."""
VERDICTS = ("right", "wrong", "refused", "died")


def write(result: Mapping[str, Any]) -> None:
    """Put the tables between the marks of the page."""
    page = DOCS / "peers.md"
    head, rest = page.read_text().split(BEGIN)
    tail = rest.split(END)[1]
    page.write_text(head + BEGIN + "\n" + tables(result) + END + tail)


def tables(result: Mapping[str, Any]) -> str:
    """What was found, as Markdown."""
    return "\n".join([*_stated(result), *_verdicts(result), *_costs(result), *_wrong(result), *_refused(result)]) + "\n"


def kind(graph: str) -> str:
    """What kind of graph it is.

    Examples
    --------
    >>> kind("max_pool_padded"), kind("max"), kind("softmax")
    ('pooling', 'over all time', 'norms, shapes')
    """
    return next(k for k, starts in KINDS.items() if graph.startswith(starts))


def _engines(result: Mapping[str, Any]) -> list[str]:
    return list(result["graphs"][0]["engines"])


def _stated(result: Mapping[str, Any]) -> Iterator[str]:
    versions = ", ".join(f"{name} {v}" for name, v in result["versions"].items())
    yield (f"{result['cpu']}, {result['cores']} cores, one thread, Python {result['python']}, {versions}, "
           f"{result['date']}; {len(result['graphs'])} graphs, {result['seconds'] / 60:.0f} minutes.")  # fmt: skip
    yield ""


def _verdicts(result: Mapping[str, Any]) -> Iterator[str]:
    names = _engines(result)
    yield "Graphs streamed right / silently wrong / refused, and where any are: / died or hung:"
    yield ""
    yield f"| | graphs | {' | '.join(names)} |"
    yield "|---" * (len(names) + 2) + "|"
    for k in (*KINDS, "all"):
        graphs = [g for g in result["graphs"] if k in (kind(g["graph"]), "all")]
        if graphs:
            yield f"| {k} | {len(graphs)} | {' | '.join(_counts(graphs, n) for n in names)} |"
    yield ""


def _counts(graphs: list[Any], engine: str) -> str:
    found = [g["engines"][engine]["verdict"] for g in graphs]
    counts = [found.count(v) for v in VERDICTS]
    return " / ".join(map(str, counts if counts[-1] else counts[:-1]))


def _costs(result: Mapping[str, Any]) -> Iterator[str]:
    names = _engines(result)
    yield "A step in microseconds, median over the graphs that the engine and this runtime stream right (this runtime's"
    yield "on the same graphs), and the largest error, over the largest output:"
    yield ""
    yield "| | graphs | a step, us | holdover's, us | ratio | largest error |"
    yield "|---|---|---|---|---|---|"
    for name in names:
        both = [(g["engines"][name], g["engines"]["holdover"]) for g in result["graphs"]
                if all("step_us" in g["engines"][n] for n in (name, "holdover"))]  # fmt: skip
        if both:
            ratio = median(a["step_us"] / b["step_us"] for a, b in both)
            yield (f"| {name} | {len(both)} | {median(a['step_us'] for a, _ in both):.0f} | "
                   f"{median(b['step_us'] for _, b in both):.0f} | {ratio:.1f} | "
                   f"{max(a['error'] for a, _ in both):.0e} |")  # fmt: skip
    yield ""


def _wrong(result: Mapping[str, Any]) -> Iterator[str]:
    yield "Silently wrong, by error over the largest output (-: outputs of another shape or not finite):"
    yield ""
    for name in _engines(result):
        found = [(g["graph"], g["engines"][name]) for g in result["graphs"] if g["engines"][name]["verdict"] == "wrong"]
        shown = ", ".join(f"`{graph}` {_error(v)}" for graph, v in found)
        yield f"- **{name}**: {shown or 'none'}"
    yield ""


def _error(verdict: Mapping[str, Any]) -> str:
    return "-" if verdict["error"] is None else f"{verdict['error']:.2g}"


def _refused(result: Mapping[str, Any]) -> Iterator[str]:
    yield "Refused, died or hung:"
    yield ""
    for name in _engines(result):
        found = [(g["graph"], g["engines"][name]) for g in result["graphs"]]
        graphs = [f"`{graph}`" + (f" ({v['why']})" if v["verdict"] == "died" else "")
                  for graph, v in found if v["verdict"] in ("refused", "died")]  # fmt: skip
        yield f"- **{name}**: {', '.join(graphs) or 'none'}"
    yield ""


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text()))
