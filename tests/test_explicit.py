"""Models whose states are inputs already: passed through where they carry everything, made anew where not."""

import importlib.util
import io
import warnings
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from holdover.export import explicit
from holdover.export.contract_io import save
from holdover.export.describe import Statement
from holdover.export.exporting import Options
from holdover.export.original import Original, SourceOptions
from holdover.export.proof import engine_of, feed, pieces
from holdover.export.refusal import RefusedError
from holdover.export.sidecar import Sidecar, by_name, checked
from holdover.export.signature import signature
from holdover.export.sources.onnx_file import read
from holdover.export.stepped import Stepped
from holdover.export.suspects import suspects
from holdover.export.whole import clean
from holdover.runtime.chunk import Chunk
from holdover.runtime.engine import load
from holdover.runtime.errors import ModelError, UsageError
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.stream import Stream

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def info(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def graph(inputs, outputs, nodes, **weights):
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def original(model, **keys):
    """As it is read: by name, or with a sidecar of such keys."""
    return Original(model, "onnx", "0" * 64, sidecar=checked(Sidecar(**keys) if keys else by_name(model), model))


def options(leads=2, **more):
    return Options(Statement("tiny", 100.0, tuple("abcdef"[:leads]), "mV"), **more)


def exported(model, leads=2, more=None, **keys):
    return explicit.export(original(model, **keys), options(leads, **(more or {})))


def noise(samples, channels, seed=0):
    return np.random.default_rng(seed).normal(size=(samples, channels)).astype(np.float32)


def streamed(done, x, seed=0):
    """What the runtime says of x, (samples, channels), pushed in random pieces."""
    return feed(engine_of(done.model.SerializeToString()), x, pieces(len(x), np.random.default_rng(seed)))


# Graphs of torch's older exporter, the usual source of such files


def legacy(make, x, x_axes, *states):
    """A module over (x, *states) as ONNX; a state is name, successor and shape with its open axes."""
    torch = pytest.importorskip("torch")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = make().eval()
    file = io.BytesIO()
    given = [torch.from_numpy(v) for v in (x, *(start(shape, 3) for *_, shape in states))]
    axes = {name: {i: n for i, n in enumerate(shape) if isinstance(n, str)} for name, _, shape in states}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, tuple(given), file, input_names=["x", *axes], output_names=["y", *(s for _, s, _ in states)],
            dynamic_axes={"x": x_axes} | axes, dynamo=False, opset_version=17,
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue()), module


def start(shape, past=0):
    """A state before the first sample; with frames in its cache, where a tracer needs some."""
    return zeros(*({"batch": 1, "past": past}.get(n, n) for n in shape))


def zeros(*shape):
    return np.zeros(shape, np.float32)


def compute(function, **layers):
    from tests.zoo_torch import Compute

    module = Compute(None, **layers)
    module.forward = partial(function, module)
    return module


def lstm(layers=1, before=None, after=None):
    from torch import nn

    def forward(m, x, h0, c0):
        y, (h, c) = m.lstm(before(m, x) if before else x, (h0, c0))
        return m.head(after(y) if after else y), h, c

    layers = {"lstm": nn.LSTM(2, 5, layers, batch_first=True), "head": nn.Linear(5, 3), "conv": nn.Conv1d(2, 2, 3)}
    return compute(forward, **layers)


def gru():
    from torch import nn

    return compute(lambda m, x, state: m.gru(x, state), gru=nn.GRU(2, 5, 2, batch_first=True))


def stacked():
    import torch
    from torch import nn

    def forward(m, x, state):
        y, after = m.lstm(x, (state[0], state[1]))
        return y, torch.stack(after)

    return compute(forward, lstm=nn.LSTM(2, 5, 2, batch_first=True))


def convolution(stride=1):
    import torch
    from torch import nn

    def forward(m, x, cache):
        x = torch.cat([cache, x], 2)
        return m.conv(x), x[:, :, -2:]

    return compute(forward, conv=nn.Conv1d(2, 4, 2 + stride, stride))


def cell():
    from torch import nn

    def forward(m, x, h, c):
        h, c = m.cell(x, (h, c))
        return m.head(h), h, c

    return compute(forward, cell=nn.LSTMCell(2, 5), head=nn.Linear(5, 3))


def unpadded(m, x):
    return m.conv(x.transpose(1, 2)).transpose(1, 2)


def padded(m, x):
    from torch.nn import functional as F

    return m.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2)


BATCH_TIME, BATCH_LAST = {0: "batch", 1: "time"}, {0: "batch", 2: "time"}
PAIR = ("h0", "hn", (1, "batch", 5)), ("c0", "cn", (1, "batch", 5))
CASES = {
    "lstm": (lstm, zeros(1, 16, 2), BATCH_TIME, *PAIR),
    "lstm of two layers": (
        partial(lstm, 2), zeros(1, 16, 2), BATCH_TIME, ("h0", "hn", (2, "batch", 5)), ("c0", "cn", (2, "batch", 5))),
    "lstm, last step": (partial(lstm, after=lambda y: y[:, -1]), zeros(1, 16, 2), BATCH_TIME, *PAIR),
    "gru": (gru, zeros(1, 16, 2), BATCH_TIME, ("state", "stateN", (2, "batch", 5))),
    "stacked state": (stacked, zeros(1, 16, 2), BATCH_TIME, ("state", "state_out", (2, 2, "batch", 5))),
    "convolution": (convolution, zeros(1, 2, 16), BATCH_LAST, ("cache_in", "cache_out", ("batch", 2, 2))),
    "convolution of stride 2": (
        partial(convolution, 2), zeros(1, 2, 16), BATCH_LAST, ("cache_in", "cache_out", ("batch", 2, 2))),
    "cell, one step": (
        cell, zeros(1, 2), {0: "batch"}, ("h", "h_out", ("batch", 5)), ("c", "c_out", ("batch", 5))),
}  # fmt: skip
"""Graphs whose states carry everything: module, x, open axes of x, states."""
FORGOTTEN = {
    "no padding": (partial(lstm, before=unpadded), zeros(1, 16, 2), BATCH_TIME, *PAIR),
    "padding": (partial(lstm, before=padded), zeros(1, 16, 2), BATCH_TIME, *PAIR),
}
"""A convolution before the LSTM, whose past is no state."""


@cache
def graph_of(name):
    return legacy(*(CASES | FORGOTTEN)[name])


@cache
def done(name):
    model, _ = graph_of(name)
    keys = {"states": {"h": "h_out", "c": "c_out"}, "hop": 1} if name.startswith("cell") else {}
    return exported(model, **keys)


def answer(name, x):
    """torch's own word on x, (samples, 2), from the initial states: (frames, width)."""
    import torch

    _, module = graph_of(name)
    _, _, axes, *states = (CASES | FORGOTTEN)[name]
    state = [torch.from_numpy(start(shape)) for *_, shape in states]
    given = torch.from_numpy(x)[None]
    with torch.no_grad():
        if axes is BATCH_LAST:
            return module(given.transpose(1, 2), *state)[0][0].T.numpy()
        if axes is BATCH_TIME:
            return np.atleast_2d(module(given, *state)[0][0].numpy())
        said = []
        for sample in given[0]:
            y, *state = module(sample[None], *state)
            said.append(y[0].numpy())
        return np.stack(said)


@pytest.mark.parametrize("name", CASES)
def test_states_that_carry_everything_are_passed_through(name):
    made = done(name)
    assert made.contract.document["provenance"]["states"] == "passed through"
    assert made.proof.max_error <= 1e-6
    assert {s.name for s in made.contract.states} == {n.removesuffix("_in") for n, *_ in CASES[name][3:]}
    assert all("batch" in s.init_shape for s in made.contract.states)
    assert "three streams in a call" in made.proof.checks
    assert made.notes == ()


@pytest.mark.parametrize("name", CASES | FORGOTTEN)
def test_the_stream_says_what_torch_says_of_the_whole(name):
    x = noise(150, 2)
    said, wanted = streamed(done(name), x)["y"], answer(name, x)
    said = {"lstm, last step": said[-1:], "no padding": said[: len(wanted)]}.get(name, said)
    assert said.shape == wanted.shape
    np.testing.assert_allclose(said, wanted, atol=2e-6)


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_convolution_without_a_cache_is_found_and_the_memory_made_anew(name):
    made = done(name)
    assert made.proof.max_error <= 1e-5
    op = {"no padding": "Conv '/conv/Conv'", "padding": "Pad '/Pad'"}[name]
    (note,) = made.notes
    assert note.startswith(
        f"the states h0, c0 of the file do not carry all that it remembers ({op}): they were dropped"
    )
    assert "states" not in made.contract.document["provenance"]
    assert not {"h0", "c0"} & {s.name for s in made.contract.states}


def test_states_that_are_paired_crosswise_are_found_out():
    made = exported(graph_of("lstm")[0], states={"h0": "cn", "c0": "hn"})
    assert "(LSTM '/lstm/LSTM'): they were dropped" in made.notes[0]
    x = noise(90, 2)
    np.testing.assert_allclose(streamed(made, x)["y"], answer("lstm", x), atol=2e-6)


def two_convolutions():
    """The first has its past as a state, the second has forgotten it."""
    import torch
    from torch import nn

    def forward(m, x, cache):
        x = torch.cat([cache, x], 2)
        return m.second(torch.relu(m.first(x))), x[:, :, -2:]

    return compute(forward, first=nn.Conv1d(2, 4, 3), second=nn.Conv1d(4, 2, 3, padding=1))


def test_the_suspect_is_the_node_that_forgets_and_not_the_one_that_has_its_cache():
    model, _ = legacy(two_convolutions, zeros(1, 2, 16), BATCH_LAST, ("cache_in", "cache_out", ("batch", 2, 2)))
    cleaned = clean(model)
    (suspect,) = suspects(cleaned, signature(cleaned, original(model).sidecar))
    assert (suspect.op, suspect.node) == ("Conv", "/second/Conv")
    assert "(Conv '/second/Conv'): they were dropped" in exported(model).notes[0]


def test_a_model_that_forgets_nothing_has_no_suspect():
    for name in ("lstm", "convolution", "gru", "stacked state"):
        model = clean(graph_of(name)[0])
        assert suspects(model, signature(model, original(graph_of(name)[0]).sidecar)) == ()


def test_where_the_memory_cannot_be_made_anew_both_reasons_are_given():
    centred = partial(lstm, before=lambda _, x: x - x.mean(1, keepdim=True))
    model, _ = legacy(centred, zeros(1, 16, 2), BATCH_TIME, *PAIR)
    with pytest.raises(RefusedError) as caught:
        exported(model)
    first, *rest = caught.value.refusals
    assert first.op == "ReduceMean"
    assert "depends on where the signal is cut" in first.reason
    assert rest
    assert not any("depends on where the signal is cut" in r.reason for r in rest)


def test_verify_holds_a_file_against_its_original_and_against_no_other():
    made, (model, _) = done("lstm"), graph_of("lstm")
    data = made.model.SerializeToString()
    proof = explicit.verify(data, made.contract, original(model), None, None, "noise")
    assert (proof.refusals, proof.max_error) == ((), 0.0)
    other = onnx.ModelProto()
    other.CopyFrom(model)
    weight = next(t for t in other.graph.initializer if t.name == "head.bias")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + 1e-3, weight.name))
    proof = explicit.verify(data, made.contract, original(other), None, None, "noise")
    assert any("differs from the original by 1.0e-03" in r for r in proof.refusals)
    stranger = original(block_energy(), constants={"sr": 16000}, **ENERGY)
    with pytest.raises(ModelError, match="the original has the outputs output, the model y"):
        explicit.verify(data, made.contract, stranger, None, None, "noise")


def test_what_was_made_anew_is_verified_as_a_whole_sequence():
    made = done("padding")
    proof = explicit.verify(
        made.model.SerializeToString(), made.contract, original(graph_of("padding")[0]), None, None, "noise"
    )
    assert (proof.refusals, proof.tolerance) == ((), 1e-5)


# Attention with a cache


def attention(cut=None):
    """One query a frame over the cache and itself; the author may cut the cache."""

    def forward(m, x, past_key, past_value):
        import torch

        k, v = torch.cat([past_key, m.k(x)], 1), torch.cat([past_value, m.v(x)], 1)
        q, seen = m.q(x), k.shape[1]
        later = torch.arange(seen)[None] > torch.arange(q.shape[1])[:, None] + (seen - q.shape[1])
        y = torch.softmax((q @ k.transpose(1, 2)).masked_fill(later, -1e9), -1) @ v
        return (y, k, v) if cut is None else (y, k[:, -cut:], v[:, -cut:])

    from torch import nn

    return compute(forward, q=nn.Linear(2, 4), k=nn.Linear(2, 4), v=nn.Linear(2, 4))


@cache
def attention_model(cut=None):
    cache = ("batch", "past", 4)
    states = ("past_key", "present_key", cache), ("past_value", "present_value", cache)
    return legacy(partial(attention, cut), zeros(1, 16, 2), BATCH_TIME, *states)


def attended(module, x, keep):
    """Sample by sample over at most `keep` frames of the past."""
    import torch

    k = v = torch.zeros(1, 0, 4)
    said = []
    with torch.no_grad():
        for sample in torch.from_numpy(x):
            y, k, v = module(sample[None, None], k, v)
            k, v = k[:, -keep:], v[:, -keep:]
            said.append(y[0, 0].numpy())
    return np.stack(said)


def test_a_cache_without_bound_is_refused_and_a_window_offered():
    with pytest.raises(RefusedError, match="--window N") as caught:
        exported(attention_model()[0])
    assert [(r.node, r.op) for r in caught.value.refusals] == [("present_key", "Concat"), ("present_value", "Concat")]


def test_a_window_cuts_the_cache_and_its_error_is_measured():
    model, module = attention_model()
    made = exported(model, more={"window": 6})
    assert {s.name: s.steady_shape for s in made.contract.states} == {
        "past_key": ("batch", 5, 4), "past_value": ("batch", 5, 4)}  # fmt: skip
    x = noise(80, 2)
    np.testing.assert_allclose(streamed(made, x)["y"], attended(module, x, 5), atol=2e-6)
    document = made.contract.document
    assert document["approximation_error"]["y.max"] > 0.01
    assert document["approximations"][0] == "the state past_key keeps the last 5 frames of past_key"
    assert document["provenance"]["window"] == 6
    again = explicit.verify(made.model.SerializeToString(), made.contract, original(model), None, None, "noise")
    assert again.refusals == ()


def test_a_window_wider_than_the_signal_costs_nothing_in_it():
    model = clean(attention_model()[0])
    form = replace(signature(model, original(attention_model()[0]).sidecar), hop=1)
    x = noise(40, 2)[None]
    exact = Stepped(model, form).run(x)["y"]
    assert np.array_equal(Stepped(model, form, 40).run(x)["y"], exact)
    assert not np.array_equal(Stepped(model, form, 39).run(x)["y"], exact)


def test_a_cache_that_its_author_cuts_grows_to_its_length_and_needs_no_window():
    model, module = attention_model(7)
    names = {"past_key": "present_key", "past_value": "present_value"}
    made = exported(model, states=names, hop=1)
    assert [s.steady_shape for s in made.contract.states] == [("batch", 7, 4)] * 2
    x = noise(60, 2)
    np.testing.assert_allclose(streamed(made, x)["y"], attended(module, x, 7), atol=2e-6)


# Graphs made by hand


def block_energy():
    """y = mean |x| over block and context + gain . s, s' = y; the gain is that of the rate."""

    def branch(name, gain):
        weight = numpy_helper.from_array(np.full(1000, gain, np.float32), f"{name}.gain")
        node = helper.make_node("ReduceMean", [weight.name], [f"{name}.mean"], keepdims=0)
        return helper.make_graph([node], name, [], [info(f"{name}.mean", [])], [weight])

    nodes = [
        helper.make_node("Equal", ["sr", "fast"], ["is_fast"]),
        helper.make_node(
            "If", ["is_fast"], ["gain"], then_branch=branch("fast", 0.5), else_branch=branch("slow", 0.25)
        ),
        helper.make_node("Abs", ["x"], ["x.in"]),
        helper.make_node("ReduceMean", ["x.in"], ["context"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["state", "gain"], ["s.out"]),
        helper.make_node("Add", ["context", "s.out"], ["output"]),
        helper.make_node("Identity", ["output"], ["stateN"]),
    ]
    inputs = [info("x", [None, None]), info("sr", [], INT), info("state", [None, 1])]
    return graph(inputs, [info("output", [None, 1]), info("stateN", [None, 1])], nodes, fast=np.array(16000))


ENERGY = {"states": {"state": "stateN"}, "hop": 12, "context": 4}


@cache
def energy(rate):
    return exported(block_energy(), 1, constants={"sr": rate}, **ENERGY)


@pytest.mark.parametrize(("rate", "gain"), [(16000, 0.5), (8000, 0.25)])
def test_a_fixed_block_with_its_context_and_constants(rate, gain):
    x = noise(12 * 40 + 5, 1)
    before, state, wanted = np.zeros((4, 1), np.float32), np.float32(0), []
    for start in range(0, len(x) - 11, 12):
        block = np.concatenate([before, x[start : start + 12]])
        state = np.abs(block).mean() + np.float32(gain) * state
        before = block[-4:]
        wanted.append(state)
    said = streamed(energy(rate), x)["output"]
    np.testing.assert_allclose(said[: len(wanted), 0], wanted, atol=1e-6)
    c = energy(rate).contract
    assert (c.hop, c.grid, c.bitwise, c.first_chunk_min) == (12, 12, False, 12)
    assert (c.outputs[0].samples_per_frame, c.outputs[0].delay, c.outputs[0].width) == (12, 11, 1)
    assert [s.name for s in c.states] == ["context", "state"]


def test_the_branch_that_is_never_taken_is_gone_and_its_weights_with_it():
    made = energy(16000)
    assert "If" not in {n.op_type for n in made.model.graph.node}
    assert len(made.model.SerializeToString()) < 4000 + 4500
    assert [i.name for i in made.model.graph.input] == ["x", "context.in", "state.in"]


def test_the_authors_names_give_way_to_those_of_the_contract():
    names = {o for n in energy(16000).model.graph.node for o in n.output}
    assert {"context.out", "state.out", "output"} <= names
    onnx.checker.check_model(energy(16000).model, full_check=True)


def test_outputs_called_like_the_signal_a_state_or_a_path_keep_apart():
    nodes = [
        helper.make_node("Mul", ["audio", "two"], ["x"]),
        helper.make_node("Add", ["audio", "h_in"], ["h"]),
        helper.make_node("Identity", ["h"], ["head/y:0"]),
        helper.make_node("Identity", ["h"], ["h_out"]),
    ]
    inputs = [info("audio", ["batch", 1, 1]), info("h_in", ["batch", 1, 1])]
    model = graph(inputs, [info(n, ["batch", 1, 1]) for n in ("x", "h", "head/y:0", "h_out")], nodes, two=np.float32(2))
    made = exported(model, 1, states={"h_in": "h_out"}, hop=1)
    assert [o.name for o in made.contract.outputs] == ["x_1", "h", "head_y_0"]
    assert [s.name for s in made.contract.states] == ["h"]
    x = noise(30, 1)
    said = streamed(made, x)
    np.testing.assert_allclose(said["x_1"], 2 * x, atol=1e-6)
    np.testing.assert_allclose(said["h"], np.cumsum(x, 0, dtype=np.float32), atol=1e-5)
    np.testing.assert_array_equal(said["head_y_0"], said["h"])


def counted():
    """y is x plus the number of samples so far, an int64 state; and the running largest, which begins at -9."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=1, end=2),
        helper.make_node("Add", ["count", "shape"], ["count_out"]),
        helper.make_node("Cast", ["count_out"], ["number"], to=FLOAT),
        helper.make_node("Add", ["x", "number"], ["y"]),
        helper.make_node("ReduceMax", ["x"], ["here"], axes=[1, 2], keepdims=0),
        helper.make_node("Max", ["here", "top"], ["top_out"]),
        helper.make_node("Unsqueeze", ["top_out", "ends"], ["most"]),
    ]
    inputs = [info("x", [1, 1, 1]), info("count", [1], INT), info("top", [1])]
    outputs = [info("y", [1, 1, 1]), info("most", [1, 1, 1]), info("count_out", [1], INT), info("top_out", [1])]
    return graph(inputs, outputs, nodes, ends=np.array([1, 2]))


def test_states_of_integers_and_states_that_begin_with_a_number():
    states = {"count": "count_out", "top": "top_out"}
    made = exported(counted(), 1, states=states, hop=1, initial={"top": -9.0})
    found = {s.name: (s.dtype, s.init) for s in made.contract.states}
    assert found == {"count": ("int64", "zeros"), "top": ("float32", -9.0)}
    x = noise(50, 1) - 5
    said = streamed(made, x)
    np.testing.assert_allclose(said["y"], x + np.arange(1, 51)[:, None], atol=1e-5)
    np.testing.assert_array_equal(said["most"], np.maximum(np.maximum.accumulate(x), -9))
    only = exported(counted(), 1, states=states, hop=1, initial={"top": -9.0}, outputs=("most",))
    assert [o.name for o in only.contract.outputs] == ["most"]


def two_leads():
    """Leads in tensors of their own, (time, 1) without a batch; y is their sum plus the last sum."""
    nodes = [
        helper.make_node("Add", ["i", "ii"], ["sum"]),
        helper.make_node("Concat", ["last_in", "sum"], ["all"], axis=0),
        helper.make_node("Slice", ["all", "zero", "less", "zero"], ["past"]),
        helper.make_node("Slice", ["all", "less", "end", "zero"], ["last_out"]),
        helper.make_node("Add", ["sum", "past"], ["y"]),
    ]
    ends = {"zero": np.array([0]), "less": np.array([-1]), "end": np.array([1 << 40])}
    inputs = [info("i", ["time", 1]), info("ii", ["time", 1]), info("last_in", [1, 1])]
    return graph(inputs, [info("y", ["time", 1]), info("last_out", [1, 1])], nodes, **ends)


def test_several_leads_and_no_batch():
    made = exported(two_leads(), states={"last_in": "last_out"}, signal=("ii", "i"))
    x = noise(70, 2)
    total = x.sum(1, keepdims=True)
    np.testing.assert_allclose(streamed(made, x)["y"], total + np.vstack([[[0]], total[:-1]]), atol=1e-6)
    assert made.contract.states[0].init_shape == (1, 1)


def test_a_state_that_comes_out_with_another_rank_is_no_pair():
    nodes = [
        helper.make_node("Add", ["x", "s"], ["y"]),
        helper.make_node("Squeeze", ["s"], ["s_out"]),
    ]
    model = graph(
        [info("x", ["batch", "time", 2]), info("s", [1, 1, 2])], [info("y", None), info("s_out", None)], nodes
    )
    with pytest.raises(ModelError, match=r"s goes in as float32\(1, 1, 2\) and comes out of s_out as float32\(2,\)"):
        exported(model, states={"s": "s_out"})


WRONG = {
    "no time": ({**ENERGY, "layout": ("batch", 16)}, {}, "a layout without time needs hop 1, no context"),
    "constant": ({**ENERGY, "constants": {"sr": "fast"}}, {}, "the constant sr is 'fast'; expected int64"),
    "layout": ({**ENERGY, "layout": ("batch", "time", 3)}, {}, r"layout says .* the input x is \[None, None\]"),
    "shape": ({**ENERGY, "shapes": {"state": ("batch", 1, 1)}}, {}, "shapes gives state 3 axes, the graph 2"),
    "shape too large": ({**ENERGY, "shapes": {"state": ("batch", 1 << 40)}}, {}, "more than 67108864 numbers"),
    "hop too large": ({**ENERGY, "hop": 1 << 40}, {}, "make a call of more than 67108864 numbers"),
    "initial": ({**ENERGY, "initial": {"state": 1e300}}, {}, "fills the state state with 1e.300, which float32"),
    "hop": (ENERGY, {"hop": 5}, "--hop 5, and the states file says that a call takes 12 samples"),
    "window": (ENERGY, {"window": 1}, "--window 1: .* expected at least 2"),
    "lookahead": (ENERGY, {"lookahead_s": 0.1}, "--lookahead is for whole-sequence models"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_answered_in_words(name):
    keys, more, words = WRONG[name]
    keys = {"constants": {"sr": 16000}, **keys}
    with pytest.raises((UsageError, ModelError), match=words):
        exported(block_energy(), 1, more, **keys)


def test_a_call_of_a_fixed_size_needs_its_hop():
    model, _ = graph_of("lstm")
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for d, n in zip(fixed.graph.input[0].type.tensor_type.shape.dim, (1, 16, 2), strict=True):
        d.dim_value = n
    with pytest.raises(UsageError, match=r"a call takes x \[1, 16, 2\]: give the samples of one call as hop"):
        exported(fixed)
    made = exported(fixed, more={"time_axis": 1})
    assert made.contract.hop == 1


def test_a_model_without_a_sidecar_goes_through_the_other_door():
    with pytest.raises(UsageError, match="states are not inputs"):
        explicit.export(Original(block_energy(), "onnx", ""), options(1))


# A model that nobody here made


def silero():
    """The folder of the installed package, which is never imported: that would ask for more packages."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or not found.submodule_search_locations:
        pytest.skip("silero-vad is not installed: pip install --no-deps silero-vad==6.2.3")
    return Path(next(iter(found.submodule_search_locations)))


def its_own_wrapper(path):
    """silero-vad's OnnxWrapper, from its file alone."""
    pytest.importorskip("torch")
    pytest.importorskip("packaging")
    spec = importlib.util.spec_from_file_location("silero_utils", silero() / "utils_vad.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OnnxWrapper(str(path))


def speech(seconds, rate=16000):
    """Pulses of 90 to 140 Hz through three moving formants, in syllables with pauses, and noise: (samples, 1)."""
    rng, t = np.random.default_rng(4), np.arange(int(seconds * rate)) / rate
    pitch = 115 + 25 * np.sin(2 * np.pi * 0.4 * t) + 3 * np.sin(2 * np.pi * 5 * t)
    phase = np.cumsum(pitch) / rate
    voice = np.zeros_like(t)
    for k in range(1, 30):
        formants = (500 + 200 * np.sin(2 * np.pi * 1.3 * t), 1500 + 500 * np.sin(2 * np.pi * 0.9 * t), 2500)
        gain = sum(np.exp(-(((k * pitch - f) / 150) ** 2)) for f in formants)
        voice += gain * np.sin(2 * np.pi * k * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, 1) * (np.sin(2 * np.pi * 0.15 * t) > -0.3)
    return (0.1 * voice * syllables + 0.003 * rng.normal(size=len(t))).astype(np.float32)[:, None]


@cache
def silero_done(folder, name, rate):
    states = Path(folder) / f"{Path(name).stem}.{rate}.states.json"
    hop = 512 if rate == 16000 else 256
    sidecar = {"states": {"state": "stateN"}, "constants": {"sr": rate}, "hop": hop, "context": hop // 8}
    states.write_bytes(msgspec.json.encode(sidecar))
    source = read(silero() / "data" / name, SourceOptions(states=states))
    said = Statement("silero-vad", float(rate), ("audio",), "FS", meanings={"output": "score"})
    made = explicit.export(source, Options(said))
    save(made.model, Path(folder) / f"{Path(name).stem}.{rate}.onnx")
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("silero"))


@pytest.mark.parametrize(("name", "rate"), [("silero_vad.onnx", 16000), ("silero_vad.onnx", 8000)])
def test_silero_says_what_its_own_wrapper_says_through_save_and_restore(name, rate, folder):
    torch = pytest.importorskip("torch")
    path = silero() / "data" / name
    wrapper = its_own_wrapper(path)
    made = silero_done(folder, name, rate)
    assert made.proof.max_error <= 1e-6
    x = speech(20.0, rate)
    hop = made.contract.hop
    wanted = [wrapper(torch.from_numpy(x[s : s + hop, 0]), rate).item() for s in range(0, len(x) - hop + 1, hop)]
    model = Path(folder) / f"{Path(name).stem}.{rate}.onnx"
    stream, other = Stream(load(model), rate), Stream(load(model), rate)
    sizes = pieces(len(x), np.random.default_rng(2))
    said, at = [], 0
    for k, size in enumerate(sizes):
        if k == len(sizes) // 2:
            other.restore(unpack(pack(stream.snapshot())))
            stream = other
        said.append(stream.push(Chunk(at, x[at : at + size])).values["output"])
        at += size
    said = np.concatenate(said)[:, 0]
    assert len(said) == len(wanted) == 20 * rate // hop
    assert np.ptp(wanted) > 0.3
    assert np.abs(said - np.array(wanted, np.float32)).max() <= 1e-6
