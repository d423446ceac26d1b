"""What is caught: a model that decides otherwise, a broken calibration, drift."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from holdover.export.proof import engine_of
from holdover.quantize.calibration import Calibration, check
from holdover.quantize.drift import drift, drifts
from holdover.quantize.drift_page import page
from holdover.quantize.gate import (
    Beats,
    Bound,
    Parity,
    beat_parity,
    check_measured,
    failed,
    frame_parity,
    parse,
    would_pass,
)
from holdover.quantize.judge import Judge, default_gate
from holdover.quantize.method import Made, Parent
from holdover.quantize.methods.static_int8 import static_int8
from holdover.quantize.methods.table import METHODS
from holdover.quantize.quantizing import Chosen, Tried, quantize
from holdover.quantize.report import drift_lines, lines
from holdover.runtime.errors import ModelError, SourceError, UsageError
from tests.quantize_nets import calibration, ecg, kept, parent, parent_of_graph
from tests.zoo_onnx import Net


def beats(at: list[float], labels: str, alerts: tuple[tuple[str, float], ...] = (), **counts: tuple[int, ...]) -> Beats:
    return Beats(np.array(at), tuple(labels), alerts, counts)  # type: ignore[arg-type]


# The gate


def test_bounds_are_read_and_written() -> None:
    bounds = parse("V.f1>=-0.005, labels >= 0.995,alerts.asystole>=1")
    assert [str(b) for b in bounds] == ["V.f1>=-0.005", "labels>=0.995", "alerts.asystole>=1"]


@pytest.mark.parametrize("text", ["", "V.f1", "V.f1<=3", "V.f1>=", ">=1", "V.f1>=-0.005;labels>=1", "labels>=nan"])
def test_bounds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="MEASURE>=NUMBER"):
        parse(text)


def test_a_bound_on_what_was_not_measured_is_told_so() -> None:
    with pytest.raises(UsageError, match=re.escape("measured: labels")):
        check_measured(parse("V.f1>=0"), {"labels": Parity(1, "a", 1)})
    check_measured(parse("labels>=1"), {"labels": Parity(0, "a", 0)})


def test_a_failure_says_how_much_and_on_which_record_and_what_would_pass() -> None:
    parity = {"V.f1": Parity(-0.01234, "119", -0.2), "labels": Parity(0.999, "118", 0.99)}
    bounds = parse("V.f1>=-0.005,labels>=0.995")
    (sentence,) = failed(bounds, parity)
    assert "V.f1 is -0.0123" in sentence
    assert "119" in sentence
    loose = would_pass(bounds, parity)
    assert loose == "V.f1>=-0.0124,labels>=0.995"
    assert failed(parse(loose), parity) == []


def test_what_is_not_a_number_does_not_pass() -> None:
    assert failed((Bound("scores", 0.9),), {"scores": Parity(float("nan"), "a", 0)})
    model = parent("mlp").model
    bias = next(t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) == 1)
    bias.CopyFrom(numpy_helper.from_array(np.full(bias.dims, np.nan, np.float32), bias.name))
    judge = Judge(parent("mlp").data, {"held": ecg(20, 100)})
    with pytest.raises(ModelError, match="no number on held"):
        judge.parity(model.SerializeToString())


def test_parity_of_beats_counts_matched_beats_labels_and_alarms() -> None:
    mine = {"a": beats([1, 2, 3, 4], "NNVN", (("asystole", 5.0), ("couplet", 9.0)), V=(8, 10, 8, 8))}
    theirs = {"a": beats([1.1, 2, 3, 9], "NVVN", (("asystole", 5.5), ("couplet", 30.0)), V=(7, 10, 7, 14))}
    found = beat_parity(mine, theirs)
    assert found["beats"].value == pytest.approx(3 / 5)
    assert found["labels"].value == pytest.approx(2 / 3)
    assert found["alerts"].value == pytest.approx(1 / 3)
    assert found["alerts.asystole"].value == 1
    assert found["alerts.couplet"].value == 0
    assert found["V.se"].value == pytest.approx(-0.1)
    assert found["V.pp"].value == pytest.approx(-0.5)
    before, after = 2 * 0.8 * 1 / 1.8, 2 * 0.7 * 0.5 / 1.2
    assert found["V.f1"].value == pytest.approx(after - before)
    assert found["V.f1"].worst == "a"


def test_the_record_that_loses_most_is_named() -> None:
    mine = {r: beats([1], "V", V=(9, 10, 9, 10)) for r in "ab"}
    theirs = {"a": beats([1], "V", V=(9, 10, 9, 10)), "b": beats([1], "N", V=(5, 10, 5, 10))}
    found = beat_parity(mine, theirs)
    assert found["V.f1"].worst == "b"
    assert found["labels"].worst == "b"
    assert found["V.f1"].there < found["V.f1"].value < 0


def test_a_class_that_the_reference_lacks_is_not_measured_and_one_never_called_is_zero() -> None:
    mine = {"a": beats([], "", V=(0, 0, 0, 3), S=(1, 2, 1, 1))}
    theirs = {"a": beats([], "", V=(0, 0, 0, 3), S=(0, 2, 0, 0))}
    found = beat_parity(mine, theirs)
    assert "V.f1" not in found
    assert found["S.f1"].value == pytest.approx(-2 / 3)
    assert found["beats"].value == 1


def test_a_model_that_finds_nothing_any_more_does_not_pass_without_a_reference_either() -> None:
    mine = {"a": beats([1, 2, 3], "NNV"), "b": beats([], "")}
    for theirs in (beats([], ""), beats([1.5, 2.5], "NN")):
        found = beat_parity(mine, {"a": theirs, "b": beats([], "")})
        assert found["labels"].value == found["beats"].value == 0
        assert found["labels"].worst == "a"
    assert [b.measure for b in default_gate(found)] == ["labels", "beats"]
    assert len(failed(default_gate(found), found)) == 2


def test_an_alarm_that_only_the_smaller_model_raises_counts_against_it() -> None:
    found = beat_parity({"a": beats([1], "N")}, {"a": beats([1], "N", (("asystole", 1.0),))})
    assert found["alerts.asystole"].value == found["alerts"].value == 0


times = st.lists(st.floats(0, 1000), max_size=40).map(sorted)


@given(at=times)
def test_a_model_agrees_with_itself(at: list[float]) -> None:
    unique = [t for k, t in enumerate(at) if not k or t - at[k - 1] > 0.3]
    one = {"a": beats(unique, "N" * len(unique), tuple(("pause", t) for t in unique), V=(3, 4, 3, 5))}
    found = beat_parity(one, one)
    assert {n: p.value for n, p in found.items() if "." not in n} == {"labels": 1, "beats": 1, "alerts": 1}
    assert found["V.f1"].value == 0


def test_frames_agree_by_label_and_by_spread() -> None:
    rng = np.random.default_rng(0)
    a = {"r": {"class": rng.normal(size=(500, 3)), "score": rng.normal(size=(500, 1))}}
    b = {"r": {"class": a["r"]["class"] * 0.5, "score": a["r"]["score"] + 0.1}}
    found = frame_parity(a, b, ["class"])
    assert found["labels"].value == 1
    assert found["scores"].value == pytest.approx(0.9, abs=0.01)
    assert [b.measure for b in default_gate(found)] == ["labels", "scores"]
    assert [b.measure for b in default_gate({"scores": found["scores"]})] == ["scores"]


# What must not get through


def heavy() -> Parent:
    """Three channels sixty times larger than those that decide, side by side in one tensor."""
    net = Net(5)
    kernel = net.rng.normal(size=(24, 1, 6)).astype(np.float32)
    kernel[:3] *= 60
    y = net.op("Conv", "x", net.const(kernel), kernel_shape=[6], pads=[5, 0])
    weight = net.rng.normal(size=(24, 8)).astype(np.float32)
    weight[:3] = 0
    y = net.op("MatMul", net.swap(y), net.const(weight))
    model = net.model({"x": ("batch", 1, "time")}, [y])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return parent_of_graph(kept(model))


def test_a_model_made_to_be_hard_to_quantize_is_caught_and_16_bits_hold_it() -> None:
    hard = heavy()
    judge = Judge(hard.data, {"held": ecg(20, 100)})
    with pytest.raises(ModelError, match="changes what is decided") as caught:
        quantize(hard, calibration(), judge, "static-int8")
    assert "held" in str(caught.value)
    assert "This would pass: --gate" in str(caught.value)
    chosen = quantize(hard, calibration(), judge, "int16")
    assert chosen.best is not None
    assert chosen.best.parity["scores"].value > 0.97


def test_auto_leaves_a_model_float_where_nothing_passes_and_says_so() -> None:
    float_parent = parent("mlp")
    judge = Judge(float_parent.data, {"held": ecg(20, 100)})
    chosen = quantize(float_parent, calibration(), judge, "auto", parse("scores>=1"))
    assert chosen.best is None
    assert chosen.data == float_parent.data
    said = "\n".join(lines(chosen))
    assert "stays float32" in said
    assert max(map(len, said.splitlines())) <= 80


def test_auto_keeps_a_parent_that_no_method_makes_smaller() -> None:
    """A net of a hundred numbers: what the contract says of its quantization weighs more than they do."""
    net = Net(5)
    y = net.dense(net.op("Relu", net.dense(net.swap("x"), 1, 10)), 10, 10)
    model = net.model({"x": ("batch", 1, "time")}, [y])
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    tiny = parent_of_graph(kept(model))
    chosen = quantize(tiny, calibration(), Judge(tiny.data, {"held": ecg(20, 100)}), "auto", parse("scores>=0.5"))
    assert any(t.passes for t in chosen.tried)
    assert all(len(t.data) > len(tiny.data) for t in chosen.tried if t.passes)
    assert chosen.best is None
    assert "is smaller" in " ".join(lines(chosen))


def test_a_gate_on_what_cannot_be_measured_is_told_before_the_work() -> None:
    float_parent = parent("mlp")
    judge = Judge(float_parent.data, {"held": ecg(20, 100)})
    said: list[str] = []
    with pytest.raises(UsageError, match=re.escape("alerts.asystole, which cannot be measured here; measured: scores")):
        quantize(float_parent, calibration(), judge, "auto", parse("alerts.asystole>=1"), said.append)
    assert said == []


def test_auto_takes_the_smallest_that_passes() -> None:
    float_parent = parent("conv-lstm")
    judge = Judge(float_parent.data, {"held": ecg(20, 100)})
    chosen = quantize(float_parent, calibration(), judge, "auto", parse("scores>=0.5"))
    fit = [t for t in chosen.tried if t.passes and t.slower <= 1.05]
    assert (chosen.best is None) == (not fit)
    if chosen.best:
        assert len(chosen.best.data) == min(len(t.data) for t in fit)


def test_the_contract_says_how_a_model_was_made_small() -> None:
    float_parent = parent("conv-lstm")
    judge = Judge(float_parent.data, {"held": ecg(20, 100)})
    chosen = quantize(float_parent, calibration(), judge, "static-int8", parse("scores>=0.5"))
    said = engine_of(chosen.data).contract.document["quantization"]
    assert said["method"] == "static-int8"
    assert said["parent"] == f"sha256:{float_parent.sha256}"
    assert said["calibrated_on"] == ["a", "b"]
    assert said["held_out"] == ["held"]
    assert said["gate"] == "scores>=0.5"
    assert said["bytes"]["before"] == len(float_parent.data) > said["bytes"]["after"]
    assert set(said["step_us"]) == {"before", "after"}
    assert said["isolation"] == {"loud": 0.0, "nan": 0.0, "later": 0.0}
    assert 0.5 < said["parity"]["scores"] <= 1


# Calibration


@pytest.mark.parametrize("times", [1e-3, 1e3])
def test_one_recording_in_another_unit_is_told_from_the_others(times: float) -> None:
    signals = {"a": ecg(20), "b": ecg(20, 40), "odd": ecg(20, 80) * np.float32(times)}
    with pytest.raises(SourceError, match=r"odd spreads .* in another unit"):
        check(signals, parent("mlp").contract)


@pytest.mark.parametrize("times", [1e-3, 1e3])
def test_all_recordings_in_another_unit_are_told_by_what_a_body_gives(times: float) -> None:
    with pytest.raises(SourceError, match="is it in another unit"):
        check({"a": ecg(20) * np.float32(times), "b": ecg(20, 40) * np.float32(times)}, parent("mlp").contract)


def test_a_calibration_in_another_unit_does_not_pass_the_gate_either() -> None:
    float_parent = parent("conv-lstm")
    judge = Judge(float_parent.data, {"held": ecg(20, 100)})
    microvolts = Calibration({"a": ecg(20) * np.float32(1000)})
    with pytest.raises(ModelError, match="changes what is decided"):
        quantize(float_parent, microvolts, judge, "static-int8")


@pytest.mark.parametrize(("x", "word"), [
    (np.zeros((0, 1), np.float32), "0.0 s of finite samples"),
    (ecg(2), "2.0 s of finite samples"),
    (np.full((7200, 1), 0.5, np.float32), "flat from end to end"),
], ids=["empty", "short", "flat"])  # fmt: skip
def test_a_recording_that_says_nothing_is_refused(x: np.ndarray, word: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SourceError, match=word):
        check({"r": x}, parent("mlp").contract)
    with pytest.raises(SourceError, match="--calibrate"):
        check({}, parent("mlp").contract)


# Drift


def test_a_model_does_not_drift_from_itself() -> None:
    data = parent("conv-lstm").data
    found = drift(data, data, ecg(200))
    assert set(found.worst.values()) == {0.0}
    assert set(found.states.values()) == {0.0}
    assert set(found.burst.recovery_s.values()) == {0.0}
    assert found.hours == pytest.approx(200 / 3600)


@pytest.mark.parametrize("method", ["static-int8", "step-int8", "dynamic-int8"])
def test_drift_is_measured_hour_by_hour_and_told(method: str) -> None:
    float_parent = parent("conv-lstm")
    made = METHODS[method](float_parent, calibration())
    assert isinstance(made, Made)
    data = made.model.SerializeToString()
    found = drift(float_parent.data, data, ecg(200))
    assert 0 < found.first["y"] < 1
    assert found.last["y"] < 3 * found.first["y"]
    assert found.forced["y"] > 0
    assert found.free["y"] > 0
    assert found.by_hour["y"][0] > 0
    assert "burst" in found.document()
    assert max(map(len, drift_lines(found))) <= 80


def test_children_side_by_side_drift_as_each_does_alone() -> None:
    float_parent = parent("conv-lstm")
    made = [METHODS[method](float_parent, calibration()) for method in ("static-int8", "weights-int8")]
    files = [m.model.SerializeToString() for m in made if isinstance(m, Made)]
    assert drifts(float_parent.data, files, ecg(80)) == [drift(float_parent.data, f, ecg(80)) for f in files]


def test_an_error_that_is_carried_on_is_told_from_one_made_anew() -> None:
    """A slow integrator: another gain is made good when the parent's state is given."""
    from tests.graphs import recurrent

    model = recurrent("rnn", channels=1)
    weights = {t.name: t for t in model.graph.initializer}
    weights["r"].CopyFrom(numpy_helper.from_array(np.eye(5, dtype=np.float32)[None] * 0.9999, "r"))
    weights["w"].CopyFrom(numpy_helper.from_array(np.full((1, 5, 1), 1e-5, np.float32), "w"))
    weights["b"].CopyFrom(numpy_helper.from_array(np.zeros((1, 10), np.float32), "b"))
    parent_data = model.SerializeToString()
    weights["w"].CopyFrom(numpy_helper.from_array(np.full((1, 5, 1), 1.2e-5, np.float32), "w"))
    found = drift(parent_data, model.SerializeToString(), ecg(200) + 1)
    assert found.free["y"] > 3 * found.forced["y"] > 0
    assert found.states["h"] > 0


class _Outside(HTMLParser):
    """Everything that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [f"{tag} {v}" for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.open += [tag] if tag != "meta" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else() -> None:
    float_parent = parent("conv-lstm")
    made = static_int8(float_parent, calibration())
    assert isinstance(made, Made)
    data = made.model.SerializeToString()
    tried = Tried("static-int8", data, made=made, parity={"scores": Parity(0.99, "<r>", 0.98)}, step_us=2.0,
                  parent_step_us=1.0)  # fmt: skip
    refused = Tried("float16", refused="no <kernels>")
    found = drift(float_parent.data, data, ecg(200))
    found = replace(found, burst=replace(found.burst, recovery_s={"y": -1.0}))
    text = page(found, Chosen(float_parent, (tried, refused), tried))
    outside = _Outside()
    outside.feed(text)
    assert outside.found == []
    assert outside.open == []
    for word in (
        "In short",
        "over the held-out records once",
        "does not come back",
        "&lt;r&gt;",
        "no &lt;kernels&gt;",
        "<svg",
        "medical",
    ):
        assert word in text
