"""Every method on every family: proven, isolated, smaller, or refused with a reason."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from holdover.export.contract_io import read
from holdover.export.measure import blocks
from holdover.export.proof import engine_of
from holdover.quantize.cost import step_costs
from holdover.quantize.grid import is_worth_it, pack, round_weights, rounded
from holdover.quantize.isolation import Isolation, isolation, takes_batch
from holdover.quantize.method import Made, Parent, Refused
from holdover.quantize.methods.step_int8 import take_apart
from holdover.quantize.methods.table import AUTO, METHODS
from holdover.quantize.quantizing import isolated
from holdover.runtime.engine import initial_state
from holdover.runtime.errors import ModelError
from tests.quantize_nets import FAMILIES, calibration, ecg, parent, whole

EXACT = ("static-int8", "step-int8")
"""Where the streamed model must give what the whole-sequence graph gives that was quantized alike, to the bit."""
BATCHED = {("rnn", "static-int8")}
"""The same, apart from batches: onnxruntime's RNN gives other last bits beside other streams."""
REFUSING = {
    **dict.fromkeys(("tcn", "looks-ahead", "mlp"), ("float16", "step-int8", "dynamic-int8")),
    "lstms": ("float16", "static-int8", "int16"),
}
"""What finds nothing to do in a family."""
MODEL = Path(__file__).parent.parent / "models" / "ecg_beats" / "model.onnx"


def made(name: str, method: str) -> Made:
    """A family through a method that takes it."""
    found = METHODS[method](parent(name), calibration())
    assert isinstance(found, Made), found
    return found


def data_of(found: Made) -> bytes:
    data: bytes = found.model.SerializeToString(deterministic=True)
    return data


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_method_gives_a_proven_smaller_model_or_a_reason(name: str, method: str) -> None:
    found = METHODS[method](parent(name), calibration())
    if isinstance(found, Refused):
        assert method in REFUSING.get(name, ("float16",)), found.reason
        assert len(found.reason) > 20
        return
    data, contract = data_of(found), read(found.model)
    assert len(data) < len(parent(name).data)
    assert found.proof.frames > 200
    assert found.proof.refusals == ()
    assert [o.name for o in contract.outputs] == [o.name for o in parent(name).contract.outputs]
    if method in EXACT:
        assert found.proof.max_error <= (1e-6 if (name, method) in BATCHED else 0)
    leaks = isolation(data, ecg(5))
    assert leaks.holds, leaks
    assert takes_batch(engine_of(data)) == (method != "dynamic-int8")


@pytest.mark.parametrize("name", ["conv-lstm", "tcn", "looks-ahead"])
def test_history_of_a_static_model_is_integer(name: str) -> None:
    kinds = [s.dtype for s in read(made(name, "static-int8").model).states]
    assert "uint8" in kinds
    assert read(made(name, "static-int8").model).bitwise


@pytest.mark.parametrize("name", ["conv-lstm", "gru", "gru-after-reset", "rnn"])
def test_recurrent_steps_carry_float_cells_and_come_near_the_parent(name: str) -> None:
    found = made(name, "step-int8")
    ops = [n.op_type for n in found.model.graph.node]
    assert "Scan" in ops
    assert not {"LSTM", "GRU", "RNN"} & set(ops)
    c = read(found.model)
    x = ecg(20, 100)[None]
    a, b = (blocks(engine_of(d), x, [x.shape[1]])["y"] for d in (parent(name).data, data_of(found)))
    assert float(np.sqrt(np.mean((a - b) ** 2))) < 0.1 * float(a.std())
    assert {s.dtype for s in c.states if "end" in s.name or "step" in s.name} <= {"float32", "bool"}


@pytest.mark.parametrize("name", ["gru", "gru-after-reset", "lstms", "rnn"])
def test_a_layer_taken_apart_is_the_layer(name: str) -> None:
    """Weights on a grid of 7 bits: what is left is the rounding of the hidden state."""
    from holdover.export.whole import clean, session

    original = clean(whole(name))
    apart = clean(whole(name))
    assert take_apart(apart)
    x = {"x": np.ascontiguousarray(ecg(5)[None].transpose(0, 2, 1))}
    a, b = (session(m).run(None, x)[0] for m in (original, apart))
    assert np.abs(a - b).max() < 0.15 * np.abs(a).max()
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.03 * a.std()


def test_a_dynamic_model_says_that_it_depends_on_the_block_and_refuses_a_batch() -> None:
    found = made("lstms", "dynamic-int8")
    c = read(found.model)
    assert not c.bitwise
    assert c.grid == c.hop
    assert found.notes
    engine = engine_of(data_of(found))
    with pytest.raises(ModelError, match="does not take"):
        engine.step(ecg(1)[None].repeat(2, 0)[:, : c.hop], initial_state(c, 2))


def test_the_quantize_dynamic_of_onnxruntime_does_leak_and_is_seen_to(tmp_path: Path) -> None:
    """The check of isolation, against what it is there to find."""
    from onnxruntime.quantization import quantize_dynamic

    from holdover.quantize.methods.static_int8 import named

    quantize_dynamic(named(onnx.load(MODEL)), tmp_path / "q.onnx", op_types_to_quantize=["LSTM", "MatMul"])
    found = isolation((tmp_path / "q.onnx").read_bytes(), ecg(20))
    assert found.loud is not None
    assert found.loud > 1e-3
    assert found.later > 1e-3
    assert not found.holds
    assert Isolation(np.inf, 0.5, 0.0).document() == {"loud": "inf", "nan": 0.5, "later": 0.0}
    model = onnx.load(tmp_path / "q.onnx")
    assert takes_batch(engine_of(model.SerializeToString()))
    assert isolated(model, ecg(20)).loud is None, "what leaks between streams takes one stream from then on"
    assert not takes_batch(engine_of(model.SerializeToString()))


def test_a_file_that_streams_already_is_told_where_to_start() -> None:
    streaming = Parent(parent("conv-lstm").data, "0" * 64, parent("conv-lstm").contract)
    for method in EXACT:
        found = METHODS[method](streaming, calibration())
        assert isinstance(found, Refused)
        assert "--keep-whole" in found.reason
    for method in ("weights-int8", "int16", "dynamic-int8"):
        found = METHODS[method](streaming, calibration())
        assert isinstance(found, Made)
        assert len(data_of(found)) < len(streaming.data)


def test_float16_is_refused_with_the_reason() -> None:
    found = METHODS["float16"](parent("gru"), calibration())
    assert isinstance(found, Refused)
    assert "weights-int8" in found.reason


def test_auto_never_takes_what_depends_on_the_block() -> None:
    assert "dynamic-int8" not in AUTO
    assert set(AUTO) <= set(METHODS)


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "entropy"])
def test_every_way_to_take_ranges_is_quiet_and_exact(
    ranges: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from holdover.quantize.calibration import Calibration

    found = METHODS["static-int8"](parent("conv-lstm"), Calibration(calibration().signals, ranges))  # type: ignore[arg-type]
    assert isinstance(found, Made)
    assert found.proof.max_error == 0
    said = capfd.readouterr()
    assert (said.out, said.err, caplog.text) == ("", "", "")


# Weights on a grid

shapes = st.tuples(st.integers(1, 3), st.integers(8, 40), st.integers(8, 40))


@settings(max_examples=40, deadline=None)
@given(shape=shapes, seed=st.integers(0, 2**16), power=st.floats(-8, 4), axis=st.integers(0, 2))
def test_what_lies_on_a_grid_is_packed_and_unpacked_to_the_bit(
    shape: tuple[int, int, int], seed: int, power: float, axis: int
) -> None:
    weight = (np.random.default_rng(seed).standard_t(2, shape) * 10**power).astype(np.float32)
    near = rounded(weight, axis)
    largest = np.abs(weight).max(axis=tuple(i for i in range(3) if i != axis), keepdims=True)
    assert (np.abs(near - weight) <= largest / 127 * 0.51).all()
    assert np.array_equal(rounded(near, axis), near)
    small = pack(_product(near.reshape(shape[0] * shape[1], shape[2]) if axis == 2 else near))
    kinds = {t.data_type for t in small.graph.initializer}
    assert (onnx.TensorProto.INT8 in kinds) == is_worth_it(near.reshape(-1, shape[2]) if axis == 2 else near)


def _product(weight: np.ndarray) -> onnx.ModelProto:  # type: ignore[type-arg]
    node = onnx.helper.make_node("Mul", ["x", "w"], ["y"])
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", infos[:1], infos[1:], [numpy_helper.from_array(weight, "w")])
    return onnx.helper.make_model(graph)


def test_a_packed_model_computes_the_same_bits_and_costs_the_same() -> None:
    model = onnx.load(MODEL)
    assert round_weights(model) == 8
    small = pack(model).SerializeToString()
    plain = model.SerializeToString()
    assert len(plain) > 3 * len(small)
    x = ecg(30)[None, ::3]
    x = x[:, : x.shape[1] // 6 * 6]
    a, b = (blocks(engine_of(d), x, [x.shape[1]]) for d in (plain, small))
    assert all(a[n].tobytes() == b[n].tobytes() for n in a)
    before, after = step_costs([plain, small])
    assert after < 1.5 * before, "weights are unpacked when the model is loaded, not at every step"


def test_weights_that_are_not_finite_or_off_the_grid_are_left_alone() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    assert pack(_product(weight)).graph.initializer[0].name == "w"
    weight[0, 0] = np.nan
    assert pack(_product(weight)).graph.initializer[0].name == "w"
    zero = pack(_product(np.zeros((40, 40), np.float32)))
    assert {t.name for t in zero.graph.initializer} == {"w.int8", "w.scale"}
