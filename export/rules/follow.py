"""A body followed from its inputs to its outputs: sums of constant matrices times inputs, activations and products."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from holdover.export.loom import Array, attribute
from holdover.export.refusal import NotStreamable

ACTIVATIONS = ("Sigmoid", "Tanh", "Relu", "Softsign", "Softplus", "HardSigmoid", "Elu", "LeakyRelu", "ThresholdedRelu")
"""Operators that are activations of recurrent nodes under the same name."""
NO_CELL = "its body is no step of an RNN, GRU or LSTM"


@dataclass(frozen=True, eq=False)
class Atom:
    """A vector that is no sum of others: an input of the body, an activation's result, or a product.

    Attributes
    ----------
    kind : str
        "input", "product", or the activation.
    of : tuple of Sum
        What it was made of; nothing for an input.
    settings : tuple of (str, float)
        An activation's alpha and beta.
    """

    kind: str
    of: "tuple[Sum, ...]" = ()
    settings: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Sum:
    """A vector as constant matrices times atoms, and a constant.

    Attributes
    ----------
    terms : mapping of Atom to array
        (width of the atom, width).
    bias : array
        (width,).
    """

    terms: Mapping[Atom, Array]
    bias: Array

    @staticmethod
    def alone(atom: Atom, width: int) -> "Sum":
        """The atom itself."""
        return Sum({atom: np.eye(width)}, np.zeros(width))

    def times(self, matrix: Array) -> "Sum":
        """Every column a sum of these."""
        return Sum({a: m @ matrix for a, m in self.terms.items()}, self.bias @ matrix)

    def plus(self, other: "Sum") -> "Sum":
        """Both, column by column."""
        terms = dict(self.terms)
        for a, m in other.terms.items():
            terms[a] = terms[a] + m if a in terms else m
        return Sum(terms, self.bias + other.bias)

    def columns(self, places: Any) -> "Sum":
        """Some of the columns."""
        return Sum({a: m[:, places] for a, m in self.terms.items()}, self.bias[places])

    def same(self, other: "Sum") -> bool:
        """Whether both are the same sum of the same atoms."""
        return self.terms.keys() == other.terms.keys() and np.array_equal(self.bias, other.bias) and all(
            np.array_equal(m, other.terms[a]) for a, m in self.terms.items())  # fmt: skip


Part = tuple[Atom, tuple[int, ...]]
"""Some places of an atom."""
Polynomial = dict[frozenset[Part], Array]
"""A vector as a sum of products of parts, place by place, with a number for each place."""


def polynomial(found: Sum) -> Polynomial:
    """Write a sum as products, place by place.

    Raises
    ------
    NotStreamable
        It mixes places.
    """
    made: Polynomial = {frozenset(): found.bias} if found.bias.any() else {}
    for atom, matrix in found.terms.items():
        if not matrix.any():
            continue
        if ((matrix != 0).sum(axis=0) != 1).any():
            raise NotStreamable(NO_CELL)
        rows = np.abs(matrix).argmax(axis=0)
        numbers = matrix[rows, np.arange(matrix.shape[1])]
        for parts, n in _parts(atom, rows).items():
            made[parts] = made.get(parts, 0) + n * numbers
    return {parts: n for parts, n in made.items() if n.any()}


def _parts(atom: Atom, rows: Array) -> Polynomial:
    if atom.kind != "product":
        return {frozenset([(atom, tuple(rows.tolist()))]): np.ones(len(rows))}
    a, b = (polynomial(s.columns(rows)) for s in atom.of)
    made: Polynomial = {}
    for p, n in a.items():
        for q, m in b.items():
            if p & q:
                raise NotStreamable(NO_CELL)  # a square
            made[p | q] = made.get(p | q, 0) + n * m
    return made


class Body:
    """A Scan's body, followed from its inputs to its outputs.

    Parameters
    ----------
    graph : ir.Graph
        Of tensors (batch, width).
    widths : sequence of int
        Of its inputs.
    opset : int
    """

    def __init__(self, graph: ir.Graph, widths: Sequence[int], opset: int) -> None:
        self.inputs = [Atom("input") for _ in graph.inputs]
        self._opset = opset
        self._seen: dict[ir.Value, Sum] = {
            v: Sum.alone(a, n) for v, a, n in zip(graph.inputs, self.inputs, widths, strict=True)
        }
        for node in graph:
            if any(v in self._seen for v in node.inputs if v is not None):
                self._follow(node)
        self.outputs = [self._sum(v) for v in graph.outputs]

    def constant(self, value: ir.Value | None) -> Array | None:
        """The value of a tensor that nothing but constants make, None for others."""
        return constant(value, self._opset)

    def _sum(self, value: ir.Value | None) -> Sum:
        if value not in self._seen:
            raise NotStreamable(NO_CELL)
        return self._seen[value]

    def _follow(self, node: ir.Node) -> None:
        if node.op_type in ACTIVATIONS:
            inner = self._sum(node.inputs[0])
            settings = tuple((a.name, float(a.value)) for a in node.attributes.values())
            made = [Sum.alone(Atom(node.op_type, (inner,), settings), len(inner.bias))]
        elif node.op_type in _FOLLOW:
            made = _FOLLOW[node.op_type](self, node)
        else:
            raise NotStreamable(NO_CELL)
        self._seen |= dict(zip(node.outputs, made, strict=True))

    def row(self, value: ir.Value | None, width: int) -> Array | None:
        """A constant as one number a place, None if it is none."""
        found = self.constant(value)
        if found is None:
            return None
        if found.ndim > 2 or found.shape[:-1] not in ((), (1,)) or found.shape[-1:] not in ((), (1,), (width,)):
            raise NotStreamable(NO_CELL)
        return np.array(np.broadcast_to(found.reshape(-1), width), float)

    def operands(self, node: ir.Node) -> tuple[list[Sum], list[Array]]:
        """Of a node with two inputs: those that move, and those that do not."""
        moving = [self._seen[v] for v in node.inputs if v in self._seen]
        rows = [self.row(v, len(moving[0].bias)) for v in node.inputs if v not in self._seen]
        if any(r is None for r in rows) or len({len(m.bias) for m in moving}) > 1:
            raise NotStreamable(NO_CELL)
        return moving, [r for r in rows if r is not None]

    def add(self, node: ir.Node) -> list[Sum]:
        """Add."""
        moving, rows = self.operands(node)
        return [moving[0].plus(moving[1] if len(moving) == 2 else Sum({}, rows[0]))]

    def subtract(self, node: ir.Node) -> list[Sum]:
        """Sub."""
        moving, rows = self.operands(node)
        width = len(moving[0].bias)
        every = [*moving, *(Sum({}, r) for r in rows)]
        a, b = every if node.inputs[0] in self._seen else every[::-1]
        return [a.plus(b.times(-np.eye(width)))]

    def multiply(self, node: ir.Node) -> list[Sum]:
        """Mul."""
        moving, rows = self.operands(node)
        if rows:
            return [moving[0].times(np.diag(rows[0]))]
        return [Sum.alone(Atom("product", tuple(moving)), len(moving[0].bias))]

    def product(self, node: ir.Node) -> list[Sum]:
        """MatMul and Gemm by a constant."""
        weight = self.constant(node.inputs[1])
        x = self._sum(node.inputs[0])
        if weight is None or weight.ndim != 2 or attribute(node, "transA", 0):
            raise NotStreamable(NO_CELL)
        weight = (weight.T if attribute(node, "transB", 0) else weight).astype(float)
        y = x.times(attribute(node, "alpha", 1.0) * weight)
        if len(node.inputs) < 3 or not attribute(node, "beta", 1.0):
            return [y]
        row = self.row(node.inputs[2], len(y.bias))
        if row is None:
            raise NotStreamable(NO_CELL)
        return [y.plus(Sum({}, attribute(node, "beta", 1.0) * row))]

    def clip(self, node: ir.Node) -> list[Sum]:
        """Clip to 0 ... n, which is n times a hard sigmoid."""
        x = self._sum(node.inputs[0])
        low, high = (self.constant(v) for v in [*node.inputs[1:], None, None][:2])
        if low is None or high is None or low != 0 or high <= 0:
            raise NotStreamable(NO_CELL)
        settings = (("alpha", 1 / float(high)), ("beta", 0.0))
        atom = Atom("HardSigmoid", (x,), settings)
        return [Sum.alone(atom, len(x.bias)).times(float(high) * np.eye(len(x.bias)))]

    def split(self, node: ir.Node) -> list[Sum]:
        """Split and Slice of places."""
        x, width = self._sum(node.inputs[0]), len(self._sum(node.inputs[0]).bias)
        places = self._cut(node, np.tile(np.arange(width), (1, 1)))
        return [x.columns(p[0]) for p in places]

    def join(self, node: ir.Node) -> list[Sum]:
        """Concat of places."""
        parts = [self._sum(v) for v in node.inputs]
        if attribute(node, "axis") not in (1, -1):
            raise NotStreamable(NO_CELL)
        widths = np.cumsum([0, *(len(p.bias) for p in parts)])
        made = Sum({}, np.zeros(widths[-1]))
        for part, start in zip(parts, widths, strict=False):
            made = made.plus(part.times(np.eye(len(part.bias), widths[-1], start)))
        return [made]

    def same(self, node: ir.Node) -> list[Sum]:
        """Identity, and Cast to what it is."""
        if attribute(node, "to", onnx.TensorProto.FLOAT) != onnx.TensorProto.FLOAT:
            raise NotStreamable(NO_CELL)
        return [self._sum(node.inputs[0])]

    def _cut(self, node: ir.Node, places: Array) -> list[Array]:
        """Run a node that only moves numbers over their places."""
        rest = [self.constant(v) if v is not None else None for v in node.inputs[1:]]
        if any(r is None for r, v in zip(rest, node.inputs[1:], strict=True) if v is not None):
            raise NotStreamable(NO_CELL)
        found = evaluate(node, [places, *rest], self._opset)
        if any(f.ndim != 2 or len(f) != 1 for f in found):
            raise NotStreamable(NO_CELL)
        return found


_FOLLOW: dict[str, Callable[[Body, ir.Node], list[Sum]]] = {
    "Add": Body.add,
    "Sub": Body.subtract,
    "Mul": Body.multiply,
    "MatMul": Body.product,
    "Gemm": Body.product,
    "Split": Body.split,
    "Slice": Body.split,
    "Clip": Body.clip,
    "Concat": Body.join,
    "Identity": Body.same,
    "Cast": Body.same,
}


def constant(value: ir.Value | None, opset: int) -> Array | None:
    """The value of a tensor that nothing but constants make, None for others."""
    if value is None:
        return None
    if value.const_value is not None:
        found: Array = value.const_value.numpy()
        return found
    node = value.producer()
    if node is None or any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
        return None
    inputs = [constant(v, opset) for v in node.inputs]
    if any(v is None for v, old in zip(inputs, node.inputs, strict=True) if old is not None):
        return None
    return evaluate(node, inputs, opset)[node.outputs.index(value)]


def evaluate(node: ir.Node, inputs: Sequence[Array | None], opset: int) -> list[Array]:
    """Run one node in ONNX's reference evaluator."""
    names = [f"i{k}" if v is not None else "" for k, v in enumerate(inputs)]
    outputs = [f"o{k}" for k in range(len(node.outputs))]
    proto = onnx.helper.make_node(node.op_type, names, outputs)
    proto.attribute.extend(ir.to_proto(a) for a in node.attributes.values())
    infos = [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for n, v in zip(names, inputs, strict=True) if v is not None]  # fmt: skip
    graph = onnx.helper.make_graph([proto], "one", infos, [onnx.ValueInfoProto(name=o) for o in outputs])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feeds = {n: v for n, v in zip(names, inputs, strict=True) if v is not None}
    try:
        return list(ReferenceEvaluator(model).run(None, feeds))
    except Exception as error:  # the evaluator raises whatever numpy does
        raise NotStreamable(NO_CELL) from error
