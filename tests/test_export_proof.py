"""What the proof of an export must see: each of its checks against a model that only that check tells apart."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.export import report
from holdover.export.contract_io import attach
from holdover.export.describe import Statement
from holdover.export.exporting import Exported, Options, export, verify
from holdover.export.measure import Reference, settling, stability
from holdover.export.original import Original, refuse_infinite
from holdover.export.proof import Proof, engine_of, feed, prove
from holdover.export.tally import Tally, still
from holdover.export.tolerance import tolerances
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ModelError
from holdover.runtime.stream import Stream
from tests import graphs
from tests.zoo_onnx import ZOO

Array = NDArray[Any]
N = helper.make_node


def whole(*nodes: onnx.NodeProto, outputs: Sequence[str] = ("y",), **weights: Any) -> onnx.ModelProto:
    """A graph from x (batch, time, 1) to its outputs."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 1])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    graph = helper.make_graph(list(nodes), "whole", [x], ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def exported(model: onnx.ModelProto) -> Exported:
    return export(Original(model, "onnx", "0" * 64), Options(Statement("m", 100.0, ("I",), "mV")))


def against(done: Exported, model: onnx.ModelProto) -> Proof:
    """The proof of a streaming file against some original."""
    original = Original(model, "onnx", "0" * 64)
    return verify(done.model.SerializeToString(), done.contract, original, None, None, "noise")


def product(factor: float) -> onnx.ModelProto:
    """The product of all samples so far, times a factor: loud noise takes it to infinity."""
    return whole(
        N("Abs", ["x"], ["size"]), N("Log", ["size"], ["log"]), N("CumSum", ["log", "one"], ["sum"]),
        N("Exp", ["sum"], ["exp"]), N("Mul", ["exp", "factor"], ["y"]),
        one=np.array(1), factor=np.float32(factor),
    )  # fmt: skip


def loud_and_quiet(seed: int, join: bool = False) -> onnx.ModelProto:
    """A signal of hundred thousands, and a softmax that another seed gives otherwise."""
    rng = np.random.default_rng(seed)
    ends = [N("Concat", ["raw", "prob"], ["y"], axis=2)] if join else []
    return whole(
        N("Mul", ["x", "loud"], ["raw"]), N("MatMul", ["x", "w"], ["logits"]),
        N("Softmax", ["logits"], ["prob"], axis=2), *ends, outputs=["y"] if join else ["raw", "prob"],
        loud=np.float32(1e5), w=rng.normal(size=(1, 3)).astype(np.float32),
    )  # fmt: skip


def scaled(factor: float) -> onnx.ModelProto:
    return whole(N("Mul", ["x", "factor"], ["y"]), factor=np.float32(factor))


OTHERS: dict[str, tuple[onnx.ModelProto, onnx.ModelProto]] = {
    "numbers that overflow": (product(1.0), product(1.02)),
    "a quiet output beside a loud one": (loud_and_quiet(0), loud_and_quiet(1)),
    "quiet columns beside a loud one": (loud_and_quiet(0, join=True), loud_and_quiet(1, join=True)),
    "an output that is quiet itself": (scaled(1e-8), scaled(1.1e-8)),
}
"""A model, and another one."""


@pytest.mark.parametrize("name", OTHERS)
def test_another_model_is_seen_however_loud_or_quiet_it_is(name: str) -> None:
    model, other = OTHERS[name]
    done = exported(model)
    assert against(done, model).refusals == ()
    found = against(done, other)
    assert any("differs from the original" in reason for reason in found.refusals)
    assert found.excess > 1
    assert all(math.isfinite(t) for t in found.tolerances.values())


def test_what_overflows_says_nothing_of_rounding() -> None:
    def reference(x: Array) -> dict[str, Array]:
        with np.errstate(over="ignore", invalid="ignore"):
            big = x * np.float32(1e38)
            return {"y": np.concatenate([x, big, big * 10 - big * 10], axis=2)}

    def precise(x: Array) -> dict[str, Array]:
        return reference(x.astype(np.float64)) | {"z": x}

    x = np.random.default_rng(0).normal(size=(3, 50, 1)).astype(np.float32) * np.array([[[1]], [[0.1]], [[10]]], "f")
    found = tolerances(reference, precise, x, [50])["y"]
    assert found.shape == (3, 3)
    assert np.isfinite(found).all()
    assert (found > 0).all()


def test_each_stream_and_each_column_has_its_own_tolerance() -> None:
    def reference(x: Array) -> dict[str, Array]:
        return {"y": np.concatenate([x, 1e6 * x], axis=2).astype(np.float32)}

    x = np.ones((3, 20, 1), np.float32) * np.array([[[1]], [[0.1]], [[10]]], np.float32)
    found = tolerances(reference, None, x, [20])["y"]
    assert found[0, 0] < found[0, 1]
    assert found[1, 1] < found[0, 1] < found[2, 1]
    assert found[0, 0] == pytest.approx(1e-5)


CASES = {
    "the same infinity": (np.inf, np.inf, False),
    "another infinity": (np.inf, -np.inf, True),
    "no number twice": (np.nan, np.nan, False),
    "no number": (np.nan, 1.0, True),
    "a number for none": (1.0, np.nan, True),
    "infinity for a number": (np.inf, 1.0, True),
    "a number for infinity": (1.0, np.inf, True),
    "nearly the same": (1.0, 1.000001, False),
    "not the same": (1.0, 1.001, True),
}


def contract(**more: Any) -> Contract:
    return Contract.of(graphs.document([], **more))


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_finite_must_be_met_by_the_same(name: str) -> None:
    found, wanted, wrong = CASES[name]
    tally = Tally({"y": np.full((1, 1), 1e-5)})
    tally.add("here", contract(), {"y": np.full((4, 1), found, "f")}, {"y": np.full((4, 1), wanted, "f")}, 4)
    assert (tally.checks["here"] > 1) == wrong
    assert bool(tally.reasons()) == wrong


@pytest.mark.parametrize(
    ("end", "frames", "wrong"), [("cut", 4, False), ("cut", 5, True), ("cut", 3, True), ("held", 5, False)]
)
def test_frames_that_the_original_does_not_have_are_counted(end: str, frames: int, wrong: bool) -> None:
    tally = Tally({"y": np.ones((1, 1))})
    tally.add("here", contract(end=end), {"y": np.zeros((frames, 1))}, {"y": np.zeros((4, 1))}, 4)
    assert bool(tally.reasons()) == wrong


def test_a_value_over_all_of_time_must_be_given() -> None:
    c = exported(whole(N("ReduceMax", ["x"], ["y"], axes=[1], keepdims=0))).contract
    tally = Tally({"y": np.ones((1, 1))})
    tally.add("here", c, {"y": np.zeros((0, 1))}, {"y": np.zeros((1, 1))}, 4)
    assert tally.reasons()


def difference() -> onnx.ModelProto:
    """Each sample but the first, less the one before."""
    ends = {"first": np.array([1]), "none": np.array([0]), "last": np.array([-1]), "end": np.array([2**62])}
    return whole(
        N("Slice", ["x", "first", "end", "first"], ["later"]), N("Slice", ["x", "none", "last", "first"], ["before"]),
        N("Sub", ["later", "before"], ["y"]), **ends,
    )  # fmt: skip


def every_third() -> onnx.ModelProto:
    """Every third sample, from the second on."""
    return whole(
        N("Slice", ["x", "first", "end", "first", "third"], ["y"]), first=np.array([1]), end=np.array([2**62]),
        third=np.array([3]),
    )  # fmt: skip


@pytest.mark.parametrize(("make", "wanted"), [(difference, lambda x: x[1:] - x[:-1]), (every_third, lambda x: x[1::3])])
@pytest.mark.parametrize("samples", [6, 7, 8, 101, 1999])
def test_a_stream_ends_with_the_frames_of_the_original(
    samples: int, make: Callable[[], onnx.ModelProto], wanted: Callable[[Array], Array]
) -> None:
    engine, x = engine_of(exported(make()).model.SerializeToString()), graphs.signal(samples)
    for sizes in ([samples], [1] * samples):
        found = feed(engine, x, sizes)["y"]
        assert found.shape == wanted(x).shape
        assert np.abs(found - wanted(x)).max() < 1e-6


def still_columns() -> onnx.ModelProto:
    """Beside one that moves, a column that never does."""
    return whole(
        N("Sub", ["x", "far"], ["below"]), N("Relu", ["below"], ["dead"]), N("Concat", ["x", "dead"], ["y"], axis=2),
        far=np.float32(1000),
    )  # fmt: skip


def still_head() -> onnx.ModelProto:
    """The largest of what is always 0."""
    return whole(
        N("Sub", ["x", "far"], ["below"]), N("Relu", ["below"], ["dead"]),
        N("ReduceMax", ["dead"], ["y"], axes=[1], keepdims=0), far=np.float32(1000),
    )  # fmt: skip


def still_frames() -> onnx.ModelProto:
    return whole(N("Sub", ["x", "far"], ["below"]), N("Relu", ["below"], ["y"]), far=np.float32(1000))


@pytest.mark.parametrize("make", [still_head, still_frames])
def test_an_output_that_never_moves_is_refused(make: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(ModelError, match="output y said the same all along, so that nothing was proven of it"):
        exported(make())


def test_a_column_that_never_moves_is_told_and_kept_in_the_contract() -> None:
    done = exported(still_columns())
    assert done.contract.document["verification"]["still"] == {"y": [1]}
    said = " ".join(" ".join(report.lines(done)).split())
    assert "warning y, column 1 (the first is 0) said the same all along" in said
    assert "--test-input" in said
    assert exported(scaled(1.0)).contract.document["verification"]["still"] == {}


def test_columns_without_a_finite_number_never_move() -> None:
    run = {"y": np.array([[1, np.nan, np.inf, 0], [2, np.nan, -np.inf, np.nan], [3, np.nan, np.inf, 0]])}
    assert still(contract(), [run]) == {"y": (1, 2, 3)}


def test_one_frame_alone_is_not_said_to_be_still() -> None:
    assert still(contract(), [{"y": np.zeros((1, 2))}]) == {}


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_a_framework_that_gives_no_number_where_the_graph_does_is_not_believed(odd: float) -> None:
    def answer(inputs: Any) -> dict[str, Array]:
        return {"y": np.full_like(inputs["x"], odd)}

    with pytest.raises(ModelError, match="differs from its own framework by inf in y"):
        export(Original(scaled(1.0), "torch", "0" * 64, answer=answer), Options(Statement("m", 100.0, ("I",), "mV")))


# Each check, and what only it sees


def streamed(nodes: list[onnx.NodeProto], width: int = 1, **more: Any) -> bytes:
    """A streaming file without memory."""
    return graphs.graph(nodes, {}, graphs.document([], **more), width).SerializeToString()


def reasons(data: bytes, reference: Reference) -> tuple[str, ...]:
    return prove(data, reference, count=1).refusals


def test_an_original_that_looks_ahead_by_less_than_rounding_is_seen() -> None:
    def peeks(x: Array) -> dict[str, Array]:
        later = np.concatenate([x[:, 1:], x[:, -1:]], axis=1)
        return {"y": (x + np.float32(1e-7) * later).astype(np.float32)}

    data = streamed([N("Identity", ["x"], ["y"])])
    assert reasons(data, lambda x: {"y": x}) == ()
    assert reasons(data, peeks) == ("output y depends on 1 samples after its own, the contract says 0",)


def test_streams_that_leak_into_each_other_in_one_call_are_seen() -> None:
    leak = [
        N("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1), N("Sub", ["x", "mean"], ["apart"]),
        N("Add", ["x", "apart"], ["y"]),
    ]  # fmt: skip
    found = reasons(streamed(leak), lambda x: {"y": x})
    assert len(found) == 1
    assert found[0].startswith("three streams in a call: y differs from the original")


def test_frames_that_come_sooner_than_the_contract_says_are_seen() -> None:
    done = _conv_same()
    model, document = done.model, dict(done.contract.document)
    late = [o | {"delay": o["delay"] + 1} for o in document["outputs"]]
    attach(model, document | {"outputs": late})
    found = prove(model.SerializeToString(), _original(ZOO["conv_same"].model()), count=1).refusals
    assert len(found) == 1
    assert found[0].startswith("after 3 samples y gave 1 frames, the contract promises 0")


def _conv_same() -> Exported:
    leads = tuple(f"lead{i}" for i in range(ZOO["conv_same"].width))
    options = Options(Statement("m", 100.0, leads, "mV"))
    return export(Original(ZOO["conv_same"].model(), "onnx", "0" * 64), options)


def _original(model: onnx.ModelProto) -> Reference:
    """A graph over channels first, as a reference over samples first."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda x: {"y": session.run(None, {"x": x.transpose(0, 2, 1)})[0].transpose(0, 2, 1)}


def test_a_memory_that_is_not_restored_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    data = exported(recurrence(0.5)).model.SerializeToString()
    engine = engine_of(data)

    def reference(x: Array) -> dict[str, Array]:
        return {"y": np.stack([feed(engine, one, [len(one)])["y"] for one in x])}

    assert reasons(data, reference) == ()
    before = Stream.restore

    def forgetful(stream: Stream, memory: Any) -> None:
        fresh = stream.snapshot()["lane"]
        before(stream, {**memory, "lane": fresh})

    monkeypatch.setattr(Stream, "restore", forgetful)
    found = reasons(data, reference)
    assert found
    assert all(reason.startswith("saved and restored") for reason in found)


def recurrence(gain: float) -> onnx.ModelProto:
    """h = gain * h + x."""
    return whole(
        N("Transpose", ["x"], ["by_time"], perm=[1, 0, 2]),
        N("RNN", ["by_time", "w", "r"], ["h"], hidden_size=1, activations=["Affine"], activation_alpha=[1.0],
          activation_beta=[0.0]),
        N("Squeeze", ["h", "one"], ["squeezed"]), N("Transpose", ["squeezed"], ["y"], perm=[1, 0, 2]),
        w=np.ones((1, 1, 1), np.float32), r=np.full((1, 1, 1), gain, np.float32), one=np.array([1]),
    )  # fmt: skip


@pytest.mark.parametrize("gain", [0.5, 1.05])
def test_how_fast_small_differences_grow_is_measured_and_told(gain: float) -> None:
    done = exported(recurrence(gain))
    assert done.proof.exponent == pytest.approx(math.log(gain), abs=0.01)
    assert done.contract.document["verification"]["state_exponent"] == pytest.approx(math.log(gain), abs=0.01)
    said = " ".join(" ".join(report.lines(done)).split())
    assert ("warning small differences of the state grow" in said) == (gain > 1)
    assert ("small differences of the state die out" in said) == (gain < 1)


def test_a_state_that_overflows_ends_the_measurements() -> None:
    done = exported(recurrence(1.05))
    engine = engine_of(done.model.SerializeToString())
    x = np.full((2, 4000, 1), 1e37, np.float32)
    assert 0 < settling(engine, x)["y"] < 100  # until the one that begins anew is beyond all numbers too
    x[:, :] = 1
    x[:, 60] = np.inf
    assert stability(engine, x[:1]) == pytest.approx(math.log(1.05), abs=0.01)


def test_nothing_of_the_machine_that_made_a_model_is_left_in_it() -> None:
    model = recurrence(0.5)
    model.metadata_props.add(key="made", value="/home/author/model.py")
    model.doc_string = model.graph.doc_string = "/home/author/graph.py"
    for node in model.graph.node:
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File /home/author/net.py, line 3")
        node.doc_string = "/home/author/node.py"
    for output in model.graph.output:
        output.doc_string = "/home/author/output.py"
    done = exported(model)
    for made in (done.model, done.whole):
        assert b"/home/author" not in made.SerializeToString()


# Infinite weights


def test_infinite_weights_are_refused_with_the_node_that_has_them() -> None:
    for node in (N("MatMul", ["x", "t"], ["y"]), N("Gemm", ["x", "t"], ["y"])):
        w = np.array([[1, np.inf]], np.float32)
        model = whole(N("Transpose", ["w"], ["t"]), node, w=w.T)
        with pytest.raises(ModelError, match=f"the weight w of {node.op_type} 'y' holds infinity, 1 of 2"):
            refuse_infinite(model)
    model = recurrence(0.5)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.full((1, 1, 1), np.inf, np.float32), "r"))
    with pytest.raises(ModelError, match="the weight r of RNN 'h' holds infinity, 1 of 1"):
        exported(model)


def test_infinite_weights_in_a_body_are_found() -> None:
    body = helper.make_graph(
        [N("MatMul", ["v", "w"], ["z"]), N("Identity", ["go"], ["go.out"])], "body",
        [helper.make_tensor_value_info(n, k, None) for n, k in (("i", 7), ("go", 9), ("v", 1))],
        [helper.make_tensor_value_info(n, k, None) for n, k in (("go.out", 9), ("z", 1))],
    )  # fmt: skip
    loop = N("Loop", ["n", "", "x"], ["y"], body=body)
    with pytest.raises(ModelError, match="the weight w of MatMul 'z' holds infinity"):
        refuse_infinite(whole(loop, n=np.array(3), w=np.full((1, 1), -np.inf, np.float32)))


def test_a_mask_of_minus_infinity_is_no_such_weight() -> None:
    mask = np.array([[0, -np.inf]], np.float32)
    refuse_infinite(whole(N("MatMul", ["x", "w"], ["a"]), N("Add", ["a", "mask"], ["b"]), N("Softmax", ["b"], ["y"]),
                          w=np.ones((1, 2), np.float32), mask=mask))  # fmt: skip
