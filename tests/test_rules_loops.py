"""Recurrences that are no layer of their own: Loop, Scan, and the bounded backward half of bidirectional layers."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from holdover.export import exporting
from holdover.export.contract_io import attach
from holdover.export.describe import Statement, describe
from holdover.export.exporting import Exported, Options, export, references
from holdover.export.loom import Weave
from holdover.export.measure import blocks
from holdover.export.original import Original
from holdover.export.proof import engine_of, feed, pieces, prove
from holdover.export.refusal import RefusedError
from holdover.export.rules import cell
from holdover.export.rules.loop import recognise
from holdover.export.streaming import Woven, weave
from holdover.export.whole import Whole, clean, layouts, session
from holdover.runtime.errors import ModelError
from tests.zoo_onnx import GATES, STATES, Net

Array = NDArray[Any]
Draw = Callable[[Net, str], str]
FIXTURES = Path(__file__).parent / "fixtures" / "onnx"
RECURRENT = ("Loop", "Scan", "RNN", "GRU", "LSTM")


@pytest.fixture(autouse=True)
def _fewer_chunkings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proof with fewer random chunkings."""
    monkeypatch.setattr(exporting, "prove", partial(prove, count=3))


def drawn(draw: Draw, width: int = 3, batch: int | str = "batch") -> onnx.ModelProto:
    """A graph from x, (batch, time, width), to y."""
    net = Net()
    return net.model({"x": (batch, "time", width)}, [draw(net, "x")])


def exported(model: onnx.ModelProto, width: int = 3, **options: Any) -> Exported:
    """Through the whole of the export."""
    leads = tuple(f"lead{i}" for i in range(width))
    return export(Original(model, "onnx", "0" * 64), Options(Statement("loops", 100.0, leads, "mV"), **options))


def refused(model: onnx.ModelProto, **options: Any) -> str:
    with pytest.raises(RefusedError) as why:
        exported(model, **options)
    return " ".join(str(why.value).split())


def operators(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node if n.op_type in RECURRENT]


def streamed(done: Exported, x: Array, sizes: Sequence[int]) -> Array:
    """Its first output, (frames, width), of x, (samples, channels), in such pieces."""
    return feed(engine_of(done.model.SerializeToString()), x, sizes)[done.contract.outputs[0].name]


def noise(samples: int, width: int = 3, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(samples, width)).astype(np.float32)


# Loops of other tools

TOOLS = {
    "keras_gru": ["GRU"],
    "keras_gru_reset_before": ["GRU"],
    "keras_gru_2": ["GRU", "GRU"],
    "keras_gru_dense": ["GRU"],
    "keras_gru_last": ["GRU"],
    "keras_gru_hard": ["GRU"],
    "keras_conv_gru": ["GRU"],
    "keras_lstm": ["LSTM"],
    "keras_rnn": ["RNN"],
    "jax_lstm": ["LSTM"],
    "jax_high_pass": ["Scan"],
}


@pytest.mark.parametrize("name", TOOLS)
def test_a_loop_of_another_tool_streams_to_what_that_tool_answers(name: str) -> None:
    done = exported(onnx.load(FIXTURES / f"{name}.onnx"), 2)
    assert operators(done.model) == TOOLS[name]
    assert done.proof.max_error <= 1e-5
    answer = np.load(FIXTURES / f"{name}.npz")
    rng = np.random.default_rng(1)
    for x, y in zip(answer["x"], answer["y"], strict=True):
        found = streamed(done, x, pieces(len(x), rng))
        np.testing.assert_allclose(found[-1] if y.ndim == 1 else found, y, atol=2e-6)


def test_a_layer_of_keras_that_runs_backwards_is_refused_in_its_authors_words() -> None:
    why = refused(onnx.load(FIXTURES / "keras_gru_backwards.onnx"))
    assert "reverses time: the output at the first step needs the last sample" in why


# Loops written by hand

WEIGHTS: dict[str, Array] = {
    "keep": np.array(0.9, np.float32),
    "take": np.array(0.1, np.float32),
    "one": np.array(1.0, np.float32),
    "yes": np.array(True),
    "zero": np.array(0),
    "next": np.array(1),
    "first_axis": np.array([0]),
    "three": np.array([3]),
    "axis0": np.array([0]),
    "late": np.array([5000]),
    "last": np.array([5000]),
}


def written(body: str, **weights: Array) -> onnx.ModelProto:
    """A model from the text of its nodes, from x, (batch, time, 3), and t, the same by time, to y."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[batch, time, 3] x) => (float[a, b, c] y) {'
        " t = Transpose <perm = [1, 0, 2]> (x)"
        " size = Shape <start = 0, end = 1> (t)"
        " streams = Shape <start = 1, end = 2> (t)"
        " grid = Concat <axis = 0> (streams, three)"
        " zeros = ConstantOfShape <value = float[1] {0.0}> (grid)" + body + "}"
    )
    for name, value in (WEIGHTS | weights).items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


FILTER = "old = Mul (state, keep) new = Mul (frame, take) after = Add (old, new) kept = Sub (frame, after)"


def loop(step: str = FILTER, more: str = "more = Identity (going)", many: str = "many") -> str:
    """Text of a Loop that takes frame i of t, carries a state and counts."""
    return f"""
        many = Squeeze (size, first_axis) ten = Constant <value_int = 10> ()
        state_end, steps, kept_all = Loop <body = b
            (int64 i, bool going, float[n, 3] state, int64 count)
            => (bool more, float[n, 3] after, int64 added, float[n, 3] kept)
            {{ frame = Gather (t, i) {step} {more} added = Add (count, next) }}> ({many}, yes, zeros, zero)
        y = Transpose <perm = [1, 0, 2]> (kept_all)"""


def filtered(x: Array) -> Array:
    """What the loop of this file keeps, by its definition."""
    mean, kept = np.zeros(x.shape[1]), []
    for frame in x:
        mean = 0.9 * mean + 0.1 * frame
        kept.append(frame - mean)
    return np.array(kept)


def test_a_loop_over_frames_streams_with_its_state_carried() -> None:
    done = exported(written(loop()))
    assert operators(done.model) == ["Scan"]
    x = noise(50)
    np.testing.assert_allclose(streamed(done, x, [7, 0, 1, 42]), filtered(x), atol=1e-6)


def test_a_loop_may_read_its_frames_by_a_count_of_its_own() -> None:
    text = loop().replace("frame = Gather (t, i)", "k = Cast <to = 6> (count) frame = Gather (t, k)")
    assert operators(exported(written(text)).model) == ["Scan"]


@pytest.mark.parametrize("step", ["filter", "GRU, reset after"])
def test_a_loop_may_take_its_frames_along_another_axis(step: str) -> None:
    op, body = CELLS.get(step, ("Scan", FILTER))
    text = loop(body).replace("Gather (t, i)", "Gather <axis = 1> (x, i)")
    done = exported(written(text, **cell_weights()))
    assert operators(done.model) == [op]
    assert done.proof.max_error <= 1e-5


REFUSED_LOOPS = {
    "takes no frame": (loop().replace("frame = Gather (t, i)", "frame = ReduceMean <axes = [0], keepdims = 0> (t)"),
                       "takes no frame of a sequence by the number of its step"),
    "takes the frame before the last": (loop().replace("Gather (t, i)", "Gather (t, j)").replace(
        "frame = G", "low = Sub (i, next) j = Max (low, zero) frame = G"), "takes no frame of a sequence"),
    "stops at a loud frame": (loop(more="loud = ReduceMax <keepdims = 0> (after) more = Less (loud, one)"),
                              "decides from the signal when to stop"),
    "weights the step by its number": (
        loop(FILTER.replace("Mul (frame, take)", "Mul (frame, place)").replace(
            "old =", "place = Cast <to = 1> (i) old =")), "follows the number of the step"),
    "gives its number of steps": (
        loop().replace("y = Transpose", "u = Cast <to = 1> (steps) kept_more = Add (kept_all, u) y = Transpose")
        .replace("(kept_all)", "(kept_more)"), "its number of steps is used"),
    "stops after ten": (loop(many="ten"), "it may stop before the last frame"),
    "stops after a thousand": (
        "thousand = Constant <value_int = 1000> () some = Squeeze (size, first_axis)"
        " few = Min (some, thousand)" + loop(many="few"), "it may stop before the last frame"),
    "stops at step 5000": (
        "end = Constant <value_int = 5000> ()" + loop(more="more = Less (i, end)"), "it may stop before the last"),
    "stops at a count of 5000, one number in an axis": (
        loop(more="m = Less (count, last) more = Squeeze (m)"), "it may stop before the last frame"),
    "runs as long as the first five thousand": (
        "start = Slice (t, axis0, late, axis0) others = Shape <start = 0, end = 1> (start)"
        " first = Squeeze (others, first_axis)" + loop(many="first"), "it may stop before the last frame"),
    "sees the mean of all": (
        loop(FILTER.replace("Mul (frame, take)", "Mul (mean, take)").replace(
            "old =", "mean = ReduceMean <axes = [0], keepdims = 0> (t) old =")),
        "its body uses the whole sequence 't' beside the frame it is given"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_LOOPS)
def test_a_loop_that_is_no_recurrence_over_time_is_refused_with_the_reason(name: str) -> None:
    text, reason = REFUSED_LOOPS[name]
    assert reason in refused(written(text))


def test_a_model_that_does_not_run_is_left_as_it_is() -> None:
    broken = written(loop().replace("old =", "i ="))
    assert recognise(broken) is broken
    with pytest.raises(ModelError, match="onnxruntime cannot load the graph"):
        exported(broken)


def test_a_model_without_loops_is_left_as_it_is() -> None:
    plain = written("y = Identity (x)")
    assert recognise(plain) is plain


# Scans


def scan(
    step: str, states: str = "zeros", scanned: str = "t", frames: str = "float[n, 3] frame", **attributes: Any
) -> str:
    """Text of a Scan with one state, and what it keeps as y."""
    count = scanned.count(",") + 1
    more = "".join(f", {k} = {v}" for k, v in attributes.items())
    return f"""
        state_end, kept_all = Scan <num_scan_inputs = {count}{more}, body = b
            (float[n, 3] state, {frames}) => (float[n, 3] after, float[n, 3] kept) {{ {step} }}> ({states}, {scanned})
        y = Transpose <perm = [1, 0, 2]> (kept_all)"""


RNG = np.random.default_rng(11)
CELL = {k: (0.5 * RNG.normal(size=s)).astype(np.float32)
        for k, s in {"w": (3, 9), "r": (3, 9), "b": (9,)}.items()}  # fmt: skip
COUPLED = """
    wx = MatMul (frame, w) rh = MatMul (state, r) sum = Add (wx, rh) all = Add (sum, b)
    fa, ga, oa = Split <axis = 1> (all)
    f = Sigmoid (fa) g = Tanh (ga) o = Sigmoid (oa) i = Sub (one, f)
    old = Mul (f, state) new = Mul (i, g) after = Add (old, new) shown = Softplus (after) kept = Mul (o, shown)"""
"""A cell with coupled gates and no node of its own: it keeps more than its state."""

TWO = scan(FILTER.replace("Sub (frame", "Sub (other"), scanned="t, u", frames="float[n, 3] frame, float[n, 3] other")
SCANS = {
    "filter": scan(FILTER),
    "coupled gates": scan(COUPLED),
    "uniform first state": "half = Add (zeros, keep)" + scan(FILTER, states="half"),
    "first state": "begun = Expand (begin, grid)" + scan(FILTER, states="begun"),
    "two sequences": "u = Tanh (t)" + TWO,
    "two sequences of different delays": "before = Constant <value_ints = [0, 0, 0, 1, 0, 0]> () "
    "skip = Constant <value_ints = [1]> () far = Constant <value_ints = [9223372036854775807]> () "
    "p = Pad (t, before) u = Slice (p, skip, far, first_axis)" + TWO,
    "captured": "gain = Exp (w3)" + scan(FILTER.replace("Mul (frame, take)", "Mul (frame, gain)")),
    "every other frame": "step2 = Constant <value_ints = [2]> () "
    "far = Constant <value_ints = [9223372036854775807]> () "
    "u = Slice (t, first_axis, far, first_axis, step2)" + scan(FILTER, scanned="u"),
    "the last state": scan(FILTER).replace("Transpose <perm = [1, 0, 2]> (kept_all)",
                                           "Unsqueeze (state_end, first_axis)"),
    "within a scan": scan("inner = Identity (frame) over = Less (keep, one) "
                          "used = If (over) <then_branch = p () => (float[n, 3] q) { q = Mul (inner, take) }, "
                          "else_branch = r () => (float[n, 3] s) { s = Identity (inner) }> "
                          "after = Add (used, state) kept = Tanh (after)"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCANS)
def test_a_scan_streams_with_its_state_carried(name: str) -> None:
    weights = CELL | {"begin": np.array([[0.5, -1, 2]], np.float32), "w3": np.array([0.1, 0.2, -1], np.float32)}
    done = exported(written(SCANS[name], **weights))
    assert operators(done.model) == ["Scan"]
    assert done.proof.max_error <= 1e-5
    assert "three streams in a call" in done.proof.checks


def test_names_within_a_scan_may_be_those_of_the_streaming_graph() -> None:
    model = written(scan(FILTER.replace("old", "x").replace("new", "eos")))
    model.graph.input[0].name = model.graph.node[0].input[0] = "signal"
    assert exported(model).proof.max_error <= 1e-5


def test_a_scan_along_another_axis_than_the_first_streams() -> None:
    text = scan(FILTER, scanned="x", scan_input_axes="[1]", scan_output_axes="[1]")
    model = clean(written(text.replace("Transpose <perm = [1, 0, 2]>", "Identity")))
    whole = Whole(model, layouts(model))
    woven = weave(whole, Weave())
    assert isinstance(woven, Woven)
    attach(woven.model, describe(woven, Statement("loops", 100.0, ("a", "b", "c"), "mV")))
    # No double precision: ONNX's reference evaluator scans along the first axis alone.
    proof = prove(woven.model.SerializeToString(), references(whole, woven)[0], count=3)
    assert not proof.refusals
    assert proof.max_error <= 1e-5


REFUSED_SCANS = {
    "backward": (scan(FILTER, scan_input_directions="[1]"), "runs backward: the output at the first step needs"),
    "written backward": (scan(FILTER, scan_output_directions="[1]"), "runs backward"),
    "sees the whole": (scan("m = ReduceMin <axes = [0], keepdims = 0> (t) " + FILTER.replace("Mul (frame", "Mul (m")),
                       "uses the whole sequence 't' beside the frame"),
    "uses the mean": ("m = ReduceMean <axes = [0], keepdims = 0> (t)" + scan(FILTER.replace("Mul (frame", "Mul (m")),
                      "uses the whole sequence 'm' beside the frame"),
    "starts from the mean": ("m = ReduceMean <axes = [0], keepdims = 0> (t)" + scan(FILTER, states="m"),
                             "its initial state is computed from the sequence"),
    "starts from the length": ("many = Cast <to = 1> (size) m = Add (zeros, many)" + scan(FILTER, states="m"),
                               "its initial state is computed from the sequence, or from its length"),
    "along the batch": ("gt = Concat <axis = 0> (size, three) zt = ConstantOfShape <value = float[1] {0.0}> (gt)"
                        + scan(FILTER, scanned="x", states="zt"), "scans along an axis that is not time"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_SCANS)
def test_a_scan_that_needs_the_whole_sequence_is_refused_with_the_reason(name: str) -> None:
    text, reason = REFUSED_SCANS[name]
    assert reason in refused(written(text))


# Cells


def gru(reset: str, join: str) -> str:
    return f"""
        wx = MatMul (frame, w) wb = Add (wx, b) rh = MatMul (state, r)
        xz, xr, xn = Split <axis = 1> (wb) hz, hr, hn = Split <axis = 1> (rh)
        za = Add (xz, hz) ra = Add (hr, xr) z = Sigmoid (za) r_gate = Sigmoid (ra) {reset} n = Tanh (na) {join}
        kept = Identity (after)"""


AFTER = "hb = Add (hn, rb) rn = Mul (hb, r_gate) na = Add (xn, rn)"
BEFORE = "rs = Mul (r_gate, state) rn = MatMul (rs, r3) na = Add (rn, xn)"
MIX = "rest = Sub (one, z) a = Mul (rest, n) c = Mul (state, z) after = Add (a, c)"
CELLS = {
    "GRU, reset after": ("GRU", gru(AFTER, MIX)),
    "GRU, reset before": ("GRU", gru(BEFORE, MIX)),
    "GRU, the other way round": ("GRU", gru(AFTER, MIX.replace("Mul (rest, n)", "Mul (z, n)").replace(
        "Mul (state, z)", "Mul (state, rest)"))),
    "GRU, by the difference": ("GRU", gru(AFTER, "d = Sub (state, n) zd = Mul (z, d) after = Add (n, zd)")),
    "GRU, no complement": ("Scan", gru(AFTER, "a = Mul (z, n) c = Mul (state, z) after = Add (a, c)")),
    "GRU, most of it": ("Scan", gru(AFTER, MIX.replace("a = Mul (rest, n)", "most = Mul (n, keep) a = Mul (rest, most)")
    )),
    "GRU, reset squared": ("Scan", gru(AFTER.replace("Mul (hb, r_gate)", "Mul (hr2, r_gate)").replace(
        "rn =", "hr2 = Mul (hb, r_gate) rn ="), MIX)),
    "RNN": ("RNN", "wx = MatMul (frame, r3) rh = MatMul (state, r4) a = Add (wx, rh) after = Relu (a) "
                   "kept = Identity (after)"),
    "RNN, residual": ("Scan", "wx = MatMul (frame, r3) rh = MatMul (state, r4) a = Add (wx, rh) u = Tanh (a) "
                              "after = Add (u, state) kept = Identity (after)"),
    "RNN that shows its sum": ("Scan", "wx = MatMul (frame, r3) rh = MatMul (state, r4) a = Add (wx, rh) "
                                       "after = Tanh (a) kept = Identity (a)"),
}  # fmt: skip


def cell_weights() -> dict[str, Array]:
    shapes = {"w": (3, 9), "r": (3, 9), "b": (9,), "rb": (3,), "r3": (3, 3), "r4": (3, 3)}
    rng = np.random.default_rng(3)
    return {k: (0.6 * rng.normal(size=s)).astype(np.float32) for k, s in shapes.items()}


@pytest.mark.parametrize("name", CELLS)
def test_a_scan_over_the_step_of_a_cell_is_its_node(name: str) -> None:
    op, step = CELLS[name]
    model = written(scan(step), **cell_weights())
    found = clean(model)
    assert operators(found) == [op]
    x = noise(60).reshape(2, 30, 3)
    (before,), (after,) = (session(m).run(None, {"x": x}) for m in (model, found))
    np.testing.assert_allclose(after, before, atol=2e-6)


LSTM_STEP = """
    xh = Concat <axis = 1> (h, frame) both = Gemm (xh, wr, b12)
    fa, oa, ia, ga = Split <axis = 1> (both) gates = Concat <axis = 1> (fa, ia, oa) s = Sigmoid (gates)
    f, i, o = Split <axis = 1> (s) g = Tanh (ga)
    keep_c = Mul (c, f) add_c = Mul (i, g) c_after = Add (keep_c, add_c) t_c = Tanh (c_after) h_after = Mul (t_c, o)
    kept = Identity (h_after)"""


@pytest.mark.parametrize(("first", "second"), ["hc", "ch"])
def test_an_lstm_is_found_whichever_of_its_states_comes_first(first: str, second: str) -> None:
    text = f"""
        begun = Expand (begin, grid)
        e1, e2, kept_all = Scan <num_scan_inputs = 1, body = b
            (float[n, 3] {first}, float[n, 3] {second}, float[n, 3] frame)
            => (float[n, 3] {first}_after, float[n, 3] {second}_after, float[n, 3] kept) {{ {LSTM_STEP} }}>
            (zeros, begun, t)
        u = Add (kept_all, e1) y = Sub (u, e2)"""
    rng = np.random.default_rng(3)
    weights = {"wr": rng.normal(size=(6, 12)), "b12": rng.normal(size=12), "begin": rng.normal(size=(1, 3))}
    model = written(text, **{k: v.astype(np.float32) for k, v in weights.items()})
    found = clean(model)
    assert operators(found) == ["LSTM"]
    x = noise(60).reshape(2, 30, 3)
    (before,), (after,) = (session(m).run(None, {"x": x}) for m in (model, found))
    np.testing.assert_allclose(after, before, atol=2e-6)


def test_a_node_that_does_not_give_what_the_scan_gives_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cell.Cell.weights
    monkeypatch.setattr(cell.Cell, "weights", lambda self: right(self) | {"B": right(self)["B"] + np.float32(1e-3)})
    assert operators(clean(written(scan(gru(AFTER, MIX)), **cell_weights()))) == ["Scan"]


# Bidirectional layers


def both(net: Net, x: str, kind: str, width: int = 3, hidden: int = 4, initial: bool = False, **attributes: Any) -> str:
    """A bidirectional layer over features, forward half first, (batch, time, 2 hidden)."""
    rows = GATES[kind] * hidden
    inputs = [net.op("Transpose", x, perm=[1, 0, 2]), net.weight(2, rows, width), net.weight(2, rows, hidden)]
    inputs += [net.const(net.rng.normal(size=(2, 2 * rows)) * 0.3), ""]
    inputs += [_first(net, x, hidden) for _ in STATES[kind]] if initial else []
    if attributes.pop("peepholes", False):
        inputs += [""] * (7 - len(inputs)) + [net.weight(2, 3 * hidden)]
    y = net.ops(kind, *inputs, count=1, hidden_size=hidden, direction="bidirectional", **attributes)[0]
    return net.op("Reshape", net.op("Transpose", y, perm=[2, 0, 1, 3]), net.const([0, 0, -1]))


def _first(net: Net, x: str, hidden: int) -> str:
    many = net.op("Concat", net.const([2]), net.size(x, 0), net.const([hidden]), axis=0)
    return net.op("Expand", net.const(net.rng.normal(size=(2, 1, hidden))), many)


def stacked(net: Net, x: str, kind: str) -> str:
    return net.dense(both(net, both(net, x, kind), kind, 8), 8, 2)


def beside(net: Net, x: str) -> str:
    """A branch that does not wait meets one that does."""
    return net.op("Add", net.dense(x, 3, 8), both(net, x, "LSTM"))


def strided(net: Net, x: str) -> str:
    y = net.conv(net.swap(x), 3, 3, kernel=3, stride=2, pads=(1, 0))
    return both(net, net.swap(y), "GRU")


HARD = {"activations": ["HardSigmoid", "Tanh", "Tanh"] * 2, "activation_alpha": [0.2, 0.4],
        "activation_beta": [0.5, 0.4]}  # fmt: skip
LAYERS: dict[str, Draw] = {
    **{k: partial(both, kind=k) for k in ("LSTM", "GRU", "RNN")},
    "GRU, reset after": partial(both, kind="GRU", linear_before_reset=1),
    "LSTM, started": partial(both, kind="LSTM", initial=True),
    "GRU, one stream": partial(both, kind="GRU"),
    "GRU, started": partial(both, kind="GRU", initial=True),
    "LSTM, peepholes": partial(both, kind="LSTM", peepholes=True),
    "LSTM, hard": partial(both, kind="LSTM", **HARD),
}


def bounded(x: Array, whole: Callable[[Array], Array], frames: int, hidden: int = 4) -> Array:
    """The approximation by its definition: the backward half of frame k from the original over frames k ... k + L."""
    y = whole(x)
    for k in range(len(x)):
        y[k, hidden:] = whole(x[k : k + frames + 1])[0, hidden:]
    return y


@pytest.mark.parametrize("name", LAYERS)
def test_the_backward_half_sees_so_many_frames_and_the_forward_half_is_exact(name: str) -> None:
    model = drawn(LAYERS[name], batch=1 if "one stream" in name else "batch")
    done = exported(model, lookahead_s=0.06)
    run = session(model)

    def whole(x: Array) -> Array:
        return run.run(None, {"x": x[None]})[0][0]

    x = noise(60)
    found = streamed(done, x, [60])
    np.testing.assert_allclose(found, bounded(x, whole, 6), atol=2e-6)
    np.testing.assert_allclose(found[-7:], whole(x)[-7:], atol=2e-6)
    for seed in range(6):
        sizes = pieces(len(x), np.random.default_rng(seed))
        np.testing.assert_allclose(streamed(done, x, sizes), found, atol=1e-6)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_a_signal_shorter_than_the_look_ahead_is_that_of_the_original(samples: int) -> None:
    model = drawn(LAYERS["LSTM"])
    x = noise(samples)
    wanted = session(model).run(None, {"x": x[None]})[0][0]
    engine = engine_of(exported(model, lookahead_s=0.1).model.SerializeToString())
    found = blocks(engine, x[None], [samples], last=True)["y"][0]
    np.testing.assert_allclose(found, wanted, atol=2e-6)


MIXED: dict[str, tuple[Draw, int, int]] = {
    # name: draw, samples of delay with 7 samples of look-ahead, hop
    "stacked LSTM": (partial(stacked, kind="LSTM"), 14, 1),
    "stacked GRU": (partial(stacked, kind="GRU"), 14, 1),
    "beside a branch": (beside, 7, 1),
    "after a stride": (strided, 7, 2),
    "before a cut at the end": (lambda net, x: net.cut(both(net, x, "GRU"), 0, -3, axis=1), 7, 1),
}


@pytest.mark.parametrize("name", MIXED)
def test_delays_of_bounded_layers_add_up_and_branches_wait(name: str) -> None:
    draw, delay, hop = MIXED[name]
    done = exported(drawn(draw), lookahead_s=0.07)
    assert (done.contract.outputs[0].delay, done.contract.hop) == (delay, hop)
    assert done.proof.max_error <= 1e-5
    assert "three streams in a call" in done.proof.checks


@pytest.mark.parametrize("kind", GATES)
def test_the_error_falls_with_the_look_ahead_and_stands_in_the_contract(kind: str) -> None:
    errors = []
    for lookahead_s in (0.01, 0.05, 0.2):
        document = exported(drawn(LAYERS[kind]), lookahead_s=lookahead_s).contract.document
        (said,) = document["approximations"]
        assert f"sees {round(lookahead_s * 100)} frames" in said
        errors.append(document["approximation_error"]["y.max"])
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 10 * errors[2] > 0


def test_look_ahead_is_counted_in_frames_of_the_layer_and_is_one_at_least() -> None:
    for lookahead_s, frames in ((0.01, 1), (0.04, 2), (0.07, 3)):
        (said,) = exported(drawn(strided), lookahead_s=lookahead_s).contract.document["approximations"]
        assert f"sees {frames} frames ({2 * frames} samples) ahead" in said


def last_state(net: Net, x: str) -> str:
    rows = [net.weight(2, 12, 3), net.weight(2, 12, 4)]
    _, h = net.ops("GRU", net.op("Transpose", x, perm=[1, 0, 2]), *rows, count=2, hidden_size=4,
                   direction="bidirectional")  # fmt: skip
    return net.op("Transpose", h, perm=[1, 0, 2])


def started_from_the_mean(net: Net, x: str) -> str:
    inputs = [net.op("Transpose", x, perm=[1, 0, 2]), net.weight(2, 12, 3), net.weight(2, 12, 4), "", ""]
    mean = net.dense(net.op("ReduceMean", x, axes=[1], keepdims=0), 3, 4)
    both_means = net.op("Concat", *[net.op("Unsqueeze", mean, net.const([0]))] * 2, axis=0)
    y = net.ops("GRU", *inputs, both_means, count=1, hidden_size=4, direction="bidirectional")[0]
    return net.op("Reshape", net.op("Transpose", y, perm=[2, 0, 1, 3]), net.const([0, 0, -1]))


REFUSED_LAYERS: dict[str, tuple[Draw, str]] = {
    "last state": (last_state, "its last state is used, and that of the backward half has seen the whole sequence"),
    "first state": (started_from_the_mean, "its initial state are computed from the sequence"),
    "two activations": (partial(both, kind="RNN", activations=["Tanh", "Relu"]), "different activations"),
}


@pytest.mark.parametrize("name", REFUSED_LAYERS)
def test_what_a_bounded_layer_cannot_be_is_refused(name: str) -> None:
    draw, reason = REFUSED_LAYERS[name]
    assert reason in refused(drawn(draw), lookahead_s=0.05)


def test_without_look_ahead_a_bidirectional_layer_is_refused_and_look_ahead_offered() -> None:
    why = refused(drawn(LAYERS["LSTM"]))
    assert "the output at the first step needs the last sample" in why
    assert "--lookahead" in why
