"""How far back a model remembers: measured where the answer is known, and asked for in the wrong way."""

import argparse
import json

import numpy as np
import onnx
import pytest

from holdover.apps import inspect, memory
from holdover.apps.cli import main
from holdover.apps.model.shipped import find_model
from holdover.export.contract_io import save
from holdover.runtime.errors import UsageError
from tests import graphs

HIDDEN, CHANNELS = 3, 1


def gated(op, bias, folder):
    """A layer without weights whose keeping gate is sigmoid(bias) whatever comes; the cell takes the sign of x."""
    gates = {"lstm": 4, "gru": 3}[op]
    model = graphs.recurrent(op, HIDDEN, CHANNELS)
    tensors = {t.name: t for t in model.graph.initializer}
    b = np.zeros((1, 2 * gates * HIDDEN), np.float32)
    keeps = {"lstm": 2, "gru": 0}[op]
    b[0, keeps * HIDDEN : (keeps + 1) * HIDDEN] = bias
    w = np.zeros((1, gates * HIDDEN, CHANNELS), np.float32)
    w[0, -HIDDEN:] = 1
    made = {"w": w, "r": np.zeros((1, gates * HIDDEN, HIDDEN), np.float32), "b": b}
    for name, value in made.items():
        tensors[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
    save(model, folder / f"{op}.onnx")
    return folder / f"{op}.onnx"


def csv(path, seconds, rate_hz=100):
    x = np.random.default_rng(0).normal(size=round(seconds * rate_hz))
    path.write_text("time,ch0\n" + "".join(f"{k / rate_hz:.4f},{v:.5f}\n" for k, v in enumerate(x)))
    return path


def measured(capsys, *words):
    assert main(["inspect", *map(str, words), "--memory", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["memory"]


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_a_gate_that_never_moves_has_the_time_constant_that_it_must_have(op, tmp_path, capsys):
    keep = np.array([0.5, 0.9, 0.99])
    (layer,) = measured(capsys, gated(op, np.log(keep / (1 - keep)), tmp_path))["units"]
    np.testing.assert_allclose(layer["mean"], keep, rtol=1e-4)
    np.testing.assert_allclose(layer["time_constant_s"], -1 / np.log(keep) / 100, rtol=1e-3)
    assert layer["op"] == op.upper()


def test_the_difference_of_two_pasts_dies_out_as_the_gate_lets_it(tmp_path, capsys):
    keep = 0.98
    found = measured(capsys, gated("lstm", np.full(3, np.log(keep / (1 - keep))), tmp_path))
    below = found["forgetting"]["c"]["below"]
    for level in (0.5, 0.1, 0.01):
        # marks lie a tenth apart
        assert below[f"{level:g}"] == pytest.approx(np.log(level) / np.log(keep) / 100, rel=0.12, abs=0.011)


def test_a_queue_of_six_samples_forgets_after_six(tmp_path, capsys):
    save(graphs.fifo(length=6), tmp_path / "fifo.onnx")
    found = measured(capsys, tmp_path / "fifo.onnx")
    assert found["forgetting"]["fifo"]["below"]["0.001"] == pytest.approx(0.06)
    assert found["forgetting"]["y"]["below"]["0.001"] == pytest.approx(0.06)
    assert found["outputs"][0]["lookahead_s"] == pytest.approx(0.06)
    assert found["units"] == []
    assert "no LSTM, GRU or RNN" in found["note"]


def test_a_sum_over_all_time_never_forgets(tmp_path, capsys):
    save(graphs.block_sum(), tmp_path / "sum.onnx")
    found = measured(capsys, tmp_path / "sum.onnx")
    assert found["outputs"][0]["settled_s"] is None
    assert set(found["forgetting"]["total"]["below"].values()) == {None}


def test_the_page_is_in_eighty_columns_and_names_every_state(capsys):
    assert main(["inspect", "--memory"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for word in ("lstm0", "lstm1", "forget", "highpass", "beat", "look-ahead", "white noise"):
        assert word in out


def test_an_rnn_has_no_gate_and_says_so(tmp_path, capsys):
    save(graphs.recurrent("rnn"), tmp_path / "rnn.onnx")
    assert "no gate that keeps" in measured(capsys, tmp_path / "rnn.onnx")["note"]


def test_a_recording_is_what_it_is_measured_on(tmp_path, capsys):
    model = gated("lstm", np.zeros(3), tmp_path)
    found = measured(capsys, model, "--on", csv(tmp_path / "a.csv", 30))
    assert found["on"].endswith("a.csv")
    assert found["seconds"] == pytest.approx(30, abs=0.1)


def two_leads(path, seconds=10, rate_hz=100):
    x = np.random.default_rng(1).normal(size=(round(seconds * rate_hz), 2))
    path.write_text("time,II,V5\n" + "".join(f"{k / rate_hz:.2f},{a:.5f},{b:.5f}\n" for k, (a, b) in enumerate(x)))
    return path


def one_lead(path, column, whole):
    rows = [line.split(",") for line in whole.read_text().splitlines()]
    path.write_text("".join(f"{row[0]},{row[column]}\n" for row in rows))
    return path


@pytest.mark.parametrize(("lead", "column"), [("V5", 2), ("MLII,v5,first", 2), ("MLII,first", 1)])
def test_a_lead_is_chosen_as_replay_chooses_it(lead, column, tmp_path, capsys):
    save(graphs.fifo(), tmp_path / "m.onnx")
    both = two_leads(tmp_path / "both.csv")
    alone = [one_lead(tmp_path / f"{k}.csv", k, both) for k in (1, 2)]
    found = measured(capsys, tmp_path / "m.onnx", "--on", both, "--lead", lead)["forgetting"]
    first, second = (measured(capsys, tmp_path / "m.onnx", "--on", path)["forgetting"] for path in alone)
    assert first != second
    assert found == (first, second)[column - 1]


@pytest.mark.parametrize(("words", "said"), [([], "--lead"), (["--lead", "MLII,V1"], "it has II, V5")])
def test_a_recording_without_the_lead_is_refused_with_what_there_is(words, said, tmp_path, capsys):
    save(graphs.fifo(), tmp_path / "m.onnx")
    both = two_leads(tmp_path / "both.csv")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--memory", "--on", str(both), *words]) == 3
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_the_same_model_gives_the_same_figures(tmp_path, capsys):
    model = gated("gru", np.zeros(3), tmp_path)
    assert measured(capsys, model) == measured(capsys, model)


def test_a_plot_is_drawn(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: install holdover[replay]")
    save(graphs.fifo(), tmp_path / "fifo.onnx")
    for model in (find_model(), tmp_path / "fifo.onnx"):
        assert main(["inspect", str(model), "--memory", "--plot", str(tmp_path / "m.png")]) == 0
        assert (tmp_path / "m.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        (tmp_path / "m.png").unlink()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--plot", "m.png"], 2, "add --memory"),
        (["--on", "a.csv"], 2, "add --memory"),
        (["--lead", "II"], 2, "add --memory"),
        (["--memory", "--lead", "II"], 2, "add --on RECORD"),
        (["--memory", "--plot", "m.pdf"], 2, "written as .png"),
        (["--memory", "--plot", "no/such/folder/m.png"], 2, "no folder"),
        (["--memory", "--on", "nothing.csv"], 3, "nothing.csv"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(words, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", *words]) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err


def test_a_recording_that_is_too_short_is_refused_with_what_it_takes(tmp_path, capsys):
    model = graphs.fifo(length=200, hop=20)
    save(model, tmp_path / "m.onnx")
    assert main(["inspect", str(tmp_path / "m.onnx"), "--memory", "--on", str(csv(tmp_path / "a.csv", 2))]) == 2
    assert "longer recording" in capsys.readouterr().err


def test_a_recording_of_nothing_but_holes_is_refused(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("time,ch0\n" + "".join(f"{k / 100},nan\n" for k in range(500)))
    model = gated("lstm", np.zeros(3), tmp_path)
    assert main(["inspect", str(model), "--memory", "--on", str(tmp_path / "a.csv")]) in (3, 4)
    assert "Traceback" not in capsys.readouterr().err


def test_gates_that_open_to_the_end_have_a_time_constant_that_is_a_number():
    found = memory.time_constants(np.array([[1.0, 0.0, 0.5]] * 4))
    assert found[0] == memory.LONGEST
    assert np.isfinite(found).all()
    assert found[1] < found[2] < found[0]


def test_the_options_stand_in_the_help():
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser)
    assert {"--memory", "--on", "--lead", "--plot"} <= {o for a in parser._actions for o in a.option_strings}


def test_a_model_without_a_state_has_no_memory(tmp_path):
    model = graphs.block_sum()
    del model.graph.input[1], model.graph.output[1]
    kept = [n for n in model.graph.node if n.output[0] in ("sum", "x.sum")]
    del model.graph.node[:]
    model.graph.node.extend([*kept, onnx.helper.make_node("Identity", ["x.sum"], ["y"])])
    graphs.attach(model, graphs.document([], hop=4, grid=4, chunk_invariant="grid"))
    save(model, tmp_path / "m.onnx")
    with pytest.raises(Exception, match="no memory to measure"):
        memory.of_file(tmp_path / "m.onnx", None)


def test_a_plot_needs_a_png():
    with pytest.raises(UsageError, match="written as"):
        memory.plot({}, "a.svg", "m")


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_a_file_whose_gates_are_outputs_already_is_looked_at_like_any_other(op, tmp_path, capsys):
    onnx.save(_whole(op), tmp_path / "whole.onnx")
    command = ["export", str(tmp_path / "whole.onnx"), "-o", str(tmp_path / "m.onnx"), "--rate", "100", "--leads", "a"]
    assert main([*command, "--tap", "gates"]) == 0
    capsys.readouterr()
    (layer,) = measured(capsys, tmp_path / "m.onnx")["units"]
    assert layer["op"] == op.upper()


def _whole(op):
    """A layer over a whole sequence, (time, batch, 1)."""
    gates, rng = {"lstm": 4, "gru": 3}[op], np.random.default_rng(1)
    sizes = {"w": (1, gates * HIDDEN, 1), "r": (1, gates * HIDDEN, HIDDEN), "b": (1, 2 * gates * HIDDEN)}
    tensors = [onnx.numpy_helper.from_array(rng.normal(0, 0.4, n).astype(np.float32), k) for k, n in sizes.items()]
    axis = onnx.numpy_helper.from_array(np.array([1]), "axis")
    nodes = [onnx.helper.make_node(op.upper(), ["x", "w", "r", "b"], ["all"], hidden_size=HIDDEN),
             onnx.helper.make_node("Squeeze", ["all", "axis"], ["y"])]  # fmt: skip
    ends = [onnx.helper.make_tensor_value_info("x", 1, ["time", "batch", 1]),
            onnx.helper.make_tensor_value_info("y", 1, ["time", "batch", HIDDEN])]  # fmt: skip
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [*tensors, axis])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


def test_a_signal_of_which_nothing_can_be_forgotten_is_refused(tmp_path, capsys):
    (tmp_path / "flat.csv").write_text("time,ch0\n" + "".join(f"{k / 100:.2f},0\n" for k in range(2500)))
    assert (
        main(["inspect", str(gated("lstm", np.zeros(3), tmp_path)), "--memory", "--on", str(tmp_path / "flat.csv")])
        == 2
    )
    assert "the same in all its pieces" in capsys.readouterr().err
