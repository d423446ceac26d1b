"""Shape arithmetic at lengths far beyond those at which a graph was watched."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from holdover.export.whole import Whole, layouts
from tests.zoo_onnx import CHANNELS, FEATURES, Net


def watched(draw: Callable[[Net], str]) -> tuple[Whole, str]:
    """A graph over (batch, time, 3), and the name of a tensor that is drawn beside it."""
    net = Net()
    name = draw(net)
    model = net.model({"x": FEATURES}, [net.op("Tanh", "x"), name])
    return Whole(model, layouts(model)), name


def at_least(net: Net) -> str:
    return net.op("Max", net.size("x", 1), net.const([200]))


FOLLOWS: dict[str, tuple[Callable[[Net], str], bool]] = {
    "at least 200": (at_least, True),
    "thousands": (lambda net: net.op("Div", net.size("x", 1), net.const([1000])), True),
    "odd": (lambda net: net.op("Mod", net.size("x", 1), net.const([2])), True),
    "between 5000 and 5100": (
        lambda net: net.op("And", net.op("Greater", net.size("x", 1), net.const([5000])),
                           net.op("Less", net.size("x", 1), net.const([5100]))), True),
    "size of a crop": (lambda net: net.size(net.cut("x", 0, 4000, axis=1), 1), True),
    "size of a crop of a crop": (
        lambda net: net.size(net.op("Neg", net.cut(net.cut("x", 0, 4000, axis=1), 5, axis=1)), 1), True),
    "sum of an index": (lambda net: net.op("ReduceMin", net.range("x"), keepdims=1), True),
    "channels": (lambda net: net.size("x", 2), False),
    "batch": (lambda net: net.size("x", 0), False),
    "first frame": (lambda net: net.size(net.cut("x", 0, 1, axis=1), 1), False),
    "length less length": (lambda net: net.op("Sub", net.size("x", 1), net.size(net.swap("x"), 2)), False),
    "zeros for a state": (
        lambda net: net.op("ConstantOfShape", net.op("Concat", net.size("x", 0), net.const([4]), axis=0)), False),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLLOWS)
def test_what_follows_the_length_is_told_however_late_it_shows(name: str) -> None:
    draw, follows = FOLLOWS[name]
    whole, tensor = watched(draw)
    assert whole.far.follows_length(tensor) is follows


def test_a_batch_that_matters_only_when_large_is_told() -> None:
    net = Net()
    most = net.op("Max", net.size("x", 0), net.const([40]))
    model = net.model({"x": FEATURES}, [net.op("Div", "x", net.op("Cast", most, to=1))])
    whole = Whole(model, layouts(model))
    assert not whole.far.follows_length(most)
    assert whole.far.follows_batch(most)


def test_frames_of_strided_layers_at_lengths_never_run() -> None:
    net = Net()
    y = net.conv(net.conv("x", 2, 3, 5, (2, 2), 2), 3, 3, 4, (1, 1), 3)
    model = net.model({"x": CHANNELS}, [y])
    whole = Whole(model, layouts(model))
    found = whole.far.sizes(y, 2)
    assert found is not None
    few = [(n, k) for n, k in zip(whole.far.samples, found, strict=True) if n <= 3000 and n % 48 == 0]
    assert len(few) > 4
    assert [k for _, k in few] == [whole.at(n, [y])[0].shape[2] for n, _ in few]
    assert max(whole.far.samples) > 1 << 28


def test_a_length_that_the_model_does_not_take_says_nothing() -> None:
    """A table of 500 rows, looked up at the last frame: longer sequences fail, and are left out."""

    def draw(net: Net) -> str:
        last = net.op("Sub", net.size("x", 1), net.const([1]))
        return net.op("Gather", net.const(np.ones((500, 2), np.float32)), last, axis=0)

    whole, tensor = watched(draw)
    values = whole.far.values(tensor)
    assert values is not None
    assert all((v == 1).all() for v in values)
    assert whole.rank(ir.Value(name=tensor)) == 2
