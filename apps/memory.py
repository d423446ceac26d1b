"""How far back a model remembers: two pasts told apart, and what its gates keep."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.errors import ModelError, UsageError

if TYPE_CHECKING:
    import onnx

    from holdover.runtime.contract import Contract
    from holdover.runtime.engines.ort import OrtEngine

Array = NDArray[Any]
Curve = tuple[list[float], list[float]]
"""Seconds since the pasts met, and the largest difference from then on."""

SECONDS, HOPS = 60.0, (1024, 16384)
"""Of made-up signal: so long, but at least and at most so many hops."""
PASTS = 4
MARKS = 80
LEVELS = (0.5, 0.1, 0.01, 0.001)
LONGEST = 1e6
"""Frames; a gate that stays open to the last bit of float32 has no time constant that could be told from this one."""


def measure(
    data: bytes, graph: "onnx.ModelProto", contract: "Contract", on: str | None = None, lead: str | None = None
) -> dict[str, Any]:
    """What is left of the past, and when, as JSON types.

    Parameters
    ----------
    data, graph, contract
        A streaming model: its file, the same as a graph, and its contract.
    on
        A recording; None: white noise of unit variance.
    lead
        Of the recording, instead of the model's channel, as `Feed` takes it.

    Returns
    -------
    dict
        `outputs` (settle and look-ahead, seconds), `forgetting` (`decay` by state and output: seconds, and the
        difference of streams with different pasts, for a state as a part of the first difference, for an output of
        its own spread; `below` is when it falls below a level for good, null where it does not), `units` (time
        constants by layer, seconds).

    Raises
    ------
    UsageError
        The recording is too short, or lacks a lead.
    ModelError, SourceError
        The model does not run, or the recording cannot be read.
    """
    from holdover.export.measure import settling
    from holdover.export.proof import engine_of

    engine = engine_of(data)
    x = _signal(contract, on, lead)
    settled = settling(engine, np.stack([x, np.roll(x, len(x) // 3, axis=0)]))
    decay = _decay(engine, x)
    units, note = _units(graph, contract, x)
    return {
        "on": on or "white noise of unit variance",
        "seconds": round(len(x) / contract.signal.rate_hz, 3),
        "outputs": [_output(contract, o, settled[o.name]) for o in contract.outputs],
        "forgetting": {name: {"s": s, "difference": d, "below": _below(s, d)} for name, (s, d) in decay.items()},
        "units": units,
        "note": note,
    }


def _signal(contract: "Contract", on: str | None, lead: str | None) -> Array:
    """(samples, channels), a whole number of blocks, twice as long as what is looked at."""
    from holdover.apps.export import test_signal
    from holdover.export.proof import noise

    signal, grid = contract.signal, contract.grid
    if on is not None:
        leads = tuple(c.name for c in signal.channels)
        x: Array = test_signal(on, signal.rate_hz, leads, signal.channels[0].unit, lead)
    else:
        hops = int(np.clip(SECONDS * signal.rate_hz / contract.hop, *HOPS))
        first = -(-contract.first_chunk_min // contract.hop)
        x = noise(1, max(hops, 4 * first) * contract.hop, len(signal.channels), 21)[0]
    blocks = len(x) // (2 * grid)
    if blocks * grid < contract.first_chunk_min + 16 * grid:
        need = 2 * (contract.first_chunk_min + 16 * grid) / signal.rate_hz
        raise UsageError(f"{on or 'the signal'} holds {len(x) / signal.rate_hz:.3g} s of finite samples, expected at "
                         f"least {need:.3g} s: give a longer recording")  # fmt: skip
    return x[: 2 * blocks * grid]


def _output(contract: "Contract", o: Any, settled: int) -> dict[str, Any]:
    rate_hz = contract.signal.rate_hz
    seen = contract.document.get("verification", {}).get("lookahead_measured", {}).get(o.name)
    return {
        "name": o.name,
        "settle_s": round(o.settle / rate_hz, 6),
        "settled_s": None if settled < 0 else round(settled / rate_hz, 6),
        "lookahead_s": round(o.delay / rate_hz, 6),
        "lookahead_measured_s": None if seen is None else round(seen / rate_hz, 6),
    }


def _decay(engine: "OrtEngine", x: Array) -> dict[str, Curve]:
    """Streams with different pasts over the same signal: how far apart their states and outputs are, by time."""
    c, half = engine.contract, len(x) // 2
    steps = (half - 1) // c.grid + 1
    marks = sorted({int(m) for m in np.geomspace(1, steps, MARKS)})
    pasts = [np.roll(x[:half], k * half // PASTS, axis=0) for k in range(PASTS)]
    if all(np.array_equal(past, pasts[0]) for past in pasts):
        raise UsageError("the signal is the same in all its pieces, so that nothing can be forgotten of it: take a "
                         "recording that is neither constant nor periodic, or leave --on out")  # fmt: skip
    runs = [_run(engine, past, x[half:], marks) for past in pasts]
    (states, outputs), others = runs[0], runs[1:]
    times = [k * c.grid / c.signal.rate_hz for k in (0, *marks)]
    curves = {}
    for spec in (s for s in c.states if s.dtype.startswith("float")):
        apart = [_apart([s[spec.name] for s in states], [s[spec.name] for s in other]) for other, _ in others]
        if (curve := _share(np.mean(apart, axis=0))) is not None:
            curves[spec.name] = (times, curve)
    for o in c.outputs:
        spread = float(np.std(np.concatenate(outputs[o.name]), dtype=np.float64)) or 1.0
        apart = [_apart(outputs[o.name], other[o.name]) / spread for _, other in others]
        curves[o.name] = _at(marks, np.mean(apart, axis=0), c.grid / c.signal.rate_hz)
    return curves


def _run(
    engine: "OrtEngine", past: Array, x: Array, marks: Sequence[int]
) -> tuple[list[Mapping[str, Array]], dict[str, list[Array]]]:
    """States at the start and after so many blocks; outputs of every block, (frames, width) each."""
    from holdover.export.measure import blocks

    c = engine.contract
    found = blocks(engine, past[np.newaxis], [len(past)])
    state: Mapping[str, Array] = {s.name: found[f"state:{s.name}"] for s in c.states}
    states, outputs = [state], {o.name: [found[o.name][0, :0]] for o in c.outputs}
    for k in range(len(x) // c.grid):
        y, state = engine.step(x[np.newaxis, k * c.grid : (k + 1) * c.grid], state)
        for name, value in y.items():
            outputs[name].append(value[0])
        if k + 1 in marks:
            states.append(state)
    return states, {name: parts[1:] for name, parts in outputs.items()}


def _apart(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Root mean square of the difference of each pair; 0 where they hold nothing or are not of one shape."""
    pairs = zip(a, b, strict=True)
    return np.array([_rms(p - q) if p.shape == q.shape and p.size else 0.0 for p, q in pairs])


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _share(apart: Array) -> list[float] | None:
    """Of the first difference, the largest part from each time on; None where the pasts left the same."""
    return _rounded(_from_then_on(apart / apart[0])) if apart[0] > 0 else None


def _at(marks: Sequence[int], apart: Array, block_s: float) -> Curve:
    """At the marks, the largest difference of the blocks from there on."""
    largest = _from_then_on(apart)
    return [(k - 1) * block_s for k in marks], _rounded(largest[[k - 1 for k in marks]])


def _from_then_on(apart: Array) -> Array:
    return np.maximum.accumulate(apart[::-1])[::-1]


def _rounded(values: Array) -> list[float]:
    return [float(f"{v:.4g}") for v in values]


def _below(s: Sequence[float], difference: Sequence[float]) -> dict[str, float | None]:
    return {f"{level:g}": next((t for t, d in zip(s, difference, strict=True) if d < level), None) for level in LEVELS}


def _units(graph: "onnx.ModelProto", contract: "Contract", x: Array) -> tuple[list[dict[str, Any]], str]:
    """Time constants of every layer that has a gate which keeps; and why there are none."""
    from holdover.export.gate_engine import GateEngine
    from holdover.export.taps import KEEPS

    try:
        gates = GateEngine(graph, contract)
    except UsageError as error:
        return [], str(error).removesuffix(": leave --tap out")
    found = gates.lane().push(x)
    kept = [(tap, found[tap.outputs[KEEPS[tap.op]]]) for tap in gates.taps if tap.op in KEEPS]
    seconds = len(x) / contract.signal.rate_hz
    layers = [_layer(tap.layer, tap.op, KEEPS[tap.op], gate, seconds / len(gate)) for tap, gate in kept if len(gate)]
    return layers, "" if layers else "its recurrent layers have no gate that keeps"


def _layer(name: str, op: str, gate: str, value: Array, frame_s: float) -> dict[str, Any]:
    return {
        "layer": name,
        "op": op,
        "gate": gate,
        "frame_s": frame_s,
        "mean": _rounded(value.mean(axis=0, dtype=np.float64)),
        "time_constant_s": _rounded(time_constants(value) * frame_s),
    }


def time_constants(gate: Array) -> Array:
    """Frames after which 1/e of a unit's memory is left.

    What n steps leave is the product of their gates, so the mean is taken of the logarithm; a plain mean of the gate
    would overrate a unit that is emptied now and then. For a constant gate f it is -1 / ln f, which is close to
    1 / (1 - f) (Tallec & Ollivier 2018, eq. 8).

    Parameters
    ----------
    gate : array
        (frames, units), the share that is kept, 0 to 1.

    Examples
    --------
    >>> time_constants(np.full((10, 1), np.exp(-1 / 50))).round(3)
    array([50.])
    """
    forgotten = Forgotten()
    forgotten.add(gate)
    return forgotten.time_constants()


class Forgotten:
    """What the gates of a layer have let go, as `time_constants` wants it, over any number of pieces."""

    def __init__(self) -> None:
        self._logs: Array = np.empty(0)
        self._frames = 0

    def add(self, gate: Array) -> None:
        """Take the next frames of a gate that keeps, (frames, units)."""
        logs = np.log(np.clip(gate.astype(np.float64), 1e-12, None)).sum(axis=0)
        self._logs = self._logs + logs if self._frames else logs
        self._frames += len(gate)

    def time_constants(self) -> Array:
        """Frames, (units,); none where no frame was taken."""
        if not self._frames:
            return np.empty(0)
        decay: Array = np.minimum(self._logs / self._frames, -1 / LONGEST)
        return -1 / decay


def lines(memory: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, in 80 columns."""
    from holdover.apps.inspect import row, table

    yield from row("remembers", f"measured on {memory['on']}, {memory['seconds']:g} s")
    yield ""
    settled = [(o["name"], _seconds(o["settled_s"]), f"{o['settle_s']:g}", f"{o['lookahead_s']:g}")
               for o in memory["outputs"]]  # fmt: skip
    yield from table(("output", "settled s", "promised s", "look-ahead s"), settled)
    yield ""
    left = [(n, *map(_seconds, f["below"].values())) for n, f in memory["forgetting"].items()]
    yield from table(("left of another past, s until below", *(f"{level:g}" for level in LEVELS)), left)
    yield ""
    if memory["note"]:
        yield from row("gates", memory["note"])
        return
    units = [_unit_cells(u) for u in memory["units"]]
    yield from table(("layer", "gate", "units", "mean", "shortest s", "median s", "longest s", "unit"), units)


def _seconds(value: float | None) -> str:
    return "not within" if value is None else f"{value:.3g}"


def _unit_cells(u: Mapping[str, Any]) -> tuple[str, ...]:
    s = u["time_constant_s"]
    spread = (min(s), float(np.median(s)), max(s))
    return (u["layer"], u["gate"], str(len(s)), f"{np.mean(u['mean']):.3f}", *(f"{v:.3g}" for v in spread),
            str(int(np.argmax(s))))  # fmt: skip


def plot(memory: Mapping[str, Any], path: str | Path, title: str) -> None:
    """Draw the forgetting curves, and the time constants of the units in order, as a PNG.

    Raises
    ------
    UsageError
        matplotlib is missing, or the file is no .png or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot {path}: a plot of the memory is written as .png")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"a plot needs {error.name}, which is not installed: install holdover[replay]") from None
    figure = Figure(figsize=(12, 4.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: what is left of another past, on {Path(memory['on']).name}", parse_math=False)
    left, right = figure.subplots(1, 2)
    _draw_forgetting(left, memory)
    _draw_units(right, memory)
    try:
        figure.savefig(path, metadata={"Software": "holdover"})
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror})") from None


def _draw_forgetting(ax: Any, memory: Mapping[str, Any]) -> None:
    outputs = {o["name"] for o in memory["outputs"]}
    for name, f in memory["forgetting"].items():
        style = {"linewidth": 2.2} if name in outputs else {"linewidth": 0.9, "linestyle": "--"}
        pairs = [(t, d) for t, d in zip(f["s"], f["difference"], strict=True) if t > 0 and d > 0]
        if pairs:
            ax.loglog(*zip(*pairs, strict=True), label=name.replace("_", " "), **style)
    ax.set(xlabel="seconds after the pasts met", ylabel="difference (state: of the first; output: of its spread)")
    ax.set_ylim(bottom=1e-5)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=7, ncols=2)


def _draw_units(ax: Any, memory: Mapping[str, Any]) -> None:
    for u in memory["units"]:
        s = sorted(u["time_constant_s"])
        ax.semilogy(np.linspace(0, 100, len(s)), s, marker=".", label=f"{u['layer']} ({len(s)})".replace("_", " "))
    ax.set(xlabel="units, in order, %", ylabel="time constant, s")
    ax.grid(alpha=0.3)
    if memory["units"]:
        ax.legend(fontsize=7)
    else:
        ax.text(0.5, 0.5, "no gates", transform=ax.transAxes, ha="center")


def check(args: Any) -> None:
    """Refuse options that need `--memory`, and a picture that could not be written, before anything is measured."""
    if not args.memory and (args.on or args.lead or args.plot):
        raise UsageError("--on, --lead and --plot are of the memory: add --memory")
    if args.lead and not args.on:
        raise UsageError("--lead is of a recording: add --on RECORD")
    if args.plot and not Path(args.plot).resolve().parent.is_dir():
        raise UsageError(f"there is no folder {Path(args.plot).resolve().parent} to write {Path(args.plot).name} into")
    if args.plot and Path(args.plot).suffix.lower() != ".png":
        raise UsageError(f"--plot {args.plot}: a plot of the memory is written as .png")


def of_file(path: str | Path, on: str | None, lead: str | None = None) -> dict[str, Any]:
    """`measure` of a model file."""
    from holdover.export import contract_io
    from holdover.runtime.engine import read_model

    data, _ = read_model(path)
    graph, contract = contract_io.load(path)
    if not contract.states:
        raise ModelError(f"{path} carries no state: it has no memory to measure")
    return measure(data, graph, contract, on, lead)
