"""`holdover quantize`, as it is used; and the shipped model through it."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from holdover.apps.cli import main
from holdover.export.contract_io import load as load_model
from holdover.export.describe import Statement
from holdover.export.exporting import Options, export
from holdover.export.measure import blocks
from holdover.export.original import Original
from holdover.export.proof import engine_of
from holdover.models.ecg_beats.whole import build
from holdover.models.ecg_beats.whole import main as write_whole
from holdover.quantize.methods.step_int8 import take_apart
from holdover.quantize.parent import DRAFT
from tests.quantize_nets import whole
from tests.signals import MODEL, recording

RATE_HZ = 360


def record(folder: Path, name: str, start_s: int, stop_s: int, times: float = 1.0) -> str:
    """A part of the recording as a file."""
    path = folder / f"{name}.npz"
    x = recording()[start_s * RATE_HZ : stop_s * RATE_HZ] * np.float32(times)
    np.savez(path, ecg=x, fs=RATE_HZ, leads=["MLII"], unit="mV")
    return str(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a kept whole-sequence graph and recordings."""
    folder = tmp_path_factory.mktemp("quantize")
    onnx.save(whole("conv-lstm"), folder / "whole.onnx")
    for k, name in enumerate("abc"):
        record(folder, name, 30 * k, 30 * k + 30)
    record(folder, "flat", 0, 30, 0.0)
    record(folder, "microvolts", 0, 30, 1000.0)
    np.savez(folder / "other.npz", ecg=recording()[: 30 * RATE_HZ].repeat(2, 1), fs=RATE_HZ, leads=["I", "II"])
    np.savez(folder / "empty.npz", ecg=np.zeros((0, 1), np.float32), fs=RATE_HZ, leads=["MLII"])
    np.savez(folder / "odd.npz", ecg=recording()[: 30 * RATE_HZ], fs=359.713, leads=["MLII"], unit="mV")
    np.savez(folder / "no_rate.npz", ecg=recording()[: 30 * RATE_HZ])
    return folder


def words(place: Path, output: Path, *more: str, model: str = "whole.onnx", calibrate: tuple[str, ...] = ("a", "b"),
          held_out: str | None = "c") -> list[str]:  # fmt: skip
    """A command."""
    given = ["quantize", str(place / model), "-o", str(output), "--seconds", "20", "--calibrate"]
    given += [str(place / f"{n}.npz") for n in calibrate]
    return [*given, *(["--held-out", str(place / f"{held_out}.npz")] if held_out else []), *more]


def test_it_reports_in_eighty_columns_and_writes_a_model_that_runs(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "m.onnx", tmp_path / "drift.html"
    assert main(words(place, out, "--method", "static-int8", "--gate", "scores>=0", "--report", str(page))) == 0
    said = capsys.readouterr().out
    assert max(len(line) for line in said.splitlines() if not line.startswith("wrote")) <= 80
    for word in ("times smaller", "passes the gate", "proof", "isolation", "parity", "last 10th"):
        assert word in said
    contract = load_model(out)[1]
    assert contract.document["quantization"]["method"] == "static-int8"
    assert contract.document["quantization"]["calibrated_on"] == ["a", "b"]
    assert page.read_text().startswith("<!doctype html>")
    assert str(place).encode() not in out.read_bytes()
    assert main(["inspect", str(out)]) == 0


def test_json_is_one_object_and_auto_may_say_float(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.onnx"
    assert main(words(place, out, "--json", "--gate", "scores>=1", held_out=None, calibrate=("a", "b", "c"))) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["method"] == "float32"
    assert set(said["tried"]) == {"weights-int8", "static-int8", "step-int8", "int16"}
    assert load_model(out)[1].document.get("quantization") is None


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas
@pytest.mark.parametrize("kind", ["csv", "edf", "hea"])
def test_recordings_of_every_kind_calibrate_and_judge(
    kind: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In microvolts and at half the rate: resampled and converted."""
    folder = tmp_path / "records"
    folder.mkdir()
    for k, name in enumerate("ab"):
        written(folder / f"{name}.{kind}", recording()[30 * k * RATE_HZ : 30 * (k + 1) * RATE_HZ : 2, 0] * 1000)
    given = ["quantize", str(place / "whole.onnx"), "-o", str(tmp_path / "m.onnx"), "--calibrate", str(folder)]
    given += ["--method", "weights-int8", "--gate", "scores>=0.9", "--json"]
    given += ["--rate", "180", "--unit", "uV"] if kind == "csv" else []
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "weights-int8"
    assert load_model(tmp_path / "m.onnx")[1].document["quantization"]["held_out"] == ["b"]


def written(path: Path, x: np.ndarray) -> None:  # type: ignore[type-arg]
    """One lead in microvolts at 180 Hz, as a file of the kind that its name ends in."""
    if path.suffix == ".csv":
        path.write_text("MLII\n" + "".join(f"{v:.1f}\n" for v in x))
    elif path.suffix == ".edf":
        import edfio

        edfio.Edf([edfio.EdfSignal(x, 180, label="ECG MLII", physical_dimension="uV")]).write(path)
    else:
        import wfdb

        wfdb.wrsamp(path.stem, 180, ["uV"], ["MLII"], x[:, None].astype(float), fmt=["16"], write_dir=str(path.parent))


def test_nothing_is_written_where_the_gate_does_not_hold(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tmp_path / "there.onnx"
    before.write_bytes(b"what was there")
    assert main(words(place, before, "--method", "static-int8", "--gate", "scores>=1")) == 4
    said = capsys.readouterr().err
    assert "scores is" in said
    assert "least on c" in said
    assert "--gate" in said
    assert before.read_bytes() == b"what was there"
    assert list(tmp_path.iterdir()) == [before]


BAD = {
    "an unknown method": (["--method", "int3"], {}, 2, "weights-int8"),
    "a gate in other words": (["--gate", "good"], {}, 2, "MEASURE>=NUMBER"),
    "a gate on what is not there": (["--gate", "V.f1>=0"], {}, 2, "measured: scores"),
    "float16": (["--method", "float16"], {}, 4, "recurrent"),
    "a record that is not there": ([], {"calibrate": ("nowhere",)}, 3, "nowhere"),
    "a record with other leads": ([], {"calibrate": ("other",)}, 3, "no lead"),
    "a record without a rate": ([], {"calibrate": ("no_rate",)}, 3, "rate"),
    "a record of a rate that does not fit": ([], {"calibrate": ("odd",)}, 2, "odd.npz: cannot resample"),
    "an empty record": ([], {"calibrate": ("empty",)}, 3, "empty"),
    "a flat record": ([], {"calibrate": ("flat", "a")}, 3, "flat is flat"),
    "a record in microvolts": ([], {"calibrate": ("microvolts", "a")}, 3, "another unit"),
    "a record that is in both": ([], {"held_out": "a"}, 2, "has not seen"),
    "one record for both": ([], {"calibrate": ("a",), "held_out": None}, 2, "--held-out"),
    "no model": ([], {"model": "nope.onnx"}, 4, "nope.onnx"),
    "no ONNX file": ([], {"model": "a.npz"}, 4, "a.npz"),
    "an output folder that is not there": (["--report", "/nowhere/at/all.html"], {}, 2, "no folder"),
    "seconds that cannot be": (["--seconds", "nan"], {}, 2, "--seconds"),
}  # fmt: skip


@pytest.mark.parametrize(("more", "changes", "code", "word"), BAD.values(), ids=BAD)
def test_a_mistake_gets_a_sentence(
    place: Path, tmp_path: Path, more: list[str], changes: dict[str, str], code: int, word: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(words(place, tmp_path / "m.onnx", *more, **changes)) == code  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert word in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_contract_is_told_how_to_get_one(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = onnx.load(place / "whole.onnx")
    del bare.metadata_props[:]
    onnx.save(bare, place / "bare.onnx")
    assert main(words(place, tmp_path / "m.onnx", model="bare.onnx")) == 4
    assert "holdover export" in capsys.readouterr().err


def test_a_quantized_model_is_not_quantized_again(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once = place / "once.onnx"
    assert main(words(place, once, "--method", "weights-int8", "--gate", "scores>=0")) == 0
    assert main(words(place, tmp_path / "m.onnx", model="once.onnx")) == 2
    assert "quantized already (weights-int8)" in capsys.readouterr().err


def test_integers_in_the_body_of_a_loop_are_found_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a model whose contract does not say it: of the float parent's contract on what step-int8 made."""
    graph = onnx.load(place / "whole.onnx")
    draft = {p.key: p.value for p in graph.metadata_props}
    assert take_apart(graph)
    onnx.helper.set_model_props(graph, draft)
    onnx.save(graph, place / "apart.onnx")
    assert main(words(place, tmp_path / "m.onnx", model="apart.onnx")) == 2
    assert "quantized already (MatMulInteger, QuantizeLinear)" in capsys.readouterr().err


def test_the_model_is_not_overwritten(place: Path) -> None:
    before = (place / "whole.onnx").read_bytes()
    assert main(words(place, place / "whole.onnx")) == 2
    assert (place / "whole.onnx").read_bytes() == before


def test_a_full_disk_leaves_no_half_a_file(place: Path, tmp_path: Path) -> None:
    given = words(place, tmp_path / "m.onnx", "--method", "weights-int8", "--gate", "scores>=0")
    code = f"import sys; from holdover.apps.cli import main; sys.exit(main({given!r}))"

    def little() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run([sys.executable, "-c", code], preexec_fn=little, capture_output=True, text=True, timeout=100,
                          env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


# The shipped model


def test_the_shipped_model_as_a_whole_graph_streams_as_it_was_shipped(tmp_path: Path) -> None:
    assert write_whole(["--model", str(MODEL), "-o", str(tmp_path / "whole.onnx")]) == 0
    graph = onnx.load(tmp_path / "whole.onnx")
    assert DRAFT in {p.key for p in graph.metadata_props}
    del graph.metadata_props[:]
    done = export(Original(graph, "onnx", "0" * 64), Options(Statement("ecg", 120.0, ("MLII",), "mV")))
    assert done.contract.bitwise
    x = np.ascontiguousarray(recording()[None, ::3])
    x = x[:, : x.shape[1] // 6 * 6]
    streamed, shipped = (
        blocks(engine_of(data), x, [x.shape[1]]) for data in (done.model.SerializeToString(), MODEL.read_bytes())
    )
    for name in ("beat", "offset", "class"):
        assert streamed[name].tobytes() == shipped[name].tobytes()


def test_a_whole_graph_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    assert write_whole(["--model", str(tmp_path / "text.onnx"), "-o", str(tmp_path / "whole.onnx")]) == 4
    assert "text.onnx" in capsys.readouterr().err
    assert not (tmp_path / "whole.onnx").exists()


@pytest.mark.parametrize("start", ["shipped", "whole"])
def test_the_shipped_model_becomes_three_times_smaller_and_finds_the_same_beats(
    start: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = MODEL
    if start == "whole":
        model = tmp_path / "whole.onnx"
        assert write_whole(["--model", str(MODEL), "-o", str(model)]) == 0
    given = ["quantize", str(model), "-o", str(tmp_path / "small.onnx"), "--method", "weights-int8", "--json"]
    given += ["--calibrate", record(tmp_path, "a", 0, 60), "--held-out", record(tmp_path, "b", 60, 180)]
    assert main([*given, "--gate", "labels>=0.98,beats>=0.99,scores>=0.95"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"]["before"] > 3 * said["bytes"]["after"]
    assert said["tried"]["weights-int8"]["isolation"] == {"loud": 0.0, "nan": 0.0, "later": 0.0}
    small, contract = load_model(tmp_path / "small.onnx")
    float_words = load_model(MODEL)[1]
    assert contract.outputs == float_words.outputs
    assert contract.detectors == float_words.detectors
    assert contract.bitwise
    kinds = [numpy_helper.to_array(t).dtype for t in small.graph.initializer if np.prod(t.dims) > 512]
    assert set(kinds) == {np.dtype(np.int8)}


def test_the_first_convolution_once_a_frame_is_the_convolution() -> None:
    from holdover.models.ecg_beats.whole import SHAPE, _framed

    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(MODEL).graph.initializer}
    assert build(weights).graph.node
    kernel, bias = _framed(weights, SHAPE.convolutions[0])
    x = np.random.default_rng(0).normal(size=48)
    padded = np.concatenate([np.zeros(6), x])
    wanted = [padded[3 * k + 0 : 3 * k + 9] @ weights["conv0.weight"] + weights["conv0.bias"] for k in range(16)]
    frames = np.concatenate([np.zeros((1, 6)), x.reshape(-1, 6)])
    found = [np.einsum("oct,tc->o", kernel, frames[k : k + 2]) + bias for k in range(8)]
    assert np.allclose(np.reshape(found, (16, -1)), wanted, atol=1e-5)
