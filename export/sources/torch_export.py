"""A PyTorch module as a whole-sequence ONNX graph, held against the module."""

import contextlib
import copy
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from holdover.export.original import Original, SourceOptions, Tensors
from holdover.export.sources.torch_call import (
    TOLERANCE,
    Call,
    Dims,
    Example,
    find,
    gap,
    output_dims,
    text,
    three_lengths,
)
from holdover.export.sources.torch_layers import substitutes, swap
from holdover.export.sources.torch_quiet import failure, line, need_torch, quiet
from holdover.runtime.errors import HoldoverError, ModelError

IR_VERSION = 10
OPSETS = range(17, 21)

FIXED_TIME = (
    "the forward fixes the length of time, as a Python loop over time, int(x.shape[1]), a reshape to a number and a "
    "pooling with ceil_mode do; write it with layers over the whole sequence"
)
BY_VALUE = "the forward decides by the values of a tensor, which a graph cannot; use torch.where in place of `if`"
ELSE = "export it to ONNX yourself and give that file"
ADVICES = ((r"Constraints violated|[Ss]pecializ|static shape", FIXED_TIME), (r"[Dd]ata.[Dd]ependent", BY_VALUE))
"""What torch says, and what its user can do."""


def export(module: Any, options: SourceOptions) -> Original:
    """Export a module, and hold the graph against it at three lengths.

    Parameters
    ----------
    module : torch.nn.Module
        Is not changed: a copy goes to eval mode, float32 and the CPU.
    options : SourceOptions
        `width` and `input_shape`.

    Returns
    -------
    Original
        Of kind "torch". Inputs are named as the parameters of `forward`, outputs by their keys in a dictionary, by
        place in a tuple ("y0", "y1"), or "y". `answer` is the module itself.

    Raises
    ------
    UsageError
        torch is missing, `input_shape` is no shape, or the module takes no input of a shape that was tried.
    ModelError
        The module cannot be exported, or the exporter gave a wrong graph.
    """
    need_torch()
    with quiet():
        original, notes = _prepared(module)
        call = Call.of(original)
        example = find(call, options.width, options.input_shape)
        model, batch = _exported(swap(copy.deepcopy(original)), call, example)
        _clean(model, call, example, batch)
        lengths = _check(model, call, example, batch)
    if batch == 1 and "batch" in example.dims:
        notes.append("the batch is fixed at 1: the module or the exporter takes no other")
    if call.optional:
        notes.append(f"left at their defaults: {', '.join(call.optional)}")
    notes.append(f"input shape {text(example.dims)}; equal to torch at {', '.join(map(str, lengths))} samples")
    inputs = {n: t.numpy() for n, t in zip(call.names, example.tensors(1, example.lengths[1]), strict=True)}
    axes = dict.fromkeys(call.names, example.dims.index("time"))
    return Original(model, "torch", _digest(original), axes, call, inputs, tuple(notes))


def _prepared(module: Any) -> tuple[Any, list[str]]:
    """A copy of the module in eval mode, float32, on the CPU."""
    import torch

    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError("a TorchScript module, whose recurrent layers are taken apart; give the one it was made of")
    with torch.no_grad():
        for part, hook in _weight_norms(module):
            hook(part, ())  # leaves a weight without a history, which can be copied
    try:
        copied = copy.deepcopy(module)
    except Exception as error:  # tensors with a history, locks, open files
        raise ModelError(f"the module cannot be copied: {failure(error)}; a module just loaded can be") from error
    for part, hook in list(_weight_norms(copied)):
        torch.nn.utils.remove_weight_norm(part, hook.name)
    tensors = (*copied.parameters(), *copied.buffers())
    others = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()} - {"float32"})
    notes = [f"weights in {', '.join(others)} became float32"] if others else []
    return copied.cpu().float().eval().requires_grad_(False), notes


def _weight_norms(module: Any) -> Iterator[tuple[Any, Any]]:
    """Parts of a module with the older weight norm, which hooks into forward, and their hooks."""
    from torch.nn.utils.weight_norm import WeightNorm

    for part in module.modules():
        for hook in part._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm):
                yield part, hook


def _digest(module: Any) -> str:
    """SHA-256 over names, types, shapes and values of the state_dict, by name."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            array = tensor.numpy()
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _exported(swapped: Any, call: Call, example: Example) -> tuple[onnx.ModelProto, int]:
    """The graph, and the size of the batch that it was made with: 1 if it takes no other."""
    if example.batch > 1 and "batch" in example.dims:
        with contextlib.suppress(Exception):  # then once more with the batch fixed, whose error is the one to tell
            return _traced(swapped, call, example, {"batch", "time"}), example.batch
    try:
        return _traced(swapped, call, example, {"time"}), 1
    except Exception as error:  # torch raises errors of many kinds
        raise _explained(error) from error


def _traced(swapped: Any, call: Call, example: Example, free: set[str]) -> onnx.ModelProto:
    """torch's own export, the named axes left free; its outputs get names that no other value has."""
    import torch

    given = example.tensors(example.batch if "batch" in free else 1, example.lengths[1])
    dynamic = {i: torch.export.Dim.DYNAMIC for i, d in enumerate(example.dims) if d in free}
    wanted = list(call.tensors(given))
    with substitutes(), torch.no_grad():
        program = torch.onnx.export(
            swapped,
            tuple(given),
            dynamo=True,
            dynamic_shapes=tuple(dynamic for _ in given),
            input_names=list(call.names),
            output_names=[f"output:{i}" for i in range(len(wanted))],
            verbose=False,
        )
    model: onnx.ModelProto = program.model_proto
    taken = {name for node in model.graph.node for name in node.output} | {i.name for i in model.graph.initializer}
    inner = {name: f"{name}:inner" for name in taken.intersection(wanted)}
    _rename(model.graph, inner | {f"output:{i}": name for i, name in enumerate(wanted)})
    return model


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give values other names, in the bodies of loops too."""
    for value in (*graph.output, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for places in (node.input, node.output):
            places[:] = [names.get(name, name) for name in places]
        for body in _bodies(node):
            _rename(body, names)


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for a in node.attribute for graph in (*a.graphs, *([a.g] if a.HasField("g") else []))]


def _explained(error: BaseException) -> ModelError:
    """The cause at the bottom in one line, with advice; our own words where there are some."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    ours = next((c for c in causes if isinstance(c, HoldoverError)), None)
    if ours is not None:
        return ModelError(str(ours))
    said = "\n".join(map(str, causes))
    advice = next((advice for pattern, advice in ADVICES if re.search(pattern, said)), ELSE)
    return ModelError(f"torch cannot export the module: {advice} (torch said: {line(causes[-1])})")


def _clean(model: onnx.ModelProto, call: Call, example: Example, batch: int) -> None:
    """Drop stack traces, paths and stale shapes; name the free axes."""
    opsets = {o.domain: o.version for o in model.opset_import}
    if opsets.keys() != {""} or opsets[""] not in OPSETS or model.ir_version > IR_VERSION or model.functions:
        raise ModelError(
            f"torch exported IR {model.ir_version} with operators of {opsets}; expected at most IR {IR_VERSION} and "
            f"standard operators of {OPSETS[0]} to {OPSETS[-1]}; {ELSE}"
        )
    _strip(model)
    _strip(model.graph)
    del model.graph.value_info[:]
    given: Dims = tuple(batch if d == "batch" and batch == 1 else d for d in example.dims)
    for value in model.graph.input:
        _name_axes(value, given)
    # A batch of 3 here: that of 2 made the graph, and may have been frozen in it.
    dims = output_dims(call, example, 1 if batch == 1 else batch + 1)
    for value in model.graph.output:
        _name_axes(value, dims[value.name])


def _strip(part: Any) -> None:
    """Metadata and doc strings of a model or a graph, and of all that is in a graph."""
    del part.metadata_props[:]
    part.ClearField("doc_string")
    if isinstance(part, onnx.GraphProto):
        for inner in (*part.node, *part.initializer, *part.input, *part.output):
            _strip(inner)
    if isinstance(part, onnx.NodeProto):
        for body in _bodies(part):
            _strip(body)


def _name_axes(value: onnx.ValueInfoProto, dims: Sequence[int | str]) -> None:
    tensor = value.type.tensor_type
    tensor.CopyFrom(onnx.helper.make_tensor_type_proto(tensor.elem_type, dims).tensor_type)


def _check(model: onnx.ModelProto, call: Call, example: Example, batch: int) -> list[int]:
    """Compare with the module at three lengths, which are returned."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    names = [o.name for o in model.graph.output]
    lengths = three_lengths(call, example)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for time, size in zip(lengths, (1, batch, 1), strict=False):
            inputs = {n: t.numpy() for n, t in zip(call.names, example.tensors(size, time), strict=True)}
            _compare(call(inputs), dict(zip(names, session.run(names, inputs), strict=True)), time)
    except HoldoverError:
        raise
    except Exception as error:  # onnxruntime raises errors of its own, which it does not export
        raise ModelError(f"onnxruntime cannot run the graph that torch exported: {line(error)}; {ELSE}") from error
    return lengths


def _compare(expected: Tensors, found: Tensors, time: int) -> None:
    for name, a in expected.items():
        b = found[name]
        off = gap(a, b) if a.shape == b.shape else np.inf
        if not off <= TOLERANCE:
            shapes = f" (shape {b.shape}, expected {a.shape})" if a.shape != b.shape else ""
            raise ModelError(
                f"torch's exporter gave a wrong graph: after {time} samples {name} differs from the module by "
                f"{off:.1e} of its largest value{shapes}; {ELSE}"
            )
