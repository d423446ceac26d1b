"""A graph as a file has it, made plain: one opset, functions inlined, without stale shapes and names of machines."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import inliner, version_converter
from onnx.external_data_helper import uses_external_data

from holdover.runtime.errors import ModelError

OPSETS = range(17, 21)
"""Opsets that are written: runtimes from 2023 on read them."""
OLDEST = 9
MAX_IR = 10
DOMAINS = ("", "ai.onnx", "com.microsoft")


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
