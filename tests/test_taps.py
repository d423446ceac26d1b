"""Gates as outputs are those of the textbook, stream like all else, and cost nothing where nobody asks."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from holdover.apps.cli import main
from holdover.export import contract_io
from holdover.export.contract_io import save
from holdover.export.describe import Statement
from holdover.export.exporting import Options, export, verify
from holdover.export.gate_engine import GateEngine
from holdover.export.original import Original
from holdover.export.proof import engine_of, feed, pieces
from holdover.export.sidecar import by_name, checked
from holdover.export.taps import PARTS, tapped
from holdover.runtime.engines.oracle import gru_step, lstm_step, rnn_step
from holdover.runtime.errors import UsageError

KERAS = Path(__file__).parent / "fixtures" / "keras"
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
ORDER = {"LSTM": "iofc", "GRU": "zrh"}
CHANNELS, HIDDEN = 2, 5


def weights(op, inputs, seed=0, bias=True):
    rng, rows = np.random.default_rng(seed), GATES[op] * HIDDEN
    made = {"w": rng.normal(0, 0.5, (1, rows, inputs)), "r": rng.normal(0, 0.5, (1, rows, HIDDEN))}
    made |= {"b": rng.normal(0, 0.5, (1, 2 * rows))} if bias else {}
    return {name: value.astype(np.float32) for name, value in made.items()}


def net(*ops, bias=True, first=False, head=True, **attributes):
    """Layers one after another over x, (batch, time, channels); `first`: states that begin with numbers of their own.

    Without `head`, y is the last hidden state.
    """
    nodes, tensors, x, inputs = [helper.make_node("Transpose", ["x"], ["x0"], perm=[1, 0, 2])], {}, "x0", CHANNELS
    rng = np.random.default_rng(9)
    for k, op in enumerate(ops):
        tensors |= {f"{n}{k}": v for n, v in weights(op, inputs, k, bias).items()}
        starts = [f"{s}{k}" for s in ("h", "c")[: 2 if op == "LSTM" else 1]] if first else []
        tensors |= {s: rng.normal(0, 0.5, (1, 1, HIDDEN)).astype(np.float32) for s in starts}
        takes = [x, f"w{k}", f"r{k}", f"b{k}" if bias else "", "", *starts]
        gives = [f"net.{op.lower()}{k}_Y"] if head else ["", f"last{k}"]
        nodes.append(helper.make_node(op, takes, gives, hidden_size=HIDDEN, **attributes))
        nodes.append(helper.make_node("Squeeze", [gives[-1], "one" if head else "zero"], [f"x{k + 1}"]))
        x, inputs = f"x{k + 1}", HIDDEN
    nodes.append(
        helper.make_node("Transpose" if head else "Identity", [x], ["y"], **({"perm": [1, 0, 2]} if head else {}))
    )
    tensors |= {"one": np.array([1]), "zero": np.array([0])}
    batch = 1 if first else "batch"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (
        ("x", [batch, "time", CHANNELS]), ("y", [batch, "time", HIDDEN] if head else [batch, HIDDEN]))]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(v, n) for n, v in tensors.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def options(**more):
    return Options(Statement("tiny", 100.0, ("a", "b"), "mV"), tap=True, **more)


def exported(model, **more):
    return export(Original(model, "onnx", "0" * 64), options(**more))


def streamed(done, samples=120, seed=4):
    """Outputs of the streaming file in random pieces, and what it was given, (samples, channels)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, CHANNELS)).astype(np.float32)
    return feed(engine_of(done.model.SerializeToString()), x, pieces(samples, rng)), x


def textbook(op, x, k=0, bias=True, first=None):
    """Every part of a layer over x, (samples, inputs), by the oracle's equations, and its hidden states."""
    held = weights(op, x.shape[1], k, bias)
    b = held.get("b", np.zeros((1, 2 * GATES[op] * HIDDEN), np.float32))[0]
    h, c = first or (np.zeros((1, HIDDEN), np.float32),) * 2
    if op == "RNN":
        w, r, b = held["w"][0], held["r"][0], b[:HIDDEN] + b[HIDDEN:]
    else:
        w, r = (dict(zip(ORDER[op], np.split(held[n][0], GATES[op]), strict=True)) for n in "wr")
        pairs = {g: (b[i * HIDDEN :][:HIDDEN], b[(i + GATES[op]) * HIDDEN :][:HIDDEN]) for i, g in enumerate(ORDER[op])}
    rows = []
    for xt in x[:, None]:
        if op == "LSTM":
            h, c, g = lstm_step(xt, h, c, w, r, {n: sum(p) for n, p in pairs.items()})
            rows.append((g["f"], g["i"], g["o"], c, h))
        elif op == "GRU":
            h, g = gru_step(xt, h, w, r, pairs)
            rows.append((g["z"], g["r"], h))
        else:
            h = rnn_step(xt, h, w, r, b)
            rows.append((h, h))
    *parts, hidden = (np.concatenate(column) for column in zip(*rows, strict=True))
    return dict(zip(PARTS[op], parts, strict=True)), hidden


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op", PARTS)
def test_the_gates_of_a_stream_are_those_of_the_textbook(op, bias):
    found, x = streamed(exported(net(op, bias=bias)))
    wanted, hidden = textbook(op, x, bias=bias)
    np.testing.assert_allclose(found["y"], hidden, atol=1e-5)
    assert set(found) == {"y", *(f"net.{op.lower()}0.{part}" for part in PARTS[op])}
    for part, value in wanted.items():
        np.testing.assert_allclose(found[f"net.{op.lower()}0.{part}"], value, atol=1e-6)


def test_layers_upon_one_another_are_tapped_each():
    found, x = streamed(exported(net("GRU", "LSTM")))
    below, hidden = textbook("GRU", x, 0)
    above, _ = textbook("LSTM", hidden, 1)
    for name, wanted in (("net.gru0", below), ("net.lstm1", above)):
        for part, value in wanted.items():
            np.testing.assert_allclose(found[f"{name}.{part}"], value, atol=1e-6)


def test_states_that_begin_with_numbers_of_their_own_are_where_the_first_gates_start():
    model = net("LSTM", first=True)
    found, x = streamed(exported(model))
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    wanted, _ = textbook("LSTM", x, first=(held["h0"][0], held["c0"][0]))
    for part, value in wanted.items():
        np.testing.assert_allclose(found[f"net.lstm0.{part}"], value, atol=1e-6)


def test_a_layer_of_which_only_the_last_state_was_used_is_tapped_too():
    found, x = streamed(exported(net("LSTM", head=False)))
    wanted, _ = textbook("LSTM", x)
    np.testing.assert_allclose(found["last0.forget"], wanted["forget"], atol=1e-6)


def test_the_contract_says_that_they_are_gates_and_verify_knows_of_them():
    model = net("LSTM")
    done = exported(model)
    meanings = {o.name: (o.meaning, o.width) for o in done.contract.outputs}
    assert meanings == {"y": ("score", 5)} | {f"net.lstm0.{part}": ("gates", 5) for part in PARTS["LSTM"]}
    assert done.contract.document["provenance"]["taps"] == "gates"
    assert done.contract.bitwise
    data, original = done.model.SerializeToString(), Original(model, "onnx", "0" * 64)
    assert not verify(data, done.contract, original, None, None, "noise").refusals
    other = Original(net("LSTM", bias=False), "onnx", "0" * 64)
    assert verify(data, done.contract, other, None, None, "noise").refusals


def test_without_taps_the_file_is_the_same_as_ever():
    plain = export(Original(net("LSTM"), "onnx", "0" * 64), Options(Statement("tiny", 100.0, ("a", "b"), "mV")))
    assert [o.name for o in plain.contract.outputs] == ["y"]
    assert {n.op_type for n in plain.model.graph.node} == {"Transpose", "LSTM", "Squeeze"}
    assert len(plain.contract.states) == 2


def test_a_graph_with_its_states_as_inputs_is_tapped_without_more_memory():
    graph = net("LSTM")
    node = next(n for n in graph.graph.node if n.op_type == "LSTM")
    node.input.extend(["h0", "c0"])
    node.output.extend(["hn", "cn"])
    for name in ("h0", "c0", "hn", "cn"):
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "batch", HIDDEN])
        (graph.graph.input if name.endswith("0") else graph.graph.output).append(info)
    done = export(Original(graph, "onnx", "0" * 64, sidecar=checked(by_name(graph), graph)), options())
    assert [s.name for s in done.contract.states] == ["h0", "c0"]
    found, x = streamed(done)
    wanted, _ = textbook("LSTM", x)
    for part, value in wanted.items():
        np.testing.assert_allclose(found[f"net.lstm0.{part}"], value, atol=1e-6)


@pytest.mark.parametrize("name", ["lstm_hard", "gru_hard", "gru_reset_before", "stack"])
def test_what_keras_wrote_is_tapped_its_hard_gates_too(name):
    pytest.importorskip("h5py", reason="the extra `keras`: pip install holdover[keras]")
    from holdover.export.original import SourceOptions
    from holdover.export.sources.table import read

    width = np.load(KERAS / f"{name}.npz")
    channels = width[next(k for k in width.files if width[k].ndim == 3)].shape[-1]
    original = read(str(KERAS / f"{name}.keras"), SourceOptions(channels))
    said = Statement("k", 100.0, tuple("abcdefgh"[:channels]), "mV")
    done = export(original, Options(said, tap=True))
    gates = [
        o.name for o in done.contract.outputs if o.meaning == "gates" and not o.name.endswith((".cell", ".hidden"))
    ]
    rng = np.random.default_rng(1)
    found = feed(engine_of(done.model.SerializeToString()), rng.normal(size=(60, channels)).astype(np.float32), [60])
    assert gates
    assert all(0 <= found[n].min() < found[n].max() <= 1 for n in gates)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (net("LSTM", direction="reverse"), "it runs reverse"),
        (net("LSTM", clip=3.0), "it clips"),
        (net("LSTM", input_forget=1), "it ties input and forget gate"),
        (net("GRU", activations=["Elu", "Tanh"]), "its activations are Elu and Tanh"),
        (net("GRU", activations=["Sigmoid"]), "its activations are Sigmoid and "),
        (net("GRU", layout=1), "its layout is 1"),
    ],
)
def test_a_layer_that_the_textbook_does_not_describe_is_named(model, why):
    with pytest.raises(UsageError, match=why):
        tapped(model)


def test_peepholes_are_named():
    model = net("LSTM")
    node = next(n for n in model.graph.node if n.op_type == "LSTM")
    node.input.extend(["", "", "peephole"])
    with pytest.raises(UsageError, match=r"net\.lstm0_Y.*peepholes"):
        tapped(model)


def test_a_layer_without_a_size_is_named():
    model = net("LSTM")
    node = next(n for n in model.graph.node if n.op_type == "LSTM")
    del node.attribute[:]
    with pytest.raises(UsageError, match="hidden_size"):
        tapped(model)


def test_taps_asked_of_a_graph_without_recurrent_nodes_say_what_it_has(tmp_path, capsys):
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", "time", 1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Tanh", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    words = ["export", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "s.onnx"), "--rate", "100", "--leads", "a"]
    assert main([*words, "--tap", "gates"]) == 2
    said = capsys.readouterr().err
    assert "no LSTM, GRU or RNN" in said
    assert "Tanh" in said
    assert not (tmp_path / "s.onnx").exists()
    assert main(words) == 0


def test_the_command_taps(tmp_path, capsys):
    onnx.save(net("GRU"), tmp_path / "m.onnx")
    words = ["export", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "s.onnx"), "--rate", "100", "--leads", "a,b"]
    assert main([*words, "--tap", "gates", "--json"]) == 0
    outputs = json.loads(capsys.readouterr().out)["contract"]["outputs"]
    assert [o["name"] for o in outputs if o["meaning"] == "gates"] == ["net.gru0.update", "net.gru0.reset"]
    assert main(["verify", str(tmp_path / "s.onnx"), "--against", str(tmp_path / "m.onnx")]) == 0


def test_names_that_are_taken_are_left_alone():
    model = net("LSTM", "LSTM")
    for t in model.graph.initializer:
        if t.name == "w0":
            t.name = "net.lstm0.input"
    next(n for n in model.graph.node if n.op_type == "LSTM").input[1] = "net.lstm0.input"
    with_gates, taps = tapped(model)
    onnx.checker.check_model(with_gates, full_check=True)
    assert [t.layer for t in taps] == ["net.lstm0", "net.lstm1"]
    assert taps[0].outputs["input"] == "net.lstm0.input_1"
    assert taps[1].outputs["input"] == "net.lstm1.input"


def test_the_gates_of_a_streaming_file_can_be_looked_at_without_tapping_it(tmp_path):
    done = export(Original(net("LSTM"), "onnx", "0" * 64), Options(Statement("tiny", 100.0, ("a", "b"), "mV")))
    save(done.model, tmp_path / "s.onnx")
    gates = GateEngine(*contract_io.load(tmp_path / "s.onnx"))
    x = np.random.default_rng(3).normal(size=(90, CHANNELS)).astype(np.float32)
    lane = gates.lane()
    parts = [lane.push(x[a:b]) for a, b in ((0, 1), (1, 40), (40, 90))]
    (tap,) = gates.taps
    for part, value in textbook("LSTM", x)[0].items():
        np.testing.assert_allclose(np.concatenate([p[tap.outputs[part]] for p in parts]), value, atol=1e-6)
