"""The forecaster as a whole-sequence ONNX graph, its features inside; `holdover export` makes it streaming."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.models.forecast.features import (
    ANCHORS,
    BOUND,
    EQUAL,
    FLOOR,
    HOPELESS,
    LAGS,
    LEAST,
    LEAST_SQUARE,
    LIMIT,
    LONG,
    MEANS,
    NO_BETTER,
    NO_WEIGHT,
    PICKY,
    RESOLUTION,
    SEASONS,
    SHORT,
    SKILLED,
    SPREAD_LIMIT,
    WIDE,
    pole,
)

OPSET, IR_VERSION = 17, 8
AFFINE: dict[str, Any] = {
    "activations": ["Affine"],
    "activation_alpha": [1.0],
    "activation_beta": [0.0],
}

Weights = Mapping[str, NDArray[Any]]


class _Graph:
    """Nodes and constants as they are added; each node has one output, which bears its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def split(self, x: str, names: Sequence[str], widths: Sequence[int]) -> list[str]:
        inputs = [x, self.const(f"{x}.widths", widths, np.int64)]
        self.nodes.append(helper.make_node("Split", inputs, list(names), name=f"{x}.split", axis=2))
        return list(names)

    def const(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants[name] = numpy_helper.from_array(
            np.ascontiguousarray(value, dtype).reshape(np.shape(value)), name
        )
        return name

    def layer(self, op: str, name: str, inputs: Sequence[str], hidden: int, **attributes: Any) -> str:
        """A recurrent layer from zeros, (time, batch, inputs) to (time, batch, hidden)."""
        y = self.node(op, inputs, f"{name}.directions", hidden_size=hidden, **attributes)
        return self.node("Squeeze", [y, self.const("direction", [1], np.int64)], name)

    def filters(self, name: str, x: str, weight: NDArray[Any], poles: NDArray[Any]) -> str:
        """h = pole h + weight . x for each of `poles`, side by side."""
        constants = {"weight": weight[None], "pole": np.diag(poles)[None]}
        inputs = [
            x,
            *(self.const(f"{name}.{part}", value) for part, value in constants.items()),
        ]
        return self.layer("RNN", name, inputs, len(poles), **AFFINE)


def build(weights: Weights) -> onnx.ModelProto:
    """The graph from x (batch, samples, 1) to `forecast` and `spread`, the same shape, in the unit of x.

    Parameters
    ----------
    weights : mapping of str to array
        `gru.input` (3 hidden, WIDTH), `gru.recurrent` (3 hidden, hidden), `gru.bias` (6 hidden), gates in the order
        update, reset, candidate; `head.weight` (hidden, ANCHORS + 2) and `head.bias`.
    """
    g = _Graph()
    limits = [g.const("low", -LIMIT), g.const("high", LIMIT)]
    g.node(
        "Transpose",
        [g.node("Clip", ["x", *limits], "bounded")],
        "values",
        perm=[1, 0, 2],
    )
    seen, difference = _differences(g)
    floor = _floor(g)
    size = _size(g, "size", seen, difference, LONG, floor)
    season = _season(g, difference, seen, size)
    below = _anchors(g, difference, season)
    features, skill = _features(g, seen, difference, floor, size, below, season)
    _heads(g, below, skill, size, _gru(g, features, weights), weights)
    return _model(g)


def _differences(g: _Graph) -> tuple[str, str]:
    """Whether there was a sample before (1 or 0), and each sample less the one before (0 for the first)."""
    zeros = g.node("Mul", ["values", g.const("zero", 0.0)], "zeros")
    seen = _before(g, "seen", g.node("Add", [zeros, g.const("one", 1.0)], "ones"), 1)
    step = g.node("Sub", ["values", _before(g, "value.before", "values", 1)], "difference.open")
    return seen, g.node("Mul", [step, seen], "difference")


def _before(g: _Graph, name: str, x: str, width: int) -> str:
    """The sample before each, 0 before the first; x (time, batch, width)."""
    kernel = np.tile([[[1.0, 0.0]]], (width, 1, 1))
    return _over_time(g, name, x, kernel, width)


def _over_time(g: _Graph, name: str, x: str, kernel: NDArray[Any], group: int = 1) -> str:
    """A causal convolution with zeros before the first sample, time first."""
    channels = g.node("Transpose", [x], f"{name}.of", perm=[1, 2, 0])
    size = kernel.shape[2]
    inputs = [channels, g.const(f"{name}.kernel", kernel)]
    y = g.node(
        "Conv",
        inputs,
        f"{name}.channels",
        kernel_shape=[size],
        pads=[size - 1, 0],
        group=group,
    )
    return g.node("Transpose", [y], name, perm=[2, 0, 1])


def _running(g: _Graph, name: str, x: str, tau: float, width: int = 1) -> str:
    """The running mean of x (time, batch, width)."""
    poles = np.full(width, pole(tau))
    return g.filters(f"{name}.mean", x, np.diag(1 - poles), poles)


def _roots(g: _Graph, name: str, x: str, tau: float, width: int = 1) -> str:
    """The running mean of the root of the amount of x (time, batch, width)."""
    return _running(
        g,
        name,
        g.node("Sqrt", [g.node("Abs", [x], f"{name}.amount")], f"{name}.root"),
        tau,
        width,
    )


def _squares(g: _Graph, name: str, x: str, most: str, width: int = 1) -> str:
    """The running mean of the square of x (time, batch, width), in which nothing counts for more than `most`."""
    x = g.node("Min", [g.node("Abs", [x], f"{name}.amount"), most], f"{name}.bounded")
    return _running(g, name, g.node("Mul", [x, x], f"{name}.square"), SEASONS, width)


def _floor(g: _Graph) -> str:
    """What a difference must exceed to count."""
    floor = g.node(
        "Mul",
        [g.node("Abs", ["values"], "values.amount"), g.const("resolution", RESOLUTION)],
        "floor.open",
    )
    return g.node("Add", [floor, g.const("least", FLOOR)], "floor")


def _size(g: _Graph, name: str, seen: str, difference: str, tau: float, floor: str) -> str:
    """What a difference of neighbours typically is, (time, batch, 1)."""
    root = _roots(g, f"{name}.roots", difference, tau)
    root = g.node("Div", [root, _weight(g, name, seen, tau)], f"{name}.root")
    return g.node("Add", [g.node("Mul", [root, root], f"{name}.square"), floor], name)


def _weight(g: _Graph, name: str, seen: str, tau: float) -> str:
    """The running mean of ones: what a running mean has seen of a past that began at the first sample."""
    weight = _running(g, f"{name}.seen", seen, tau)
    return g.node("Max", [weight, g.const("least weight", LEAST)], f"{name}.weight")


def _season(g: _Graph, difference: str, seen: str, size: str) -> str:
    """How far the two seasonal anchors lie below the value, (time, batch, 2), 0 before a season has been seen."""
    lags = len(LAGS)
    moves = _moves(g, seen)
    missed = g.node(
        "Sub",
        [difference, _before(g, "moves.before", moves, 2 * lags)],
        "season.missed",
    )
    most = g.node("Mul", [size, g.const("most moves", BOUND)], "season.most")
    missed = _squares(g, "season.misses", missed, most, 2 * lags)
    last = _squares(g, "season.last", difference, most)
    bound = g.node("Mul", [last, g.const("no better", NO_BETTER)], "bound.open")
    bound = g.node("Add", [bound, g.const("least square", LEAST_SQUARE)], "bound")
    skill = g.node("Div", [last, g.node("Add", [missed, bound], "season.bounded")], "season.skill")
    for doubling in range(PICKY.bit_length() - 1):
        skill = g.node("Mul", [skill, skill], f"season.skill.{2 << doubling}")
    both = g.const("both", np.kron(np.eye(2), np.ones((lags, 1))))
    weights = g.node("MatMul", [skill, both], "season.weights")
    weights = g.node("Add", [weights, g.const("no weight", NO_WEIGHT)], "season.weight")
    sums = g.node("MatMul", [g.node("Mul", [skill, moves], "season.moves"), both], "season.sums")
    return g.node("Neg", [g.node("Div", [sums, weights], "season.up")], "season")


def _moves(g: _Graph, seen: str) -> str:
    """By lag, what followed a season ago, then how far the value of then lies above, (time, batch, 2 lags)."""
    count = g.filters("count", seen, np.ones((1, 1)), np.ones(1))
    known = g.node("Sub", [count, g.const("lags.before", np.array(LAGS) - 1.0)], "known.open")
    known = g.node("Clip", [known, "zero", "one"], "known")
    ago = _over_time(g, "ago", "values", _picks())
    step = g.node("Sub", [ago, _before(g, "ago.before", ago, len(LAGS))], "onward.open")
    above = g.node("Sub", [ago, "values"], "above.open")
    pairs = [
        g.node("Mul", [step, known], "onward"),
        g.node("Mul", [above, known], "above"),
    ]
    return g.node("Concat", pairs, "moves", axis=2)


def _picks() -> NDArray[Any]:
    """A kernel for each lag that picks the sample which one season later was, or will be, followed by the next."""
    kernel = np.zeros((len(LAGS), 1, max(LAGS)))
    kernel[np.arange(len(LAGS)), 0, -np.array(LAGS)] = 1.0
    return kernel


def _anchors(g: _Graph, difference: str, season: str) -> str:
    """How far each anchor lies below the value, (time, batch, ANCHORS)."""
    poles = np.array([pole(tau) for tau in MEANS])
    means = g.filters("means", difference, poles[:, None], poles)
    line = g.node("Neg", [difference], "line")
    return g.node("Concat", ["zeros", means, line, season], "below", axis=2)


def _features(
    g: _Graph,
    seen: str,
    difference: str,
    floor: str,
    size: str,
    below: str,
    season: str,
) -> tuple[str, str]:
    """What the net sees, (time, batch, WIDTH), and how far each anchor is to be trusted before it has spoken."""
    missed = g.node("Add", [difference, _before(g, "below.before", below, ANCHORS)], "missed")
    amount = g.node("Abs", [missed], "missed.amount")
    typical = _roots(g, "typical", missed, LONG, ANCHORS)
    first, others = g.split(typical, ["typical.first", "typical.others"], [1, ANCHORS - 1])
    moves = g.node("Sign", [g.node("Abs", [difference], "difference.amount")], "moved")
    parts = [
        _soft(g, "near", missed, amount, size),
        _soft(
            g,
            "far",
            missed,
            amount,
            g.node("Mul", [size, g.const("wide", WIDE)], "size.wide"),
        ),
        _against(g, "better", others, first),
        _soft(g, "season.near", season, g.node("Abs", [season], "season.amount"), size),
        _against(g, "unrest", _size(g, "short", seen, difference, SHORT, floor), size),
        "size.weight",
        g.node("Div", [_running(g, "moved.share", moves, LONG), "size.weight"], "moving"),
    ]
    return g.node("Concat", parts, "features", axis=2), _skill(g, typical, first)


def _skill(g: _Graph, typical: str, last: str) -> str:
    bound = g.node("Mul", [last, g.const("equal", EQUAL)], "skill.bound.open")
    bound = g.node("Add", [bound, "least"], "skill.bound")
    y = g.node("Div", [last, g.node("Add", [typical, bound], "skill.bounded")], "skill.root")
    for doubling in range(SKILLED.bit_length() - 1):
        y = g.node("Mul", [y, y], f"skill.{2 << doubling}")
    return g.node("Add", [y, g.const("hopeless", HOPELESS)], "skill")


def _soft(g: _Graph, name: str, x: str, amount: str, size: str) -> str:
    return g.node("Div", [x, g.node("Add", [amount, size], f"{name}.whole")], name)


def _against(g: _Graph, name: str, a: str, b: str) -> str:
    whole = g.node("Add", [g.node("Add", [a, b], f"{name}.sum"), "least"], f"{name}.whole")
    return g.node("Div", [g.node("Sub", [a, b], f"{name}.gap"), whole], name)


def _gru(g: _Graph, features: str, weights: Weights) -> str:
    recurrent = np.asarray(weights["gru.recurrent"])
    parts = {
        "input": weights["gru.input"],
        "recurrent": recurrent,
        "bias": weights["gru.bias"],
    }
    inputs = [
        features,
        *(g.const(f"gru.{part}", np.asarray(value)[None]) for part, value in parts.items()),
    ]
    return g.layer("GRU", "gru", inputs, recurrent.shape[1], linear_before_reset=1)


def _heads(g: _Graph, below: str, skill: str, size: str, y: str, weights: Weights) -> None:
    """The forecast: a mean of the anchors, weighted by the net, and a step of its own; and how far it may miss."""
    y = g.node("MatMul", [y, g.const("head.weight", weights["head.weight"])], "heads.product")
    y = g.node("Add", [y, g.const("head.bias", weights["head.bias"])], "heads")
    logits, step, spread = g.split(y, ["trust.open", "step.sizes", "spread.open"], [ANCHORS, 1, 1])
    trust = g.node("Mul", [g.node("Softmax", [logits], "trust.said", axis=2), skill], "trust")
    ones = g.const("all anchors", np.ones((ANCHORS, 1)))
    down = g.node("MatMul", [g.node("Mul", [trust, below], "down.parts"), ones], "down.sum")
    down = g.node("Div", [down, g.node("MatMul", [trust, ones], "trust.sum")], "down")
    step = g.node("Mul", [step, size], "step")
    forecast = g.node(
        "Sub",
        [g.node("Add", ["values", step], "forecast.open"), down],
        "forecast.by_time",
    )
    limits = [
        g.const("spread.low", -SPREAD_LIMIT),
        g.const("spread.high", SPREAD_LIMIT),
    ]
    spread = g.node("Exp", [g.node("Clip", [spread, *limits], "spread.log")], "spread.sizes")
    spread = g.node("Mul", [spread, size], "spread.by_time")
    for name in (forecast, spread):
        g.node("Transpose", [name], name.removesuffix(".by_time"), perm=[1, 0, 2])


def _model(g: _Graph) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "samples", 1])
              for n in ("x", "forecast", "spread")]  # fmt: skip
    graph = helper.make_graph(g.nodes, "forecast", values[:1], values[1:], list(g.constants.values()))
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="holdover")
    onnx.checker.check_model(model, full_check=True)
    return model
