"""Peers as each is meant to stream: a step takes a hop of every input and gives every output; and a process for each.

A peer gets the whole-sequence graph and makes it streaming by its own means ("own"), or gets our streaming file and
carries the states that the file names from step to step ("ours").
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Step = Callable[[list[Array]], Sequence[Array | None]]


@dataclass(frozen=True)
class Graph:
    """One graph of the conformance suite, as it lies in a folder of its own.

    Attributes
    ----------
    folder : Path
        With `whole.onnx` and `stream.onnx`.
    hop : int
        Samples of a step.
    first : int
        Samples of the streaming file's first step.
    dims : list
        Of each input of the whole graph: "batch", "time" or a number by axis.
    channels : list of int
        Of each input.
    states : list of dict
        The contract's states, and of what kind and shape they are.
    outputs : list of str
        Of the contract; those of the whole graph have the same order.
    gives : list of str
        All outputs of the streaming file, states among them.
    signal : str
        The streaming file's input.
    end : str or None
        The streaming file's input that tells the end.
    last : int or None
        The hop, counted from 1, with which the end is told; None: with none.
    """

    folder: Path
    hop: int
    first: int
    dims: list[list[Any]]
    channels: list[int]
    states: list[dict[str, Any]]
    outputs: list[str]
    gives: list[str]
    signal: str
    end: str | None
    last: int | None

    @classmethod
    def read(cls, folder: str) -> "Graph":
        """From `graph.json` in a folder."""
        return cls(Path(folder), **json.loads((Path(folder) / "graph.json").read_text()))

    def sizes(self, time: int | str) -> list[list[Any]]:
        """Shapes of the inputs of the whole graph for one stream."""
        names = {"batch": 1, "time": time}
        return [[names.get(n, n) for n in dims] for dims in self.dims]

    def first_states(self) -> list[Array]:
        """The states before the first sample, one stream."""
        return [np.full([1 if n == "batch" else n for n in s["init_shape"]], s["fill"], s["dtype"])
                for s in self.states]  # fmt: skip

    def one(self, x: Sequence[Array]) -> Array:
        """The streaming file's signal, (1, samples, channels), from the inputs of the whole graph."""
        rows = [np.moveaxis(part, dims.index("time"), 0).reshape(-1, width)
                for part, dims, width in zip(x, self.dims, self.channels, strict=True)]  # fmt: skip
        return np.ascontiguousarray(np.concatenate(rows, axis=1)[np.newaxis], np.float32)


def tract_own(graph: Graph) -> Step:
    """tract's pulse transform, which is made for this."""
    import tract

    model = tract.onnx().load(str(graph.folder / "whole.onnx"))
    for k, sizes in enumerate(graph.sizes("T")):
        model.set_input_fact(k, ",".join(map(str, sizes)) + ",f32")
    for k in range(model.output_count()):
        model.set_output_fact(k, None)
    typed = model.into_model()
    typed.transform(tract.Pulse(graph.hop, symbol="T"))
    state = typed.into_runnable().spawn_state()
    return lambda x: [y.to_numpy() for y in state.run(x)]


def tract_ours(graph: Graph) -> Step:
    """Our file as any other ONNX file in tract."""
    import tract

    model = tract.onnx().load(str(graph.folder / "stream.onnx"))
    first = graph.first_states()
    kinds = {"float32": "f32", "float64": "f64", "int64": "i64", "int32": "i32", "int8": "i8", "uint8": "u8",
             "bool": "bool"}  # fmt: skip
    time = graph.hop if graph.first == graph.hop else "T"
    given = {graph.signal: ("1", time, sum(graph.channels), "f32"), graph.end: (1, "i64")}
    for k, (s, value) in enumerate(zip(graph.states, first, strict=True)):
        grown = [a != b for a, b in zip(s["init_shape"], s["steady_shape"], strict=True)]
        sizes = [f"S{k}A{axis}" if g else n for axis, (g, n) in enumerate(zip(grown, value.shape, strict=True))]
        given[s["input"]] = (*sizes, kinds[s["dtype"]])
    names = [model.input_name(k) for k in range(model.input_count())]
    for k, name in enumerate(names):
        model.set_input_fact(k, ",".join(map(str, given[name])))
    for k in range(model.output_count()):
        model.set_output_fact(k, None)
    runnable = model.into_model().into_runnable()
    return _carried(graph, lambda feeds: dict(
        zip(graph.gives, [_array(y) for y in runnable.run([feeds[n] for n in names])], strict=True)))  # fmt: skip


def _array(y: Any) -> Array:
    """A tract tensor; sizes, which its binding does not give out as they are, as int64."""
    import tract

    try:
        return np.asarray(y.to_numpy())
    except tract.TractError:
        return np.asarray(y.convert_to(tract.DatumType.I64).to_numpy())


def openvino_own(graph: Graph) -> Step:
    """OpenVINO's low-latency transform: recurrent layers keep their states from call to call.

    Not with its default, which puts zeros in the place of states that the graph gives at the start.
    """
    from openvino._offline_transformations import apply_low_latency_transformation

    core, model = _openvino(graph.folder / "whole.onnx")
    model.reshape(dict(zip(model.inputs, graph.sizes(graph.hop), strict=True)))
    apply_low_latency_transformation(model, False)
    request = core.compile_model(model, "CPU").create_infer_request()
    count = len(model.outputs)

    def step(x: list[Array]) -> list[Array]:
        found = request.infer(x)
        return [found[k].copy() for k in range(count)]

    return step


def openvino_ours(graph: Graph) -> Step:
    """Our file as any other ONNX file in OpenVINO."""
    core, model = _openvino(graph.folder / "stream.onnx")
    outputs = [port.get_any_name() for port in model.outputs]
    request = core.compile_model(model, "CPU").create_infer_request()

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        found = request.infer(feeds)
        return {name: found[k].copy() for k, name in enumerate(outputs)}

    return _carried(graph, run)


def _openvino(path: Path) -> tuple[Any, Any]:
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    return core, core.read_model(path)


def onnxruntime_ours(graph: Graph) -> Step:
    """Our file in our runtime."""
    from holdover.runtime.engine import load
    from holdover.runtime.engines.ort import OrtEngine

    engine = load(graph.folder / "stream.onnx")
    assert isinstance(engine, OrtEngine)
    lane = engine.lane()

    def take(x: Array, last: bool) -> list[Array]:
        if last:
            found, _ = engine.step(x, lane.snapshot(), last=True)
            return [found[name] for name in graph.outputs]
        found = lane.push(x[0])
        return [found[name][np.newaxis] for name in graph.outputs]

    return _from_first(graph, take)


def _carried(graph: Graph, run: Callable[[dict[str, Array]], dict[str, Array]]) -> Step:
    """A step over a graph whose states are inputs and outputs."""
    state = dict(zip((s["input"] for s in graph.states), graph.first_states(), strict=True))
    after = {s["input"]: s["output"] for s in graph.states}

    def take(x: Array, last: bool) -> list[Array]:
        end = {graph.end: np.array([last], np.int64)} if graph.end else {}
        found = run({graph.signal: x, **state, **end})
        state.update({name: found[output] for name, output in after.items()})
        return [found[name] for name in graph.outputs]

    return _from_first(graph, take)


def _from_first(graph: Graph, take: Callable[[Array, bool], list[Array]]) -> Step:
    """Hold hops back until there are as many samples as the first step takes; tell the end with the last."""
    held: list[Array] = []
    count = 0

    def step(x: list[Array]) -> Sequence[Array | None]:
        nonlocal count
        count += 1
        held.append(graph.one(x))
        if count * graph.hop < graph.first:
            return [None] * len(graph.outputs)
        block = np.concatenate(held, axis=1) if len(held) > 1 else held[0]
        held.clear()
        return take(block, count == graph.last)

    return step


ENGINES: dict[str, Callable[[Graph], Step]] = {
    "holdover": onnxruntime_ours,
    "tract": tract_own,
    "OpenVINO": openvino_own,
    "tract, our file": tract_ours,
    "OpenVINO, our file": openvino_ours,
}
OWN = ("tract", "OpenVINO")
"""Those that make the whole-sequence graph streaming themselves."""


def serve(pipe: Any, name: str) -> None:
    """A process: prepares a graph and streams hops through it, then again and again what is to be timed."""
    step: Step | None = None
    while True:
        what, given = pipe.recv()
        try:
            if what == "prepare":
                step = None
                step = ENGINES[name](Graph.read(given))
                pipe.send(("done", None))
            elif step is not None:
                pipe.send(("done", _stream(step, given) if what == "stream" else _timed(step, *given)))
        except Exception as error:  # of four libraries' own kinds: that it failed, and what it said, is the finding
            pipe.send(("refused", " ".join(str(error).split("Stack backtrace")[0].split())))


def _stream(step: Step, hops: list[list[Array]]) -> list[Sequence[Array | None]]:
    return [step(x) for x in hops]


def _timed(step: Step, x: list[Array], times: int) -> list[float]:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        step(x)
        found.append((time.perf_counter() - began) * 1e6)
    return found
