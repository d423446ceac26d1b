"""The contract of a woven graph: what can be known from the graph alone, and what its author says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdover.export.fact import Running
from holdover.export.loom import State
from holdover.export.streaming import SIGNAL, Port, Woven
from holdover.export.whole import session
from holdover.runtime.errors import ModelError, UsageError

GROWTH_HOPS = 100_000
"""A state that still changes its shape after so many hops is said to grow without bound."""


@dataclass(frozen=True)
class Statement:
    """What the author of a model says of it.

    Attributes
    ----------
    name, version : str
    rate_hz : float
        Samples a second of the signal.
    leads : tuple of str
        Channels in order.
    unit : str
        Of all channels.
    labels : tuple of str
        Of the first output whose width they fit.
    meanings : mapping of str to str
        Meaning by output.
    horizon : int
        Samples from a frame of a forecast to the sample that it speaks of.
    detectors : tuple of mapping
        The model's own choice of detectors.
    provenance : mapping
        Trained on what, under which license.
    """

    name: str
    rate_hz: float
    leads: tuple[str, ...]
    unit: str
    version: str = "0.1.0"
    labels: tuple[str, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)
    horizon: int = 1
    detectors: tuple[Mapping[str, Any], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)


def describe(woven: Woven, said: Statement) -> dict[str, Any]:
    """The contract as JSON types, results depending on the block's size until measured otherwise.

    Raises
    ------
    UsageError
        Leads, labels or meanings that do not fit the graph.
    """
    _check(woven, said)
    labelled = next((p.name for p in woven.ports if said.labels and p.width == len(said.labels)), None)
    shapes, after = _steady(woven)
    return {
        "version": 1,
        "name": said.name,
        "model_version": said.version,
        "signals": [
            {
                "input": SIGNAL,
                "axis": 1,
                "rate_hz": float(said.rate_hz),
                "channels": [{"name": lead, "unit": said.unit} for lead in said.leads],
            }
        ],
        "hop": woven.hop,
        "first_chunk_min": woven.first_chunk_min,
        "grid": woven.hop,
        "chunk_invariant": "grid",
        "eos_input": woven.eos,
        "states": [_state(s, shapes[s.name], after[s.name]) for s in woven.states],
        "outputs": [_output(woven, p, said, p.name == labelled) for p in woven.ports],
        "detectors": [dict(d) for d in said.detectors],
        "provenance": dict(said.provenance),
    }


def _check(woven: Woven, said: Statement) -> None:
    width = woven.model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    if width != len(said.leads):
        raise UsageError(f"the model takes {width} numbers a sample, --leads names {len(said.leads)} "
                         f"({', '.join(said.leads)}); name one lead for each, in the model's order")  # fmt: skip
    widths = {p.name: p.width for p in woven.ports}
    if said.labels and len(said.labels) not in widths.values():
        found = ", ".join(f"{n} has {w}" for n, w in widths.items())
        raise UsageError(f"--labels names {len(said.labels)} classes, of the outputs {found}")
    if unknown := sorted(set(said.meanings) - set(widths)):
        raise UsageError(f"there is no output {', '.join(unknown)}; the model has {', '.join(widths)}")


def _state(state: State, steady: tuple[int | str, ...], after: int) -> dict[str, Any]:
    return {
        "name": state.name,
        "input": f"{state.name}.in",
        "output": f"{state.name}.out",
        "dtype": state.dtype.name,
        "init": "zeros" if state.fill == 0 else state.fill,
        "init_shape": list(state.shape),
        "steady_shape": list(steady),
        "steady_after": after,
    }


def _output(woven: Woven, port: Port, said: Statement, labelled: bool) -> dict[str, Any]:
    ahead = port.fact.ahead
    meaning = said.meanings.get(port.name, "class_logits" if labelled else "score")
    entry: dict[str, Any] = {"name": port.name, "meaning": meaning, "width": port.width, "settle": 0}
    if labelled:
        entry["labels"] = list(said.labels)
    if meaning == "forecast":
        entry["horizon"] = said.horizon
    if isinstance(port.fact, Running):
        first = woven.first_chunk_min - 1 - max(ahead, 0)
        return entry | {"kind": "running", "samples_per_frame": woven.hop, "first_at": first, "delay": max(ahead, 0)}
    place = {"first_at": min(ahead, 0), "delay": max(ahead, 0)}
    return entry | {"kind": "frames", "samples_per_frame": port.fact.pace, **place}


def _steady(woven: Woven) -> tuple[dict[str, tuple[int | str, ...]], dict[str, int]]:
    """Shapes of the states once they no longer change, and the samples until then: watched, hop by hop."""
    growing = [s for s in woven.states if s.grows is not None]
    shapes: dict[str, tuple[int | str, ...]] = {s.name: s.shape for s in woven.states}
    after = dict.fromkeys(shapes, 0)
    if not growing:
        return shapes, after
    names = [f"{s.name}.out" for s in woven.states]
    run = session(woven.model)
    width = woven.model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    state = {s.before.name: initial(s) for s in woven.states}
    size, samples, still = woven.first_chunk_min, 0, 0
    while still < 3:
        feeds = {SIGNAL: np.zeros((1, size, width), np.float32), **state}
        if woven.eos:
            feeds[woven.eos] = np.zeros(1, np.int64)
        found = _run(run, names, feeds)
        samples += size
        still += 1
        for s in growing:
            shape = tuple("batch" if n == "batch" else k for n, k in zip(s.shape, found[f"{s.name}.out"].shape,
                                                                         strict=True))  # fmt: skip
            if shape != shapes[s.name]:
                shapes[s.name], after[s.name], still = shape, samples, 0
        state = {s.before.name: found[f"{s.name}.out"] for s in woven.states}
        size = woven.hop
        if samples > GROWTH_HOPS * woven.hop:
            raise UsageError(f"the state {growing[0].name} grows without bound; give --window N")
    return shapes, after


def _run(session: Any, names: list[str], feeds: Mapping[str | None, Any]) -> dict[str, np.ndarray[Any, Any]]:
    try:
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # onnxruntime's own types
        raise ModelError(f"the streaming graph does not run: {' '.join(str(error).split())[:300]}") from error


def initial(state: State, batch: int = 1) -> np.ndarray[Any, Any]:
    """A state before the first sample."""
    return np.full([batch if n == "batch" else n for n in state.shape], state.fill, state.dtype)
