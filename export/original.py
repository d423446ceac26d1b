"""What is exported: a whole-sequence model as ONNX, and the answer of the framework that it comes from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.export.sidecar import Sidecar
from holdover.runtime.errors import ModelError

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Original:
    """A model as its author wrote it: one call takes a whole sequence and gives all results.

    Attributes
    ----------
    model : onnx.ModelProto
        The graph, time and batch axes free where the source allows.
    kind : str
        Where it comes from: "onnx", "torch", "keras", "weights".
    sha256 : str
        Of the file or files read; of the graph where there is no file.
    time_axes : mapping of str to int
        The time axis of each graph input, where the source knows it.
    answer : callable, optional
        The framework's own forward pass, from inputs by name to outputs by name, where the framework is at hand; the
        exported graph is held against it, since exporters err without a word.
    inputs : mapping of str to array
        Example inputs that are known to work, by name, where the source has some.
    notes : tuple of str
        What the reader should know: what was dropped, assumed or renamed.
    sidecar : Sidecar, optional
        How its states pair, where its author made them inputs and outputs: then a call takes a block, and the graph is
        a whole-sequence model only from the initial states on.
    """

    model: onnx.ModelProto
    kind: str
    sha256: str
    time_axes: Mapping[str, int] = field(default_factory=dict)
    answer: Callable[[Tensors], Tensors] | None = None
    inputs: Tensors = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    sidecar: Sidecar | None = None


@dataclass(frozen=True)
class SourceOptions:
    """What the command line says about a source.

    Attributes
    ----------
    width : int
        Channels of one sample: the number of leads.
    input_shape : tuple of int or str, optional
        Of the model's input, with "batch" and "time" in their places, such as ("batch", 1, "time"); None: the source
        finds out, or takes ("batch", "time", channels).
    gate_order : str, optional
        Of raw weights: "ifco", "ifgo", "iofc", "zrh", "rzn".
    activation : str, optional
        Of a plain recurrent layer in raw weights: "tanh" or "relu".
    trust : bool
        Whether a file that can run code when it is opened (a pickled module) may be opened.
    states : str or Path, optional
        The file that pairs the states of an ONNX file; None: `model.states.json` beside it, or by name.
    """

    width: int = 1
    input_shape: tuple[int | str, ...] | None = None
    gate_order: str | None = None
    activation: str | None = None
    trust: bool = False
    states: str | Path | None = None


WEIGHTED = ("MatMul", "Gemm", "Conv", "ConvTranspose", "RNN", "LSTM", "GRU")
"""Operators in whose inputs an infinity makes NaN of all that comes after; -inf in a mask is what masks are made of."""
PASSING = ("Identity", "Transpose", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat",
           "DequantizeLinear")  # fmt: skip
"""Operators through which a weight may come."""


def refuse_infinite(model: onnx.ModelProto) -> None:
    """Refuse infinite weights, in the graph and in the bodies of its loops.

    Raises
    ------
    ModelError
        A product, a convolution or a recurrent layer has one.
    """
    infinite = {t.name: t for t in model.graph.initializer if _infinite(t)}
    if infinite:
        _refuse_infinite(model.graph, infinite)


def _refuse_infinite(graph: onnx.GraphProto, infinite: dict[str, onnx.TensorProto]) -> None:
    infinite = dict(infinite)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                own = {t.name: t for t in attribute.g.initializer if _infinite(t)}
                _refuse_infinite(attribute.g, infinite | own)
        tensor = next((infinite[name] for name in node.input if name in infinite), None)
        if tensor is None:
            continue
        if node.op_type in WEIGHTED:
            value = onnx.numpy_helper.to_array(tensor)
            raise ModelError(f"the weight {tensor.name} of {node.op_type} {node.name or node.output[0]!r} holds "
                             f"infinity, {np.isinf(value).sum()} of {value.size}; train again")  # fmt: skip
        if node.op_type in PASSING:
            infinite[node.output[0]] = tensor


def _infinite(tensor: onnx.TensorProto) -> bool:
    value = onnx.numpy_helper.to_array(tensor)
    return value.dtype.kind == "f" and bool(np.isinf(value).any())
