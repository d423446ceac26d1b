"""torch's layers and functions that its exporter gets wrong, made to export as nodes of ONNX."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.export.gates import ORDERS, split, stack
from holdover.runtime.errors import ModelError

Array = NDArray[Any]

OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {}),
    # torch multiplies by R before the reset gate, ONNX after it unless told so.
    "GRU": ("GRU", {"linear_before_reset": 1}),
    "RNN_TANH": ("RNN", {}),
    "RNN_RELU": ("RNN", {"activations": ["Relu"]}),
}
"""torch's `mode` of a recurrent layer: the ONNX operator and the attributes that make it torch's."""

PARTS = {"w": "weight_ih", "r": "weight_hh", "bw": "bias_ih", "br": "bias_hh"}
"""Arguments of `gates.split`, and torch's names for them."""


def arrays(op: str, directions: Sequence[Mapping[str, Array]]) -> tuple[Array, Array, Array]:
    """W, R and B of an ONNX node, from what torch keeps for each direction.

    Parameters
    ----------
    op : str
        "LSTM", "GRU" or "RNN".
    directions : sequence of mapping
        One mapping for a layer, two for a bidirectional one: `weight_ih` (gates * hidden, inputs), `weight_hh`
        (gates * hidden, hidden), and where there are biases `bias_ih` and `bias_hh` (gates * hidden,).

    Returns
    -------
    W, R, B : array
        (directions, gates * hidden, inputs), (directions, gates * hidden, hidden), (directions, 2 * gates * hidden).

    Raises
    ------
    UsageError
        The shapes do not fit one another.
    """
    order = ORDERS[op]["torch"]
    given = [{argument: d[name] for argument, name in PARTS.items() if name in d} for d in directions]
    stacked = [stack(op, split(order, **one)) for one in given]
    w, r, b = (np.concatenate(one) for one in zip(*stacked, strict=True))
    return w, r, b


def attributes(mode: str, hidden: int, bidirectional: bool) -> dict[str, Any]:
    """Attributes of the ONNX node for a layer of torch."""
    made = {"hidden_size": hidden} | OPERATORS[mode][1]
    if not bidirectional:
        return made
    both = {"activations": made["activations"] * 2} if "activations" in made else {}
    return made | both | {"direction": "bidirectional"}


def swap(module: Any) -> Any:
    """Give every recurrent layer and torch's encoder a forward that can be exported, in place.

    A recurrent layer gives one ONNX node a layer. Its class stays a base, so that an author's subclass whose forward
    calls `super().forward` works too. Afterwards the module can be exported, but gives zeros when it is called.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode, float32; a copy that nobody else uses.

    Returns
    -------
    torch.nn.Module
        The same module.

    Raises
    ------
    ModelError
        A layer that has no ONNX node: a projection, or a cell stepped by a loop.
    """
    from torch import nn

    forwards = {nn.LSTM: _forward, nn.GRU: _forward, nn.RNN: _forward, nn.TransformerEncoder: _encoder(nn)}
    emitting = {base: type("Emitting", (base,), {"forward": forward}) for base, forward in forwards.items()}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.RNNCellBase):
            raise _cell(name, layer)
        for base, emits in emitting.items():
            if isinstance(layer, base):
                if isinstance(layer, nn.RNNBase):
                    _check(name, layer)
                    _keep(layer)
                layer.__class__ = emits if type(layer) is base else type(type(layer).__name__, (type(layer), emits), {})
    return module


def _encoder(nn: Any) -> Callable[..., Any]:
    """An encoder that does not look whether its mask is the causal one, which it does by the mask's values."""

    def forward(layer: Any, src: Any, mask: Any = None, padding: Any = None, is_causal: bool | None = None) -> Any:
        return nn.TransformerEncoder.forward(layer, src, mask, padding, bool(is_causal))

    return forward


def _cell(name: str, layer: Any) -> ModelError:
    kind = type(layer).__name__.removesuffix("Cell")
    return ModelError(
        f"{_called(name)}is an nn.{kind}Cell, which Python steps through time, and the exporter unrolls to the length "
        f"of its example; expected an nn.{kind} over the whole sequence: it takes the cell's weights under the names "
        "weight_ih_l0, weight_hh_l0, bias_ih_l0 and bias_hh_l0"
    )


def _check(name: str, layer: Any) -> None:
    if layer.proj_size:
        raise ModelError(
            f"{_called(name)}is an LSTM with proj_size={layer.proj_size}, and the LSTM of ONNX has no projection; "
            "train it without proj_size, with a Linear layer behind it where the output should be narrow"
        )


def _called(name: str) -> str:
    return f"{name} " if name else "the module "


def _keep(layer: Any) -> None:
    """Leave the weights of each layer where the tracer finds them, in the order of ONNX: W_l0, R_l0, B_l0, W_l1, ..."""
    import torch

    ends = ("", "_reverse") if layer.bidirectional else ("",)
    names = [n for n in PARTS.values() if layer.bias or n.startswith("weight")]
    for k in range(layer.num_layers):
        torch_side = [{n: getattr(layer, f"{n}_l{k}{end}").detach().numpy() for n in names} for end in ends]
        for letter, array in zip("WRB", arrays(OPERATORS[layer.mode][0], torch_side), strict=True):
            layer.register_buffer(f"{letter}_l{k}", torch.from_numpy(array))


def _forward(layer: Any, x: Any, hx: Any = None) -> tuple[Any, Any]:
    """What torch's forward does, with one ONNX node a layer: y, and h_n or (h_n, c_n)."""
    import torch

    if not isinstance(x, torch.Tensor) or x.dim() != 3:
        raise ModelError(f"a recurrent layer was given {_what(x)}; expected a tensor of three axes, the batch included")
    x = x.transpose(0, 1) if layer.batch_first else x
    starts = () if hx is None else hx if layer.mode == "LSTM" else (hx,)
    ends = []
    for k in range(layer.num_layers):
        x, *end = _layer(layer, k, x, starts)
        ends.append(end)
    states = tuple(torch.cat(one) for one in zip(*ends, strict=True))
    return x.transpose(0, 1) if layer.batch_first else x, states if layer.mode == "LSTM" else states[0]


def _what(x: Any) -> str:
    return f"a tensor of {x.dim()} axes" if hasattr(x, "dim") else f"a {type(x).__name__}"


def _layer(layer: Any, k: int, x: Any, starts: Sequence[Any]) -> tuple[Any, ...]:
    """One node: y (time, batch, directions * hidden), and h or h and c (directions, batch, hidden)."""
    import torch

    op = OPERATORS[layer.mode][0]
    time, batch, hidden, directions = x.shape[0], x.shape[1], layer.hidden_size, 1 + layer.bidirectional
    own = [start[k * directions : (k + 1) * directions] for start in starts]
    weights = [getattr(layer, f"{letter}_l{k}") for letter in "WRB"]
    state = (directions, batch, hidden)
    count = 3 if op == "LSTM" else 2
    y, *end = torch.onnx.ops.symbolic_multi_out(
        op,
        (x, *weights, *((None, *own) if own else ())),
        attributes(layer.mode, hidden, layer.bidirectional),
        dtypes=[torch.float32] * count,
        shapes=[(time, directions, batch, hidden), *[state] * (count - 1)],
    )
    y = y.transpose(1, 2).reshape(time, batch, directions * hidden) if layer.bidirectional else y.squeeze(1)
    return y, *end


@contextlib.contextmanager
def substitutes() -> Iterator[None]:
    """Where functions of torch do not export, others that do; and attention without its own fast path.

    MaxPool1d freezes the length of time, attention is known with four axes only, and the fast path of an encoder layer
    is one operator that ONNX does not have (torch 2.13).
    """
    import torch
    from torch.overrides import TorchFunctionMode

    table: dict[Any, Callable[..., Any]] = {
        torch.nn.functional.max_pool1d: _max_pool,
        torch.max_pool1d: _max_pool,
        torch.nn.functional.scaled_dot_product_attention: _attention,
    }

    def call(_mode: Any, function: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        substitute = table.get(function)
        result = substitute(*args, **(kwargs or {})) if substitute else None
        return function(*args, **(kwargs or {})) if result is None else result

    mode = type("Substitutes", (TorchFunctionMode,), {"__torch_function__": call})()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with mode:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _max_pool(
    x: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """One MaxPool node over x (batch, channels, time); None for the forms that it does not have."""
    import torch

    if ceil_mode or return_indices or x.dim() != 3:
        return None
    kernel, step, pad, spread = (_number(n) for n in (kernel_size, stride or kernel_size, padding, dilation))
    length = (x.shape[2] + 2 * pad - spread * (kernel - 1) - 1) // step + 1
    sizes = {"kernel_shape": [kernel], "strides": [step], "pads": [pad, pad], "dilations": [spread]}
    return torch.onnx.ops.symbolic("MaxPool", (x,), sizes, dtype=x.dtype, shape=(x.shape[0], x.shape[1], length))


def _number(n: int | Sequence[int]) -> int:
    return n if isinstance(n, int) else n[0]


def _attention(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Attention of three axes as that of four; None where it has four already."""
    from torch.nn import functional

    if query.dim() != 3:
        return None
    four = [x.unsqueeze(1) for x in (query, key, value)]
    mask = attn_mask.unsqueeze(1) if attn_mask is not None and attn_mask.dim() == 3 else attn_mask
    attention: Callable[..., Any] = functional.scaled_dot_product_attention
    return attention(*four, mask, *args, **kwargs).squeeze(1)
