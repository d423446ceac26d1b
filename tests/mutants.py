"""Model files that somebody has tampered with: bytes, protobuf fields, contracts, and some made to hurt."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from holdover.runtime.contract import KEY
from tests import graphs

Mutation = Callable[[bytes, random.Random], bytes]
EXTREMES = (0, -1, 1, 2, 3, 7, 255, 2**16, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**31), -(2**63))
FLOATS = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("-inf"), float("nan"), 3.0)
OPERATORS = (
    "Abs", "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Concat", "ConstantOfShape",
    "Conv", "ConvTranspose", "CumSum", "DepthToSpace", "DequantizeLinear", "Einsum", "Expand", "Flatten", "GRU",
    "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "If", "InstanceNormalization", "LSTM",
    "LayerNormalization", "Loop", "MatMul", "MaxPool", "NonZero", "OneHot", "Pad", "QLinearMatMul", "RNN",
    "RandomNormal", "Range", "ReduceSum", "Reshape", "ReverseSequence", "Scan", "ScatterElements", "ScatterND",
    "SequenceConstruct", "Slice", "Softmax", "SpaceToDepth", "Split", "Squeeze", "StringNormalizer", "TopK",
    "Transpose", "Unique", "Unsqueeze", "Where",
)  # fmt: skip


def originals() -> dict[str, bytes]:
    """Sound models by name, one for each kind of memory."""
    made = {
        "lstm": graphs.recurrent("lstm"), "gru": graphs.recurrent("gru"), "rnn": graphs.recurrent("rnn"),
        "fifo": graphs.fifo(), "fifo-lstm": graphs.fifo_lstm(), "block-sum": graphs.block_sum(), "conv": conv(),
    }  # fmt: skip
    return {name: model.SerializeToString() for name, model in made.items()}


def conv(kernel: int = 5) -> onnx.ModelProto:
    """A convolution over the last samples, kept in a state."""
    nodes = [
        helper.make_node("Concat", ["past.in", "x"], ["all"], axis=1),
        helper.make_node("Transpose", ["all"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["rows", "w"], ["z"], kernel_shape=[kernel]),
        helper.make_node("Transpose", ["z"], ["y"], perm=[0, 2, 1]),
        helper.make_node("Slice", ["all", "from", "end", "axis"], ["past.out"]),
    ]
    weights = np.random.default_rng(0).normal(size=(2, 1, kernel)).astype(np.float32)
    ends = {"from": [1 - kernel], "end": [graphs.LAST], "axis": [1]}
    constants = {"w": weights} | {name: np.array(value) for name, value in ends.items()}
    contract = graphs.document([graphs.state("past", ["batch", kernel - 1, 1])], grid=4, chunk_invariant="grid")
    return graphs.graph(nodes, constants, contract, 2)


# Bytes


def flip(data: bytes, rng: random.Random) -> bytes:
    """One to eight bits turned over."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    """Up to 16 bytes replaced by other ones."""
    at, part = rng.randrange(len(data)), rng.randbytes(rng.randint(1, 16))
    return data[:at] + part + data[at + len(part) :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    """Bytes between, or a part of the file twice."""
    at, size = rng.randrange(len(data)), rng.randint(1, 64)
    part = rng.choice((rng.randbytes(size), data[at : at + size]))
    return data[:at] + part + data[at:]


def delete(data: bytes, rng: random.Random) -> bytes:
    """Bytes from the middle are missing."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 64) :]


# Fields


def _changed(change: Callable[[onnx.ModelProto, random.Random], None]) -> Mutation:
    def mutate(data: bytes, rng: random.Random) -> bytes:
        model = onnx.load_model_from_string(data)
        change(model, rng)
        return bytes(model.SerializeToString())

    return mutate


def _node(model: onnx.ModelProto, rng: random.Random) -> onnx.NodeProto:
    return rng.choice(model.graph.node)


def _dims(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    if tensor.dims and rng.random() < 0.8:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(EXTREMES)
    else:
        tensor.dims.append(rng.choice(EXTREMES))


def _weights(model: onnx.ModelProto, rng: random.Random) -> None:
    """Other values, as many as there were: still an honest tensor."""
    tensor = rng.choice(model.graph.initializer)
    found = numpy_helper.to_array(tensor).copy()
    flat = found.reshape(-1)
    choices: tuple[float, ...] = FLOATS if found.dtype.kind == "f" else EXTREMES
    for _ in range(rng.randint(1, 4)):
        if len(flat):
            flat[rng.randrange(len(flat))] = rng.choice(choices)
    tensor.CopyFrom(numpy_helper.from_array(found, tensor.name))


def _raw(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.raw_data = rng.choice((tensor.raw_data[:-1], tensor.raw_data * 2, b"", rng.randbytes(len(tensor.raw_data))))


def _element(model: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(model.graph.initializer).data_type = rng.randrange(0, 24)


def _attribute(model: onnx.ModelProto, rng: random.Random) -> None:
    owners = [n for n in model.graph.node if n.attribute]
    if not owners:
        _node(model, rng).attribute.append(helper.make_attribute("axis", rng.choice(EXTREMES)))
        return
    attribute = rng.choice(rng.choice(owners).attribute)
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(EXTREMES)
    elif attribute.floats:
        attribute.floats[rng.randrange(len(attribute.floats))] = rng.choice(FLOATS)
    else:
        attribute.i = rng.choice(EXTREMES)


def _hidden_size(model: onnx.ModelProto, rng: random.Random) -> None:
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "hidden_size":
                attribute.i = rng.choice(EXTREMES)


def _operator(model: onnx.ModelProto, rng: random.Random) -> None:
    _node(model, rng).op_type = rng.choice(OPERATORS)


def _domain(model: onnx.ModelProto, rng: random.Random) -> None:
    _node(model, rng).domain = rng.choice(
        ("evil", "com.microsoft", "ai.onnx.ml", "com.microsoft.nchwc", "ai.onnx", "pkg.x")
    )


def _wire(model: onnx.ModelProto, rng: random.Random) -> None:
    """An input of a node is another value, or none, or one not made yet."""
    names = [o for n in model.graph.node for o in n.output] + [t.name for t in model.graph.initializer]
    names += [i.name for i in model.graph.input] + ["", "nowhere"]
    node = _node(model, rng)
    if node.input:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)


def _inputs(model: onnx.ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    names = list(node.input)
    rng.shuffle(names)
    del node.input[:]
    node.input.extend(names[: rng.randint(0, len(names))] if rng.random() < 0.5 else names * rng.randint(1, 3))


def _nodes(model: onnx.ModelProto, rng: random.Random) -> None:
    kept = list(model.graph.node)
    at = rng.randrange(len(kept))
    found = {"gone": kept[:at] + kept[at + 1 :], "twice": kept[: at + 1] + kept[at:], "back": kept[::-1]}[
        rng.choice(("gone", "twice", "back"))
    ]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in found]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _ports(model: onnx.ModelProto, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    kind = value.type.tensor_type
    if rng.random() < 0.5 and kind.shape.dim:
        rng.choice(kind.shape.dim).dim_value = rng.choice(EXTREMES)
    else:
        kind.elem_type = rng.randrange(0, 24)


def _versions(model: onnx.ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.3:
        model.ir_version = rng.choice(EXTREMES)
    else:
        model.opset_import[0].version = rng.choice((*EXTREMES, *range(1, 30)))


def _contract(model: onnx.ModelProto, rng: random.Random) -> None:
    entry = next(p for p in model.metadata_props if p.key == KEY)
    document = json.loads(entry.value)
    for _ in range(rng.randint(1, 2)):
        holder, key = rng.choice(list(_leaves(document)))
        holder[key] = rng.choice(
            (*EXTREMES, 1e308, 10**400, "", "\x1b[2J", "x" * 300, None, [], {}, True, "batch", 0.5)
        )
    entry.value = json.dumps(document)


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(pairs):
        yield value, key
        yield from _leaves(inner)


# Made to hurt: each takes a sound model and adds to it what the daemon should never meet


def _info(name: str, *dims: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def _ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _added(model: onnx.ModelProto, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], last: str) -> None:
    """Nodes whose result `last` is a number that y cannot do without."""
    y = next(o.name for o in model.graph.output if ".out" not in o.name)
    for node in model.graph.node:
        for at, name in enumerate(node.output):
            if name == y:
                node.output[at] = f"{y}.sound"
    joined = [
        helper.make_node("ReduceMax", [last], ["evil.one"], keepdims=0),
        helper.make_node("Add", [f"{y}.sound", "evil.one"], [y]),
    ]
    model.graph.node.extend([*nodes, *joined])
    model.graph.initializer.extend(tensors)


def _huge(rng: random.Random) -> tuple[int, ...]:
    return rng.choice(
        ((200_000_000_000,), (2**20, 2**20), (2**31, 64), (2**26 + 1,), (2**40,), (2**62, 4), (5000, 5000, 100))
    )


def _constant_of_shape(model: onnx.ModelProto, rng: random.Random) -> None:
    _added(
        model, [helper.make_node("ConstantOfShape", ["evil.s"], ["evil.c"])], [_ints("evil.s", *_huge(rng))], "evil.c"
    )


def _hidden_shape(model: onnx.ModelProto, rng: random.Random) -> None:
    """The same, its shape computed, so that nobody can read it off the file."""
    nodes = [helper.make_node("Mul", ["evil.a", "evil.b"], ["evil.s"]),
             helper.make_node(rng.choice(("ConstantOfShape", "Expand")), ["evil.s"], ["evil.c"])]  # fmt: skip
    if nodes[1].op_type == "Expand":
        nodes[1].input[:] = ["evil.one.f", "evil.s"]
    one = numpy_helper.from_array(np.ones(1, np.float32), "evil.one.f")
    _added(model, nodes, [_ints("evil.a", rng.choice((2**18, 2**22, 2**31))), _ints("evil.b", 2**18), one], "evil.c")


def _range(model: onnx.ModelProto, rng: random.Random) -> None:
    ends = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in
            (("evil.0", 0), ("evil.n", rng.choice((2**34, 2**40, 2**62))), ("evil.d", 1))]  # fmt: skip
    nodes = [helper.make_node("Range", ["evil.0", "evil.n", "evil.d"], ["evil.r"]),
             helper.make_node("Cast", ["evil.r"], ["evil.c"], to=TensorProto.FLOAT)]  # fmt: skip
    _added(model, nodes, ends, "evil.c")


def _doubling(model: onnx.ModelProto, rng: random.Random) -> None:
    """A few bytes that become 2^n numbers: Concat of a value with itself, again and again."""
    n = rng.randint(26, 44)
    nodes = [helper.make_node("Concat", [f"evil.{i}", f"evil.{i}"], [f"evil.{i + 1}"], axis=0) for i in range(n)]
    _added(model, nodes, [numpy_helper.from_array(np.ones(8, np.float32), "evil.0")], f"evil.{n}")


def _constants(model: onnx.ModelProto, rng: random.Random) -> None:
    """Many constants, most of them nothing but zeros: a file that packs small and unpacks large."""
    zeros = numpy_helper.from_array(np.zeros(rng.choice((1, 1000)), np.float32))
    nodes = [helper.make_node("Constant", [], [f"evil.{i}"], value=zeros) for i in range(rng.choice((300, 25_000)))]
    _added(model, nodes, [], "evil.0")


def _external(model: onnx.ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    place = rng.choice(("../../../../etc/passwd", "/etc/passwd", "/dev/zero", "weights.bin", "/proc/self/mem"))
    for key, value in (("location", place), ("offset", "0"), ("length", str(rng.choice(EXTREMES)))):
        tensor.external_data.add(key=key, value=value)


def _nested(model: onnx.ModelProto, rng: random.Random) -> None:
    inner = helper.make_graph([helper.make_node("Identity", ["evil.f"], ["i0"])], "g", [], [_info("i0", 1)])
    for depth in range(1, rng.choice((2, 3, 5, 12, 20, 28))):
        node = helper.make_node("If", ["evil.t"], [f"i{depth}"], then_branch=inner, else_branch=inner)
        if depth > 12:  # the other branch short, or the file would double with each
            short = helper.make_graph([helper.make_node("Identity", ["evil.f"], ["s"])], "s", [], [_info("s", 1)])
            node = helper.make_node("If", ["evil.t"], [f"i{depth}"], then_branch=inner, else_branch=short)
        inner = helper.make_graph([node], "g", [], [_info(f"i{depth}", 1)])
    nodes = [helper.make_node("If", ["evil.t"], ["evil.c"], then_branch=inner, else_branch=inner)]
    tensors = [
        numpy_helper.from_array(np.array(True), "evil.t"),
        numpy_helper.from_array(np.ones(1, np.float32), "evil.f"),
    ]
    _added(model, nodes, tensors, "evil.c")


def endless(model: onnx.ModelProto, rng: random.Random | None = None) -> None:
    """A Loop that never comes to its end."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Identity", ["v"], ["w"])], "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("go", TensorProto.BOOL, []), _info("v", 1)],
        [helper.make_tensor_value_info("goes", TensorProto.BOOL, []), _info("w", 1)],
    )  # fmt: skip
    most = numpy_helper.from_array(np.array(2**62 if rng is None else rng.choice((2**40, 2**62)), np.int64), "evil.m")
    tensors = [most, numpy_helper.from_array(np.array(True), "evil.t"),
               numpy_helper.from_array(np.ones(1, np.float32), "evil.f")]  # fmt: skip
    _added(model, [helper.make_node("Loop", ["evil.m", "evil.t", "evil.f"], ["evil.c"], body=body)], tensors, "evil.c")


def _slow(model: onnx.ModelProto, rng: random.Random) -> None:
    """Products that take for ever, of nothing that takes much room."""
    side = rng.choice((4000, 16000))
    nodes = [helper.make_node("ConstantOfShape", ["evil.s"], ["evil.0"])]
    nodes += [
        helper.make_node("MatMul", [f"evil.{i}", f"evil.{i}"], [f"evil.{i + 1}"]) for i in range(rng.choice((2, 50)))
    ]
    nodes.append(helper.make_node("Where", ["evil.t", "x", "evil.f"], ["evil.x"]))
    last = nodes[-2].output[0]
    tensors = [_ints("evil.s", side, side), numpy_helper.from_array(np.array(True), "evil.t"),
               numpy_helper.from_array(np.ones(1, np.float32), "evil.f")]  # fmt: skip
    _added(model, nodes, tensors, last)


def _convolution(model: onnx.ModelProto, rng: random.Random) -> None:
    """Conv and ConvTranspose with attributes that cannot be."""
    tensors = [numpy_helper.from_array(np.ones((1, 1, 8), np.float32), "evil.x"),
               numpy_helper.from_array(np.ones((1, 1, 3), np.float32), "evil.w")]  # fmt: skip

    def one() -> list[int]:
        return [rng.choice((*EXTREMES, 1, 1, 1))]

    more = {"strides": one(), "dilations": one(), "pads": one() * 2, "kernel_shape": rng.choice(([3], one()))}
    kept: dict[str, Any] = {key: value for key, value in more.items() if rng.random() < 0.5}
    if rng.random() < 0.3:
        kept["group"] = one()[0]
    op = rng.choice(("Conv", "ConvTranspose", "MaxPool", "AveragePool"))
    if "Pool" in op:
        kept = {"kernel_shape": [3]} | {k: v for k, v in kept.items() if k in ("strides", "pads", "kernel_shape")}
    nodes = [helper.make_node(op, ["evil.x", "evil.w"][: 1 if "Pool" in op else 2], ["evil.c"], **kept)]
    _added(model, nodes, tensors, "evil.c")


def _indices(model: onnx.ModelProto, rng: random.Random) -> None:
    """Places that are not there."""
    at = _ints("evil.i", *(rng.choice(EXTREMES) for _ in range(2)))
    data = numpy_helper.from_array(np.ones((4, 4), np.float32), "evil.x")
    cast = numpy_helper.from_array(np.ones((2, 4), np.float32), "evil.u")
    op = rng.choice(("Gather", "GatherND", "ScatterND", "Slice", "Pad", "Tile", "OneHot", "Reshape", "Split", "TopK",
                     "Trilu", "ReverseSequence", "CumSum"))  # fmt: skip
    given = {"ScatterND": ["evil.x", "evil.i", "evil.u"], "Slice": ["evil.x", "evil.i", "evil.i"],
             "Pad": ["evil.x", "evil.p"], "OneHot": ["evil.i", "evil.d", "evil.v"],
             "ReverseSequence": ["evil.x", "evil.q"], "TopK": ["evil.x", "evil.d"], "Trilu": ["evil.x", "evil.d"],
             "CumSum": ["evil.x", "evil.d"]}  # fmt: skip
    more = [_ints("evil.p", *(rng.choice(EXTREMES) for _ in range(4))), _ints("evil.d", rng.choice(EXTREMES)),
            numpy_helper.from_array(np.array([0, 1], np.float32), "evil.v"),
            _ints("evil.q", *(rng.choice(EXTREMES) for _ in range(4)))]  # fmt: skip
    node = helper.make_node(op, given.get(op, ["evil.x", "evil.i"]), ["evil.c"])
    _added(model, [node], [at, data, cast, *more], "evil.c")


def _twice(data: bytes, rng: random.Random) -> bytes:
    """Two files in one: what a lenient parser merges."""
    return data + (data if rng.random() < 0.5 else data[: len(data) // 2])


def _functions(model: onnx.ModelProto, rng: random.Random) -> None:
    domain = rng.choice(("evil", "", "com.microsoft"))
    model.functions.append(helper.make_function(domain, "Abs", ["x"], ["y"], [helper.make_node("Neg", ["x"], ["y"])],
                                                [helper.make_opsetid("", 17)]))  # fmt: skip
    if rng.random() < 0.5:
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _deep_json(model: onnx.ModelProto, rng: random.Random) -> None:
    entry = next(p for p in model.metadata_props if p.key == KEY)
    entry.value = rng.choice(
        ("[" * 200_000, '{"version":' * 50_000, entry.value[:-1], entry.value * 2, "\ud7ff", "1e999")
    )


MUTATIONS: dict[str, Mutation] = {
    "bits": flip, "bytes": overwrite, "cut short": truncate, "inserted": insert, "deleted": delete, "twice": _twice,
    "dims": _changed(_dims), "weights": _changed(_weights), "raw data": _changed(_raw),
    "element type": _changed(_element),
    "attribute": _changed(_attribute), "hidden size": _changed(_hidden_size), "operator": _changed(_operator),
    "domain": _changed(_domain), "wiring": _changed(_wire), "inputs": _changed(_inputs), "nodes": _changed(_nodes),
    "ports": _changed(_ports), "versions": _changed(_versions), "contract": _changed(_contract),
    "huge constant": _changed(_constant_of_shape), "huge, computed": _changed(_hidden_shape),
    "huge range": _changed(_range),
    "doubling": _changed(_doubling), "constants": _changed(_constants), "external data": _changed(_external),
    "nested": _changed(_nested), "endless loop": _changed(endless), "slow": _changed(_slow),
    "convolution": _changed(_convolution), "indices": _changed(_indices), "functions": _changed(_functions),
    "deep contract": _changed(_deep_json),
}  # fmt: skip
"""By name; each takes a sound file and a source of chance."""

SELDOM = frozenset({"huge, computed", "doubling", "constants", "slow", "huge range"})
"""Those that cost seconds each; drawn a tenth as often."""


def mutants(seed: int) -> Iterator[tuple[str, str, bytes]]:
    """For ever: the original's name, the mutation's, and the file that came of it, which is another one.

    The same files for the same seed.
    """
    rng = random.Random(seed)
    sound, names = originals(), list(MUTATIONS)
    weights = [0.1 if name in SELDOM else 1.0 for name in names]
    while True:
        original = rng.choice(list(sound))
        (name,) = rng.choices(names, weights)
        try:
            found = MUTATIONS[name](sound[original], rng)
        except (ValueError, OverflowError, TypeError, DecodeError):
            continue  # a value that protobuf itself does not store
        if found != sound[original]:
            yield original, name, found
