"""`holdover export` and `holdover verify`, as they are used."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from holdover.apps.cli import main
from holdover.export.contract_io import load
from holdover.runtime.contract import KEY

pytest.importorskip("h5py", reason="the extra `keras`: pip install holdover[keras]")

KERAS = Path(__file__).parent / "fixtures" / "keras"


def export(output: Path, *more: str, source: str = "lstm") -> list[str]:
    """The words of a command that exports a fixture with two channels."""
    given = ["export", str(KERAS / f"{source}.keras"), "-o", str(output), "--rate", "250", "--leads", "I,II"]
    return [*given, *more]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported LSTM."""
    path = tmp_path_factory.mktemp("export") / "lstm.onnx"
    assert main(export(path)) == 0
    return path


def test_it_reports_in_eighty_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(export(tmp_path / "m.onnx")) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines() if not line.startswith("wrote")) <= 80
    for word in ("signal", "carries", "output", "proof", "cost", "sample by sample", "saved and restored"):
        assert word in out


def test_the_file_holds_contract_and_proof_and_no_path(exported: Path) -> None:
    model, contract = load(exported)
    assert contract.signal.rate_hz == 250
    assert [c.name for c in contract.signal.channels] == ["I", "II"]
    assert contract.document["verification"]["max_error"] <= 1e-5
    assert contract.document["provenance"]["source"].startswith("sha256:")
    assert model.opset_import[0].version in range(17, 21)
    assert model.ir_version in range(8, 11)
    assert str(KERAS).encode() not in exported.read_bytes()


def test_a_model_is_proven_again_against_its_original(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(exported), "--against", str(KERAS / "lstm.keras")]) == 0
    assert "against" in capsys.readouterr().out
    assert main(["verify", str(exported), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refusals"] == []


def test_another_original_is_seen_through(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(exported)
    weight = max(model.graph.initializer, key=lambda t: int(np.prod(t.dims)))
    value = onnx.numpy_helper.to_array(weight).copy()
    value.flat[0] += 0.01
    weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))
    onnx.save(model, tmp_path / "changed.onnx")
    assert main(["verify", str(tmp_path / "changed.onnx"), "--against", str(KERAS / "lstm.keras")]) == 4
    assert "differs from the original" in capsys.readouterr().err


def test_a_refusal_names_node_and_reason_and_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tmp_path / "there.onnx"
    before.write_bytes(b"what was there")
    assert main(export(before, source="bidirectional")) == 4
    said = capsys.readouterr().err
    assert "LSTM" in said
    assert "the last sample" in " ".join(said.split())
    assert before.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [before]


def test_a_bounded_look_ahead_is_called_an_approximation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    assert main(export(path, "--lookahead", "0.1", source="bidirectional")) == 0
    out = capsys.readouterr().out
    assert "approximately" in out
    assert "inexact" in out
    document = load(path)[1].document
    assert document["approximations"]
    assert document["approximation_error"]
    assert main(["verify", str(path), "--against", str(KERAS / "bidirectional.keras")]) == 0


def test_the_whole_graph_is_kept_for_quantization(tmp_path: Path) -> None:
    whole = tmp_path / "whole.onnx"
    assert main(export(tmp_path / "m.onnx", "--keep-whole", str(whole))) == 0
    model = onnx.load(whole)
    onnx.checker.check_model(model)
    drafts = [p.value for p in model.metadata_props if p.key == f"{KEY}.draft"]
    assert json.loads(drafts[0])["name"] == "lstm"
    assert len(model.graph.input) == 1


def test_it_is_proven_on_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = tmp_path / "some.csv"
    t = np.arange(1500) / 250
    rows = "\n".join(f"{s:.3f},{a:.4f},{b:.4f}" for s, a, b in zip(t, np.sin(9 * t), np.cos(7 * t), strict=True))
    recording.write_text(f"time,I,II\n{rows}\n")
    code = main(export(tmp_path / "m.onnx", "--test-input", str(recording)))
    said = capsys.readouterr()
    assert code == 0, said.err
    assert "some.csv" in said.out
    assert load(tmp_path / "m.onnx")[1].document["verification"]["signal"] == "some.csv"


BAD = {
    "a rate of nothing": (["--rate", "0"], 2, "--rate"),
    "a hop of nothing": (["--hop", "0"], 2, "--hop"),
    "an unknown meaning": (["--meaning", "y=loud"], 2, "event_logit"),
    "a meaning of no output": (["--meaning", "nope=score"], 2, "nope"),
    "labels that fit no output": (["--labels", "a,b,c,d,e,f,g,h,i"], 2, "9 classes"),
    "too many leads": (["--leads", "I,II,III"], 2, "2 numbers a sample"),
    "a shape in other words": (["--input-shape", "n,t,2"], 2, "--input-shape"),
    "a test input that is not there": (["--test-input", "nowhere.dat"], 3, "nowhere"),
    "an output folder that is not there": (["-o", "/nowhere/at/all.onnx"], 2, "folder"),
}


@pytest.mark.parametrize(("more", "code", "word"), BAD.values(), ids=BAD)
def test_a_mistake_gets_a_sentence(
    more: list[str], code: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(export(tmp_path / "m.onnx", *more)) == code
    said = capsys.readouterr().err
    assert word in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["nope.keras", "nope.txt", "no.such.module:make", "."])
def test_a_source_that_is_nothing_known(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["export", name, "-o", str(tmp_path / "m.onnx"), "--rate", "250", "--leads", "I"]
    assert main(given) in (2, 3, 4)
    assert "holdover: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_source_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "lstm.keras"
    path.write_bytes((KERAS / "lstm.keras").read_bytes())
    assert main(["export", str(path), "-o", str(path), "--rate", "250", "--leads", "I,II"]) == 2
    assert path.read_bytes() == (KERAS / "lstm.keras").read_bytes()
