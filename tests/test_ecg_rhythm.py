"""The recipe of ecg-rhythm: what its streams teach, how it goes on, and what it says when something is missing."""

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from holdover.export import contract_io, verify
from holdover.export.cnn_lstm import build
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ModelError, SourceError, UsageError

torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'holdover[train]'")
pytest.importorskip("wfdb", reason="needs holdover[replay]")
torch.set_num_threads(1)  # more of them spin, and wait for each other, where the tests share two cores

RECIPE = Path(__file__).parent.parent / "models" / "ecg_rhythm"
TRUNK = RECIPE.parent / "ecg_beats" / "model.onnx"
PARTS = ("net", "data", "warp", "disturb", "streams", "score", "publish", "train", "judge", "card")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Modules of the recipe by name; other recipes have modules of the same names."""
    for name in PARTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(RECIPE))
    yield import_module
    for name in PARTS:
        sys.modules.pop(name, None)


def lead(n: int, at: np.ndarray) -> np.ndarray:
    """Spikes of 1 mV at samples of 360 Hz, and a little noise."""
    x = 0.01 * np.random.default_rng(1).standard_normal(n)
    for place in at:
        x[place - 9 : place + 10] += np.exp(-0.5 * (np.arange(-9, 10) / 3) ** 2)
    return x.astype(np.float32)


def records(data: ModuleType) -> list[Any]:
    """Five minutes of each kind of source."""
    n, none = 300 * 360, np.empty((0, 2), int)
    at = np.arange(400, n - 400, 300)
    kind = np.zeros(len(at), int)
    kind[10::20], kind[15::20] = 2, 1
    x = np.stack([lead(n, at), -lead(n, at)])
    sinus, fast = np.array([[0, n, 0]]), np.array([[0, n // 2, 0], [n // 2, n, 2]])
    whole, no_beats = np.array([[0, n]]), np.empty(0, int)
    made = [
        data.Record("1", "mitdb", x, at, kind, sinus, none, none),
        data.Record("2", "svdb", x, at, kind, np.empty((0, 3), int), none, none),
        data.Record("3", "vfdb", x, no_beats, no_beats, fast, whole, none),
    ]
    for label, rhythm in (("A", 1), ("N", 0), ("O", 0), ("~", -1)):
        bad = whole if label == "~" else none
        span = np.array([[0, n, rhythm]])
        made.append(data.Record(label, "cinc2017", x[:1], no_beats, no_beats, span, whole, bad, label))
    return made


def streams(recipe: Any, slots: int = 8, seed: int = 0) -> Any:
    noise = [np.random.default_rng(2).standard_normal(200_000).astype(np.float32)]
    made = records(recipe("data"))
    return recipe("streams").Streams(made, noise, slots, np.random.default_rng(seed))


def test_a_map_of_time_never_turns_back_and_moves_beats_as_asked(recipe: Any) -> None:
    warp, rng = recipe("warp"), np.random.default_rng(0)
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


def test_disorder_leaves_ventricular_beats_and_what_is_outside_in_their_places(recipe: Any) -> None:
    at, kind, inside = np.arange(300.0, 30_000, 300), np.zeros(99, int), np.arange(99) < 60
    kind[20] = 2
    shift = recipe("warp").disordered(at, kind, inside, np.random.default_rng(0))
    assert not shift[[20, 21]].any()
    assert not shift[60:].any()
    assert np.std(shift[30:60]) > 20


def test_a_source_teaches_only_what_it_is_annotated_for(recipe: Any) -> None:
    s, targets = streams(recipe), recipe("streams")._targets
    quiet = {"dangerous": s._dangerous(), "handheld": s._joined()}
    for name, stretch in quiet.items():
        t = targets(stretch, np.zeros(len(stretch.x), int), (-1, -1))
        assert not t.beat_weight.any(), name
        assert (t.kind == -1).all(), name
    fast = targets(quiet["dangerous"], np.zeros(len(quiet["dangerous"].x), int), (-1, -1))
    assert set(np.unique(fast.rhythm)) <= {-1, 0, 2}
    assert not fast.tame.any()
    assert set(np.unique(t.tame)) <= {0, 1, 2}


def test_where_there_is_no_heart_no_beat_is_wanted_and_the_quality_is_bad(recipe: Any) -> None:
    s = streams(recipe)
    stretch = s._nothing()
    t = recipe("streams")._targets(stretch, np.ones(len(stretch.x), int), (-1, -1))
    assert not t.beat.any()
    assert t.beat_weight[6:].all()
    assert (t.quality[13:] == 1).all()
    assert set(np.unique(t.rhythm[90:])) == {0}


def test_beats_and_classes_are_wanted_at_their_delays(recipe: Any) -> None:
    net, part = recipe("net"), recipe("streams")
    n = 2400
    at, kind = np.array([600.0, 1200.0]), np.array([0, 2])
    x, known = np.zeros(n), np.ones(n, bool)
    stretch = part.Stretch(x, at, kind, np.zeros(n, int), known, ~known, np.zeros(n, int))
    t = part._targets(stretch, np.zeros(n, int), (-1, -1))
    for place, label in zip(at, kind, strict=True):
        frame = {name: round((place - net.LAST + delay) / net.HOP) for name, delay in net.DELAYS.items()}
        assert t.beat[frame["beat"]] > 0.7
        assert t.kind[frame["class"]] == label
    assert (t.kind >= 0).sum() == 6


def test_the_streams_of_a_seed_are_the_same_again_and_finite(recipe: Any) -> None:
    a, b = streams(recipe), streams(recipe)
    for _ in range(15):
        (z, targets, alive), (again, _, _) = a.step(), b.step()
        assert z.shape == (8, 1200)
        assert np.isfinite(z).all()
        assert np.array_equal(z, again)
        assert alive.dtype == bool
        assert ((targets.beat >= 0) & (targets.beat <= 1)).all()


def options(tmp_path: Path, **more: object) -> argparse.Namespace:
    plain = {"seed": 0, "resume": False, "checkpoint": tmp_path / "c.ckpt", "steps": 2, "trunk": TRUNK, "whole": False}
    return argparse.Namespace(**(plain | more))


def test_training_stopped_half_way_goes_on_where_it_stood(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = recipe("train")
    monkeypatch.setattr(train, "SLOTS", 4)
    made, noise = records(recipe("data")), [np.random.default_rng(2).standard_normal(200_000).astype(np.float32)]
    begun = train.Training.start(made, noise, options(tmp_path))
    before = [p.clone() for p in begun.net.parameters()]
    begun.run([], noise, tmp_path / "c.ckpt")
    assert begun.step == 2
    assert any((a != b).any() for a, b in zip(before, begun.net.parameters(), strict=True))
    again = train.Training.start(made, noise, options(tmp_path, resume=True, steps=3))
    assert again.step == 2
    assert all((a == b).all() for a, b in zip(begun.net.parameters(), again.net.parameters(), strict=True))
    again.run([], noise, tmp_path / "c.ckpt")
    assert again.step == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.ckpt"]


@pytest.mark.parametrize("whole", [False, True])
def test_a_step_teaches_the_trunk_only_where_the_whole_net_is_trained(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    train = recipe("train")
    monkeypatch.setattr(train, "SLOTS", 4)
    noise = [np.random.default_rng(2).standard_normal(200_000).astype(np.float32)]
    begun = train.Training.start(records(recipe("data")), noise, options(tmp_path, whole=whole))
    before = {name: p.clone() for name, p in begun.net.named_parameters()}
    begun._one(recipe("net").Memory.zeros(4))
    moved = {name for name, p in begun.net.named_parameters() if (p != before[name]).any()}
    assert {"side.weight_hh_l0", "side_head.weight"} <= moved
    assert ("convolutions.0.weight" in moved) == ("head.weight" in moved) == whole


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", b"PK\x03\x04 cut off"])
def test_a_checkpoint_that_is_none_is_refused(recipe: Any, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "c.ckpt").write_bytes(content)
    with pytest.raises(UsageError, match=r"c\.ckpt.*leave --resume away"):
        recipe("train").Training.start([], [], options(tmp_path, resume=True))


def test_without_data_the_recipe_says_what_to_give(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOLDOVER_DATA", raising=False)
    assert recipe("train").main(["--out", str(tmp_path)]) == UsageError.exit_code
    assert "HOLDOVER_DATA" in capsys.readouterr().err
    assert recipe("train").main(["--data", str(tmp_path), "--out", str(tmp_path / "run")]) == SourceError.exit_code
    assert "118 119 205 223" in capsys.readouterr().err


def test_records_and_tables_that_are_missing_are_named(recipe: Any, tmp_path: Path) -> None:
    data = recipe("data")
    with pytest.raises(SourceError, match=r"801 803.*dl_database\('svdb'"):
        data.load_named(tmp_path / "svdb", ("801", "803"))
    with pytest.raises(SourceError, match=r"REFERENCE\.csv"):
        data.load_handheld(tmp_path / "cinc2017", "5")
    (tmp_path / "REFERENCE.csv").write_text("A00005,N\n")
    with pytest.raises(SourceError, match="none of the recordings"):
        data.load_handheld(tmp_path, "5")
    with pytest.raises(SourceError, match="bw ma"):
        data.noises(tmp_path)


def test_what_judges_did_not_train(recipe: Any) -> None:
    data, judge = recipe("data"), recipe("judge")
    taught = {source: {*parts["train"], *parts["validation"]} for source, parts in data.SPLITS.items()}
    assert not taught["mitdb"] & {*judge.DS2, "118e", "102", "104", "107", "217"}
    assert not taught["svdb"] & set(judge.SVDB)
    assert not taught["vfdb"] & set(judge.VFDB)
    assert not {"118", "119"} & set(data.SPLITS["mitdb"]["train"])
    assert not any(chosen("A00010") for chosen in data._PARTS.values())
    for parts in data.SPLITS.values():
        assert not set(parts["train"]) & set(parts["validation"])


def test_the_graph_equals_the_net_that_was_trained(recipe: Any) -> None:
    net, publish = recipe("net"), recipe("publish")
    torch.manual_seed(0)
    made = net.Net().eval()
    model, states = build(net.SHAPE, net.weights(made))
    contract = Contract.of(publish._document(states, {}))
    x = np.random.default_rng(0).standard_normal((2, 1200, 1)).astype(np.float32)
    found = verify.run(verify.stepper(model, contract), contract, x, [x.shape[1]])
    for name, wanted in publish.whole_sequence(made, x).items():
        np.testing.assert_allclose(found[name], wanted, atol=1e-4, err_msg=name)


def test_beats_and_their_classes_are_those_of_ecg_beats_bit_for_bit(recipe: Any) -> None:
    net, publish = recipe("net"), recipe("publish")
    made = net.Net().eval()
    net.take_trunk(made, TRUNK)
    model, states = build(net.SHAPE, net.weights(made))
    contract = Contract.of(publish._document(states, {}))
    x = np.random.default_rng(0).standard_normal((2, 2400, 1)).astype(np.float32)
    here = verify.run(verify.stepper(model, contract), contract, x, [x.shape[1]])
    before, of = contract_io.load(TRUNK)
    there = verify.run(verify.stepper(before, of), of, x, [x.shape[1]])
    for name in ("beat", "offset", "class"):
        assert np.array_equal(here[name], there[name]), name


def test_a_trunk_of_another_kind_is_refused(recipe: Any, tmp_path: Path) -> None:
    net = recipe("net")
    with pytest.raises(ModelError, match="cannot be read"):
        net.take_trunk(net.Net(), tmp_path / "nothing.onnx")
    with pytest.raises(ModelError, match="has not the trunk of ecg-beats"):
        net.take_trunk(net.Net(), RECIPE.parent / "forecast" / "model.onnx")


def test_only_what_is_beside_the_trunk_is_trained(recipe: Any) -> None:
    net = recipe("net")
    made = net.Net()
    assert all(p.requires_grad for p in made.parameters())
    net.take_trunk(made, TRUNK)
    taught = {name for name, p in made.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in taught} == {"side", "side_head"}


def test_where_s_beats_are_annotated_the_rhythm_is_taught_to_be_no_fibrillation(recipe: Any) -> None:
    part = recipe("streams")
    n = 60 * 120
    known = np.ones(n, bool)
    unsaid = np.full(n, -1)
    unsaid[5000:] = 1
    s = part.Stretch(np.zeros(n), np.array([600.0, 4900.0]), np.array([0, 1]), unsaid, known, ~known, np.zeros(n, int))
    part._ordered_near(s)
    assert (s.rhythm[:3700] == -1).all()
    assert (s.rhythm[3700:5000] == 0).all()
    assert (s.rhythm[5000:] == 1).all()


def test_validation_decodes_beats_where_they_are(recipe: Any) -> None:
    net, score = recipe("net"), recipe("score")
    y = np.full((400, net.COLUMNS["quality"].stop), -9.0)
    y[:, net.COLUMNS["class"]] = [3.0, 0.0, 0.0]
    y[99:102, 0], y[99:102, 1] = [-1.0, 4.0, -1.0], 2.0
    y[106:109, net.COLUMNS["class"]] = [0.0, 0.0, 3.0]
    at, kind = score.decode(y)
    assert at == pytest.approx([(100 * net.HOP + net.LAST - net.DELAYS["beat"] + 2) / 120])
    assert kind.tolist() == [2]


def test_the_seed_to_ship_is_chosen_by_validation_alone(recipe: Any) -> None:
    card = recipe("card")
    found = [{"A f1": a, "VF se/sp": [90.0, 99.0]} for a in (0.8, 0.95, 0.9)]
    assert max(range(3), key=lambda n: card.validation_score(found[n])) == 1
    assert card.validation_score(found[0]) == pytest.approx((80 + 90 + 99) / 3)


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_run_that_lacks_its_figures_is_named_and_nothing_is_written(
    recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    run.mkdir()
    out.mkdir()
    if content is not None:
        (run / "results.json").write_text(content)
    assert recipe("card").main([str(run), "--out", str(out)]) == SourceError.exit_code
    assert "results.json" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_a_judge_without_its_recordings_names_them(
    recipe: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = recipe("judge")
    model = RECIPE.parent / "ecg_beats" / "model.onnx"
    argv = [str(model), "--data", str(tmp_path), "-o", str(tmp_path / "judged.json"), "--parts", "svdb"]
    assert judge.main(argv) == SourceError.exit_code
    assert "840" in capsys.readouterr().err
    assert not (tmp_path / "judged.json").exists()


def test_noise_is_added_at_the_ratio_that_was_asked_for(recipe: Any) -> None:
    judge, rng = recipe("judge"), np.random.default_rng(0)
    at = list(range(360, 100_000, 360))
    x = 0.1 * lead(108_000, np.array(at)).astype(float)
    assert judge._height(x, at, 360) == pytest.approx(0.1, rel=0.1)
    assert judge._rms(0.3 * rng.standard_normal(108_000), 360) == pytest.approx(0.3, rel=0.02)
    assert judge._seconds("1:02:03.5") == 3723.5
