"""`holdover export` and `holdover verify`, as they are used."""

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
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
    "a rate that is no number": (["--rate", "nan"], 2, "--rate"),
    "a rate without end": (["--rate", "inf"], 2, "--rate"),
    "a look-ahead that is no number": (["--lookahead", "nan"], 2, "--lookahead"),
    "no leads": (["--leads", ""], 2, "a name that is empty"),
    "a lead without a name": (["--leads", "MLII,"], 2, "a name that is empty"),
    "a lead twice": (["--leads", "MLII, MLII"], 2, "names MLII twice"),
    "a class without a name": (["--labels", "N,,V"], 2, "a name that is empty"),
    "a class twice": (["--labels", "N,S,N"], 2, "names N twice"),
    "a folder for the output": (["-o", "."], 2, ". is a folder"),
    "a folder for the whole graph": (["--keep-whole", "."], 2, ". is a folder"),
    "a whole graph in a folder that is not there": (["--keep-whole", "/nowhere/at/all.onnx"], 2, "folder"),
    "a whole graph over the source": (["--keep-whole", str(KERAS / "lstm.keras")], 2, "would overwrite what is read"),
    "an output over the test input": (["--test-input", __file__, "-o", __file__], 2, "would overwrite what is read"),
    "a device for the output": (["-o", "/dev/null"], 2, "no plain file"),
    "a name that is too long": (["-o", "n" * 300], 2, "too long"),
    "a name that cannot be": (["-o", "a\0b"], 2, "null byte"),
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


@pytest.mark.parametrize("link", [False, True])
def test_both_files_in_one_place_are_refused(link: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, other = tmp_path / "m.onnx", tmp_path / "link.onnx" if link else tmp_path / "." / "m.onnx"
    if link:
        path.write_bytes(b"what was there")
        other.symlink_to(path)
    before = sorted(tmp_path.iterdir())
    assert main(export(path, "--keep-whole", str(other))) == 2
    assert "would overwrite the file of -o" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_link_to_the_source_is_the_source(tmp_path: Path) -> None:
    source, link = tmp_path / "lstm.keras", tmp_path / "link.onnx"
    source.write_bytes((KERAS / "lstm.keras").read_bytes())
    link.symlink_to(source)
    given = ["export", str(source), "-o", str(tmp_path / "m.onnx"), "--rate", "250", "--leads", "I,II"]
    assert main([*given, "--keep-whole", str(link)]) == 2
    assert source.read_bytes() == (KERAS / "lstm.keras").read_bytes()
    assert sorted(tmp_path.iterdir()) == [link, source]


def test_nothing_is_written_unless_both_files_can_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tmp_path / "m.onnx"
    before.write_bytes(b"what was there")
    name = "w" * 250 + ".onnx"  # fits, but not with what is put around it while it is written
    assert main(export(before, "--keep-whole", str(tmp_path / name))) == 2
    assert "nothing was written" in capsys.readouterr().err
    assert before.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [before]


NO_MODELS = {
    "nothing": (b"", "is empty"),
    "a pointer of Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "git lfs pull",
    ),
    "a web page": (b"\n<!DOCTYPE html><html><body>404: Not Found</body></html>", "is a web page"),
    "a web page without a preface": (b"<HTML><body>Sign in</body>", "is a web page"),
}


@pytest.mark.parametrize("suffix", [".onnx", ".keras", ".safetensors", ".pt", ".npz"])
@pytest.mark.parametrize("name", NO_MODELS)
def test_a_file_that_is_no_model_is_named_in_one_line(
    name: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, words = NO_MODELS[name]
    source = tmp_path / f"model{suffix}"
    source.write_bytes(data)
    given = ["export", str(source), "-o", str(tmp_path / "m.onnx"), "--rate", "250", "--leads", "I"]
    assert main(given) == 4
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


def test_an_opset_of_the_future_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "model.onnx"
    x, y = (onnx.helper.make_tensor_value_info(n, 1, ["batch", "time", 1]) for n in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 99)], ir_version=10), source)
    given = ["export", str(source), "-o", str(tmp_path / "m.onnx"), "--rate", "250", "--leads", "I"]
    assert main(given) == 4
    said = capsys.readouterr().err
    assert f"is of opset 99, the onnx {onnx.__version__} that is installed knows" in said
    assert "onnxruntime" not in said


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ("nets.py", "give nets:factory, factory what"),
        ("models/nets.py", "give nets:factory from the folder models/"),
        ("models/nets.py:tcn", "give nets:tcn from the folder models/"),
    ],
)
def test_a_python_file_gets_a_hint(source: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["export", source, "-o", str(tmp_path / "m.onnx"), "--rate", "250", "--leads", "I"]
    assert main(given) == 2
    assert hint in capsys.readouterr().err


def refused(columns: int, tmp_path: Path) -> list[str]:
    """The lines of a long error on a terminal of so many columns; 0: in a pipe."""
    command = [sys.executable, "-m", "holdover.apps.cli", *export(tmp_path / "m.onnx", source="nowhere")]
    environment = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    ours, theirs = pty.openpty() if columns else os.pipe()
    if columns:
        termios.tcsetwinsize(theirs, (24, columns))
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # a terminal whose other side is closed
            while part := os.read(ours, 4096):
                said += part
        os.close(ours)
    assert process.returncode == 3
    lines = said.decode().replace("\r\n", "\n").split("\n")
    return [line.rpartition("\033[K")[2] for line in lines if "holdover: " in line or line.startswith("  ")]


def test_errors_fit_the_terminal_and_stay_whole_in_a_pipe(tmp_path: Path) -> None:
    piped = refused(0, tmp_path)
    assert max(len(line) for line in piped) > 80
    for columns in (60, 100):
        wrapped = refused(columns, tmp_path)
        assert max(len(line) for line in wrapped) <= columns
        assert len(wrapped) > len(piped)
        assert " ".join(" ".join(wrapped).split()) == " ".join(" ".join(piped).split())
