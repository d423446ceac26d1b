"""The recipe of ecg-rhythm: what its streams teach, how it goes on, and what it says when something is missing."""

import argparse
import hashlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: pip install 'holdover[train]'")
pytest.importorskip("wfdb", reason="needs holdover[replay]")

import torch
import wfdb

from holdover.export import verify
from holdover.export.cnn_lstm import build
from holdover.models.ecg_beats.data import LABELS
from holdover.models.ecg_beats.net import LAST
from holdover.models.ecg_beats.score import decode
from holdover.models.ecg_rhythm import data, judge, net, publish, streams, train, warp
from holdover.runtime.contract import Contract
from holdover.runtime.errors import SourceError, UsageError

torch.set_num_threads(1)  # more of them spin, and wait for each other, where the tests share two cores

MODELS = Path(__file__).parent.parent / "models"
NOISE = [np.random.default_rng(2).standard_normal(200_000).astype(np.float32)]


def lead(n: int, at: np.ndarray) -> np.ndarray:
    """Spikes of 1 mV at samples of 360 Hz, and a little noise."""
    x = 0.01 * np.random.default_rng(1).standard_normal(n)
    for place in at:
        x[place - 9 : place + 10] += np.exp(-0.5 * (np.arange(-9, 10) / 3) ** 2)
    return x.astype(np.float32)


def records() -> list[data.Record]:
    """Five minutes of each kind of source."""
    n, none = 300 * 360, np.empty((0, 2), int)
    at = np.arange(400, n - 400, 300)
    kind = np.zeros(len(at), int)
    kind[10::20], kind[15::20] = 2, 1
    x = np.stack([lead(n, at), -lead(n, at)])
    sinus, fast = np.array([[0, n, 0]]), np.array([[0, n // 2, 0], [n // 2, n, 2]])
    whole, half, no_beats = np.array([[0, n]]), np.array([[n // 2, n]]), np.empty(0, int)
    made = [
        data.Record("1", "mitdb", x, at, kind, sinus, none, none, none),
        data.Record("2", "svdb", x, at, kind, np.empty((0, 3), int), none, none, none),
        data.Record("3", "vfdb", x, no_beats, no_beats, fast, whole, none, half),
    ]
    for label, rhythm in (("A", 1), ("N", 0), ("O", 0), ("~", -1)):
        bad = whole if label == "~" else none
        span = np.array([[0, n, rhythm]])
        made.append(data.Record(label, "cinc2017", x[:1], no_beats, no_beats, span, whole, bad, none, label))
    return made


def drawn() -> streams.Streams:
    """Streams from those records; the same again at each call."""
    return streams.Streams(records(), NOISE, 8, np.random.default_rng(0))


def test_a_map_of_time_never_turns_back_and_moves_beats_as_asked() -> None:
    rng = np.random.default_rng(0)
    at, kind = np.arange(300.0, 30_000, 300), np.zeros(99, int)
    kind[50] = 2
    shift = warp.early(at, kind, rng)
    source, target = warp.time_map(at, shift, (0.0, 30_300.0))
    assert (np.diff(source) > 0).all()
    assert (np.diff(target) > 0).all()
    rr = np.diff(np.interp(at, source, target))
    assert (rr[kind[1:] == 1] < 0.86 * 300).all()
    assert kind[50] == 2
    assert np.interp(at[0], source, target) == 300


def test_early_beats_are_made_one_at_a_time() -> None:
    at = np.arange(300.0, 300_000, 300)
    kind = np.zeros(len(at), int)
    warp.early(at, kind, np.random.default_rng(0))
    made = np.flatnonzero(kind == 1)
    assert len(made) > 10
    assert np.diff(made).min() >= 3


def test_disorder_leaves_ventricular_beats_and_what_is_outside_in_their_places() -> None:
    at, kind, inside = np.arange(300.0, 30_000, 300), np.zeros(99, int), np.arange(99) < 60
    kind[20] = 2
    shift = warp.disordered(at, kind, inside, np.random.default_rng(0))
    assert not shift[[20, 21]].any()
    assert not shift[60:].any()
    assert np.std(shift[30:60]) > 20


def test_a_source_teaches_only_what_it_is_annotated_for() -> None:
    s, targets = drawn(), streams.targets_of
    quiet = {"dangerous": s._dangerous(), "handheld": s._joined()}
    for name, stretch in quiet.items():
        t = targets(stretch, np.zeros(len(stretch.x), int), (-1, -1))
        assert not t.beat_weight.any(), name
        assert (t.kind == -1).all(), name
    fast = targets(quiet["dangerous"], np.zeros(len(quiet["dangerous"].x), int), (-1, -1))
    assert set(np.unique(fast.rhythm)) <= {-1, 0, 2}
    assert set(np.unique(fast.tame)) <= {0, 3}
    assert set(np.unique(t.tame)) <= {0, 1, 2}


def test_where_there_is_no_heart_no_beat_is_wanted_and_the_quality_is_bad() -> None:
    s = drawn()
    stretch = s._nothing()
    t = streams.targets_of(stretch, np.ones(len(stretch.x), int), (-1, -1))
    assert not t.beat.any()
    assert t.beat_weight[6:].all()
    assert (t.quality[13:] == 1).all()
    assert set(np.unique(t.rhythm[90:])) == {0}


def test_beats_and_classes_are_wanted_at_their_delays() -> None:
    n = 2400
    at, kind = np.array([600.0, 1200.0]), np.array([0, 2])
    x, known = np.zeros(n), np.ones(n, bool)
    stretch = streams.Stretch(x, at, kind, np.zeros(n, int), known, ~known, np.zeros(n, int))
    t = streams.targets_of(stretch, np.zeros(n, int), (-1, -1))
    for place, label in zip(at, kind, strict=True):
        frame = {name: round((place - LAST + delay) / net.HOP) for name, delay in net.DELAYS.items()}
        assert t.beat[frame["beat"]] > 0.7
        assert t.kind[frame["class"]] == label
    assert (t.kind >= 0).sum() == 6


def test_the_streams_of_a_seed_are_the_same_again_and_finite() -> None:
    a, b = drawn(), drawn()
    for _ in range(15):
        (z, targets, alive), (again, _, _) = a.step(), b.step()
        assert z.shape == (8, 1200)
        assert np.isfinite(z).all()
        assert np.array_equal(z, again)
        assert alive.dtype == bool
        assert ((targets.beat >= 0) & (targets.beat <= 1)).all()


def test_beats_within_a_ventricular_tachycardia_are_taught_to_be_v() -> None:
    none = np.zeros(0)
    stretch = streams._cut(
        records()[2], 140 * 360, 20 * 360, 20, (none, none.astype(int), none), np.random.default_rng(0)
    )
    assert not stretch.tame[:1200].any()
    assert (stretch.tame[1200:] == 3).all()


@pytest.mark.parametrize(("tame", "right"), [(1, {"N", "V"}), (2, {"N"}), (3, {"V"})])
def test_a_beat_that_is_not_annotated_is_taught_what_it_can_be(tame: int, right: set[str]) -> None:
    for index, label in enumerate(LABELS):
        y = torch.zeros(1, 40, net.COLUMNS["quality"].stop)
        y[..., 0], y[..., net.COLUMNS["class"].start + index] = 9.0, 9.0
        loss = float(train._tame(y, torch.full((1, 40), tame)))
        assert loss < 0.01 if label in right else loss > 5


def test_where_nothing_is_known_of_beats_nothing_is_taught_of_them() -> None:
    assert float(train._tame(torch.randn(2, 40, net.COLUMNS["quality"].stop), torch.zeros(2, 40, dtype=int))) == 0


def options(tmp_path: Path, **more: object) -> argparse.Namespace:
    plain = {"seed": 0, "resume": False, "checkpoint": tmp_path / "c.ckpt", "steps": 2, "half": False}
    return argparse.Namespace(**(plain | more))


@pytest.mark.parametrize("half", [False, True])
def test_training_stopped_half_way_goes_on_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool
) -> None:
    monkeypatch.setattr(train, "SLOTS", 4)
    begun = train.Training.start(records(), NOISE, options(tmp_path, half=half))
    before = [p.clone() for p in begun.net.parameters()]
    begun.run([], NOISE, tmp_path / "c.ckpt")
    assert begun.step == 2
    assert any((a != b).any() for a, b in zip(before, begun.net.parameters(), strict=True))
    assert all(torch.isfinite(p).all() for p in begun.net.parameters())
    again = train.Training.start(records(), NOISE, options(tmp_path, half=half, resume=True, steps=3))
    assert again.step == 2
    assert all((a == b).all() for a, b in zip(begun.net.parameters(), again.net.parameters(), strict=True))
    again.run([], NOISE, tmp_path / "c.ckpt")
    assert again.step == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.ckpt"]


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "c.ckpt").write_bytes(content)
    with pytest.raises(UsageError, match=r"c\.ckpt.*leave --resume away"):
        train.Training.start([], [], options(tmp_path, resume=True))


def test_without_data_the_recipe_says_what_to_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOLDOVER_DATA", raising=False)
    assert train.main(["--out", str(tmp_path)]) == UsageError.exit_code
    assert "HOLDOVER_DATA" in capsys.readouterr().err
    assert train.main(["--data", str(tmp_path), "--out", str(tmp_path / "run")]) == SourceError.exit_code
    said = capsys.readouterr().err
    assert all(word in said for word in ("101 106", "118 119", "829", "422 424", "bw ma", "REFERENCE.csv"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [("--steps", "0"), ("--steps", "-3"), ("--seed", "-1")])
def test_no_steps_and_no_seed_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str]
) -> None:
    argv = ["--data", str(tmp_path), "--out", str(tmp_path / "run"), *more]
    assert train.main(argv) == UsageError.exit_code
    assert " ".join(more) in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb 4.3 under pandas 3.1
@pytest.mark.parametrize("ending", ["hea", "dat", "atr"])
@pytest.mark.parametrize("content", [b"", b"\x01garbage"])
def test_a_record_whose_file_is_damaged_is_named(tmp_path: Path, ending: str, content: bytes) -> None:
    x = np.stack([lead(21_600, np.arange(400, 20_000, 300))] * 2, 1).astype(float)
    wfdb.wrsamp("7", 360, ["mV"] * 2, ["MLII", "V1"], x, fmt=["212"] * 2, write_dir=str(tmp_path))
    wfdb.wrann("7", "atr", np.arange(400, 20_000, 300), ["N"] * 66, write_dir=str(tmp_path))
    (tmp_path / f"7.{ending}").write_bytes(content)
    with pytest.raises(SourceError, match=r"/7: its files are damaged"):
        data.load_named(tmp_path, ("7",))


def test_a_line_of_labels_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "REFERENCE.csv").write_text("A00001,N\nA00002;A\n")
    with pytest.raises(SourceError, match=r"REFERENCE.csv has the line 'A00002;A'"):
        data.load_handheld(tmp_path, "12")


def test_a_file_with_another_hash_than_the_databases_is_named(tmp_path: Path) -> None:
    for name in ("bw.hea", "bw.dat", "ma.hea", "ma.dat"):
        (tmp_path / name).write_bytes(name.encode())
    good = hashlib.sha256(b"ma.dat").hexdigest()
    (tmp_path / "SHA256SUMS.txt").write_text(f"{good} ma.dat\n{good} bw.dat\n{good} other.dat\n")
    with pytest.raises(SourceError, match=r"SHA256SUMS.txt: bw.dat; delete"):
        data.noises(tmp_path)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb 4.3 under pandas 3.1
def test_a_record_says_where_its_rhythm_was_a_ventricular_tachycardia(tmp_path: Path) -> None:
    at = np.arange(400, 20_000, 300)
    x = np.stack([lead(21_600, at)] * 2, 1).astype(float)
    wfdb.wrsamp("1", 360, ["mV"] * 2, ["V1", "MLII"], x, fmt=["16"] * 2, write_dir=str(tmp_path))
    said = {100: "(N", 5000: "(VT", 12_000: "(N", 20_100: "(NOISE"}
    marks = sorted(
        [*((place, "N", "") for place in at.tolist()), *((place, "+", word) for place, word in said.items())]
    )
    places, symbols, words = zip(*marks, strict=True)
    wfdb.wrann("1", "atr", np.array(places), list(symbols), aux_note=list(words), write_dir=str(tmp_path))
    (record,) = data.load_named(tmp_path, ("1",))
    assert record.ventricular.tolist() == [[5000, 12_000]]
    assert record.bad.tolist() == [[20_100, 21_600]]
    assert record.rhythm.tolist() == [[100, 5000, 0], [5000, 12_000, 2], [12_000, 20_100, 0], [20_100, 21_600, -1]]
    assert record.at.tolist() == at.tolist()


def test_records_and_tables_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"801 803.*dl_database\('svdb'"):
        data.load_named(tmp_path / "svdb", ("801", "803"))
    with pytest.raises(SourceError, match=r"REFERENCE\.csv"):
        data.load_handheld(tmp_path / "cinc2017", "5")
    (tmp_path / "REFERENCE.csv").write_text("A00005,N\n")
    with pytest.raises(SourceError, match="none of the recordings"):
        data.load_handheld(tmp_path, "5")
    with pytest.raises(SourceError, match="bw ma"):
        data.noises(tmp_path)


def test_what_judges_did_not_train() -> None:
    taught = {source: {*parts["train"], *parts["validation"]} for source, parts in data.SPLITS.items()}
    assert not taught["mitdb"] & {*judge.DS2, "118e", "102", "104", "107", "217"}
    assert not taught["svdb"] & set(judge.SVDB)
    assert not taught["vfdb"] & set(judge.VFDB)
    assert not {"118", "119"} & set(data.SPLITS["mitdb"]["train"])
    assert not any(chosen("A00010") for chosen in data._PARTS.values())
    for parts in data.SPLITS.values():
        assert not set(parts["train"]) & set(parts["validation"])


def test_the_graph_equals_the_net_that_was_trained() -> None:
    torch.manual_seed(0)
    made = net.Net().eval()
    model, states = build(net.SHAPE, net.weights(made))
    contract = Contract.of(publish._document(states, {}))
    x = np.random.default_rng(0).standard_normal((2, 1200, 1)).astype(np.float32)
    found = verify.run(verify.stepper(model, contract), contract, x, [x.shape[1]])
    for name, wanted in publish.whole_sequence(made, x).items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-4, err_msg=name)


def test_where_s_beats_are_annotated_the_rhythm_is_taught_to_be_no_fibrillation() -> None:
    n = 60 * 120
    known = np.ones(n, bool)
    unsaid = np.full(n, -1)
    unsaid[5000:] = 1
    s = streams.Stretch(
        np.zeros(n), np.array([600.0, 4900.0]), np.array([0, 1]), unsaid, known, ~known, np.zeros(n, int)
    )
    streams._ordered_near(s)
    assert (s.rhythm[:3700] == -1).all()
    assert (s.rhythm[3700:5000] == 0).all()
    assert (s.rhythm[5000:] == 1).all()


def test_validation_decodes_beats_where_they_are() -> None:
    y = np.full((400, net.COLUMNS["quality"].stop), -9.0)
    y[:, net.COLUMNS["class"]] = [3.0, 0.0, 0.0]
    y[99:102, 0], y[99:102, 1] = [-1.0, 4.0, -1.0], 2.0
    y[106:109, net.COLUMNS["class"]] = [0.0, 0.0, 3.0]
    at, kind = decode(y)
    assert at == pytest.approx([(100 * net.HOP + LAST - net.DELAYS["beat"] + 2) / 120])
    assert kind.tolist() == [2]


def test_a_judge_without_its_recordings_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = MODELS / "ecg_beats" / "model.onnx"
    argv = [str(model), "--data", str(tmp_path), "-o", str(tmp_path / "judged.json"), "--parts", "svdb"]
    assert judge.main(argv) == SourceError.exit_code
    assert "840" in capsys.readouterr().err
    assert not (tmp_path / "judged.json").exists()


@pytest.mark.parametrize(
    ("label", "reference", "graver"),
    [("ventricular_tachycardia", 1, True), ("asystole", 0, False), ("ventricular_run", 3, False)],
)
def test_a_reference_is_calm_by_what_it_has_whatever_was_told(label: str, reference: int, graver: bool) -> None:
    assert judge._graver({label: {"reference": reference, "priority": None}}) is graver


def test_noise_is_added_at_the_ratio_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    at = list(range(360, 100_000, 360))
    x = 0.1 * lead(108_000, np.array(at)).astype(float)
    assert judge._height(x, at, 360) == pytest.approx(0.1, rel=0.1)
    assert judge._rms(0.3 * rng.standard_normal(108_000), 360) == pytest.approx(0.3, rel=0.02)
    assert judge._seconds("1:02:03.5") == 3723.5
