"""Every graph of the zoo streams as it does whole, and so does any stack of layers, or it is refused."""

import os
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from holdover.export import exporting
from holdover.export.describe import Statement
from holdover.export.exporting import Exported, Options, export
from holdover.export.original import Original
from holdover.export.proof import CHUNKINGS, prove
from holdover.export.refusal import RefusedError
from tests.zoo_onnx import CHANNELS, INTEGERS, ZOO, Entry, Net, entry

LONG = bool(os.environ.get("HOLDOVER_LONG"))
WORST: dict[str, float] = {}
"""Largest error by graph, as the tests find them."""


@pytest.fixture(autouse=True)
def _fewer_chunkings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proof with fewer random chunkings, unless there is time."""
    monkeypatch.setattr(exporting, "prove", partial(prove, count=CHUNKINGS if LONG else 3))


def exported(graph: Entry, **options: Any) -> Exported:
    """Through the whole of the export."""
    leads = tuple(f"lead{i}" for i in range(graph.width))
    return export(Original(graph.model(), "onnx", "0" * 64), Options(Statement("zoo", 100.0, leads, "mV"), **options))


@pytest.mark.parametrize("name", ZOO)
def test_a_graph_streams_as_it_does_whole(name: str) -> None:
    done = exported(ZOO[name])
    WORST[name] = done.proof.max_error
    assert done.proof.max_error <= (0 if name in INTEGERS else 1e-5)
    assert done.proof.frames > 200 or all(o.kind == "running" for o in done.contract.outputs)


def test_the_worst_error_over_the_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    if len(WORST) < len(ZOO):
        pytest.skip("the graphs were not all run")
    name = max(WORST, key=lambda n: WORST[n])
    with capsys.disabled():
        print(f"\n{len(WORST)} graphs, worst error {WORST[name]:.1e} ({name})")
    assert len(WORST) > 100


PROMISES = {
    # name: hop, first chunk, delay of each output, initial shapes of the states
    "lstm": (1, 1, [0], [(1, "batch", 4)] * 2),
    "gru_started": (1, 1, [0], [(1, "batch", 4), (1,)]),
    "batch_of_one": (1, 1, [0], [(1, "batch", 4)]),
    "rnn_started_batch_1": (1, 1, [0], [(1, 1, 4), (1,)]),
    "conv_causal": (1, 1, [0], [("batch", 2, 3)]),
    "conv_same": (1, 3, [2], [("batch", 2, 2)]),
    "conv_valid": (1, 5, [4], [("batch", 2, 0)]),
    "conv_k5_s3_p1": (3, 6, [3], [("batch", 2, 1)]),
    "conv_k2_s3_p0": (3, 3, [1], []),
    "conv_strides": (6, 18, [13], [("batch", 2, 0), ("batch", 3, 0), ("batch", 3, 0)]),
    "residual": (1, 3, [2], [("batch", 3, 2), ("batch", 3, 0)]),
    "cut_start": (1, 4, [3], [(1,)]),
    "cut_end": (1, 5, [4], [("batch", 2, 0)]),
    "chomp": (1, 1, [0], [("batch", 2, 4)]),
    "attention": (1, 1, [0], [("batch", 3, 0), ("batch", 0, 3)]),
    "attention_heads_merged": (1, 1, [0], [(0, "batch", 2, 2)] * 2),
    "several_paces": (6, 6, [0, 1, 5, 1], [("batch", 2, 2), ("batch", 3, 2), ("batch", 3, 1)]),
    "mean": (1, 1, [0], [("batch", 2, 2), (1,), ("batch", 3)]),
}


@pytest.mark.parametrize("name", PROMISES)
def test_what_the_contract_promises(name: str) -> None:
    c = exported(ZOO[name]).contract
    *promised, shapes = PROMISES[name]
    assert [c.hop, c.first_chunk_min, [o.delay for o in c.outputs]] == promised
    # A convolution whose bits depend on the block, on this processor, is written otherwise; its past is transposed.
    assert [sorted(map(str, s.init_shape)) for s in c.states] == [sorted(map(str, shape)) for shape in shapes]


@pytest.mark.parametrize("name", INTEGERS)
def test_history_of_a_quantized_graph_is_integer(name: str) -> None:
    kind = "uint8" if name.startswith("uint8") else "int8"
    assert {s.dtype for s in exported(ZOO[name]).contract.states} == {kind}


@pytest.mark.parametrize("name", ["cnn_lstm", "paces", "cumsum_exclusive", "mean"])
@pytest.mark.parametrize("hop", [4, 5])
def test_a_larger_hop_is_the_least_common_multiple(name: str, hop: int) -> None:
    smallest = {"cnn_lstm": 4, "paces": 6}.get(name, 1)
    c = exported(ZOO[name], hop=hop).contract
    assert c.hop % hop == 0
    assert c.hop % smallest == 0
    assert c.hop <= hop * smallest


def test_unbounded_attention_cut_to_a_window_says_so() -> None:
    done = exported(entry(unbounded), window=5)
    assert done.contract.document["approximations"]
    assert done.contract.document["approximation_error"]["y.max"] > 0


def unbounded(net: Net, x: str) -> str:
    """Causal attention over all of the past."""
    q, k, v = (net.dense(x, 3, 3) for _ in range(3))
    scores = net.op("Where", net.allowed(x, None), net.op("MatMul", q, net.swap(k)), net.const(-1e30))
    return net.op("MatMul", net.op("Softmax", scores, axis=-1), v)


# Streams that share a call


def loudest(net: Net, x: str, kind: str) -> str:
    """Streams that move one another only where one is loud, or the first."""
    loud = net.op("Relu", net.op("Sub", x, net.const(60.0)))
    axis = net.const([0])
    made = {
        "ReduceMax": lambda: net.op("ReduceMax", loud, axes=[0]),
        "CumSum": lambda: net.op("CumSum", loud, net.const(np.int64(0))),
        "Softmax": lambda: net.op("Mul", loud, net.op("Softmax", loud, axis=0)),
        "ArgMax": lambda: net.op("Cast", net.op("ArgMax", loud, axis=0), to=1),
        "first": lambda: net.op("Slice", x, axis, net.const([1]), axis),
    }[kind]()
    return net.op("Sub", x, made)


@pytest.mark.parametrize("kind", ["ReduceMax", "CumSum", "Softmax", "ArgMax", "first"])
def test_streams_that_move_one_another_never_share_a_call(kind: str) -> None:
    done = exported(entry(lambda net, x: net.op("Add", loudest(net, x, kind), x)))
    batch = done.model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_value == 1
    assert "three streams in a call" not in done.proof.checks


@pytest.mark.parametrize(
    "name", ["lstm", "conv_same", "attention", "mean", "attention_heads_merged", "cut_every_third"]
)
def test_streams_that_do_not_move_one_another_share_a_call(name: str) -> None:
    assert exported(ZOO[name]).model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


# Any stack of layers

Layer = tuple[str, dict[str, Any]]


def conv(net: Net, x: str, **options: Any) -> str:
    return net.conv(x, 3, 3, **options)


def pool(net: Net, x: str, **options: Any) -> str:
    return net.pool(x=x, **options)


def recurrent(net: Net, x: str, kind: str, **options: Any) -> str:
    return net.swap(net.sequence(kind, net.swap(x), 3, 3, **options))


def added(net: Net, x: str, kind: str, branches: list[dict[str, Any]]) -> str:
    """Convolutions that keep the length, and the input itself, meet."""
    made = [x, *(net.conv(x, 3, 3, **b) for b in branches)]
    if kind == "Concat":
        return net.conv(net.op("Concat", *made, axis=1), 3 * len(made), 3, 1)
    return net.op("Sum", *made)


def attended(net: Net, x: str, window: int) -> str:
    by_time = net.swap(x)
    scores = net.op("Where", net.allowed(by_time, window), net.op("MatMul", by_time, x), net.const(-1e30))
    return net.swap(net.op("MatMul", net.op("Softmax", scores, axis=-1), by_time))


def summed(net: Net, x: str, **options: Any) -> str:
    return net.op("Tanh", net.op("CumSum", x, net.const([2]), **options))


def head(net: Net, x: str, kind: str) -> str:
    if kind == "last":
        return net.cut(x, -1)
    return net.op(kind, x, net.const([2])) if kind == "ReduceSum" else net.op(kind, x, axes=[2])


LAYERS = {
    "conv": conv,
    "pool": pool,
    "pad": Net.pad,
    "cut": Net.cut,
    "recurrent": recurrent,
    "added": added,
    "attended": attended,
    "summed": summed,
    "head": head,
    "tanh": lambda net, x: net.op("Tanh", x),
}


def stacked(net: Net, x: str, layers: list[Layer]) -> str:
    x = net.conv(x, 2, 3, 1)
    for name, options in layers:
        x = LAYERS[name](net, x, **options)
    return x


few = partial(st.integers, 0)


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    options = {
        "kernel": draw(st.integers(1, 5)),
        "stride": draw(st.integers(1, 3)),
        "dilation": draw(st.integers(1, 3)),
    }
    return options | {"pads": (draw(few(6)), draw(few(4)))}


@st.composite
def pools(draw: st.DrawFn) -> dict[str, Any]:
    kind, kernel = draw(st.sampled_from(["MaxPool", "AveragePool"])), draw(st.integers(1, 4))
    pads = (draw(few(kernel - 1)), draw(few(kernel - 1)))
    more = {"dilations": [draw(st.integers(1, 2))]} if kind == "MaxPool" else {"count_include_pad": draw(few(1))}
    return {"kind": kind, "kernel": kernel, "stride": draw(st.integers(1, 3)), "pads": pads, **more}


@st.composite
def keeping(draw: st.DrawFn) -> dict[str, Any]:
    """A convolution that keeps the length."""
    kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    both = (kernel - 1) * dilation
    left = draw(few(both))
    return {"kernel": kernel, "dilation": dilation, "pads": (left, both - left)}


@st.composite
def cutting(draw: st.DrawFn) -> dict[str, Any]:
    end = draw(st.integers(-4, 0))
    return {"start": draw(few(4)), "step": draw(st.integers(1, 3)), **({"end": end} if end else {})}


RECURRENCES = st.fixed_dictionaries({"kind": st.sampled_from(["RNN", "LSTM", "GRU"])})
PADS = st.fixed_dictionaries({"before": few(4), "after": few(4), "fill": st.sampled_from([0.0, 0.5])})
BRANCHES = st.fixed_dictionaries(
    {"kind": st.sampled_from(["Add", "Concat"]), "branches": st.lists(keeping(), min_size=1, max_size=3)}
)
OPTIONS = {
    "conv": convolutions(),
    "pool": pools(),
    "pad": PADS,
    "cut": cutting(),
    "recurrent": RECURRENCES,
    "added": BRANCHES,
    "attended": st.fixed_dictionaries({"window": st.integers(1, 4)}),
    "summed": st.fixed_dictionaries({"exclusive": few(1)}),
    "tanh": st.just({}),
}
HEADS = st.sampled_from(["last", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"])


@st.composite
def stacks(draw: st.DrawFn) -> list[Layer]:
    kinds = draw(st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=5))
    layers = [(kind, draw(OPTIONS[kind])) for kind in kinds]
    return [*layers, ("head", {"kind": draw(HEADS)})] if draw(few(4)) == 0 else layers


@settings(
    max_examples=2000 if LONG else 40, deadline=None, derandomize=not LONG, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(layers=stacks())
@pytest.mark.timeout(7200 if LONG else 120)
def test_any_stack_of_layers_streams_exactly_or_is_refused(layers: list[Layer]) -> None:
    try:
        done = exported(Entry(partial(stacked, layers=layers), (CHANNELS,)))
    except RefusedError as refused:
        note(str(refused))
        return
    assert done.proof.max_error <= 1e-4  # sums over time grow large


def integers(net: Net, x: str, layers: list[Layer]) -> str:
    """Every layer between integers."""
    x = net.quantized(net.integer_conv(net.quantized(x, 0.03, 90, "uint8"), 2, 3, 1), 0.03, 100, "uint8")
    for k, (name, options) in enumerate(layers):
        x = net.integer_conv(x, 3, 3, options["kernel"], **window(options)) if name == "conv" else (
            LAYERS[name](net, x, **options))  # fmt: skip
        x = net.quantized(x, 0.03 + 0.01 * k, 100 + k, "uint8")
    return x


def window(options: dict[str, Any]) -> dict[str, Any]:
    return {"pads": options["pads"], "strides": [options["stride"]], "dilations": [options["dilation"]]}


@st.composite
def integer_stacks(draw: st.DrawFn) -> list[Layer]:
    kinds = draw(st.lists(st.sampled_from(["conv", "pool", "cut"]), min_size=1, max_size=4))
    layers = [(kind, draw(OPTIONS[kind])) for kind in kinds]
    return [(kind, INTEGERLY.get(kind, dict)(options)) for kind, options in layers]


def largest(pool: dict[str, Any]) -> dict[str, Any]:
    """The same window over a maximum."""
    return {name: pool[name] for name in ("kernel", "stride", "pads")} | {"kind": "MaxPool"}


def later(cut: dict[str, Any]) -> dict[str, Any]:
    """From the second frame on, at least: of a slice that cuts nothing, onnxruntime would merge the integers around."""
    return cut | {"start": max(cut["start"], 1)}


INTEGERLY = {"pool": largest, "cut": later}


@settings(
    max_examples=400 if LONG else 8, deadline=None, derandomize=not LONG, print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(layers=integer_stacks())
@pytest.mark.timeout(7200 if LONG else 120)
def test_any_quantized_stack_streams_to_the_bit_or_is_refused(layers: list[Layer]) -> None:
    try:
        done = exported(Entry(partial(integers, layers=layers), (CHANNELS,)))
    except RefusedError as refused:
        note(str(refused))
        return
    assert done.proof.max_error == 0
