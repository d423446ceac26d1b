"""Operators for ONNX's reference evaluator, in whatever precision their inputs have.

The evaluator's own recurrent operators lack layouts, clip and activations; its windows are Python loops over samples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

from holdover.runtime.engines.oracle import sigmoid
from holdover.runtime.errors import ModelError

Array = NDArray[Any]
Function = Callable[[Array], Array]


# recurrent operators


def _leaky(alpha: float) -> Function:
    return lambda v: np.where(v < 0, alpha * v, v)


ACTIVATIONS: dict[str, tuple[tuple[float, ...], Callable[..., Function]]] = {
    "Tanh": ((), lambda: np.tanh),
    "Sigmoid": ((), lambda: sigmoid),
    "Relu": ((), lambda: lambda v: np.maximum(v, 0)),
    "Softsign": ((), lambda: lambda v: v / (1 + np.abs(v))),
    "Softplus": ((), lambda: lambda v: np.logaddexp(v, 0)),
    "LeakyRelu": ((0.01,), _leaky),
    "ThresholdedRelu": ((1.0,), lambda a: lambda v: np.where(v > a, v, 0)),
    "Elu": ((1.0,), lambda a: lambda v: np.where(v < 0, a * np.expm1(np.minimum(v, 0)), v)),
    "HardSigmoid": ((0.2, 0.5), lambda a, b: lambda v: np.clip(a * v + b, 0, 1)),
    "Affine": ((1.0, 0.0), lambda a, b: lambda v: a * v + b),
    "ScaledTanh": ((1.0, 1.0), lambda a, b: lambda v: a * np.tanh(b * v)),
}
"""ONNX's activations: defaults of alpha and beta, as many as they take, and the function for them."""


def _functions(names: Sequence[str], alphas: Any, betas: Any) -> list[Function]:
    """The functions in order; each takes its alpha and beta from the front of the lists, as ONNX Runtime does."""
    left: list[list[float]] = [list(alphas or ()), list(betas or ())]
    found = []
    for name in names:
        if name not in ACTIVATIONS:
            raise ModelError(f"the reference has no activation {name}; it has {', '.join(ACTIVATIONS)}")
        defaults, make = ACTIVATIONS[name]
        found.append(make(*(left[i].pop(0) if left[i] else d for i, d in enumerate(defaults))))
    return found


class LSTM(OpRun):  # type: ignore[misc]
    """The ONNX operator LSTM, forward: activations, clip, peepholes, coupled gates and both layouts."""

    op_domain = ""

    def _run(self, x: Array, w: Array, r: Array, b: Any = None, lens: Any = None, h: Any = None, c: Any = None,
             p: Any = None, **a: Any) -> tuple[Array, ...]:  # fmt: skip
        f, g, k = _checked(a, x, lens, ("Sigmoid", "Tanh", "Tanh"))
        x, h, c = _first(a, x), _state(a, x, r, h), _state(a, x, r, c)
        of_i, of_o, of_f = np.split(np.zeros(3 * r.shape[2]) if p is None else p[0], 3)
        bias = _bias(b, r).sum(axis=0)
        ys = []
        for xt in x:
            i, o, forget, new = np.split(xt @ w[0].T + h @ r[0].T + bias, 4, axis=-1)
            i = f(i + of_i * c)
            kept = 1 - i if a.get("input_forget") else f(forget + of_f * c)
            c = kept * c + i * g(new)
            h = f(o + of_o * c) * k(c)
            ys.append(h)
        return _results(a, ys, h, c)


class GRU(OpRun):  # type: ignore[misc]
    """The ONNX operator GRU, forward: activations, clip, both places of the reset and both layouts."""

    op_domain = ""

    def _run(self, x: Array, w: Array, r: Array, b: Any = None, lens: Any = None, h: Any = None,
             **a: Any) -> tuple[Array, ...]:  # fmt: skip
        f, g = _checked(a, x, lens, ("Sigmoid", "Tanh"))
        x, h, hidden = _first(a, x), _state(a, x, r, h), r.shape[2]
        (bw, br), gates = _bias(b, r), slice(0, 2 * r.shape[2])
        ys = []
        for xt in x:
            from_x = xt @ w[0].T + bw
            z, reset = np.split(f(from_x[:, gates] + h @ r[0, gates].T + br[gates]), 2, axis=-1)
            last, last_b = r[0, 2 * hidden :], br[2 * hidden :]
            inner = reset * (h @ last.T + last_b) if a.get("linear_before_reset") else (reset * h) @ last.T + last_b
            h = (1 - z) * g(from_x[:, 2 * hidden :] + inner) + z * h
            ys.append(h)
        return _results(a, ys, h)


class RNN(OpRun):  # type: ignore[misc]
    """The ONNX operator RNN, forward: activations, clip and both layouts."""

    op_domain = ""

    def _run(self, x: Array, w: Array, r: Array, b: Any = None, lens: Any = None, h: Any = None,
             **a: Any) -> tuple[Array, ...]:  # fmt: skip
        (f,) = _checked(a, x, lens, ("Tanh",))
        x, h, bias = _first(a, x), _state(a, x, r, h), _bias(b, r).sum(axis=0)
        ys = []
        for xt in x:
            h = f(xt @ w[0].T + h @ r[0].T + bias)
            ys.append(h)
        return _results(a, ys, h)


def _checked(a: Mapping[str, Any], x: Array, lens: Any, default: Sequence[str]) -> list[Function]:
    """The node's activations, those of the gates behind its clip; the LSTM's third, over the cell, is not clipped.

    The standard says "applied to the input of activations"; ONNX Runtime leaves out the third, and is what runs.
    """
    if a.get("direction") not in (None, "forward"):
        raise ModelError(f"a recurrent node runs {a['direction']}: its first output needs the last sample")
    if lens is not None and (lens != _first(a, x).shape[0]).any():
        raise ModelError("a recurrent node is given sequences of several lengths; the reference takes one")
    names = (a.get("activations") or default)[: len(default)]  # the schema's default names those of two directions
    found = _functions(names, a.get("activation_alpha"), a.get("activation_beta"))
    clip = a.get("clip")
    return [_clipped(function, clip) for function in found[:2]] + found[2:] if clip else found


def _clipped(function: Function, clip: float) -> Function:
    return lambda v: function(np.clip(v, -clip, clip))


def _first(a: Mapping[str, Any], x: Array) -> Array:
    """Time first; layout 1 has the batch first."""
    return x.swapaxes(0, 1) if a.get("layout") else x


def _state(a: Mapping[str, Any], x: Array, r: Array, state: Any) -> Array:
    """(batch, hidden), zeros where the node has none."""
    if state is None:
        return np.zeros((_first(a, x).shape[1], r.shape[2]), x.dtype)
    return np.asarray(_first(a, state)[0])


def _bias(b: Any, r: Array) -> Array:
    """(2, gates * hidden): of the input, of the recurrence."""
    return np.zeros((2, r.shape[1]), r.dtype) if b is None else np.asarray(b[0]).reshape(2, -1)


def _results(a: Mapping[str, Any], ys: list[Array], *states: Array) -> tuple[Array, ...]:
    y = np.stack(ys)[:, np.newaxis] if ys else np.zeros((0, 1, *states[0].shape))
    if a.get("layout"):
        return (y.transpose(2, 0, 1, 3), *(s[:, np.newaxis] for s in states))
    return (y, *(s[np.newaxis] for s in states))


# operators over windows, which the reference evaluator runs sample by sample in Python


class Conv(OpRun):  # type: ignore[misc]
    """The ONNX operator Conv over any number of axes."""

    op_domain = ""

    def _run(self, x: Array, w: Array, b: Any = None, group: int | None = 1, **a: Any) -> tuple[Array]:
        windows = _windows(_padded(x, w.shape[2:], a, 0), w.shape[2:], a)
        axes = x.ndim - 2
        over = ([1, *range(2 + axes, 2 + 2 * axes)], [1, *range(2, 2 + axes)])
        pairs = zip(np.split(windows, group or 1, axis=1), np.split(w, group or 1), strict=True)
        y = np.concatenate([np.tensordot(part, taps, axes=over) for part, taps in pairs], axis=-1)
        return (np.moveaxis(y if b is None else y + b, -1, 1),)


class MaxPool(OpRun):  # type: ignore[misc]
    """The ONNX operator MaxPool, its first output."""

    op_domain = ""

    def _run(self, x: Array, kernel_shape: Any = None, **a: Any) -> tuple[Array]:
        if sum(map(bool, self.onnx_node.output)) > 1:
            raise ModelError("a MaxPool node gives indices; the reference gives the maximum alone")
        windows = _windows(_padded(x, kernel_shape, a, -np.inf), kernel_shape, a)
        return (windows.max(axis=tuple(range(x.ndim, windows.ndim))),)


class AveragePool(OpRun):  # type: ignore[misc]
    """The ONNX operator AveragePool."""

    op_domain = ""

    def _run(self, x: Array, kernel_shape: Any = None, count_include_pad: int | None = 0, **a: Any) -> tuple[Array]:
        counted = _padded(np.ones_like(x), kernel_shape, a, float(count_include_pad or 0))
        axes = tuple(range(x.ndim, 2 * x.ndim - 2))
        total, count = (_windows(v, kernel_shape, a).sum(axis=axes) for v in (_padded(x, kernel_shape, a, 0), counted))
        return (total / count,)


class GlobalMaxPool(OpRun):  # type: ignore[misc]
    """The ONNX operator GlobalMaxPool; the evaluator's own takes the maximum over other axes than the standard's."""

    op_domain = ""

    def _run(self, x: Array, **_: Any) -> tuple[Array]:
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


def _each(a: Mapping[str, Any], name: str, kernel: Sequence[int]) -> list[int]:
    return list(a.get(name) or [1] * len(kernel))


def _reach(kernel: Sequence[int], a: Mapping[str, Any]) -> list[int]:
    """Samples from the first tap to the last, both included, by axis."""
    return [(k - 1) * d + 1 for k, d in zip(kernel, _each(a, "dilations", kernel), strict=True)]


def _padded(x: Array, kernel: Sequence[int], a: Mapping[str, Any], fill: float) -> Array:
    """x with the node's padding; what `ceil_mode` adds at the end counts for nothing."""
    pads = _pads(x.shape[2:], kernel, a)
    x = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    if not a.get("ceil_mode"):
        return x
    more = [(0, _overhang(size, reach, stride, after)) for size, reach, stride, (_, after)
            in zip(x.shape[2:], _reach(kernel, a), _each(a, "strides", kernel), pads, strict=True)]  # fmt: skip
    return np.pad(x, [(0, 0), (0, 0), *more], constant_values=min(fill, 0))


def _overhang(size: int, reach: int, stride: int, after: int) -> int:
    """What the last window lacks if the number of windows is rounded up; it must not start in the padding."""
    rest = (size - reach) % stride
    start = size - reach - rest + stride
    return stride - rest if rest and start < size - after else 0


def _pads(sizes: Sequence[int], kernel: Sequence[int], a: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Before and after, by axis."""
    auto, given = a.get("auto_pad") or "NOTSET", a.get("pads")
    if not auto.startswith("SAME"):
        given = given if given and auto == "NOTSET" else [0] * 2 * len(kernel)
        return list(zip(given[: len(kernel)], given[len(kernel) :], strict=True))
    strides, found = _each(a, "strides", kernel), []
    for size, reach, stride in zip(sizes, _reach(kernel, a), strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if auto == "SAME_UPPER" else (more, less))
    return found


def _windows(x: Array, kernel: Sequence[int], a: Mapping[str, Any]) -> Array:
    """(batch, channels, places ..., taps ...), a view."""
    axes = tuple(range(2, x.ndim))
    if any(size < reach for size, reach in zip(x.shape[2:], _reach(kernel, a), strict=True)):
        raise ModelError(f"a window of {_reach(kernel, a)} is longer than its input, {list(x.shape[2:])}")
    places = [slice(None, None, s) for s in _each(a, "strides", kernel)]
    taps = [slice(None, None, d) for d in _each(a, "dilations", kernel)]
    view = sliding_window_view(x, _reach(kernel, a), axis=axes)
    return view[(slice(None), slice(None), *places, *taps)]


class CumSum(OpRun):  # type: ignore[misc]
    """The ONNX operator CumSum; the axis may have one axis itself, as ONNX Runtime allows and exporters write."""

    op_domain = ""

    def _run(self, x: Array, axis: Array, exclusive: int | None = 0, reverse: int | None = 0) -> tuple[Array]:
        at = int(axis.reshape(-1)[0])
        x = np.flip(x, at) if reverse else x
        y = x.cumsum(at, dtype=x.dtype)
        if exclusive:
            y = np.concatenate([np.zeros_like(y.take([0], at)), y.take(range(y.shape[at] - 1), at)], at)
        return (np.flip(y, at) if reverse else y,)


# quantization, which the reference evaluator has from opset 19 on


class QuantizeLinear(OpRun):  # type: ignore[misc]
    """The ONNX operator QuantizeLinear to 8 or 16 bits, a scale for all or for each place of an axis."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, zero: Any = None, axis: int = 1, **a: Any) -> tuple[Array]:
        zero = np.zeros((), np.uint8) if zero is None else zero
        steps = np.rint(x / _along(scale, x, axis, a)) + _along(zero, x, axis, a)
        limits = np.iinfo(zero.dtype)
        return (np.clip(steps, limits.min, limits.max).astype(zero.dtype),)


class DequantizeLinear(OpRun):  # type: ignore[misc]
    """The ONNX operator DequantizeLinear, a scale for all or for each place of an axis."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, zero: Any = None, axis: int = 1, **a: Any) -> tuple[Array]:
        zero = np.zeros((), x.dtype) if zero is None else zero
        steps = x.astype(np.int64) - _along(zero, x, axis, a).astype(np.int64)
        return (steps.astype(scale.dtype) * _along(scale, x, axis, a),)


def _along(value: Array, x: Array, axis: int, a: Mapping[str, Any]) -> Array:
    """A scale or zero point in the rank of x."""
    if a.get("block_size") or value.ndim > 1 or value.dtype.kind not in "fiu":
        raise ModelError("a model is quantized in blocks, or in a type that the reference does not have")
    return value if value.size == 1 else value.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])


OVERRIDES = (LSTM, GRU, RNN, Conv, MaxPool, AveragePool, GlobalMaxPool, CumSum, QuantizeLinear, DequantizeLinear)
"""What the reference evaluator lacks, computes otherwise, or takes minutes for."""
