"""ONNX files from anywhere: what is read, how states pair, and what hostile files come to."""

import json
import signal

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from holdover.export import sidecar
from holdover.export.original import SourceOptions
from holdover.export.sources.onnx_file import canary, read
from holdover.runtime.errors import ModelError, UsageError
from tests.graphs import recurrent, saved

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def info(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(inputs, outputs, nodes=None, weights=(), opset=17):
    """A graph whose outputs are sums of its first input, unless nodes are given."""
    nodes = nodes or [helper.make_node("Identity", [inputs[0].name], [o.name]) for o in outputs]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def running_sum():
    """y is the mean of the call and the state, the next state is y."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1]),
        helper.make_node("Add", ["mean", "s_in"], ["y"]),
        helper.make_node("Identity", ["y"], ["s_out"]),
    ]
    shape = ["batch", 1, 2]
    return model(
        [info("x", ["batch", "time", 2]), info("s_in", shape)], [info("y", shape), info("s_out", shape)], nodes
    )


def written(path, proto):
    path.write_bytes(proto.SerializeToString())
    return path


def with_sidecar(path, text):
    path.with_suffix(".states.json").write_text(text)
    return path


def test_a_whole_sequence_model_has_no_sidecar(tmp_path):
    proto = model([info("x", ["batch", "time", 2])], [info("y", ["batch", "time", 2])])
    original = read(written(tmp_path / "m.onnx", proto), SourceOptions())
    assert (original.kind, original.sidecar, original.notes) == ("onnx", None, ())
    assert len(original.sha256) == 64
    assert original.model == proto


def test_states_pair_by_name_and_the_notes_say_how(tmp_path):
    original = read(written(tmp_path / "m.onnx", running_sum()), SourceOptions())
    assert original.sidecar.states == {"s_in": "s_out"}
    assert (original.sidecar.signals, original.sidecar.outputs) == (("x",), ("y",))
    assert original.notes == ("the state 's_in' becomes 's_out'",)


def test_a_sidecar_beside_the_model_is_found_and_one_that_is_given_goes_before_it(tmp_path):
    path = with_sidecar(written(tmp_path / "m.onnx", running_sum()), '{"states": {"s_in": "s_out"}, "hop": 8}')
    assert read(path, SourceOptions()).sidecar.hop == 8
    (tmp_path / "other.json").write_text('{"states": {"s_in": "s_out"}, "hop": 4, "context": 2}')
    found = read(path, SourceOptions(states=tmp_path / "other.json")).sidecar
    assert (found.hop, found.context) == (4, 2)


def test_every_key_of_the_sidecar_is_documented():
    keys = [f.name for f in msgspec.structs.fields(sidecar.Sidecar)]
    assert all(f"\n    {key} : " in sidecar.Sidecar.__doc__ for key in keys)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("h0", "hn"), ("c0", "cn"), ("h_0", "h_n"), ("h0", "hN"), ("h_in", "h_out"), ("h.in", "h.out"),
        ("state", "stateN"), ("state", "state_out"), ("h", "hn"), ("in_cache", "out_cache"), ("cache", "new_cache"),
        ("past_key", "present_key"), ("past_key_values.0.key", "present.0.key"), ("prev_h", "next_h"),
        ("h_prev", "h_next"), ("initial_state", "final_state"), ("hidden", "hidden_new"),
    ],
)  # fmt: skip
def test_names_that_pair(before, after):
    shape = [1, "batch", 5]
    proto = model([info("audio", ["batch", "time", 2]), info(before, shape)], [info("y", [2]), info(after, shape)])
    assert sidecar.by_name(proto).states == {before: after}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (info("h0", [1, 1, 5]), info("hn", [1, 1, 6])),
        (info("h0", [1, 1, 5]), info("hn", [1, 5])),
        (info("h0", [1, 1, 5]), info("hn", [1, 1, 5], INT)),
        (info("lead", ["batch", "time", 1]), info("lead_out", ["batch", "time", 1])),
        (info("h", [1, 1, 5]), info("g", [1, 1, 5])),
    ],
)
def test_what_differs_in_name_shape_or_dtype_or_has_a_time_axis_does_not_pair(before, after):
    assert sidecar.by_name(model([info("x", ["batch", "time", 2]), before], [info("y", [2]), after])) is None


def test_a_model_whose_only_input_is_called_like_an_output_has_no_states():
    assert sidecar.by_name(model([info("x", [1, 8, 2])], [info("x_out", [1, 8, 2])])) is None


def test_what_pairs_with_two_is_left_to_the_user():
    inputs = [info("x", ["batch", "time", 2]), info("h", [1, 5])]
    with pytest.raises(UsageError, match=r"h and h_out, h_new pair by their names, but not only"):
        sidecar.by_name(model(inputs, [info("y", [2]), info("h_out", [1, 5]), info("h_new", [1, 5])]))


def test_inputs_left_over_beside_states_are_named(tmp_path):
    inputs = [info("input", ["batch", "time"]), info("sr", [], INT), info("state", [2, "batch", 4])]
    proto = model(inputs, [info("output", ["batch", "time"]), info("stateN", [2, "batch", 4])])
    with pytest.raises(UsageError, match=r"state with stateN pair.*, input, sr are left: which is the signal"):
        read(written(tmp_path / "m.onnx", proto), SourceOptions())


SIDECARS = {
    "unknown key": ('{"states": {"s_in": "s_out"}, "hopp": 3}', r"unknown field `hopp`.*states, signal, layout"),
    "no states": ('{"hop": 3}', "missing required field `states`"),
    "states empty": ('{"states": {}}', "states is empty"),
    "cut short": ('{"states": {"s_in": ', "m.states.json"),
    "empty": ("", "m.states.json"),
    "not an object": ("[1]", "Expected `object`"),
    "wrong type": ('{"states": {"s_in": 3}}', "Expected `str`"),
    "NaN": ('{"states": {"s_in": "s_out"}, "initial": {"s_in": NaN}}', "invalid character"),
    "huge": ('{"states": {"s_in": "s_out"}, "hop": 1e400}', "m.states.json"),
    "hop of zero": ('{"states": {"s_in": "s_out"}, "hop": 0}', ">= 1"),
    "context alone": ('{"states": {"s_in": "s_out"}, "context": 64}', "context needs hop"),
    "layout": ('{"states": {"s_in": "s_out"}, "layout": ["time", "time"]}', "layout is"),
    "layout word": ('{"states": {"s_in": "s_out"}, "layout": ["samples", 2]}', "layout is"),
    "layout without time": ('{"states": {"s_in": "s_out"}, "layout": ["batch", 2]}', "without time needs hop 1"),
    "shape": ('{"states": {"s_in": "s_out"}, "shapes": {"s_in": [-1, 2]}}', "the shape of s_in"),
    "shape of none": ('{"states": {"s_in": "s_out"}, "shapes": {"t": [1, 2]}}', "shapes names t"),
    "initial of none": ('{"states": {"s_in": "s_out"}, "initial": {"t": 1}}', "initial names t"),
    "no such input": ('{"states": {"t_in": "s_out"}}', "no input t_in; it has x, s_in"),
    "no such output": ('{"states": {"s_in": "t_out"}}', "no output t_out; it has y, s_out"),
    "two parts": ('{"states": {"s_in": "s_out"}, "constants": {"s_in": 1}}', "the input s_in has two parts"),
    "no signal": ('{"states": {"s_in": "s_out"}, "constants": {"x": 1}}', "which one is the signal"),
    "no such output to keep": ('{"states": {"s_in": "s_out"}, "signal": "x", "outputs": ["z"]}', "no output z"),
    "unlike": ('{"states": {"x": "s_out"}, "signal": "s_in"}', r"x is float\[batch, time, 2\], its successor"),
    "nothing said": ('{"states": {"s_in": "s_out", "x": "y"}}', "which one is the signal"),
}


@pytest.mark.parametrize("name", SIDECARS)
def test_a_sidecar_that_is_wrong_is_answered_in_words(name, tmp_path):
    text, words = SIDECARS[name]
    proto = running_sum()
    proto.graph.output[1].type.tensor_type.shape.dim[2].dim_value = 7 if name == "unlike" else 2
    with pytest.raises(UsageError, match=words):
        read(with_sidecar(written(tmp_path / "m.onnx", proto), text), SourceOptions())


def test_a_sidecar_that_is_not_there_or_is_no_text(tmp_path):
    path = written(tmp_path / "m.onnx", running_sum())
    with pytest.raises(UsageError, match=r"cannot read the states file .*none\.json: No such file"):
        read(path, SourceOptions(states=tmp_path / "none.json"))
    (tmp_path / "bytes.json").write_bytes(b'{"states": {"\xff": "s_out"}}')
    with pytest.raises(UsageError, match=r"bytes\.json"):
        read(path, SourceOptions(states=tmp_path / "bytes.json"))
    (tmp_path / "long.json").write_text(json.dumps({"states": {"s" * (1 << 20): "t"}}))
    with pytest.raises(UsageError, match="larger than 1 MB"):
        read(path, SourceOptions(states=tmp_path / "long.json"))


def hostile():
    good = running_sum().SerializeToString()
    shape = ["batch", "time", 2]
    custom = model([info("x", shape)], [info("y", shape)], [helper.make_node("Fast", ["x"], ["y"], domain="acme")])
    custom.opset_import.append(helper.make_opsetid("acme", 1))
    nan = numpy_helper.from_array(np.array([1, np.nan], np.float32), "w")
    add = [helper.make_node("Add", ["x", "w"], ["y"])]
    outside = TensorProto(name="w", data_type=FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="../../etc/passwd")
    empty = model([info("x", shape)], [info("y", shape)])
    del empty.graph.node[:]
    return {
        "text": (b"hello, this is no model", "not an ONNX file|damaged"),
        "one byte": (b"\x08", "not an ONNX file|damaged"),
        "cut short": (good[: len(good) // 2], "not an ONNX file|damaged"),
        "empty": (b"", "is empty"),
        "no nodes": (empty.SerializeToString(), "a graph without nodes"),
        "custom domain": (custom.SerializeToString(), "Fast is of the domain 'acme'"),
        "NaN": (model([info("x", shape)], [info("y", shape)], add, [nan]).SerializeToString(), "w holds NaN, 1 of 2"),
        "external": (model([info("x", shape)], [info("y", shape)], add, [outside]).SerializeToString(), "another file"),
        "old opset": (model([info("x", shape)], [info("y", shape)], opset=7).SerializeToString(), "opset 7"),
        "no opset": (onnx.ModelProto(ir_version=8, graph=running_sum().graph).SerializeToString(), "no ONNX opset"),
    }


@pytest.mark.parametrize("name", hostile())
def test_a_hostile_file_is_a_clear_error(name, tmp_path):
    data, words = hostile()[name]
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=words):
        read(tmp_path / "m.onnx", SourceOptions())


def test_a_folder_a_missing_file_and_a_file_that_is_too_large(tmp_path):
    with pytest.raises(ModelError, match="is a folder"):
        read(tmp_path, SourceOptions())
    with pytest.raises(ModelError, match="No such file"):
        read(tmp_path / "none.onnx", SourceOptions())
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(257 << 20)
    with pytest.raises(ModelError, match="257 MB; expected a model of at most 256 MB"):
        read(tmp_path / "large.onnx", SourceOptions())


def test_a_streaming_model_of_our_own_is_not_exported_again(tmp_path):
    with pytest.raises(UsageError, match="it is a streaming model of holdover already"):
        read(saved(recurrent("lstm"), tmp_path / "m.onnx"), SourceOptions())


def no_steps():
    """A GRU that is given a sequence of no steps: onnxruntime ends the process."""
    rng = np.random.default_rng(0)
    sizes = {"w": (1, 9, 2), "r": (1, 9, 3)}
    weights = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in sizes.items()]
    ends = [numpy_helper.from_array(np.array([k]), n) for n, k in {"zero": 0, "none": 0}.items()]
    nodes = [
        helper.make_node("Slice", ["x", "zero", "none", "zero"], ["nothing"]),
        helper.make_node("GRU", ["nothing", "w", "r"], ["y"], hidden_size=3),
    ]
    return model([info("x", ["time", 1, 2])], [info("y", ["time", 1, 1, 3])], nodes, [*weights, *ends])


def endless():
    """A loop whose condition stays true."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go.out"]), helper.make_node("Tanh", ["v"], ["v.out"])],
        "body",
        [info("i", [], INT), info("go", [], TensorProto.BOOL), info("v", None)],
        [info("go.out", [], TensorProto.BOOL), info("v.out", None)],
    )
    true = numpy_helper.from_array(np.array(True), "true")
    loop = helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)
    return model([info("x", ["batch", "time", 2])], [info("y", ["batch", "time", 2])], [loop], [true])


def enormous():
    """A tensor of 64 GB, added to the signal."""
    size = numpy_helper.from_array(np.array([1 << 34]), "size")
    nodes = [
        helper.make_node("ConstantOfShape", ["size"], ["much"]),
        helper.make_node("ReduceMax", ["much"], ["top"]),
        helper.make_node("Add", ["x", "top"], ["y"]),
    ]
    return model([info("x", ["batch", "time", 2])], [info("y", ["batch", "time", 2])], nodes, [size])


def test_a_file_that_takes_onnxruntime_down_takes_only_its_own_process_down(tmp_path):
    name = signal.Signals(signal.SIGABRT).name
    with pytest.raises(ModelError, match=rf"onnxruntime crashed on this file \(signal 6, {name}\)"):
        read(written(tmp_path / "m.onnx", no_steps()), SourceOptions())


def test_a_loop_without_end_is_ended():
    with pytest.raises(ModelError, match="for more than 2 s on this file"):
        canary(endless().SerializeToString(), cpu_s=2)


def test_a_file_that_wants_more_memory_than_there_is(tmp_path):
    with pytest.raises(ModelError, match="more than 8192 MB"):
        read(written(tmp_path / "m.onnx", enormous()), SourceOptions())


def test_what_is_wrong_in_words_is_left_to_be_said_by_others():
    canary(b"no model at all")
    canary(running_sum().SerializeToString())
