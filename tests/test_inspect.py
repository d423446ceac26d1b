"""`holdover inspect` says of a model what its file says, and refuses what is none."""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from holdover.apps import inspect
from holdover.apps.model.shipped import find_model, shipped
from holdover.export import contract_io
from holdover.runtime.engine import initial_state
from holdover.runtime.engine import load as load_engine
from holdover.runtime.errors import ContractError, HoldoverError, ModelError, UsageError

SHIPPED = find_model()
GUIDE = Path(__file__).parent.parent / "docs" / "models.md"


def arguments(*words):
    """What the command line would make of these words."""
    parser = argparse.ArgumentParser()
    inspect.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def facts(capsys, *words):
    """The JSON that is printed."""
    assert inspect.run(arguments(*words, "--json")) == 0
    return json.loads(capsys.readouterr().out)


def page(capsys, *words):
    """The lines that are printed."""
    assert inspect.run(arguments(*words)) == 0
    return capsys.readouterr().out.splitlines()


def a_model(folder, nodes, constants, rank=3, hop=4, **keys):
    """A model file of one input x, (batch, hop, 2) or (batch, 2, hop), one output y and no state."""
    shape = ["batch", "samples", 2] if keys.get("axis", 1) == 1 else ["batch", 2, "samples"]
    ends = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)]
    start = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", start, ends, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    channels = [{"name": "a", "unit": "mV"}, {"name": "b", "unit": "mV"}]
    signal = {"input": "x", "axis": keys.get("axis", 1), "rate_hz": 100.0, "channels": channels}
    document = {
        "version": 1, "name": keys.get("name", "m"), "model_version": "1", "signals": [signal], "hop": hop,
        "first_chunk_min": hop, "grid": hop, "chunk_invariant": "grid", "states": [],
        "outputs": [{"name": "y", "kind": "frames", "meaning": "score", "samples_per_frame": hop}],
    }  # fmt: skip
    contract_io.attach(model, document)
    contract_io.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def floats(*shape):
    return np.zeros(shape, np.float32)


def test_the_shipped_model_is_found_by_name_with_either_dash_and_by_path():
    assert find_model() == find_model("ecg-rhythm") == find_model("ecg_rhythm") == shipped()["ecg_rhythm"]
    assert find_model(str(SHIPPED)) == SHIPPED


def test_a_name_that_is_neither_shipped_nor_a_file_is_refused_with_the_names_that_are():
    with pytest.raises(ModelError, match=r"'ecg-beast'.*ecg_beats"):
        find_model("ecg-beast")


def test_the_json_holds_the_contract_as_the_file_has_it(capsys):
    found = facts(capsys)
    contract = load_engine(SHIPPED).contract
    assert found["contract"] == contract.document
    assert (found["name"], found["version"]) == (contract.name, contract.model_version)
    assert found["sha256"] == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    for key in ("verification", "provenance", "quantization"):
        assert found[key] == contract.document[key]


def test_the_bytes_of_the_memory_are_those_of_the_initial_state(capsys):
    found = facts(capsys)
    state = initial_state(load_engine(SHIPPED).contract)
    assert {s["name"]: s["bytes"] for s in found["states"]} == {n: v.nbytes for n, v in state.items()}
    assert found["state_bytes"] == sum(v.nbytes for v in state.values())


def test_the_parameters_are_those_of_the_initializers(capsys):
    found = facts(capsys)
    model = onnx.load(SHIPPED)
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert found["parameters"] == sum(a.size for a in arrays if a.dtype == np.float32)


def test_the_trained_parameters_of_the_card_are_among_them(capsys):
    results = json.loads((SHIPPED.parent / "results.json").read_text())
    second_lstm_biases, front_end = 2 * 256 + 128, 4 + 4 + 6 + 4
    assert facts(capsys)["parameters"] == results["parameters"] + second_lstm_biases + front_end


def test_the_multiply_adds_of_the_shipped_model_are_those_counted_by_hand(capsys):
    convolutions = 2 * (9 * 24) + 8 * 24 * 40 + 3 * 40 * 48
    recurrent = 4 * 64 * (48 + 64) + 4 * 64 * (64 + 64) + 4 * 32 * (64 + 32)
    front_end = 6 * (1 + 1) + 6 + (1 + 1)
    step = convolutions + recurrent + 64 * 5 + 32 * 4 + front_end
    assert facts(capsys)["multiply_adds"] == {"per_step": step, "per_s": step * 20, "uncounted": {}}


@pytest.mark.parametrize(
    ("nodes", "constants", "rank", "count"),
    [
        ([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": floats(2, 5)}, 3, 4 * 2 * 5),
        (
            [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)],
            {"w": floats(3, 8), "b": floats(3)}, 2, 8 * 3,
        ),
        (
            [
                helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
                helper.make_node("GRU", ["t", "w", "r"], ["y"], hidden_size=7),
            ],
            {"w": floats(1, 21, 2), "r": floats(1, 21, 7)}, 4, 4 * 21 * (2 + 7),
        ),
    ],
    ids=["MatMul", "Gemm", "GRU"],
)  # fmt: skip
def test_the_arithmetic_of_each_operator_is_counted(tmp_path, nodes, constants, rank, count):
    assert inspect.inspect(str(a_model(tmp_path, nodes, constants, rank)))["multiply_adds"]["per_step"] == count


def test_a_grouped_convolution_over_the_last_axis_is_counted(tmp_path):
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, pads=[2, 0])
    path = a_model(tmp_path, [node], {"w": floats(6, 1, 3)}, axis=2)
    found = inspect.inspect(str(path))
    assert found["multiply_adds"] == {"per_step": 6 * 4 * 3, "per_s": 6 * 4 * 3 * 25, "uncounted": {}}


def test_what_is_not_counted_is_named(tmp_path, capsys):
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["z"], domain="com.microsoft"),
        helper.make_node("Einsum", ["z", "w"], ["y"], equation="bti,ij->btj"),
    ]
    path = a_model(tmp_path, nodes, {"w": floats(2, 2)})
    assert facts(capsys, path)["multiply_adds"]["uncounted"] == {"Einsum": 1, "FusedMatMul": 1}
    assert "not counted: 1 Einsum, 1 FusedMatMul" in " ".join(" ".join(page(capsys, path)).split())


def test_a_product_behind_an_unknown_shape_is_named_as_not_counted(tmp_path):
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w"], ["z"], domain="com.microsoft"),
        helper.make_node("MatMul", ["z", "w"], ["y"]),
    ]
    found = inspect.inspect(str(a_model(tmp_path, nodes, {"w": floats(2, 2)})))
    assert "MatMul" in found["multiply_adds"]["uncounted"]


def test_the_delay_from_a_source_has_the_resampler_in_it(capsys):
    own, slower = facts(capsys), facts(capsys, "ecg-rhythm", "--rate", "360")
    assert own["resampler"]["delay_ms"] == 0
    assert slower["resampler"] == {"from_hz": 360.0, "to_hz": 120.0, "delay_ms": 83.333, "any_rate": False}
    for o in slower["outputs"]:
        assert o["delay_from_source_ms"] == pytest.approx(o["delay_ms"] + 83.333)


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf", "1e-9"])
def test_a_rate_that_cannot_be_is_refused(rate):
    with pytest.raises(UsageError, match="--rate"):
        inspect.run(arguments("--rate", rate))


def test_the_page_fits_into_80_columns_and_says_the_same(capsys):
    lines = page(capsys, "--rate", "360")
    assert max(len(line) for line in lines if "/" not in line) <= 80
    text = "\n".join(lines)
    for word in ("ecg-rhythm 0.1.0", "MLII (mV) at 120 Hz", "2,208 bytes", "3.75", "83.333 ms late", "Apache-2.0"):
        assert word in text


def test_what_a_model_says_cannot_steer_the_terminal(tmp_path, capsys):
    path = a_model(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {}, name="m\x1b[2J")
    assert not any("\x1b" in line for line in page(capsys, path))


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08" * 40], ids=["empty", "text", "garbage"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        inspect.run(arguments(tmp_path / "bad.onnx"))


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot read"):
        inspect.run(arguments(tmp_path))


def test_a_model_without_a_contract_is_refused(tmp_path):
    model = onnx.load(SHIPPED)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ContractError, match=r"holdover\.contract"):
        inspect.run(arguments(tmp_path / "bare.onnx"))


def test_a_truncated_model_is_refused(tmp_path):
    (tmp_path / "half.onnx").write_bytes(SHIPPED.read_bytes()[:100_000])
    with pytest.raises(HoldoverError):
        inspect.run(arguments(tmp_path / "half.onnx"))


def test_the_example_of_the_guide_builds_a_model_that_is_proven(tmp_path, capsys):
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=_with_absolute_path())
    found = facts(capsys, tmp_path / "difference.onnx")
    assert (found["state_bytes"], found["verification"]["bitwise"]) == (4, True)


def _with_absolute_path():
    path = os.pathsep.join(str(Path(p).absolute()) for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path}


def test_the_commands_import_nothing_heavy_before_they_run():
    heavy = "{'numpy', 'onnx', 'onnxruntime', 'msgspec', 'rich', 'sqlite3'}"
    code = f"import sys, holdover.apps.inspect, holdover.apps.doctor; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
