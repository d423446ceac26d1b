"""Fine-tuning on a user's own annotated records: what it reads and refuses, what it learns from, what it writes."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdover.export import contract_io
from holdover.export.cnn_lstm import build
from holdover.runtime.engine import load
from holdover.runtime.errors import HoldoverError, ModelError, SourceError, UsageError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'holdover[train]'")
wfdb = pytest.importorskip("wfdb", reason="needs holdover[replay]")
torch.set_num_threads(1)  # more of them spin, and wait for each other, where the tests share two cores
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas

from holdover.apps.cli import main as holdover  # noqa: E402  # behind what it needs
from holdover.models.ecg_rhythm import before_after, finetune, own_records, publish, train, tuning  # noqa: E402
from holdover.models.ecg_rhythm.data import OTHER  # noqa: E402
from holdover.models.ecg_rhythm.net import SHAPE, Net, trained, weights  # noqa: E402

BEATS_MODEL = Path(__file__).parent.parent / "models" / "ecg_beats" / "model.onnx"


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of ecg-rhythm's shape: ecg-beats, and random weights for rhythm and quality."""
    torch.manual_seed(3)
    model, states = build(SHAPE, weights(Net().eval()))
    shipped = {t.name: t for t in contract_io.load(BEATS_MODEL)[0].graph.initializer}
    for tensor in model.graph.initializer:
        tensor.CopyFrom(shipped.get(tensor.name, tensor))
    path: Path = tmp_path_factory.mktemp("parent") / "model.onnx"
    document = publish._document(states, {})
    for _ in range(2):
        contract_io.attach(model, document)
        contract_io.save(model, path)
        document["provenance"] = publish._provenance(trained(path)[0], {"steps": 0, "seed": 3})
    return path


def beats(seconds: float, rate_hz: float) -> tuple[np.ndarray, list[str]]:
    """Places in samples and symbols: every tenth early and ventricular, every seventh supraventricular."""
    at, symbols = [0.6], ["N"]
    while at[-1] < seconds - 1.5:
        symbol = {0: "V", 7: "A"}.get(len(at) % 10, "N")
        at.append(at[-1] + {"N": 0.8, "V": 0.5, "A": 0.55}[symbol])
        symbols.append(symbol)
    return np.rint(np.array(at) * rate_hz).astype(int), symbols


def write(folder: Path, name: str, seconds: float = 80, rate_hz: float = 250, unit: str = "mV", **more: Any) -> None:
    """A synthetic record of one lead or two, and its annotations."""
    at, symbols = beats(seconds, rate_hz)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    x = 0.01 * np.random.default_rng(len(name)).standard_normal(len(time_s))
    for place, symbol in zip(at / rate_hz, symbols, strict=True):
        width, height = (0.03, 1.6) if symbol == "V" else (0.012, 1.0)
        x += height * np.exp(-0.5 * ((time_s - place) / width) ** 2)
    leads = more.get("leads", ["II"])
    per_mv = {"mV": 1.0, "uV": 1000.0, "mmHg": 1.0}[unit] * more.get("size", 1.0)
    wfdb.wrsamp(name, fs=rate_hz, units=[unit] * len(leads), sig_name=leads, write_dir=str(folder),
                p_signal=np.stack([x * per_mv] * len(leads), 1), fmt=["32"] * len(leads))  # fmt: skip
    if symbols := more.get("symbols", symbols):
        shift = more.get("late", 0)
        wfdb.wrann(name, "atr", at[: len(symbols)] + shift, symbol=symbols, fs=rate_hz, write_dir=str(folder))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Three records: of another rate, another unit, and of two leads."""
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder, "p1", rate_hz=250)
    write(folder, "p2", rate_hz=128.5, unit="uV")
    write(folder, "p3", rate_hz=360, leads=["V5", "II"])
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the public databases, and with few streams."""
    monkeypatch.delenv("HOLDOVER_DATA", raising=False)
    monkeypatch.setattr(tuning, "SLOTS", 4)


def run(mine: Path, parent: Path, out: Path, *more: str) -> int:
    return finetune.main(["--records", str(mine), "--model", str(parent), "--out", str(out), "--lead", "II", *more])


def records(folder: Path, parent: Path, **options: Any) -> list[Any]:
    plain = {"records": folder, "lead": "II", "unit": None, "rate": None}
    return own_records.read(argparse.Namespace(**plain | options), trained(parent)[1])


def test_a_model_file_gives_back_the_weights_that_it_was_built_of(parent: Path) -> None:
    net, contract = trained(parent)
    again, _ = build(SHAPE, weights(net))
    assert again.graph == contract_io.load(parent)[0].graph
    assert contract.document["provenance"]["weights"] == contract_io.weights_hash(weights(net))


def test_a_model_of_another_shape_is_refused(tmp_path: Path, parent: Path) -> None:
    with pytest.raises(ModelError, match=r"its outputs are beat, offset, class"):
        trained(BEATS_MODEL)
    model, _ = contract_io.load(parent)
    kept = [t for t in model.graph.initializer if t.name != "side.bias"]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    contract_io.save(model, tmp_path / "less.onnx")
    with pytest.raises(ModelError, match=r"no ecg-rhythm in float32 \(it has no 'side\.bias'"):
        trained(tmp_path / "less.onnx")
    with pytest.raises(ModelError, match=r"nowhere\.onnx cannot be read"):
        trained(tmp_path / "nowhere.onnx")


def test_beats_stand_where_they_were_annotated_whatever_the_rate_and_the_unit(mine: Path, parent: Path) -> None:
    for record in records(mine, parent):
        at, symbols = beats(80, 360)
        assert np.abs(record.at - at).max() <= 3, record.name
        assert [{"N": 0, "A": 1, "V": 2}[s] for s in symbols] == record.kind.tolist()
        x = record.leads[0]
        assert all(x[a - 6 : a + 7].max() > 0.8 for a in at)
        assert x.max() < 1.8


def test_annotations_at_the_onset_are_moved_to_the_peak(tmp_path: Path, parent: Path) -> None:
    write(tmp_path, "onset", rate_hz=250, late=-10)
    (record,) = records(tmp_path, parent)
    assert np.abs(record.at - beats(80, 360)[0]).max() <= 4


def test_what_nobody_annotated_is_left_out(tmp_path: Path, parent: Path) -> None:
    at, symbols = beats(200, 250)
    write(tmp_path, "part", seconds=300, rate_hz=250, symbols=symbols)
    (record,) = records(tmp_path, parent)
    last = round(at[-1] * 1.44)
    assert record.leads.shape[1] == pytest.approx(last + 5 * 360, abs=4)
    low, high = record.unknown[-1]
    assert last < low < last + 200
    assert high == record.leads.shape[1]


def test_a_long_pause_between_marks_is_not_asked_for_and_beats_found_there_count_neither_way(
    tmp_path: Path, parent: Path
) -> None:
    write(tmp_path, "whole", seconds=120)
    write(tmp_path, "pause", seconds=120)
    marks = wfdb.rdann(str(tmp_path / "whole"), "atr")
    kept = (marks.sample < 40 * 250) | (marks.sample > 70 * 250)
    symbols = [s for s, keep in zip(marks.symbol, kept, strict=True) if keep]
    wfdb.wrann("pause", "atr", marks.sample[kept], symbols, fs=250, write_dir=str(tmp_path))
    pause, whole = records(tmp_path, parent)
    assert any(low < 50 * 360 < high for low, high in pause.unknown)
    assert not any(low < 50 * 360 < high for low, high in whole.unknown)
    net, _ = trained(parent)
    found = [before_after.judged(net, [r], 10) for r in (pause, whole)]
    assert found[0]["qrs_false"] <= found[1]["qrs_false"]
    assert found[0]["qrs_hit"] < found[1]["qrs_hit"]


def test_a_short_record_is_repeated_and_the_seam_is_not_asked_for(mine: Path, parent: Path) -> None:
    record = records(mine, parent)[0]
    long, n = tuning._long(record), record.leads.shape[1]
    assert long.leads.shape == (1, 2 * n)
    assert np.array_equal(long.at, [*record.at, *(record.at + n)])
    assert long.kind[: len(record.kind)].tolist() == record.kind.tolist()
    assert long.kind[len(record.kind)] == OTHER
    assert any((low <= n) & (n < high) for low, high in long.unknown)
    assert tuning._long(long) is long


@pytest.mark.parametrize("symbols", [["N"] * 90, None])
def test_streams_of_records_without_early_beats_are_drawn_and_repeat(
    tmp_path: Path, parent: Path, symbols: list[str] | None
) -> None:
    write(tmp_path, "p1", **({"symbols": symbols} if symbols else {}))
    made = records(tmp_path, parent)
    a, b = (tuning.OwnStreams(made, [], 3, np.random.default_rng(5)) for _ in range(2))
    for _ in range(8):
        (z, targets, alive), (again, _, _) = a.step(), b.step()
        assert z.shape == (3, 1200)
        assert np.isfinite(z).all()
        assert np.array_equal(z, again)
        assert targets.beat.any()
        assert alive.shape == (3,)
        assert (targets.offset_weight == 0).all()


def test_other_streams_take_the_slots_that_come_after(mine: Path, parent: Path) -> None:
    made = records(mine, parent)
    rng = np.random.default_rng(0)
    others = tuning.OwnStreams(made, [], 2, rng)
    z, targets, alive = tuning.OwnStreams(made, [], 3, rng, others).step()
    assert z.shape == (5, 1200)
    assert len(targets.kind) == len(alive) == 5


def test_every_fifth_record_is_held_out_or_those_named(mine: Path, parent: Path) -> None:
    three = records(mine, parent)
    names = [[r.name for r in part] for part in own_records.split(three, None)]
    assert names == [["p1", "p2"], ["p3"]]
    ten = three * 3 + three[:1]
    ten = [replace(r, name=str(i)) for i, r in enumerate(ten)]
    assert [r.name for r in own_records.split(ten, None)[1]] == ["4", "9"]
    assert [r.name for r in own_records.split(three, ["p1"])[1]] == ["p1"]
    for records_, validation, said in (
        (three[:1], None, "there is 1 record; two or more"),
        (three, ["p9"], "p9: no such record; there are p1 p2 p3"),
        (three, ["p1", "p2", "p3"], "leave some to learn from"),
    ):
        with pytest.raises(UsageError, match=said):
            own_records.split(records_, validation)


def test_all_records_that_cannot_be_learned_from_are_named_at_once(tmp_path: Path, parent: Path) -> None:
    write(tmp_path, "good")
    write(tmp_path, "short", seconds=30)
    write(tmp_path, "few", symbols=["N"] * 43)
    write(tmp_path, "nobeats", symbols=["~", "+"])
    write(tmp_path, "pressure", unit="mmHg")
    write(tmp_path, "counts", size=500.0)
    write(tmp_path, "unpaired", symbols=["N", "[", *["N"] * 90])
    write(tmp_path, "otherlead", leads=["V1", "V2"])
    write(tmp_path, "late", late=100_000)
    write(tmp_path, "bare")
    (tmp_path / "bare.atr").unlink()
    write(tmp_path, "cut")
    (tmp_path / "cut.dat").write_bytes((tmp_path / "cut.dat").read_bytes()[:5000])
    with pytest.raises(SourceError) as caught:
        records(tmp_path, parent)
    said = dict(line.strip().split(": ", 1) for line in str(caught.value).splitlines()[1:])
    expected = {
        "short": "30 s long; expected 60 s",
        "few": "annotated over 31 s; expected 60 s",
        "nobeats": "none of its 2 annotations is a beat",
        "pressure": "'mmHg'",
        "counts": "as no ECG is",
        "unpaired": "do not come in pairs",
        "otherlead": "no lead 'II'",
        "late": "after the end of the record",
        "bare": "bare.atr is missing",
        "cut": "the header promises",
    }
    assert said.keys() == expected.keys()
    for name, words in expected.items():
        assert words in said[name], name
    assert str(caught.value).startswith("10 of 11 records cannot be learned from")


def test_what_is_written_serves_and_says_where_it_comes_from(mine: Path, parent: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        assert run(mine, parent, out, "--steps", "3", "--even-if-worse") == 0
        assert sorted(p.name for p in out.iterdir()) == ["model.onnx", "results.json"]
    assert (outs[0] / "model.onnx").read_bytes() == (outs[1] / "model.onnx").read_bytes()
    engine = load(outs[0] / "model.onnx")
    document, before = engine.contract.document, trained(parent)[1].document
    said = document["provenance"]
    assert document["name"] == "ecg-rhythm-finetuned"
    assert said["parent"]["weights"] == before["provenance"]["weights"] != said["weights"]
    assert (said["fine_tuned_on"], said["held_out"]) == (["p1", "p2"], ["p3"])
    assert document["chunk_invariant"] == "bitwise"
    assert set(document["verification"]["lookahead_measured"].values()) == {0}
    assert [o.settle for o in engine.contract.outputs] == [o["settle"] for o in before["outputs"]]
    results = json.loads((outs[0] / "results.json").read_text())
    assert results["after"]["held out"].keys() == results["before"]["held out"].keys()
    out = tmp_path / "replayed"
    model = str(outs[0] / "model.onnx")
    assert holdover(["replay", str(mine / "p1.hea"), "--model", model, "--lead", "II", "-o", str(out)]) == 0
    assert (out / "p1.blm").is_file()


def test_steps_lower_the_loss_of_what_is_taught_and_leave_the_parent(
    mine: Path, parent: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "RATE", 3e-3)
    monkeypatch.setattr(train, "EVERY_PRINT", 15)
    net, _ = trained(parent)
    before = {name: p.clone() for name, p in net.named_parameters()}
    tuning.tuned(net, records(mine, parent), tuning.Public(), 45, 0)
    losses = [float(line.split("class ")[1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < 0.7 * losses[0]
    assert all((p == before[name]).all() for name, p in net.named_parameters())


def test_the_parent_teaches_what_the_annotations_do_not_say() -> None:
    y, known = torch.zeros(1, 4, 9), torch.zeros(1, 4, 9)
    known[..., 1], known[..., 5] = 3.0, 2.0
    nothing = {"rhythm": torch.full((1, 4), -1), "offset_weight": torch.zeros(1, 4), "beat": torch.ones(1, 4)}
    all_said = {"rhythm": torch.zeros(1, 4), "offset_weight": torch.ones(1, 4), "beat": torch.ones(1, 4)}
    apart = [float(tuning._forgotten(each, known, nothing)) for each in (y, known)]
    assert apart[0] > apart[1] + 0.05
    assert float(tuning._forgotten(y, known, all_said)) == 0


def test_a_model_that_got_worse_is_not_written(mine: Path, parent: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(tuning, "RATE", 1.0)
    assert run(mine, parent, tmp_path / "out", "--steps", "2") == HoldoverError.exit_code
    said = capsys.readouterr()
    assert "the held-out records got worse" in said.err
    assert "--even-if-worse" in said.err
    assert not list((tmp_path / "out").iterdir())


def test_stopped_by_the_user_it_writes_nothing(
    mine: Path, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning.Tuning, "_follow", stop)
    assert run(mine, parent, tmp_path / "out", "--steps", "3") == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--steps", "0"), "--steps 0 teaches nothing"),
        (("--seed", "-1"), "--seed -1: expected 0 or more"),
        (("--data", "nowhere"), "no data folder (nowhere)"),
        (("--lead", "V9"), "no lead 'V9'"),
        (("--validation", "p7"), "p7: no such record"),
        (("--model", str(BEATS_MODEL)), "its outputs are beat, offset, class"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_is_done(
    mine: Path, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str], said: str
) -> None:
    assert run(mine, parent, tmp_path / "out", *more) in (UsageError.exit_code, SourceError.exit_code, 4)
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_model_that_is_taught_and_a_file_are_never_replaced(
    mine: Path, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(mine, parent, parent.parent) == UsageError.exit_code
    assert "would replace the model" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert run(mine, parent, tmp_path / "file") == UsageError.exit_code
    assert (tmp_path / "file").read_text() == "mine"


def test_a_class_that_nobody_has_has_no_share() -> None:
    counts = {f"{key}_{what}": 0 for key in ("qrs", "V", "S") for what in ("hit", "miss", "false")}
    before = counts | {"qrs_hit": 99, "qrs_miss": 1, "S_false": 2}
    lines = before_after.table("held out", before, before | {"S_false": 0})
    assert lines[1].split() == ["QRS", "100", "99.00", "100.00", "99.00", "100.00"]
    assert lines[2].split() == ["V", "0", "-", "-", "-", "-"]
    assert lines[3].split() == ["S", "0", "-", "0.00", "-", "-"]
    assert lines[4].split() == ["mistakes", "3", "1"]


def test_without_torch_it_is_said_what_to_install(
    mine: Path, parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run(mine, parent, tmp_path / "out") == UsageError.exit_code
    assert "torch is not installed; fine-tuning needs pip install 'holdover[train]'" in capsys.readouterr().err
