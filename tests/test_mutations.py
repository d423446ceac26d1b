"""Broken on purpose: the proof catches each state that is not carried and each rule that is one off."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from holdover.export import exporting
from holdover.export.contract_io import attach
from holdover.export.describe import Statement, describe
from holdover.export.exporting import Options, export, references
from holdover.export.loom import END, Loom, State, Weave
from holdover.export.original import Original
from holdover.export.proof import prove
from holdover.export.rules import attention, convolution, slices
from holdover.export.rules.convolution import Window
from holdover.export.streaming import Woven, weave
from holdover.export.whole import Whole, clean, layouts
from holdover.runtime.errors import ModelError
from tests.zoo_onnx import ZOO, Entry

LONG = bool(os.environ.get("HOLDOVER_LONG"))
Patch = pytest.MonkeyPatch


def statement(graph: Entry) -> Statement:
    return Statement("zoo", 100.0, tuple(f"lead{i}" for i in range(graph.width)), "mV")


# Every state of every graph


@dataclass(frozen=True)
class Streamed:
    """A graph of the zoo, woven."""

    woven: Woven
    document: dict[str, Any]
    reference: Callable[..., Any]

    def refusals(self, model: onnx.ModelProto) -> tuple[str, ...]:
        """What the proof has against another streaming graph with this contract."""
        attach(model, self.document)
        return prove(model.SerializeToString(), self.reference, count=0).refusals


def streamed(name: str) -> Streamed:
    proto = clean(ZOO[name].model())
    whole = Whole(proto, layouts(proto))
    woven = weave(whole, Weave())
    assert isinstance(woven, Woven)
    return Streamed(woven, describe(woven, statement(ZOO[name])), references(whole, woven)[0])


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def frozen(woven: Woven, state: State) -> onnx.ModelProto:
    """The state stays what it was."""
    return refilled(woven, state, helper.make_node("Identity", [state.before.name], [f"{state.name}.out"]))


def blanked(woven: Woven, state: State) -> onnx.ModelProto:
    """The state has its shape, and holds what it held before the first sample."""
    like = f"{state.name}.true"
    model = copied(woven.model)
    value = numpy_helper.from_array(np.array(state.fill, state.dtype).reshape(1))
    fill = helper.make_node("ConstantOfShape", [f"{like}.shape"], [f"{state.name}.out"], value=value)
    return refilled(replace(woven, model=model), state, helper.make_node("Shape", [like], [f"{like}.shape"]), fill)


def refilled(woven: Woven, state: State, *nodes: onnx.NodeProto) -> onnx.ModelProto:
    """What the state would have become is another tensor, `.true`."""
    model = copied(woven.model)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name == f"{state.name}.out":
                    names[k] = f"{state.name}.true"
    model.graph.node.extend(nodes)
    return model


EQUIVALENT = {
    "pad_before": "empty after the first call, whatever it held",
    "pad_both": "empty after the first call, whatever it held",
    "pad_before_conv": "its padding is empty after the first call",
    "pad_used_twice": "its padding is empty after the first call",
    "cut_end_then_third": "the frames that are held are not those that the stride picks",
}
"""Graphs where a blank in the shape of a state changes nothing."""


@pytest.mark.parametrize("name", [name for name, graph in ZOO.items() if "point" not in name])
def test_a_state_that_is_not_carried_is_caught(name: str) -> None:
    whole = streamed(name)
    turn = list(ZOO).index(name)
    states = whole.woven.states
    if LONG:
        assert whole.refusals(copied(whole.woven.model)) == ()
    else:
        states = states[turn % len(states) :][:1] if states else ()
    for state in states:
        spoil = blanked if turn % 2 and state.grows is not None and name not in EQUIVALENT else frozen
        for spoiled in (frozen, blanked) if LONG and spoil is blanked else (spoil,):
            assert caught(whole, spoiled(whole.woven, state)), f"{spoiled.__name__} {state.name}"


def test_a_wrong_reference_in_double_precision_excuses_nothing() -> None:
    whole = streamed("lstm")
    model = frozen(whole.woven, whole.woven.states[0])
    attach(model, whole.document)
    found = prove(model.SerializeToString(), whole.reference, lambda x: {"y": whole.reference(x)["y"] + 1}, count=0)
    assert found.tolerance < 1e-2
    assert any("differs from the original" in reason for reason in found.refusals)


def caught(whole: Streamed, model: onnx.ModelProto) -> bool:
    """By a refusal, or because the graph no longer runs."""
    try:
        return bool(whole.refusals(model))
    except ModelError:
        return True


# Every rule, one off


MUTATED: list[str] = []
"""What was truly broken since the last test began; a mutation that changes nothing proves nothing."""


def broken(what: str, is_other: bool = True) -> None:
    """Note that a mutation ran, and made something else of what was there."""
    if is_other:
        MUTATED.append(what)


def changed(patch: Patch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Put `change(what was there, *its arguments)` in the place of a function; `change` notes what it broke."""
    before = getattr(owner, name)

    def instead(*args: Any, **options: Any) -> Any:
        return change(before, *args, **options)

    patch.setattr(owner, name, instead)


def history(patch: Patch, frames: int = 0, keep: int = 0) -> None:
    """More or fewer frames before the first sample, and kept between calls."""

    def change(before: Any, loom: Loom, old: Any, new: Any, axis: int, first: int, kept: Any, *rest: Any, **more: Any
               ) -> Any:  # fmt: skip
        other = kept + keep if isinstance(kept, int) else kept
        broken("history", (first + frames, other) != (first, kept))
        return before(loom, old, new, axis, first + frames, other, *rest, **more)

    changed(patch, Loom, "history", change)


def woven(patch: Patch, op: str, ending: str, change: Callable[[Loom, list[Any]], list[Any]]) -> None:
    """Other inputs of the nodes of an operator whose name ends so."""

    def instead(
        before: Any, loom: Loom, kind: str, inputs: Sequence[Any], name: str, *args: Any, **options: Any
    ) -> Any:
        if kind == op and name.endswith(ending):
            broken(kind)
            inputs = change(loom, list(inputs))
        return before(loom, kind, inputs, name, *args, **options)

    changed(patch, Loom, "op", instead)


def one_more(place: int, by: int = 1) -> Callable[[Loom, list[Any]], list[Any]]:
    """Another number at an input."""

    def change(loom: Loom, inputs: list[Any]) -> list[Any]:
        inputs[place] = loom.op("Add", [inputs[place], loom.ints(by)], "mutated")
        return inputs

    return change


def state(patch: Patch, ending: str, **options: Any) -> None:
    """States whose name ends so begin otherwise."""

    def change(before: Any, loom: Loom, name: str, *args: Any, **given: Any) -> Any:
        made = before(loom, name, *args, **given)
        if name.endswith(ending):
            for key, value in options.items():
                broken(key, getattr(made, key) != value)
                setattr(made, key, value)
        return made

    changed(patch, Loom, "state", change)


def contract(patch: Patch, change: Callable[[dict[str, Any]], dict[str, Any]], output: bool = True) -> None:
    """Another contract, in its outputs or as a whole."""

    def instead(before: Any, *args: Any) -> dict[str, Any]:
        document = before(*args)
        other = change(document) if not output else {"outputs": [o | change(o) for o in document["outputs"]]}
        broken("contract", document | other != document)
        return document | other

    changed(patch, exporting, "describe", instead)


def edited(patch: Patch, edit: Callable[[onnx.GraphProto], None]) -> None:
    """Another streaming graph."""

    def instead(before: Any, *args: Any) -> Any:
        made = before(*args)
        was = made.model.SerializeToString(deterministic=True)
        edit(made.model.graph)
        broken("graph", made.model.SerializeToString(deterministic=True) != was)
        return made

    changed(patch, exporting, "weave", instead)


def nodes(graph: onnx.GraphProto, op: str) -> list[onnx.NodeProto]:
    found = [n for n in graph.node if n.op_type == op]
    assert found
    return found


def window(patch: Patch, name: str, change: Callable[[Window, Any], Any]) -> None:
    """A window of a convolution that reckons otherwise."""

    def instead(before: Any, of: Window, fact: Any) -> Any:
        was = before(of, fact)
        found = change(was, fact)
        broken(name, found != was)
        return found

    changed(patch, Window, name, instead)


def exchanged(graph: onnx.GraphProto) -> None:
    """The next h is the cell state, and the other way round."""
    for node in nodes(graph, "LSTM"):
        node.output[1], node.output[2] = node.output[2], node.output[1]


def gates(graph: onnx.GraphProto, order: Sequence[int] = (0, 2, 1, 3)) -> None:
    """Rows of W, R and B as of another framework."""
    names = {n for node in nodes(graph, "LSTM") for n in node.input[1:3]}
    for tensor in graph.initializer:
        if tensor.name in names:
            value = numpy_helper.to_array(tensor)
            other = np.concatenate([np.split(value, 4, axis=1)[k] for k in order], axis=1)
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(other), tensor.name))


def reset_before(graph: onnx.GraphProto) -> None:
    for node in nodes(graph, "GRU"):
        for a in node.attribute:
            a.i = 0 if a.name == "linear_before_reset" else a.i


def leaking(graph: onnx.GraphProto) -> None:
    """Each stream takes the mean of all streams' states."""
    (node,) = nodes(graph, "GRU")
    before = node.input[5]
    place = list(graph.node).index(node)
    mean = helper.make_node("ReduceMean", [before], ["leak.mean"], axes=[1], keepdims=1)
    shape = helper.make_node("Shape", [before], ["leak.shape"])
    leak = helper.make_node("Expand", ["leak.mean", "leak.shape"], ["leak"])
    node.input[5] = "leak"
    for new in (leak, shape, mean):
        graph.node.insert(place, new)


def without_end(graph: onnx.GraphProto) -> None:
    """Nobody hears of the end."""
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.int64), "never"))
    for node in graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = "never" if name == "eos" else name


def skip_again(before: Any, loom: Loom, *args: Any) -> Any:
    made = before(loom, *args)
    broken("skip", loom.states[-1].after is not loom.states[-1].before)
    loom.states[-1].after = loom.states[-1].before
    return made


def from_the_first(before: Any, loom: Loom, x: Any, axis: int, start: int = 0, *rest: Any, **options: Any) -> Any:
    """Frames from the first to the last but one, not from the second on."""
    if start == 1:
        broken("cut")
        start, rest = 0, (-1,)
    return before(loom, x, axis, start, *rest, **options)


def newest(loom: Loom, inputs: list[Any]) -> list[Any]:
    """As many frames from the end of a queue."""
    return [inputs[0], loom.op("Neg", [inputs[2]], "mutated"), loom.ints(END), inputs[3]]


def slower(output: dict[str, Any], by: int) -> dict[str, Any]:
    """Another pace, of those outputs whose hop still holds whole frames."""
    return {"samples_per_frame": output["samples_per_frame"] + by} if output["samples_per_frame"] < 3 else {}


def nearer(before: Any, *args: Any) -> tuple[int, bool]:
    """One frame fewer is seen."""
    size, cut = before(*args)
    broken("window of attention")
    return size - 1, cut


def dilated(graph: onnx.GraphProto) -> None:
    """Not at all."""
    for node in nodes(graph, "MaxPool"):
        for a in node.attribute:
            if a.name == "dilations":
                a.ints[:] = [1]


def earlier(loom: Loom, inputs: list[Any]) -> list[Any]:
    """The frames before the last one."""
    start = ir.convenience.get_const_tensor(inputs[1])
    assert start is not None
    return [inputs[0], loom.ints(int(start.numpy()[0]) - 1), loom.ints(-1), *inputs[3:]]


def turned(before: Any, mask: Any, size: int) -> Any:
    """Biases one distance further, where they count."""
    table = before(mask, size)
    was = table.copy()
    table[..., 1:-1] = np.roll(table[..., 1:-1], 1, axis=-1)
    broken("table", not np.array_equal(table, was))
    return table


def otherwise(change: Callable[[float], float]) -> Callable[..., float]:
    """What fills padding is another number."""

    def instead(before: Callable[..., float], *args: Any) -> float:
        was = before(*args)
        broken("padding", change(was) != was)
        return change(was)

    return instead


MUTATIONS: dict[str, tuple[str, Callable[[Patch], None]]] = {
    "one frame of history less": ("conv_causal", partial(history, keep=-1)),
    "one frame of history more": ("conv_causal", partial(history, keep=1)),
    "one frame of padding less": ("conv_causal", partial(history, frames=-1)),
    "one frame of padding more": ("conv_causal", partial(history, frames=1)),
    "history after new frames": ("conv_depthwise", lambda p: woven(p, "Concat", ".all", lambda _, x: x[::-1])),
    "rest of a stride off": ("conv_k5_s3_p1", lambda p: window(p, "rest", lambda n, _: n + 1)),
    "ahead of a window off": (
        "conv_same", lambda p: window(p, "slide", lambda f, _: replace(f, ahead=f.ahead - 1))),
    "tail too long": ("cut_end_after_valid", lambda p: window(p, "slide", lambda f, _: replace(f, tail=f.tail + 1))),
    "a queue keeps one less": ("residual", lambda p: woven(p, "Slice", ".wait.kept", one_more(1))),
    "a queue lets the newest out": ("residual", lambda p: woven(p, "Slice", ".ready", newest)),
    "pace too large": ("several_paces", lambda p: contract(p, lambda o: slower(o, 1))),
    "pace too small": ("conv_k5_s2_p1_both", lambda p: contract(p, lambda o: slower(o, -1))),
    "pace too small, no end": ("conv_k5_s2_p0", lambda p: contract(p, lambda o: slower(o, -1))),
    "delay too small": ("conv_same", lambda p: contract(p, lambda o: {"delay": o["delay"] - 1})),
    "delay too small, no end": ("conv_valid", lambda p: contract(p, lambda o: {"delay": o["delay"] - 1})),
    "delay too large": ("conv_same", lambda p: contract(p, lambda o: {"delay": o["delay"] + 1})),
    "first place off": ("conv_same", lambda p: contract(p, lambda o: {"first_at": o["first_at"] - 1})),
    "a window of attention too short": ("attention", lambda p: changed(p, attention, "_window", nearer)),
    "keys shifted against values": ("attention", lambda p: woven(p, "Slice", ".values.kept", earlier)),
    "biases by distance shifted": ("attention_alibi", lambda p: changed(p, attention, "_table", turned)),
    "padding at the end left out": ("conv_same", lambda p: edited(p, without_end)),
    "padding of a maximum is 0": (
        "max_pool_padded", lambda p: changed(p, convolution, "_fill", otherwise(lambda _: 0.0))),
    "padding of a quantized signal is off": (
        "uint8_tcn", lambda p: changed(p, convolution, "_fill", otherwise(lambda was: was + 1))),
    "h and c exchanged": ("lstm", lambda p: edited(p, exchanged)),
    "gates in torch's order": ("lstm", lambda p: edited(p, gates)),
    "an initial state forgotten": ("gru_started", lambda p: state(p, ".started", fill=1.0)),
    "reset before the product": ("gru_reset_after", lambda p: edited(p, reset_before)),
    "streams leak into each other": ("gru", lambda p: edited(p, leaking)),
    "mean over one more": ("mean", lambda p: state(p, ".count", fill=1.0)),
    "maximum of at least 0": ("max", lambda p: state(p, ".so_far", fill=10.0)),
    "phase of every second off": ("cut_every_second_after_valid", lambda p: state(p, ".phase", fill=1.0)),
    "skipped in every call": ("cut_start", lambda p: changed(p, slices, "_skip", skip_again)),
    "a sum that leaves the frame out": ("cumsum", lambda p: changed(p, Loom, "cut", from_the_first)),
    "dilation of a maximum off": ("max_pool_dilated", lambda p: edited(p, dilated)),
    "first chunk too small": (
        "cut_start", lambda p: contract(p, lambda _: {"first_chunk_min": 2}, output=False)),
}  # fmt: skip
"""What is broken: on which graph, and how."""


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_rule_that_is_off_is_caught(name: str, monkeypatch: Patch) -> None:
    graph, mutate = MUTATIONS[name]
    monkeypatch.setattr(exporting, "prove", partial(prove, count=1))
    MUTATED.clear()
    mutate(monkeypatch)
    original = Original(ZOO[graph].model(), "onnx", "0" * 64)
    with pytest.raises(ModelError, match=r"does not (do what|take what its contract|run)"):
        export(original, Options(statement(ZOO[graph])))
    assert MUTATED, "nothing was broken: the mutation no longer fits the code"
