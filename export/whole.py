"""The whole-sequence original, cleaned and watched: what shapes and values its tensors take at several lengths."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import inliner, version_converter
from onnx.external_data_helper import uses_external_data

from holdover.runtime.errors import ModelError, UsageError

Array = NDArray[Any]

OPSETS = range(17, 21)
"""Opsets that are written: runtimes from 2023 on read them."""
OLDEST = 9
MAX_IR = 10
DOMAINS = ("", "ai.onnx", "com.microsoft")
BATCH = 3
LENGTHS = ((96, 144), (480, 720), (1920, 2880))
"""Pairs of lengths to watch the graph at: divisible by the usual strides, longer and longer for wide kernels."""
RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
_SOURCE = {"batch": 0, "time": 1}


@dataclass(frozen=True)
class Layout:
    """How a graph input holds the signal.

    Attributes
    ----------
    name : str
    dims : tuple of int or str
        "batch", "time" or a number, by axis.
    """

    name: str
    dims: tuple[int | str, ...]

    @property
    def time(self) -> int:
        """The time axis."""
        return self.dims.index("time")

    @property
    def channels(self) -> int:
        """Numbers a sample."""
        return int(np.prod([n for n in self.dims if isinstance(n, int)], dtype=int))

    def shape(self, batch: int, time: int) -> tuple[int, ...]:
        """Of an array with so many streams and samples."""
        sizes = {"batch": batch, "time": time}
        return tuple(n if isinstance(n, int) else sizes[n] for n in self.dims)

    def of(self, x: Array) -> Array:
        """This input from x, (batch, samples, channels of this input).

        Examples
        --------
        >>> Layout("x", ("batch", 2, "time")).of(np.zeros((1, 5, 2))).shape
        (1, 2, 5)
        """
        x = x.reshape(*x.shape[:2], *(n for n in self.dims if isinstance(n, int)))
        number = iter(range(2, x.ndim))
        axes = [_SOURCE[n] if isinstance(n, str) else next(number) for n in self.dims]
        if "batch" not in self.dims:
            x, axes = x[0], [axis - 1 for axis in axes]
        return np.ascontiguousarray(x.transpose(axes), np.float32)


@dataclass(frozen=True)
class Dim:
    """One axis of a tensor, as watched.

    Attributes
    ----------
    size : int
        With one stream at the first length.
    batch, time : bool
        Whether it grows with the batch, with the length.
    """

    size: int
    batch: bool = False
    time: bool = False

    @property
    def fixed(self) -> bool:
        """Whether it is a plain number."""
        return not (self.batch or self.time)


class Whole:
    """A whole-sequence graph that was run at two lengths and two batch sizes.

    Attributes
    ----------
    proto : onnx.ModelProto
        Cleaned: one opset, functions inlined, stale shapes gone.
    layouts : tuple of Layout
        The signal inputs.
    lengths : (int, int)
        At which it was watched.
    batch_free : bool
        Whether it takes several streams in a call.
    """

    def __init__(self, proto: onnx.ModelProto, layouts: Sequence[Layout]) -> None:
        self.proto = proto
        self.layouts = tuple(layouts)
        self.batch_free = all("batch" in y.dims for y in layouts)
        self._session = session(proto)
        self.lengths = self._lengths()
        self._take_branches()
        self._watch()

    @property
    def channels(self) -> int:
        """Numbers a sample, over all inputs."""
        return sum(y.channels for y in self.layouts)

    def feeds(self, x: Array) -> dict[str, Array]:
        """Graph inputs from x, (batch, samples, channels): the inputs take their channels in order."""
        starts = np.cumsum([0, *(y.channels for y in self.layouts)])
        return {y.name: y.of(x[..., a : a + y.channels]) for y, a in zip(self.layouts, starts, strict=False)}

    def run(self, x: Array) -> dict[str, Array]:
        """Graph outputs by name, in onnxruntime."""
        names = [o.name for o in self.proto.graph.output]
        return dict(zip(names, self._session.run(names, self.feeds(x)), strict=True))

    def rank(self, value: ir.Value) -> int:
        """Number of axes."""
        return self.values(value)[0].ndim

    def values(self, value: ir.Value) -> tuple[Array, Array, Array]:
        """What it was at the first length, at the second, and with several streams at the first."""
        assert value.name is not None
        return self._seen[value.name]

    def dims(self, value: ir.Value) -> tuple[Dim, ...]:
        """Its axes."""
        one, long, many = (v.shape for v in self.values(value))
        return tuple(Dim(a, batch=c != a, time=b != a) for a, b, c in zip(one, long, many, strict=True))

    def at(self, length: int, names: Sequence[str]) -> list[Array]:
        """Tensors by name at another length, one stream."""
        return self._all(names).run(names, self.feeds(_noise(1, length, self.channels)))  # type: ignore[no-any-return]

    def with_shapes(self) -> onnx.ModelProto:
        """The graph with the shapes of its outputs as they were seen."""
        model = _copy(self.proto)
        for out in model.graph.output:
            one, long, many = (v.shape for v in self._seen[out.name])
            for axis, sizes in enumerate(zip(one, long, many, strict=True)):
                dim = out.type.tensor_type.shape.dim.add()
                if len(set(sizes)) == 1:
                    dim.dim_value = sizes[0]
                else:
                    dim.dim_param = f"{out.name}.{axis}"
        return model

    def _take_branches(self) -> None:
        """Put the branch of each If whose condition never changes in its place."""
        graph = self.proto.graph
        while choices := [n for n in graph.node if n.op_type == "If" and not _follows_values(graph, n.input[0])]:
            conditions = [n.input[0] for n in choices]
            seen = [self.at(n, conditions) for n in self.lengths]
            constant = [n for n, a, b in zip(choices, *seen, strict=True) if bool(a.all()) == bool(b.all())]
            if not constant:
                return
            for node, taken in [(n, bool(a.all())) for n, a in zip(choices, seen[0], strict=True) if n in constant]:
                name = "then_branch" if taken else "else_branch"
                _inline(graph, node, next(a.g for a in node.attribute if a.name == name))
            self._session = session(self.proto)

    def _watch(self) -> None:
        names = [o for n in self.proto.graph.node for o in n.output if o]
        everything = self._all(names)
        several = BATCH if self.batch_free else 1

        def seen(batch: int, length: int) -> dict[str, Array]:
            feeds = self.feeds(_noise(batch, length, self.channels))
            return feeds | dict(zip(names, everything.run(names, feeds), strict=True))

        one, later = seen(1, self.lengths[0]), seen(1, self.lengths[1])
        try:
            many = seen(several, self.lengths[0]) if several > 1 else one
            self.batch_free = several > 1 and self._separate(one, many)
        except Exception:  # onnxruntime's own types: the graph holds a batch of one in its shapes
            many, self.batch_free = one, False
        many = many if self.batch_free else one
        self._seen = {n: (one[n], later[n], many[n]) for n in one}
        for t in self.proto.graph.initializer:
            value = onnx.numpy_helper.to_array(t)
            self._seen[t.name] = (value, value, value)

    def _separate(self, one: Mapping[str, Array], many: Mapping[str, Array]) -> bool:
        """Whether the first stream of several gives what it gives alone."""
        x = _noise(BATCH, self.lengths[0], self.channels)
        alone = self.run(x[:1])
        together = self.run(x)
        return all(
            together[n].ndim == a.ndim and any(
                k == BATCH * m and np.allclose(together[n].take(range(m), axis), a, atol=1e-4)
                for axis, (m, k) in enumerate(zip(a.shape, together[n].shape, strict=True))
            )
            for n, a in alone.items()
        ) and one.keys() == many.keys()  # fmt: skip

    def _lengths(self) -> tuple[int, int]:
        why = ""
        for short, long in LENGTHS:
            try:
                for n in (short, long):
                    self.run(_noise(1, n, self.channels))
                return short, long
            except Exception as error:  # onnxruntime's own types
                why = " ".join(str(error).split())
        raise ModelError(
            f"the model does not run on sequences of {LENGTHS[0][0]} to {LENGTHS[-1][1]} samples, shape "
            f"{self.layouts[0].dims}: an exporter has frozen its time axis, or another axis is time (--time-axis). "
            f"onnxruntime says: {why[:300]}"
        )

    def _all(self, names: Sequence[str]) -> Any:
        open_ended = onnx.ModelProto()
        open_ended.CopyFrom(self.proto)
        del open_ended.graph.output[:]
        open_ended.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
        return session(open_ended, optimize=False)


def _follows_values(graph: onnx.GraphProto, name: str) -> bool:
    """Whether a tensor follows what the inputs hold, not only their shapes."""
    makers = {o: n for n in graph.node for o in n.output}
    inputs = {i.name for i in graph.input}
    seen, left = set(), [name]
    while left:
        name = left.pop()
        node = makers.get(name)
        if name in inputs or (node is not None and node.op_type in RANDOM):
            return True
        if node is None or name in seen or node.op_type in ("Shape", "Size"):
            continue
        seen.add(name)
        inner = [n for a in node.attribute if a.type == onnx.AttributeProto.GRAPH for n in _nodes(a.g)]
        left += [v for n in (node, *inner) for v in n.input]
    return False


def _inline(graph: onnx.GraphProto, node: onnx.NodeProto, branch: onnx.GraphProto) -> None:
    """Nodes of a branch in place of the node that chose it."""
    place = list(graph.node).index(node)
    renamed = [
        onnx.helper.make_node("Identity", [inner.name], [outer])
        for inner, outer in zip(branch.output, node.output, strict=True)
    ]
    rest = [*list(graph.node)[:place], *branch.node, *renamed, *list(graph.node)[place + 1 :]]
    graph.initializer.extend(branch.initializer)
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in rest]
    del graph.node[:]
    graph.node.extend(copies)


def _noise(batch: int, length: int, channels: int) -> Array:
    return np.random.default_rng(7).normal(size=(batch, length, channels)).astype(np.float32)


def session(model: onnx.ModelProto, optimize: bool = True) -> Any:
    """An onnxruntime session with one thread, quiet.

    Raises
    ------
    ModelError
        onnxruntime cannot load the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Else onnxruntime makes uint8 of int8 here and there, on x86 alone, and then rounds sums otherwise than the stream.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types of its own, all of Exception alone
        raise ModelError(f"onnxruntime cannot load the graph: {' '.join(str(error).split())[:300]}") from error


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in an opset that is written, functions inlined, without stale shapes, doc strings and metadata.

    Raises
    ------
    ModelError
        External data, a custom domain, an opset or an operator version that cannot be brought into range, weights that
        are not finite, no inputs.
    """
    model = inliner.inline_local_functions(_copy(model))
    for tensor in model.graph.initializer:
        if uses_external_data(tensor):
            raise ModelError(f"the weight {tensor.name} lies in another file; save the model as one file")
    for domain in sorted({n.domain for n in _nodes(model.graph)} - set(DOMAINS)):
        op = next(n.op_type for n in _nodes(model.graph) if n.domain == domain)
        raise ModelError(f"the operator {op} is of the domain {domain!r}, which no onnxruntime of its own knows; "
                         "export with standard operators")  # fmt: skip
    model = _opset(model)
    model.ir_version = min(max(model.ir_version, 8), MAX_IR)
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string, model.domain = "holdover", "", "", ""
    model.graph.doc_string = ""
    weights = {t.name for t in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    for node in _nodes(model.graph):
        node.doc_string = ""
        if hasattr(node, "metadata_props"):
            del node.metadata_props[:]
    for out in model.graph.output:
        out.doc_string = ""
        if out.type.tensor_type.HasField("shape"):
            out.type.tensor_type.ClearField("shape")
    _constants(model)
    _drop_unused(model.graph)
    _numbers(model)
    if not model.graph.input:
        raise ModelError("the graph has no inputs: nothing to stream")
    from holdover.export.rules.loop import recognise

    return recognise(model)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _numbers(model: onnx.ModelProto) -> None:
    """Refuse weights that are not."""
    for tensor in model.graph.initializer:
        value = onnx.numpy_helper.to_array(tensor)
        if value.dtype.kind == "f" and np.isnan(value).any():
            raise ModelError(
                f"the weight {tensor.name} holds NaN, {np.isnan(value).sum()} of {value.size}; train again"
            )


def _constants(model: onnx.ModelProto) -> None:
    """Constant nodes of the main graph become initializers."""
    for node in [n for n in model.graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]:
        tensor = onnx.TensorProto()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        if tensor.name not in {o.name for o in model.graph.output}:
            model.graph.initializer.append(tensor)
            model.graph.node.remove(node)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes and weights that no output needs."""
    needed, kept = {o.name for o in graph.output}, []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            bodies = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
            needed.update(node.input, *(n.input for g in bodies for n in _nodes(g)), *(
                [o.name for o in g.output] for g in bodies))  # fmt: skip
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in reversed(kept)]
    del graph.node[:]
    graph.node.extend(copies)
    for tensor in [t for t in graph.initializer if t.name not in needed]:
        graph.initializer.remove(tensor)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for a in node.attribute:
            for inner in [a.g] if a.type == onnx.AttributeProto.GRAPH else a.graphs:
                yield from _nodes(inner)


def _opset(model: onnx.ModelProto) -> onnx.ModelProto:
    entry = next((o for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if entry is None:
        raise ModelError("the model names no ONNX opset; export it again")
    if entry.version < OLDEST:
        raise ModelError(f"the model is of opset {entry.version}, from before {OLDEST}; export it with opset 17")
    if entry.version < OPSETS[0]:
        try:
            return version_converter.convert_version(model, OPSETS[0])
        except Exception as error:  # the converter's own C++ types
            raise ModelError(f"opset {entry.version} cannot be raised to {OPSETS[0]} ({error}); export it with opset 17"
                             ) from error  # fmt: skip
    newer = sorted({n.op_type for n in _nodes(model.graph) if n.domain in ("", "ai.onnx") and _since(n, entry.version)})
    if entry.version > OPSETS[-1] and newer:
        raise ModelError(f"the model is of opset {entry.version} and uses its form of {', '.join(newer)}; "
                         "export it with opset 17 to 20")  # fmt: skip
    entry.version = min(entry.version, OPSETS[-1])
    return model


def _since(node: onnx.NodeProto, opset: int) -> bool:
    """Whether an operator's form is newer than what is written."""
    try:
        since = onnx.defs.get_schema(node.op_type, opset, "").since_version
    except onnx.defs.SchemaError as error:
        raise ModelError(f"there is no operator {node.op_type} in opset {opset}: the file is damaged, or newer than "
                         f"onnx {onnx.__version__}") from error  # fmt: skip
    if since <= OPSETS[-1]:
        return False
    # Opset 21 and 23 widened the element types of many operators and changed nothing else.
    old = onnx.defs.get_schema(node.op_type, OPSETS[-1], "") if onnx.defs.has(node.op_type, OPSETS[-1], "") else None
    return old is None or {a.name for a in node.attribute} > set(old.attributes)


def layouts(
    model: onnx.ModelProto, known: Mapping[str, int] | None = None, time_axis: int | None = None
) -> tuple[Layout, ...]:
    """Which axis of each float input is time, and which is the batch; makes both free in the graph.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place: the input shapes.
    known : mapping of str to int
        Time axis by input, where the source told.
    time_axis : int, optional
        What the user said, for all inputs.

    Raises
    ------
    UsageError
        It cannot be told; the message asks for `--time-axis`.
    """
    found = []
    for i in model.graph.input:
        shape = i.type.tensor_type.shape
        if not i.type.tensor_type.HasField("shape"):
            raise ModelError(f"the input {i.name} has no rank; export the model with input shapes")
        if i.type.tensor_type.elem_type not in (onnx.TensorProto.FLOAT,):
            raise ModelError(f"the input {i.name} is {_type(i)}; a signal is float32: scale it in the model")
        dims = [d.dim_value or d.dim_param or None for d in shape.dim]
        axis = time_axis if time_axis is not None else (known or {}).get(i.name)
        layout = _layout(i.name, dims, axis)
        found.append(layout)
        for d, n in zip(shape.dim, layout.dims, strict=True):
            d.Clear()
            if isinstance(n, str):
                d.dim_param = n
            else:
                d.dim_value = n
    return tuple(found)


def _type(info: onnx.ValueInfoProto) -> str:
    return str(onnx.TensorProto.DataType.Name(info.type.tensor_type.elem_type)).lower()


def _layout(name: str, dims: Sequence[int | str | None], axis: int | None) -> Layout:
    shown = "[" + ", ".join(str(d or "?") for d in dims) + "]"
    if axis is None:
        axis = _time_axis(name, dims, shown)
    if not -len(dims) <= axis < len(dims):
        raise UsageError(f"the input {name} {shown} has {len(dims)} axes, there is no axis {axis}; mind --time-axis")
    axis %= len(dims)
    free = [i for i, d in enumerate(dims) if i != axis and not isinstance(d, int)]
    ones = [i for i, d in enumerate(dims) if i != axis and d == 1]
    batch = free[0] if free else next((i for i in ones if i == 0), None if len(dims) < 3 else next(iter(ones), None))
    if len(free) > 1:
        raise UsageError(f"the input {name} {shown} has free axes besides time and batch; fix the number of channels")
    return Layout(name, tuple("time" if i == axis else "batch" if i == batch else d for i, d in enumerate(dims)))  # type: ignore[misc]


_TIME_NAMES = ("time", "seq", "sample", "length", "len", "step", "frames", "t")
_BATCH_NAMES = ("batch", "n", "b", "bs")


def _time_axis(name: str, dims: Sequence[int | str | None], shown: str) -> int:
    free = [i for i, d in enumerate(dims) if not isinstance(d, int)]
    named = [i for i in free if str(dims[i] or "").lower() in _TIME_NAMES
             or any(len(w) > 2 and w in str(dims[i] or "").lower() for w in _TIME_NAMES)]  # fmt: skip
    if len(named) == 1:
        return named[0]
    rest = [i for i in free if str(dims[i] or "").lower().rstrip("_size") not in _BATCH_NAMES
            and "batch" not in str(dims[i] or "").lower()]  # fmt: skip
    if len(rest) == 1 and (len(free) == 2 or isinstance(dims[0], int)):
        return rest[0]
    if len(free) == 2 and free[0] == 0:
        return free[1]
    raise UsageError(f"which axis of the input {name} {shown} is time? Give --time-axis N (the first axis is 0)")
