"""The card of ecg-rhythm: its figures are those of the runs; its ablations and families are what they say they are."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import poisson

from holdover.evaluate.bxb import LABELS
from holdover.evaluate.figures import figures, record_figures
from holdover.export import contract_io
from holdover.models.ecg_rhythm import asked, card, tables
from holdover.runtime.errors import ModelError, SourceError, UsageError

MODELS = Path(__file__).parent.parent / "models"
SHIPPED = MODELS / "ecg_rhythm"
VALIDATION = {
    "mitdb": {"qrs_f1": 100.0, "veb_f1": 83.8, "sveb_f1": 63.3},
    "svdb": {"qrs_f1": 99.9, "veb_f1": 93.6, "sveb_f1": 32.7},
    "A f1": 0.918,
    "VF se/sp": [98.8, 99.3],
}
ALARM = {"priority": "high", "reference": 2, "Se": 100.0, "alarms": 3, "+P": 66.67, "false in 24 h": 2.6}
LATE = {"p100": 9.0, "p50": 4.0, "p95": 8.0}


def scored(names: list[str], seed: int) -> dict[str, Any]:
    """What `holdover score` says of so many records, by its own code, from counts drawn by chance."""
    table = np.random.default_rng(seed).integers(0, 40, (len(names), len(LABELS), len(LABELS)))
    table[:, 0, 0] += 2000
    of = {"figures": figures(table), "figures without 232": figures(table[:1])}
    of |= {"confusion": {"labels": list(LABELS), "reference by test": table.sum(0).tolist()}}
    of |= {"records": {name: record_figures(counts) for name, counts in zip(names, table, strict=True)}}
    return {
        "maps": {"bxb": of, "de Chazal": of},
        "qrs_50_ms": {name: each for name, each in of["figures"].items() if name[0] == "Q"},
        "rr_error_ms": dict.fromkeys(names, 3.2),
        "calm": {"records": {names[0]: []}, "alarms": seed, "hours": 4.0},
        "alarms": {"against": {"rules": {"labels": {"asystole": ALARM | {"latency_s": LATE}}}}},
    }


def judged(seed: int) -> dict[str, Any]:
    """What `judge.py` writes of a seed."""
    af = {"records": {"202": [90.0, 100.0, 80.0, 100.0], "232": [0.0, 0.0, 0.0, 500.0]}, "se": 90.0, "ppv": 13.33}
    rows = {name: {"alarms": [2, 0, 9, 1], "net": [1, 1, 10, 0]} for name in ("609", "611", "614")}
    levels = {"Q Se": 99.0, "Q +P": 93.0 + seed, "V F1": 80.0, "S F1": 70.0}
    return {
        "date": "2026-01-02",
        "weights": f"sha256:{seed:064x}",
        "ds1": scored(["101", "106"], 0),
        "ds2": scored(["100", "232"], seed)
        | {"runs": {"couplets": [9, 1, 8, 2], "short": [0, 0, 0, 0], "long": [1, 1, 1, 0]}}
        | {"af": af, "af_flutter_aside": af},
        "svdb": scored(["840"], 0),
        "cinc2017": {"counts": {f"{k}>{to}": 3 for k in "NAO~" for to in ("A", "other")}, "f1": 0.8123},
        "vfdb": {"records": rows, "se_sp": {"net": [50.0, 100.0], "alarms": [100.0, 90.0]}},
        "stress": dict.fromkeys(("24", "18", "12", "6", "0", "-6"), levels),
        "heartless": {"em noise1": 3.5, "em noise2": 4.25, "5 uV": 0.0},
    }


def a_run(folder: Path, seed: int) -> Path:
    """A seed's folder."""
    folder.mkdir()
    model, contract = contract_io.load(MODELS / "ecg_beats" / "model.onnx")
    taught = {"trained_on": ["mitdb 101 106"], "validation_records": {"mitdb": ["118"], "vfdb": ["422", "424"]}}
    contract_io.attach(model, contract.document | {"provenance": contract.document["provenance"] | taught})
    contract_io.save(model, folder / "model.onnx")
    outputs = ("beat", "offset", "class", "rhythm", "quality")
    results = {
        "seed": seed,
        "weights": f"sha256:{seed:064x}",
        "steps": 7000,
        "train_seconds": 780,
        "torch": "2.13.0",
        "parameters": 88593,
        "file_bytes": 368776,
        "state_floats": 552,
        "verification": {"chunkings": 64, "max_error": 3.8e-5, "onnxruntime": "1.32.0"},
        "delay_samples": dict.fromkeys(outputs, 30),
        "settle_samples": dict.fromkeys(outputs, 492),
        "settle_labels": {"class": {"V": 252}},
        "validation": VALIDATION | {"counts": {}},
    }
    file = VALIDATION | {"file_bytes": 99083, "load_ms": 11.5, "step_us": 35.25}
    ablations = {
        "memory": dict.fromkeys(("carried", "reset every 60 s", "reset every 2 s"), VALIDATION),
        "delays": {"class": 0.6},
        "files": {"float": file, "int8": file | {"same labels": 99.98}},
        "processor": "a processor",
    }
    for name, found in (("results", results), ("judged", judged(seed)), ("ablations", ablations)):
        (folder / f"{name}.json").write_text(json.dumps(found))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three seeds; the second one first, as if it were to be shipped."""
    return [a_run(tmp_path / str(seed), seed) for seed in (1, 0, 2)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of the recipe's, with baselines in it."""
    place = tmp_path / "home"
    place.mkdir()
    shutil.copyfile(SHIPPED / "CARD.template.md", place / "CARD.template.md")
    rules = {"ds2": scored(["100", "232"], 5), "svdb": scored(["840"], 5)}
    rules["ds2"]["maps"]["de Chazal"]["S record-macro F1"] = 41.83
    (place / "baselines.json").write_text(json.dumps({"detectors": {"Hamilton": rules}}))
    monkeypatch.setattr(card, "HERE", place)
    return place


def test_the_card_is_written_from_the_runs_and_again_from_the_results(runs: list[Path], home: Path) -> None:
    family = home / "gru.json"
    family.write_text(json.dumps({"family": "gru", "width": 74, "parameters": 88503, "steps": 5000,
                                  "validation": VALIDATION}))  # fmt: skip
    assert card.main([*map(str, runs), "--families", str(family), "--out", str(home)]) == 0
    text = (home / "CARD.md").read_text()
    for row in (
        "| SVEB, DS2, escape beats N | 45 / 45 | 65 / 70 |",
        "| QRS +P at 12 dB; 6 dB | 94 / 85 | 97 / 92 | 94.00 / 94.00 | 94.00 / 94.00 | 1.00 / 1.00 | 93.00 / 93.00 |",
        "| AF duration, AF records of DS2 | 85 / 85 | 95 / 95 | 90.00 / 80.00 |",
        "| beats a minute, `em`, the worse lead | 5 | 1 | 4.25 | 4.25 | 0.00 | 4.25 | floor |",
        "| F1 of A, cinc2017 | 70 | 80 | 81.23 | 81.23 | 0.00 | 81.23 | target |",
        "| couplets | 85 / 85 | 92 / 92 | 90.00 / 80.00 |",
        "| small file, bytes | 130,000 | 100,000 | 99,083 |  |  |  | target |",
        "| `asystole` | high | 2 | 100.0 | 3 | 66.67 | 2.6 | 4, 8, 9 |",
        "| 2 | 2 | 8.00 | 6.00 | 18.89 |",
        "| `class` | 0.25 s | 4.10 s, V 2.10 s |",
        "| gru | 74 | 88,503 | 5,000 | 100.0 | 83.8 |",
        "| trains | mitdb 101 106 |",
        "| validates | vfdb 422 424 |",
        "| judges | vfdb 609 611 614 |",
        "Shipped: seed 1;",
        "not a medical device",
        "ODC-By",
        f"sha256:{2:064x}",
    ):
        assert row in text, f"the card lacks {row}"
    assert "$" not in text
    assert text.index("| carried |") < text.index("| reset every 60 s |") < text.index("| reset every 2 s |")
    results = json.loads((home / "results.json").read_text())
    assert list(results["seeds"]) == ["1", "0", "2"]
    assert (home / "model.onnx").read_bytes() == (runs[0] / "model.onnx").read_bytes()
    (home / "CARD.md").unlink()
    assert card.main(["--out", str(home)]) == 0
    assert (home / "CARD.md").read_text() == text


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("judged.json", lambda j: j.pop("vfdb"), "lacks vfdb"),
        ("judged.json", lambda j: j.update(weights="sha256:0"), "other weights"),
        ("judged.json", lambda j: j["ds2"].pop("calm"), "calm"),
        ("results.json", lambda r: r.pop("validation"), "validation"),
        ("ablations.json", lambda a: a.pop("memory"), "memory"),
    ],
)
def test_half_a_run_is_refused_and_nothing_is_written(
    runs: list[Path], home: Path, capsys: pytest.CaptureFixture[str], file: str, spoil: Any, said: str
) -> None:
    place = runs[0] / file
    found = json.loads(place.read_text())
    spoil(found)
    place.write_text(json.dumps(found))
    assert card.main([*map(str, runs), "--out", str(home)]) == SourceError.exit_code
    assert said in capsys.readouterr().err
    assert not any((home / name).exists() for name in ("CARD.md", "results.json", "model.onnx"))


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_a_file_that_is_no_json_is_named(
    runs: list[Path], home: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (runs[1] / "judged.json").write_text(text)
    assert card.main([*map(str, runs), "--out", str(home)]) == SourceError.exit_code
    told = capsys.readouterr().err
    assert str(runs[1] / "judged.json") in told
    assert "judge.py" in told


def test_families_alone_make_no_card(home: Path) -> None:
    assert card.main(["--families", str(home / "gru.json"), "--out", str(home)]) == UsageError.exit_code


def test_a_figure_reaches_its_target_only_if_no_seed_falls_below_the_floor() -> None:
    one = asked.Asked("", (80, 95), (90, 97), lambda _: ())
    assert tables.reached(one, [90, 97], [80, 95]) == "target"
    assert tables.reached(one, [89.9, 97], [80, 95]) == "floor"
    assert tables.reached(one, [95, 99], [79.9, 95]) == "no"
    less = asked.Asked("", (5,), (1,), lambda _: (), lower=True)
    assert [tables.reached(less, [mean], [worst]) for mean, worst in ((1, 5), (1.1, 5), (1, 5.1))] == [
        "target",
        "floor",
        "no",
    ]


def test_record_macro_counts_a_record_whose_beats_were_all_missed() -> None:
    def row(hit: int, wanted: int, called: int) -> dict[str, Any]:
        return {"S Se": {"part": hit, "whole": wanted}, "S +P": {"part": hit, "whole": called}}

    part = {"maps": {"bxb": {"records": {"1": row(5, 10, 10), "2": row(0, 4, 0), "3": row(0, 0, 9)}}}}
    assert asked.record_macro(part, "bxb") == pytest.approx((50 + 0) / 2)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_at_the_upper_bound_so_few_events_would_be_seen_one_time_in_twenty(count: int) -> None:
    assert poisson.cdf(count, tables.upper_bound(count)) == pytest.approx(0.05)


@pytest.mark.skipif(not (SHIPPED / "model.onnx").is_file(), reason="ecg-rhythm is not shipped")
def test_the_shipped_card_says_what_its_results_say() -> None:
    results, baselines = (json.loads((SHIPPED / f"{name}.json").read_text()) for name in ("results", "baselines"))
    assert (SHIPPED / "CARD.md").read_text(encoding="utf-8") == card.card(results, baselines)
    assert results["file_bytes"] == (SHIPPED / "model.onnx").stat().st_size


@pytest.fixture
def torch() -> Any:
    """Torch on one thread, its chance from a seed."""
    found = pytest.importorskip("torch", reason="torch is not installed: pip install 'holdover[train]'")
    found.set_num_threads(1)
    found.manual_seed(0)
    return found


@pytest.mark.usefixtures("torch")
def test_forgetting_beyond_the_end_is_carrying_and_forgetting_before_is_not() -> None:
    from holdover.models.ecg_rhythm import ablate, net, score

    one, x = net.Net().eval(), np.random.default_rng(0).standard_normal(30 * 120).astype(np.float32)
    carried = score.runner(one)(x)
    assert carried.shape == (600, 9)
    for way in (ablate.resetting(one, 60), ablate.sliding(one, 60, 10), ablate.sliding(one, 30, 7)):
        np.testing.assert_allclose(way(x), carried, atol=1e-5)
    reset = ablate.resetting(one, 10)(x)
    np.testing.assert_allclose(reset[:200], carried[:200], atol=1e-5)
    assert np.abs(reset[200:210] - carried[200:210]).max() > 1e-3
    windows = ablate.sliding(one, 10, 10)(x)
    np.testing.assert_allclose(windows[:400], carried[:400], atol=1e-5)
    assert np.abs(windows[400:410] - carried[400:410]).max() > 0
    assert windows.shape == reset.shape == carried.shape


@pytest.mark.usefixtures("torch")
def test_beats_are_the_same_if_place_and_label_are() -> None:
    from holdover.models.ecg_rhythm import ablate, data

    def beats(*kinds: int) -> Any:
        y = np.full((600, 9), -9.0)
        for frame, kind in zip((100, 200, 300), kinds, strict=False):
            y[frame, :2], y[frame + 6 : frame + 9, 2 + kind] = (9.0, 0.0), 9.0
        return lambda _: y

    none = np.empty(0, int)
    record = data.Record("1", "mitdb", np.zeros((1, 10_800), np.float32), none, none, none, none, none, none)
    assert ablate.same_labels(beats(0, 1, 2), beats(0, 1, 2), [record]) == 100.0
    assert ablate.same_labels(beats(0, 1, 2), beats(0, 1, 1), [record]) == pytest.approx(66.667)
    assert ablate.same_labels(beats(0, 1), beats(0, 1, 2), [record]) == pytest.approx(66.667)


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("run", ["empty", "of another model"])
def test_ablations_want_a_model_of_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str], run: str) -> None:
    from holdover.models.ecg_rhythm import ablate

    if run == "of another model":
        shutil.copyfile(MODELS / "ecg_beats" / "model.onnx", tmp_path / "model.onnx")
    assert ablate.main([str(tmp_path), "--data", str(tmp_path)]) == ModelError.exit_code
    assert "model.onnx" in capsys.readouterr().err
    assert not (tmp_path / "ablations.json").exists()


@pytest.mark.parametrize(("family", "kind", "gates"), [("gru", "GRU", 3), ("rnn", "RNN", 1)])
def test_recurrences_and_their_gradients_are_those_of_torch(torch: Any, family: str, kind: str, gates: int) -> None:
    from holdover.models.ecg_rhythm import families

    ours, theirs = families.FAMILIES[family](12, 0.0), getattr(torch.nn, kind)(48, 12, 2, batch_first=True)
    with torch.no_grad():
        for i in range(2):
            getattr(theirs, f"weight_ih_l{i}").copy_(ours.inputs[i].weight)
            getattr(theirs, f"bias_ih_l{i}").copy_(ours.inputs[i].bias)
            getattr(theirs, f"weight_hh_l{i}").copy_(ours.recurrent[i])
            getattr(theirs, f"bias_hh_l{i}").zero_()
            if gates == 3:
                ours.inner[i].uniform_(-1, 1)
                getattr(theirs, f"bias_hh_l{i}")[24:] = ours.inner[i]
    x, h = torch.randn(4, 30, 48, requires_grad=True), torch.randn(2, 4, 12, requires_grad=True)
    (y, (last, _)), (z, end) = ours(x, (h, torch.zeros(2, 4, 0))), theirs(x, h)
    torch.testing.assert_close(y, z)
    torch.testing.assert_close(last, end)
    weigh = torch.randn_like(y)
    mine = [x, h, *ours.recurrent, *(layer.weight for layer in ours.inputs), *(layer.bias for layer in ours.inputs)]
    named = [f"{part}_l{i}" for part in ("weight_hh", "weight_ih", "bias_ih") for i in range(2)]
    their = [x, h, *(getattr(theirs, name) for name in named)]
    found = torch.autograd.grad((y * weigh).sum(), [*mine, *ours.inner])
    expected = torch.autograd.grad((z * weigh).sum(), [*their, theirs.bias_hh_l0, theirs.bias_hh_l1])
    for one, other in zip(found, [*expected[:-2], *(b[24:] for b in expected[-2:])], strict=False):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["lstm", "gru", "rnn", "conv"])
def test_each_family_is_of_equal_size_and_carries_its_memory(torch: Any, family: str) -> None:
    from holdover.models.ecg_rhythm import families

    width = families.equal(family)
    net = families.FamilyNet(family, width).eval()
    goal = families.FamilyNet("lstm", 64).parameters_shipped()
    assert net.parameters_shipped() == pytest.approx(goal, rel=0.015)
    z = torch.randn(2, 1200)
    with torch.no_grad():
        whole, _ = net(z, net.zeros(2))
        memory, parts = net.zeros(2), []
        for part in z.split([300, 6, 894], 1):
            y, memory = net(part, memory)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-5)
        gone = memory.keep(torch.tensor([True, False]))
        fresh, _ = net(z[1:], net.zeros(1))
        torch.testing.assert_close(net(z, gone)[0][1:], fresh, rtol=1e-4, atol=1e-5)


def test_a_family_is_trained_as_the_recipe_is(torch: Any) -> None:
    pytest.importorskip("wfdb", reason="needs holdover[replay]")
    from holdover.models.ecg_rhythm import families, train
    from tests.test_ecg_rhythm import NOISE, records

    options = argparse.Namespace(seed=0, steps=2, half=True, resume=False, checkpoint=Path())
    trial = families.Trial.of("rnn", records(), NOISE, options)
    recipe = train.Training.start(records(), NOISE, options)
    for mine, theirs in zip(trial.optimizer.param_groups, recipe.optimizer.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k != "params"} == {k: v for k, v in theirs.items() if k != "params"}
    before = trial.net.lstm.recurrent[0].detach().clone()
    trial.through(trial.net.zeros(train.SLOTS))
    assert trial.step == 2
    assert not torch.equal(before, trial.net.lstm.recurrent[0])
    assert all(torch.isfinite(p).all() for p in trial.average.parameters())
