"""Raw weights of recurrent layers, as a textbook writes them, as a whole-sequence graph.

Each gate is W . [h_{t-1}, x_t] + b: the columns of the memory come first, then those of the input.
"""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.export.gates import ONNX_ORDER, Gate
from holdover.export.original import Original, SourceOptions
from holdover.export.sources.layer_graph import Graph, Value, recurrent
from holdover.runtime.errors import ModelError, UsageError

Array = NDArray[Any]

MOST_BYTES = 1 << 30
DAMAGED = (OSError, ValueError, EOFError, RuntimeError, ArithmeticError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What zipfile and numpy raise over a file that is not what it says."""
RESET = "linear_before_reset"
Groups = dict[str, dict[str, Array]]
"""Arrays by layer or head, then by key."""
Pairs = Mapping[str, tuple[Array, Array | None]]
"""W and b by gate."""
SPELLINGS: dict[str, dict[str, str]] = {"LSTM": {"g": "c"}, "GRU": {"n": "h"}, "RNN": {}}
"""Other letters for the candidate."""
EXPECTED = (
    "expected W_<gate> and b_<gate> with the gates f i c o (LSTM), z r h (GRU) or h (RNN), or W and b with a gate"
    " order; with several layers l0.W_<gate>, l1.W_<gate> ...; heads as head.W, head.b or head0.W, head0.b ..."
)


def read(path: str | Path, options: SourceOptions) -> Original:
    """Read raw weights from a `.npz` file.

    Parameters
    ----------
    path : str or Path
        Per layer `l{k}.W_{gate}` (hidden, hidden + inputs) and `l{k}.b_{gate}` (hidden,), or stacked `l{k}.W`
        (gates * hidden, hidden + inputs) and `l{k}.b` (gates * hidden,); a single layer may do without `l0.`. Biases
        left out are zero. A GRU that resets after its matrix has `l{k}.linear_before_reset`, 1. Heads: `head.W`
        (outputs, hidden) and `head.b` (outputs,), or `head{n}.W` and `head{n}.b`.
    options : SourceOptions
        `gate_order` for stacked weights, `activation` for a plain layer.

    Returns
    -------
    Original
        Input `x`, (batch, time, inputs); one output a head, or `y`, the memory of the last layer.

    Raises
    ------
    ModelError
        Keys missing or left over, shapes that do not fit, values that are not finite.
    UsageError
        Stacked weights without a gate order, or an order or activation that is not known.
    """
    path = Path(path)
    layers, heads = _grouped(_arrays(path), path.name)
    cells = [_cell(f"{path.name}: layer {name}", arrays, options) for name, arrays in layers.items()]
    graph = Graph()
    value = graph.input("x", ("batch", "time", cells[0].inputs))
    for name, cell in zip(layers, cells, strict=True):
        graph.scope = name
        value = cell.nodes(graph, value)
    _outputs(graph, value, heads, path.name)
    notes = tuple(f"{name}: {cell.said}" for name, cell in zip(layers, cells, strict=True))
    return Original(graph.model("weights"), "weights", _sha256(path), time_axes={"x": 1}, notes=notes)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _arrays(path: Path) -> dict[str, Array]:
    """Every array of the file, floating-point and finite."""
    where = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MOST_BYTES:
            raise ModelError(f"{where} unpacks to {size} bytes, at most {MOST_BYTES} are read")
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
    except DAMAGED as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"{where} is not an .npz file of plain arrays, or is damaged ({error}); write it with numpy.savez"
        ) from error
    return {key: _checked(where, key, value) for key, value in found.items()}


def _checked(where: str, key: str, value: Array) -> Array:
    if value.dtype.kind not in "fiub":
        raise ModelError(f"{where}: {key} is of type {value.dtype}, expected floating-point numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        single = value.astype(np.float32)
    if not np.isfinite(single).all():
        raise ModelError(f"{where}: {key} contains values that are not finite; train or save it again")
    return single


def _grouped(arrays: Mapping[str, Array], where: str) -> tuple[Groups, Groups]:
    """Arrays by layer and by head, each without its prefix; layers and heads in the order of their numbers."""
    layers: dict[int, dict[str, Array]] = {}
    heads: Groups = {}
    for key, value in arrays.items():
        if key == RESET:
            continue
        match = re.fullmatch(r"(?:(?:l(\d{1,4})|(head\d{0,4}))\.)?([A-Za-z_]\w*)", key)
        if match is None:
            raise ModelError(f"{where}: the key {key} is not known; {EXPECTED}")
        group = heads.setdefault(match[2], {}) if match[2] else layers.setdefault(int(match[1] or 0), {})
        if match[3] in group:
            raise ModelError(f"{where}: {key} is there with and without its layer; keep one of them")
        group[match[3]] = value
    if not layers or sorted(layers) != list(range(len(layers))):
        raise ModelError(f"{where} has the layers {sorted(layers)}, expected 0, 1, ... without a hole; {EXPECTED}")
    of_all = {RESET: arrays[RESET]} if RESET in arrays else {}
    numbered = dict(sorted(heads.items(), key=lambda item: int(item[0].removeprefix("head") or 0)))
    return {f"l{k}": of_all | layers[k] for k in sorted(layers)}, numbered


@dataclass(frozen=True)
class Cell:
    """One recurrent layer.

    Attributes
    ----------
    where : str
        The file and the layer, for messages.
    op : str
        "LSTM", "GRU" or "RNN".
    gates : mapping of str to Gate
        By ONNX's letters.
    attributes : mapping
        Of the ONNX node.
    """

    where: str
    op: str
    gates: Mapping[str, Gate]
    attributes: Mapping[str, Any]

    @property
    def hidden(self) -> int:
        """Units."""
        return int(next(iter(self.gates.values())).r.shape[0])

    @property
    def inputs(self) -> int:
        """Channels of its input."""
        return int(next(iter(self.gates.values())).w.shape[1])

    @property
    def said(self) -> str:
        """What was found, for a note."""
        extra = "".join(f", {key} {value}" for key, value in self.attributes.items())
        return f"{self.op} of {self.hidden} units over {self.inputs} inputs{extra}"

    def nodes(self, graph: Graph, x: Value) -> Value:
        """The layer over x, (batch, time, inputs)."""
        if x.dims[-1] != self.inputs:
            raise ModelError(f"{self.where} is {self.said}; what comes before it has {x.dims[-1]} channels")
        return recurrent(graph, self.op, x, [self.gates], "forward", **self.attributes)[0]


def _cell(where: str, arrays: Mapping[str, Array], options: SourceOptions) -> Cell:
    parts = {key: value for key, value in arrays.items() if key != RESET}
    pairs = _stacked(where, parts, options.gate_order) if "W" in parts else _lettered(where, parts)
    op, letters = _operator(where, tuple(pairs))
    _check_sizes(where, pairs)
    gates = {letters.get(letter, letter): _gate(w, b) for letter, (w, b) in pairs.items()}
    return Cell(where, op, gates, {**_reset(where, op, arrays.get(RESET)), **_function(where, op, options.activation)})


def _lettered(where: str, parts: Mapping[str, Array]) -> Pairs:
    """One W and one b a gate."""
    letters = [key.removeprefix("W_") for key in parts if key.startswith("W_")]
    _check_left(where, parts, {f"{kind}_{letter}" for kind in "Wb" for letter in letters})
    return {letter: (parts[f"W_{letter}"], parts.get(f"b_{letter}")) for letter in letters}


def _stacked(where: str, parts: Mapping[str, Array], order: str | None) -> Pairs:
    """All gates in one W and one b."""
    if order is None:
        raise UsageError(f"{where} stacks its gates in W; say in which order, such as ifco, iofc or zrh")
    if len(set(order)) != len(order):
        raise UsageError(f"the gate order {order} names a gate twice; expected one such as ifco, iofc, zrh")
    _check_left(where, parts, {"W", "b"})
    _operator(where, tuple(order))
    w, b = parts["W"], parts.get("b")
    if w.ndim != 2 or len(w) % len(order) or (b is not None and b.shape != w.shape[:1]):
        shapes = f"W {w.shape}" + (f" and b {b.shape}" if b is not None else "")
        raise ModelError(f"{where} has {shapes}; expected ({len(order)} * hidden, hidden + inputs) for gates {order}")
    biases = [None] * len(order) if b is None else np.split(b, len(order))
    return dict(zip(order, zip(np.split(w, len(order)), biases, strict=True), strict=True))


def _check_left(where: str, parts: Mapping[str, Array], known: set[str]) -> None:
    if left := sorted(set(parts) - known):
        raise ModelError(f"{where} has keys left over: {', '.join(left)}; {EXPECTED}")


def _operator(where: str, found: tuple[str, ...]) -> tuple[str, Mapping[str, str]]:
    """The operator with these gates, and how ONNX spells them."""
    for op, order in ONNX_ORDER.items():
        letters = SPELLINGS[op]
        if sorted(letters.get(letter, letter) for letter in found) == sorted(order):
            return op, letters
    raise ModelError(f"{where} has the gates {', '.join(found) or 'none'}; {EXPECTED}")


def _check_sizes(where: str, pairs: Pairs) -> None:
    """Every gate as large as the first."""
    letter, (first, _) = next(iter(pairs.items()))
    if first.ndim != 2 or not 0 < first.shape[0] < first.shape[1]:
        raise ModelError(f"{where}: W_{letter} has shape {first.shape}, expected (hidden, hidden + inputs)")
    for letter, (w, b) in pairs.items():
        for kind, value, shape in (("W", w, first.shape), ("b", b, first.shape[:1])):
            if value is not None and value.shape != shape:
                raise ModelError(f"{where}: {kind}_{letter} has shape {value.shape}, expected {shape}")


def _gate(w: Array, b: Array | None) -> Gate:
    hidden = len(w)
    zero = np.zeros(hidden, np.float32)
    return Gate(w[:, hidden:], w[:, :hidden], zero if b is None else b, zero)


def _reset(where: str, op: str, value: Array | None) -> dict[str, int]:
    """The other form of the GRU, which resets what the matrix gives (cuDNN) instead of what it takes (Cho 2014)."""
    if value is None:
        return {}
    if op != "GRU" or value.shape != () or float(value) not in (0, 1):
        raise ModelError(f"{where}: {RESET} must be a single 0 or 1, of a GRU")
    return {RESET: 1} if value else {}


def _function(where: str, op: str, activation: str | None) -> dict[str, list[str]]:
    known = {None: {}, "tanh": {}, "relu": {"activations": ["Relu"]}}
    if activation not in known or (activation and op != "RNN"):
        raise UsageError(f"{where} is {op}; the activation {activation} can be tanh or relu, of an RNN alone")
    return known[activation]


def _outputs(graph: Graph, memory: Value, heads: Mapping[str, Mapping[str, Array]], where: str) -> None:
    """Each head over the memory, or the memory itself."""
    if not heads:
        graph.output(memory, "y")
    for name, parts in heads.items():
        graph.scope = name
        graph.output(_head(graph, memory, parts, f"{where}: {name}"), name)


def _head(graph: Graph, memory: Value, parts: Mapping[str, Array], where: str) -> Value:
    _check_left(where, parts, {"W", "b"})
    if "W" not in parts:
        raise ModelError(f"{where}.W is missing; {EXPECTED}")
    w, b, hidden = parts["W"], parts.get("b"), memory.dims[-1]
    if w.ndim != 2 or w.shape[1] != hidden or (b is not None and b.shape != w.shape[:1]):
        shapes = f"W {w.shape}" + (f" and b {b.shape}" if b is not None else "")
        raise ModelError(f"{where} has {shapes}, expected W (outputs, {hidden}) and b (outputs,)")
    y = graph.apply("MatMul", memory.name, graph.constant(w.T))
    return Value(y if b is None else graph.apply("Add", y, graph.constant(b)), ("batch", "time", len(w)))
