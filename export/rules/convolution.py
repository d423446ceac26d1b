"""Convolution and pooling over time: the frames that later ones still need are carried."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from holdover.export.fact import Stream
from holdover.export.loom import END, Loom, attribute, stream_of
from holdover.export.refusal import NotStreamable
from holdover.export.rules.pad import LOWEST


@dataclass(frozen=True)
class Window:
    """How a kernel slides over time.

    Attributes
    ----------
    size, step, dilation : int
        In frames.
    left, right : int
        Frames of padding.
    """

    size: int
    step: int
    dilation: int
    left: int
    right: int

    @property
    def reach(self) -> int:
        """Frames from the first tap to the last, both counted."""
        return (self.size - 1) * self.dilation + 1

    def rest(self, fact: Stream) -> int:
        """Frames left for the next call, after whole hops; negative: the kernel is shorter than its stride."""
        had = (-1 - fact.ahead) // fact.pace + 1
        return (self.left + had - self.reach) % self.step + self.reach - self.step

    def slide(self, fact: Stream) -> Stream:
        """What comes of a stream."""
        ahead = fact.ahead + fact.pace * (self.reach - 1 - self.left)
        more = fact.tail + self.right
        ragged = fact.ragged or (self.step > 1 and more > 0)
        return replace(fact, pace=fact.pace * self.step, ahead=ahead, tail=-(-more // self.step), ragged=ragged)


def conv(loom: Loom, node: ir.Node) -> None:
    """A convolution whose past is carried; over a quantized input the past stays quantized."""
    x, w = node.inputs[:2]
    assert x is not None
    fact = stream_of(loom, x)
    weight = loom.constant_of(w)
    if weight is None:
        raise NotStreamable("its kernel is not constant")
    _apply(loom, node, fact, weight.shape[2:])


def pool(loom: Loom, node: ir.Node) -> None:
    """Pooling; padding never wins a maximum."""
    fact = stream_of(loom, node.inputs[0])
    if len(node.outputs) > 1 and node.outputs[1].uses():
        raise NotStreamable("its indices are positions in the whole sequence")
    kernel = attribute(node, "kernel_shape")
    window = _window(node, fact, tuple(kernel))
    if attribute(node, "ceil_mode", 0) and window.step > 1:
        raise NotStreamable("it rounds the number of windows up (ceil_mode), so its last frame reaches beyond the end; "
                            "export it without")  # fmt: skip
    _apply(loom, node, fact, tuple(kernel))


def _window(node: ir.Node, fact: Stream, kernel: tuple[int, ...]) -> Window:
    space = fact.axis - 2
    if space < 0:
        what = "channel" if fact.axis == 1 else "batch"
        raise NotStreamable(
            f"time is its {what} axis: its kernel sees all of time at once; mind the layout of the input"
        )
    n = len(kernel)
    strides, dilations = attribute(node, "strides", [1] * n), attribute(node, "dilations", [1] * n)
    pads = attribute(node, "pads", [0] * 2 * n)
    left, right = pads[space], pads[n + space]
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto == "VALID":
        left = right = 0
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        if strides[space] != 1:
            raise NotStreamable(
                "its padding (auto_pad SAME with a stride) follows the length of the sequence; give pads"
            )
        both = (kernel[space] - 1) * dilations[space]
        left, right = (both // 2, both - both // 2)[:: 1 if auto == "SAME_UPPER" else -1]
    return Window(kernel[space], strides[space], dilations[space], left, right)


def _apply(loom: Loom, node: ir.Node, fact: Stream, kernel: tuple[int, ...]) -> None:
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    window = _window(node, fact, kernel)
    # A kernel shorter than its stride gets empty taps where frames would have to be skipped between calls.
    extra = window.step - window.reach if window.rest(fact) < 0 else 0
    widened = _widen(window, extra)
    name = out.name or node.op_type
    source, dequantized = loom.integers(x)
    by_time = source is x and _is_product(loom, node)
    every = _every(loom, source, fact, widened, _fill(loom, node, x, source), name, by_time)
    if extra:
        every = loom.cut(every, 1 if by_time else fact.axis, 0, -extra, name=f"{name}.taps")
    every = dequantized(every)
    made = widened.slide(fact)
    if by_time:
        loom.bind(out, _as_product(loom, node, every, window, name), made)
        return
    n, space = len(kernel), fact.axis - 2
    pads = _explicit_pads(node, kernel)
    pads[space] = pads[n + space] = 0
    attributes = [a for a in node.attributes.values() if a.name not in ("pads", "auto_pad")]
    attributes.append(ir.AttrInt64s("pads", pads))

    def applied(x: ir.Value, wish: str) -> ir.Value:
        new = ir.Value(name=loom.name(wish))
        inputs = [x, *(loom.new(v) for v in node.inputs[1:])]
        loom.nodes.append(ir.Node(node.domain, node.op_type, inputs, attributes, outputs=[new], name=new.name))
        return new

    new = applied(every, name)
    if node.op_type == "AveragePool" and not attribute(node, "count_include_pad", 0) and window.left + window.right:
        real = _real(loom, x, fact, widened, name)
        if extra:
            real = loom.cut(real, 2, 0, -extra, name=f"{name}.real.taps")
        share = applied(real, f"{name}.share")
        new = loom.op("Div", [new, share], f"{name}.of_real")
    loom.bind(out, new, made)


def _widen(window: Window, extra: int) -> Window:
    """The window with so many empty frames after its last tap."""
    if not extra:
        return window
    return Window(window.reach + extra, window.step, 1, window.left, window.right + extra)


def _explicit_pads(node: ir.Node, kernel: tuple[int, ...]) -> list[int]:
    n = len(kernel)
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return list(attribute(node, "pads", [0] * 2 * n)) if auto == "NOTSET" else [0] * 2 * n
    strides = attribute(node, "strides", [1] * n)
    if any(s != 1 for s in strides):
        raise NotStreamable("its padding (auto_pad SAME with a stride) follows the size of the input; give pads")
    both = [(k - 1) * d for k, d in zip(kernel, attribute(node, "dilations", [1] * n), strict=True)]
    small, large = [b // 2 for b in both], [b - b // 2 for b in both]
    return small + large if auto == "SAME_UPPER" else large + small


def _every(
    loom: Loom, x: ir.Value, fact: Stream, window: Window, fill: float, name: str, by_time: bool = False
) -> ir.Value:
    """Kept frames, new ones, and padding in the last call; (batch, time, channels) if `by_time`."""
    new = loom.need(x)
    if window.right:
        new = loom.op(
            "Concat", [new, _padding(loom, x, fact, window.right, fill, name)], f"{name}.ended", axis=fact.axis
        )
    axis, dims = fact.axis, loom.dims(x)
    if by_time:
        new = loom.op("Transpose", [new], f"{name}.by_time", perm=[0, 2, 1])
        axis, dims = 1, (dims[0], dims[2], dims[1])
    rest = window.rest(fact)
    if window.left == 0 and rest == 0:
        return new
    return loom.history(x, new, axis, window.left, rest, f"{name}.past", fill, dims)


def _real(loom: Loom, x: ir.Value, fact: Stream, window: Window, name: str) -> ir.Value:
    """1 for each frame of the signal, 0 for padding, beside the frames that `_every` gives."""
    rank = loom.whole.rank(x)
    if rank != 3:
        raise NotStreamable("it leaves padding over time and another axis out of the average; export it with "
                            "count_include_pad, or without padding")  # fmt: skip
    frames = loom.length(loom.need(x), fact.axis, f"{name}.real")
    shape = loom.op("Concat", [loom.ints(1, 1), frames], f"{name}.real.shape", axis=0)
    ones = loom.op("Expand", [loom.const(np.ones(1, np.float32)), shape], f"{name}.ones")
    if window.right:
        end = loom.padding_at_end(loom.const(np.zeros((1, 1, window.right), np.float32)), 2, f"{name}.none")
        ones = loom.op("Concat", [ones, end], f"{name}.real.ended", axis=2)
    rest = window.rest(fact)
    if window.left == 0 and rest == 0:
        return ones
    state = loom.state(f"{name}.real", [1, 1, window.left], np.float32, 0.0, 2)
    every = loom.op("Concat", [state.before, ones], f"{name}.real.all", axis=2)
    state.after = loom.cut(every, 2, -rest if rest else END, name=f"{name}.real.kept")
    return every


def _padding(loom: Loom, x: ir.Value, fact: Stream, frames: int, fill: float, name: str) -> ir.Value:
    """Frames of padding in the last call; as many streams as there are."""
    dims = loom.dims(x)
    shape = [frames if i == fact.axis else 1 if d.batch else d.size for i, d in enumerate(dims)]
    pad = loom.const(np.full(shape, fill, loom.whole.values(x)[0].dtype))
    pad = loom.padding_at_end(pad, fact.axis, f"{name}.end")
    if not any(d.batch for d in dims):
        return pad
    many = loom.op("Shape", [loom.need(x)], f"{name}.end.shape")
    sizes = [
        loom.op("Gather", [many, loom.ints(i)], f"{name}.end.batch", axis=0) if d.batch else loom.ints(1)
        for i, d in enumerate(dims)
    ]
    target = loom.op("Concat", sizes, f"{name}.end.target", axis=0)
    return loom.op("Expand", [pad, target], f"{name}.end.all")


def _fill(loom: Loom, node: ir.Node, x: ir.Value, source: ir.Value) -> float:
    """What padding holds: nothing that wins a maximum, else zero, as the integers say it."""
    dtype = loom.whole.values(source)[0].dtype
    if source is x:
        return LOWEST if node.op_type == "MaxPool" else 0.0
    if node.op_type == "MaxPool":
        return float(np.iinfo(dtype).min)
    dequantize = x.producer()
    zero = loom.constant_of(dequantize.inputs[2]) if dequantize is not None and len(dequantize.inputs) > 2 else None
    return 0.0 if zero is None else float(zero.reshape(-1)[0])


def _is_product(loom: Loom, node: ir.Node) -> bool:
    """Whether a node is woven as shifted frames and a product: (batch, channels, time), plain or depthwise."""
    weight = loom.constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if not loom.weave.as_matmul or node.op_type != "Conv" or weight is None or weight.ndim != 3:
        return False
    groups = attribute(node, "group", 1)
    return bool(groups == 1 or (groups == weight.shape[0] and weight.shape[1] == 1))


def _as_product(loom: Loom, node: ir.Node, by_time: ir.Value, window: Window, name: str) -> ir.Value:
    """A convolution over (batch, time, channels) as shifted frames and one product.

    onnxruntime's Conv gives other bits for other block lengths, its MatMul does not.
    """
    weight = loom.whole.values(node.inputs[1])[0]  # type: ignore[arg-type]
    out, width, size = weight.shape
    groups = attribute(node, "group", 1)
    taps = [_tap(loom, by_time, window, k, f"{name}.tap{k}") for k in range(size)]
    if groups == 1:
        joined = taps[0] if size == 1 else loom.op("Concat", taps, f"{name}.taps", axis=2)
        kernel = loom.const(np.ascontiguousarray(weight.transpose(2, 1, 0).reshape(size * width, out)))
        y = loom.op("MatMul", [joined, kernel], f"{name}.product")
    else:
        products = [loom.op("Mul", [t, loom.const(weight[:, 0, k])], f"{name}.product") for k, t in enumerate(taps)]
        y = products[0]
        for p in products[1:]:
            y = loom.op("Add", [y, p], f"{name}.sum")
    bias: Any = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        y = loom.op("Add", [y, loom.need(bias)], f"{name}.biased")
    return loom.op("Transpose", [y], name, perm=[0, 2, 1])


def _tap(loom: Loom, by_time: ir.Value, window: Window, k: int, name: str) -> ir.Value:
    start = k * window.dilation
    end = start - window.reach + 1
    if start == 0 and end == 0 and window.step == 1:
        return by_time
    return loom.cut(by_time, 1, start, end or END, window.step, name)


RULES = {"Conv": conv, "MaxPool": pool, "AveragePool": pool}
