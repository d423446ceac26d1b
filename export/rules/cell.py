"""The step of an RNN, GRU or LSTM as others write it, read back into weights: the node in place of a Scan.

What comes out of the body is held against the definition of each cell, place by place. So the order of gates, joined
matrices and where biases stand do not matter.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import replace_all_uses_with

from holdover.export.loom import Array, attribute
from holdover.export.refusal import NotStreamable
from holdover.export.rules.follow import ACTIVATIONS, NO_CELL, Atom, Body, Part, Sum, polynomial


@dataclass(frozen=True)
class Gate:
    """What goes into an activation, f(W x + R h + b).

    Attributes
    ----------
    w, r, b : array
        (hidden, inputs), (hidden, hidden), (hidden,).
    """

    w: Array
    r: Array
    b: Array


@dataclass(frozen=True)
class Cell:
    """A recurrent node read from a body.

    Attributes
    ----------
    op : str
        RNN, GRU or LSTM.
    gates : tuple of Gate
        In ONNX's order.
    activations : tuple of Atom
        In ONNX's order.
    states : tuple of int
        Which state of the Scan is h, and which is c.
    recurrent_bias : array, optional
        (hidden,) of a GRU's last gate, where the reset gate comes after the product.
    """

    op: str
    gates: tuple[Gate, ...]
    activations: tuple[Atom, ...]
    states: tuple[int, ...]
    recurrent_bias: Array | None = None

    def weights(self) -> dict[str, Array]:
        """W, R and B of the node."""
        w, r = (np.concatenate([getattr(g, k) for g in self.gates]) for k in "wr")
        again = np.zeros((len(self.gates), len(self.gates[0].b)))
        if self.recurrent_bias is not None:
            again[-1] = self.recurrent_bias
        b = np.concatenate([*(g.b for g in self.gates), *again])
        return {name: v[None].astype(np.float32) for name, v in (("W", w), ("R", r), ("B", b))}

    def attributes(self) -> dict[str, Any]:
        """Of the node."""
        found: dict[str, Any] = {"hidden_size": len(self.gates[0].b)}
        found["activations"] = [a.kind for a in self.activations]
        for name in ("alpha", "beta"):
            values = [(_SETTINGS.get(a.kind, {}) | dict(a.settings)).get(name) for a in self.activations]
            if given := [v for v in values if v is not None]:
                found[f"activation_{name}"] = given
        return found | ({"linear_before_reset": 1} if self.recurrent_bias is not None else {})


_SETTINGS = {"HardSigmoid": {"alpha": 0.2, "beta": 0.5}, "Elu": {"alpha": 1.0}, "LeakyRelu": {"alpha": 0.01},
             "ThresholdedRelu": {"alpha": 1.0}}  # fmt: skip
"""What an activation's operator takes where it says nothing."""


@dataclass(frozen=True)
class _Step:
    """A body as its cell sees it.

    Attributes
    ----------
    x : Atom
    before : tuple of Atom
        States.
    after : tuple of Sum
        The same a step later.
    """

    x: Atom
    before: tuple[Atom, ...]
    after: tuple[Sum, ...]

    def whole(self, k: int) -> Part:
        """All places of a state."""
        return self.before[k], tuple(range(len(self.after[k].bias)))

    def gate(self, found: Sum, h: Atom, sign: float = 1.0) -> Gate:
        """A sum over x and h alone."""
        terms = {a: m for a, m in found.terms.items() if m.any()}
        if terms.keys() - {self.x, h}:
            raise NotStreamable(NO_CELL)
        w, r = (sign * found.terms[a].T if a in found.terms else None for a in (self.x, h))
        if w is None:
            raise NotStreamable(NO_CELL)
        return Gate(w, np.zeros((len(found.bias),) * 2) if r is None else r, sign * found.bias)


def _signed(found: Sum) -> dict[frozenset[Part], int]:
    """A sum of products with the numbers 1 and -1."""
    signs: dict[frozenset[Part], int] = {}
    for parts, n in polynomial(found).items():
        sign = round(float(n[0]))
        if abs(sign) != 1 or not np.allclose(n, sign, atol=1e-6):  # 6 times a sixth is not quite 1
            raise NotStreamable(NO_CELL)
        signs[parts] = sign
    return signs


def _only(found: Sequence[Any]) -> Any:
    """The only one."""
    if len(found) != 1:
        raise NotStreamable(NO_CELL)
    return found[0]


def _activated(part: Part) -> Sum:
    """What goes into the activation that a part is of."""
    atom, rows = part
    if atom.kind not in ACTIVATIONS:
        raise NotStreamable(NO_CELL)
    return atom.of[0].columns(list(rows))


def _alike(*parts: Part) -> Atom:
    """The activation that all parts share."""
    if len({(atom.kind, atom.settings) for atom, _ in parts}) > 1:
        raise NotStreamable(NO_CELL)
    return parts[0][0]


def _rnn(step: _Step) -> Cell:
    """h' = f(W x + R h + b)."""
    signs = _signed(step.after[0])
    part = _only([p for p in signs if signs[p] == 1 and len(signs) == 1 and len(p) == 1])
    (part,) = part
    return Cell("RNN", (step.gate(_activated(part), step.before[0]),), (part[0],), (0,))


def _gru(step: _Step) -> Cell:
    """h' = z h + (1 - z) n, or the same with z the other way round."""
    signs, h = _signed(step.after[0]), step.whole(0)
    (z,) = _only([p - {h} for p in signs if h in p and len(p) == 2])
    (n,) = _only([p - {z} for p in signs if z in p and h not in p and len(p) == 2])
    kept, new, mixed = frozenset([z, h]), frozenset([n]), frozenset([z, n])
    forms = {1.0: {kept: 1, new: 1, mixed: -1}, -1.0: {frozenset([h]): 1, kept: -1, mixed: 1}}
    sign = _only([s for s, form in forms.items() if form == signs])
    if sign < 0 and z[0].kind != "Sigmoid":
        raise NotStreamable(NO_CELL)  # 1 - f(a) is f(-a) for the sigmoid alone
    r, last, bias = _candidate(step, _activated(n))
    gates = (step.gate(_activated(z), h[0], sign), step.gate(_activated(r), h[0]), last)
    return Cell("GRU", gates, (_alike(z, r), n[0]), (0,), bias)


def _candidate(step: _Step, found: Sum) -> tuple[Part, Gate, Array | None]:
    """The reset gate, the gate that it acts in, and the recurrent bias where it acts after the product."""
    atom = _only([a for a in found.terms if a.kind == "product"])
    matrix, h = found.terms[atom], step.whole(0)
    rest = step.gate(Sum({a: m for a, m in found.terms.items() if a is not atom}, found.bias), h[0])
    if rest.r.any():
        raise NotStreamable(NO_CELL)
    for reset, other in (atom.of, atom.of[::-1]):
        parts = [p for p in polynomial(reset) if len(p) == 1] if _is_plain(reset) else []
        for (part,) in parts:
            if part[0].kind not in ACTIVATIONS:
                continue
            if _is_plain(other) and frozenset([h]) in polynomial(other):
                return part, Gate(rest.w, matrix.T, rest.b), None
            if np.array_equal(matrix, np.eye(len(matrix))) and other.terms.keys() == {h[0]}:
                return part, Gate(rest.w, other.terms[h[0]].T, rest.b), other.bias
    raise NotStreamable(NO_CELL)


def _is_plain(found: Sum) -> bool:
    """Whether it is places of one atom, as they are."""
    try:
        signs = _signed(found)
    except NotStreamable:
        return False
    return list(signs.values()) == [1] and len(next(iter(signs))) == 1


def _lstm(step: _Step, places: tuple[int, int]) -> Cell:
    """c' = f c + i g; h' = o tanh(c')."""
    h, c = places
    sums, out, cell = _signed(step.after[c]), _signed(step.after[h]), step.whole(c)
    if sorted(sums.values()) != [1, 1] or list(out.values()) != [1]:
        raise NotStreamable(NO_CELL)
    (f,) = _only([p - {cell} for p in sums if cell in p and len(p) == 2])
    pair = _only([p for p in sums if cell not in p and len(p) == 2])
    shown = [p for p in _only(list(out)) if p[0].kind in ACTIVATIONS and _is_state(p, sums)]
    t = _only(shown)
    (o,) = _only(list(out)) - {t}
    i, g = sorted(pair, key=lambda p: p[0].kind != f[0].kind)
    gates = tuple(step.gate(_activated(p), step.before[h]) for p in (i, o, f, g))
    return Cell("LSTM", gates, (_alike(i, o, f), g[0], t[0]), (h, c))


def _is_state(part: Part, sums: Mapping[frozenset[Part], int]) -> bool:
    """Whether it is an activation of the cell state a step later."""
    try:
        return _signed(_activated(part)) == sums
    except NotStreamable:
        return False


_READERS: dict[int, tuple[Callable[[_Step], Cell], ...]] = {
    1: (_rnn, _gru),
    2: (lambda step: _lstm(step, (0, 1)), lambda step: _lstm(step, (1, 0))),
}
"""By number of states."""


def to_cell(node: ir.Node, shapes: Sequence[tuple[int, ...]]) -> None:
    """Put an RNN, GRU or LSTM in the place of a Scan over its step.

    Parameters
    ----------
    node : ir.Node
        The Scan.
    shapes : sequence of tuple of int
        Of its inputs.

    Raises
    ------
    NotStreamable
        Its body is another.
    """
    plain = attribute(node, "num_scan_inputs") == 1 and not any(
        any(attribute(node, key, []))
        for key in ("scan_input_axes", "scan_output_axes", "scan_input_directions", "scan_output_directions")
    )
    if not plain or [len(s) for s in shapes] != [2] * (len(shapes) - 1) + [3]:
        raise NotStreamable(NO_CELL)
    assert node.graph is not None
    body = Body(attribute(node, "body"), [s[-1] for s in shapes], node.graph.opset_imports[""])
    count = len(shapes) - 1
    step = _Step(body.inputs[-1], tuple(body.inputs[:-1]), tuple(body.outputs[:count]))
    cell = _read(step)
    h = step.after[cell.states[0]]
    if not all(out.same(h) for out in body.outputs[count:]):
        raise NotStreamable("it keeps more of each step than the hidden state")
    _place(node, cell, count)


def _read(step: _Step) -> Cell:
    for reader in _READERS.get(len(step.before), ()):
        try:
            return reader(step)
        except (NotStreamable, ValueError):  # ValueError: one part where a cell has two
            continue
    raise NotStreamable(NO_CELL)


def _place(node: ir.Node, cell: Cell, count: int) -> None:
    graph, name = node.graph, next((o.name for o in node.outputs[::-1] if o.name), node.op_type)
    assert isinstance(graph, ir.Graph)

    def const(part: str, value: Array) -> ir.Value:
        made = ir.Value(name=f"{name}.{part}", const_value=ir.tensor(value, name=f"{name}.{part}"))
        graph.register_initializer(made)
        return made

    zero, one = const("zero", np.array([0])), const("one", np.array([1]))
    weights = [const(part, value) for part, value in cell.weights().items()]

    def one_output(op: str, x: ir.Value | None, axis: ir.Value, part: str) -> ir.Node:
        return ir.node(op, [x, axis], outputs=[ir.Value(name=f"{name}.{part}")])

    before = [one_output("Unsqueeze", node.inputs[k], zero, f"before{k}") for k in cell.states]
    outputs = [ir.Value(name=f"{name}.{part}") for part in ("Y", "h", "c")[: 1 + len(cell.states)]]
    inputs = [node.inputs[-1], *weights, None, *(n.outputs[0] for n in before)]
    made = ir.node(cell.op, inputs, cell.attributes(), outputs=outputs)
    ends = zip(cell.states, outputs[1:], strict=True)
    after = {k: one_output("Squeeze", v, zero, f"after{k}") for k, v in ends}
    kept = [one_output("Squeeze", outputs[0], one, f"kept{k}") for k in range(len(node.outputs) - count)]
    results = [*(after[k] for k in range(count)), *kept]
    swap(node, [*before, made, *results], dict(zip(node.outputs, (n.outputs[0] for n in results), strict=True)))


def swap(node: ir.Node, nodes: Sequence[ir.Node], stand_for: Mapping[ir.Value, ir.Value]) -> None:
    """Put nodes in the place of one; what they give takes the names of what it gave."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.insert_before(node, nodes)
    names = {new: old.name for old, new in stand_for.items()}
    for old, new in stand_for.items():
        replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    for new, name in names.items():
        new.name = name
