"""What stands in an ONNX file, read without onnx: graphs, nodes, tensors as they are declared, never their values.

Source: onnx.proto of ONNX 1.23 (IR 13). What has no place in a streaming model is refused while reading: functions,
training information, sparse tensors, sequences, maps and optionals.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from holdover.runtime.protobuf import Field, Message, Schema, parse


def _one(**fields: tuple[int, str]) -> dict[int, Field]:
    return {number: Field(name, kind) for name, (number, kind) in fields.items()}


def _many(**fields: tuple[int, str]) -> dict[int, Field]:
    return {number: Field(name, kind, many=True) for name, (number, kind) in fields.items()}


SCHEMA: Schema = {
    "Model": _one(
        ir_version=(1, "int"), producer_name=(2, "bytes"), producer_version=(3, "bytes"), domain=(4, "bytes"),
        model_version=(5, "int"), doc_string=(6, "bytes"), graph=(7, "Graph"),
    ) | _many(
        opset_import=(8, "Opset"), metadata_props=(14, "Entry"), training_info=(20, "refused"),
        functions=(25, "refused"), configuration=(26, "refused"),
    ),
    "Opset": _one(domain=(1, "bytes"), version=(2, "int")),
    "Entry": _one(key=(1, "bytes"), value=(2, "bytes")),
    "Graph": _one(name=(2, "bytes"), doc_string=(10, "bytes")) | _many(
        node=(1, "Node"), initializer=(5, "Tensor"), input=(11, "Value"), output=(12, "Value"),
        value_info=(13, "Value"), quantization_annotation=(14, "Annotation"),
        sparse_initializer=(15, "refused"), metadata_props=(16, "Entry"),
    ),
    "Node": _one(
        name=(3, "bytes"), op_type=(4, "bytes"), doc_string=(6, "bytes"), domain=(7, "bytes"), overload=(8, "bytes"),
    ) | _many(
        input=(1, "bytes"), output=(2, "bytes"), attribute=(5, "Attribute"), metadata_props=(9, "Entry"),
        device_configurations=(10, "refused"),
    ),
    "Attribute": _one(
        name=(1, "bytes"), f=(2, "float"), i=(3, "int"), s=(4, "bytes"), t=(5, "Tensor"), g=(6, "Graph"),
        doc_string=(13, "bytes"), type=(20, "int"), ref_attr_name=(21, "refused"), tp=(14, "refused"),
        sparse_tensor=(22, "refused"),
    ) | _many(
        floats=(7, "floats"), ints=(8, "ints"), strings=(9, "bytes"), tensors=(10, "refused"), graphs=(11, "refused"),
        type_protos=(15, "refused"), sparse_tensors=(23, "refused"),
    ),
    "Tensor": _one(
        data_type=(2, "int"), segment=(3, "refused"), name=(8, "bytes"), raw_data=(9, "bytes"),
        doc_string=(12, "bytes"), data_location=(14, "int"),
    ) | _many(
        dims=(1, "ints"), float_data=(4, "floats"), int32_data=(5, "ints"), string_data=(6, "refused"),
        int64_data=(7, "ints"), double_data=(10, "doubles"), uint64_data=(11, "ints"), external_data=(13, "Entry"),
        metadata_props=(16, "Entry"),
    ),
    "Value": _one(name=(1, "bytes"), type=(2, "Type"), doc_string=(3, "bytes")) | _many(metadata_props=(4, "Entry")),
    "Type": _one(
        tensor_type=(1, "TensorType"), sequence_type=(4, "refused"), map_type=(5, "refused"), denotation=(6, "bytes"),
        opaque_type=(7, "refused"), sparse_tensor_type=(8, "refused"), optional_type=(9, "refused"),
    ),
    "TensorType": _one(elem_type=(1, "int"), shape=(2, "Shape")),
    "Shape": _many(dim=(1, "Dim")),
    "Dim": _one(dim_value=(1, "int"), dim_param=(2, "bytes"), denotation=(3, "bytes")),
    "Annotation": _one(tensor_name=(1, "bytes")) | _many(quant_parameter_tensor_names=(2, "Entry")),
}  # fmt: skip

TYPES: dict[int, tuple[str, int]] = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32), 13: ("uint64", 64),
    16: ("bfloat16", 16), 21: ("uint4", 4), 22: ("int4", 4),
}  # fmt: skip
"""Element types by number: name, and bits of an element. No strings, no complex numbers, no 8-bit floats."""

STORES = {"float_data": {1}, "int32_data": {2, 3, 4, 5, 6, 9, 10, 16, 21, 22}, "int64_data": {7}, "double_data": {11},
          "uint64_data": {12, 13}}  # fmt: skip
"""The field that holds a type's values where raw_data does not."""
WIDTHS = {"float_data": 4, "double_data": 8}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as it is declared, and what there is of it.

    Attributes
    ----------
    dims
        As declared; whatever the file says, negative numbers too.
    data_type
        Its number in ONNX.
    held
        Elements that its data hold, or None for raw data, of which `raw` counts the bytes.
    values
        The integers of a small int64 tensor, else None.
    """

    name: str
    dims: tuple[int, ...]
    data_type: int
    raw: int
    held: int | None
    external: bool
    values: tuple[int, ...] | None

    @property
    def bits(self) -> int:
        """Of an element."""
        return TYPES.get(self.data_type, ("", 64))[1]

    @property
    def size(self) -> int:
        """What it takes as declared, in bytes."""
        return (prod(self.dims) * self.bits + 7) // 8

    @property
    def is_whole(self) -> bool:
        """Whether there are as many data as it declares, in one field that fits the type."""
        if self.held is None:
            return self.raw == self.size
        return self.held == (self.size if self.bits == 4 else prod(self.dims))


@dataclass(frozen=True, slots=True)
class Node:
    """A node, wherever it stands; `depth` 0 is the outer graph."""

    domain: str
    op_type: str
    name: str
    depth: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ints: dict[str, int]
    tensors: tuple[Tensor, ...]

    @property
    def where(self) -> str:
        """How to speak of it."""
        return f"{self.op_type} {self.name!r}" if self.name else f"{self.op_type} that gives {self.outputs[:1]}"


@dataclass(frozen=True, slots=True)
class Value:
    """An input, output or inner value with its type: None for an open dimension; no shape at all is ()."""

    name: str
    data_type: int
    dims: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """A model as far as it can be judged without running it."""

    ir_version: int
    opsets: tuple[tuple[str, int], ...]
    metadata: tuple[tuple[str, str], ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    initializers: tuple[Tensor, ...]
    values: tuple[Value, ...]
    graphs: int

    @classmethod
    def read(cls, data: bytes) -> "Outline":
        """Read a file's bytes; raises `Malformed` of `holdover.runtime.protobuf` for what is no model."""
        model = parse(data, "Model", SCHEMA)
        outer = model.messages("graph")
        graphs = [found for graph in outer for found in _graphs(graph, 0)]
        return cls(
            model.number("ir_version"),
            tuple((o.text("domain"), o.number("version")) for o in model.messages("opset_import")),
            tuple((p.text("key"), p.text("value")) for p in model.messages("metadata_props")),
            tuple(_value(v) for graph in outer for v in graph.messages("input")),
            tuple(_value(v) for graph in outer for v in graph.messages("output")),
            tuple(_node(n, depth) for graph, depth in graphs for n in graph.messages("node")),
            tuple(_tensor(t) for graph, _ in graphs for t in graph.messages("initializer")),
            tuple(_value(v) for graph, _ in graphs for kind in _VALUES for v in graph.messages(kind)),
            len(graphs),
        )

    def tensors(self) -> Iterator[Tensor]:
        """All tensors: initializers, and those in attributes."""
        yield from self.initializers
        for node in self.nodes:
            yield from node.tensors


_VALUES = ("input", "output", "value_info")


def _graphs(graph: Message, depth: int) -> Iterator[tuple[Message, int]]:
    yield graph, depth
    for node in graph.messages("node"):
        for attribute in node.messages("attribute"):
            for inner in attribute.messages("g"):
                yield from _graphs(inner, depth + 1)


def _node(node: Message, depth: int) -> Node:
    attributes = node.messages("attribute")
    return Node(
        node.text("domain"), node.text("op_type"), node.text("name"), depth,
        tuple(node.texts("input")), tuple(node.texts("output")),
        {a.text("name"): a.number("i") for a in attributes if "i" in a.values},
        tuple(_tensor(t) for a in attributes for t in a.messages("t")),
    )  # fmt: skip


def _tensor(tensor: Message) -> Tensor:
    dims, data_type, raw = tuple(tensor.numbers("dims")), tensor.number("data_type"), tensor.chunks("raw_data")
    external = bool(tensor.values.get("external_data")) or tensor.number("data_location") != 0
    stores = [name for name in STORES if name in tensor.values]
    held = None if raw else _held(tensor, stores, data_type)
    size = sum(len(chunk) for chunk in raw) if not (raw and stores) else -1
    return Tensor(tensor.text("name"), dims, data_type, size, held, external, _small(tensor, dims, data_type, raw))


def _held(tensor: Message, stores: list[str], data_type: int) -> int:
    """Elements that typed fields hold; -1 where they are in another type's field."""
    if any(data_type not in STORES[name] for name in stores):
        return -1
    return sum(_count(tensor, name) for name in stores)


def _count(tensor: Message, name: str) -> int:
    count = 0
    for value in tensor.values.get(name, ()):
        if isinstance(value, memoryview):
            width = WIDTHS.get(name)
            count += len(value) // width if width else int(np.count_nonzero(np.frombuffer(value, np.uint8) < 0x80))
        else:
            count += 1
    return count


def _small(tensor: Message, dims: tuple[int, ...], data_type: int, raw: list[memoryview]) -> tuple[int, ...] | None:
    if data_type != 7 or len(dims) > 1 or not 0 <= prod(dims) <= 16:
        return None
    if raw:
        return tuple(np.frombuffer(raw[0], "<i8").tolist()) if len(raw[0]) == 8 * prod(dims) else None
    return tuple(tensor.numbers("int64_data")) if _count(tensor, "int64_data") == prod(dims) else None


def _value(value: Message) -> Value:
    for kind in (t for outer in value.messages("type") for t in outer.messages("tensor_type")):
        dims = [d for shape in kind.messages("shape") for d in shape.messages("dim")]
        return Value(value.text("name"), kind.number("elem_type"), tuple(_dim(d) for d in dims))
    return Value(value.text("name"), 0, ())


def _dim(dim: Message) -> int | None:
    return dim.number("dim_value") if "dim_value" in dim.values else None
