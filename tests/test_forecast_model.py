"""The shipped forecaster and its recipe: what it promises, whom it beats, what cannot break it."""

import contextlib
import importlib.util
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from holdover.apps.cli import main
from holdover.apps.model.shipped import find_model
from holdover.export import contract_io
from holdover.export.feeding import feed, pieces
from holdover.models.forecast import features, judge
from holdover.models.forecast.card import card
from holdover.models.forecast.graph import build
from holdover.models.forecast.series import many
from holdover.runtime.chunk import Chunk
from holdover.runtime.engine import Engine, load
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.stream import Stream

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "models" / "forecast"
OWN = ROOT / "examples" / "own-forecaster" / "own_forecaster.py"
DAY = 288

Array = NDArray[Any]


@pytest.fixture(scope="module")
def own() -> Iterator[ModuleType]:
    """The example's script as a module."""
    pytest.importorskip("torch", reason="the extra `train`: pip install holdover[train]")
    spec = importlib.util.spec_from_file_location(OWN.stem, OWN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[OWN.stem] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[OWN.stem]


@pytest.fixture(scope="module")
def train() -> ModuleType:
    """The recipe's training, which needs torch."""
    pytest.importorskip("torch", reason="the extra `train`: pip install holdover[train]")
    from holdover.models.forecast import train

    return train


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The shipped file."""
    return load(find_model("forecast"))


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """What the recipe wrote of it."""
    found: dict[str, Any] = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    return found


def seasonal(samples: int = 3000, noise: float = 0.2) -> Array:
    """Days of 288 samples that swing by 3 around 20, with a jump, and noise."""
    rng = np.random.default_rng(0)
    day = np.sin(2 * np.pi * np.arange(samples) / DAY) + (np.arange(samples) % DAY > 200)
    return np.asarray(20 + 3 * day + rng.normal(0, noise, samples), np.float32)


def said(engine: Engine, x: Array) -> tuple[Array, Array]:
    """Forecast and spread of one series, (time,)."""
    values = Stream(engine, 1.0).push(Chunk(0, np.asarray(x, np.float32)[:, None])).values
    return values["forecast"][:, 0], values["spread"][:, 0]


def test_the_contract_says_that_any_unit_and_any_rate_will_do(engine: Engine) -> None:
    c = engine.contract
    assert c.signal.any_rate
    assert [channel.unit for channel in c.signal.channels] == ["any"]
    forecast, spread = c.by_meaning("forecast"), c.by_meaning("spread")
    assert forecast is not None
    assert spread is not None
    assert (forecast.horizon, forecast.delay, forecast.samples_per_frame, c.hop) == (1, 0, 1, 1)
    assert [table["kind"] for table in c.detectors] == ["anomaly"]
    assert Stream(engine, 1 / 300).ratio == 1


def test_card_results_and_file_are_of_the_same_weights(results: dict[str, Any]) -> None:
    _, contract = contract_io.load(FOLDER / "model.onnx")
    assert results["weights"] == contract.document["provenance"]["weights"]
    assert results["file_bytes"] == (FOLDER / "model.onnx").stat().st_size
    assert results["verification"] == contract.document["verification"]
    assert (FOLDER / "CARD.md").read_text(encoding="utf-8") == card(results)


def test_the_file_carries_no_path_and_no_doc_string() -> None:
    model, _ = contract_io.load(FOLDER / "model.onnx")
    assert not model.doc_string
    assert not any(n.doc_string for n in model.graph.node)
    assert not re.search(rb"/(home|work|tmp|root|Users)/", (FOLDER / "model.onnx").read_bytes())


def test_how_samples_arrive_never_changes_a_bit(engine: Engine) -> None:
    """Longer than the week of samples that it carries."""
    x, rng = seasonal(5000)[:, None], np.random.default_rng(1)
    whole = feed(engine, x, [len(x)])
    for _ in range(6):
        found = feed(engine, x, pieces(len(x), rng))
        assert all(found[name].tobytes() == value.tobytes() for name, value in whole.items())
    assert feed(engine, x[:300], [1] * 300)["forecast"].tobytes() == whole["forecast"][:300].tobytes()


def test_a_stream_saved_and_restored_goes_on_as_if_nothing_had_been(engine: Engine) -> None:
    x = seasonal()
    first, second = Stream(engine, 0.1), Stream(load(find_model("forecast")), 0.1)
    first.push(Chunk(0, x[:1234, None]))
    second.restore(unpack(pack(first.snapshot())))
    found = second.push(Chunk(1234, x[1234:, None])).values["forecast"]
    assert found[:, 0].tobytes() == said(engine, x)[0][1234:].tobytes()


def shipped_weights() -> dict[str, Array]:
    """Read back from the file: the GRU's by its node, the head's by their shapes."""
    from onnx import numpy_helper

    model, _ = contract_io.load(FOLDER / "model.onnx")
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    (gru,) = (node for node in model.graph.node if node.op_type == "GRU")
    found = dict(zip(("gru.input", "gru.recurrent", "gru.bias"), (tensors[n][0] for n in gru.input[1:4]), strict=True))
    hidden, columns = found["gru.recurrent"].shape[1], features.ANCHORS + 2
    for name, shape in (("head.weight", (hidden, columns)), ("head.bias", (columns,))):
        (found[name],) = (value for value in tensors.values() if value.shape == shape)
    return found


def oracle(x: Array, weights: dict[str, Array]) -> tuple[Array, Array]:
    """Forecast and spread in double precision, a sample at a time: features by SciPy, gates as in Cho et al. 2014."""
    seen = features.view(x[None].astype(np.float64))
    hidden = weights["gru.recurrent"].shape[1]
    w, r = weights["gru.input"].astype(float), weights["gru.recurrent"].astype(float)
    bw, br = weights["gru.bias"].astype(float).reshape(2, 3 * hidden)
    h, rows = np.zeros(hidden), []
    for u in seen.features[0].astype(float):
        (wz, wr, wn), (rz, rr, rn) = np.split(w @ u + bw, 3), np.split(r @ h + br, 3)
        z, reset = 1 / (1 + np.exp(-wz - rz)), 1 / (1 + np.exp(-wr - rr))
        h = (1 - z) * np.tanh(wn + reset * rn) + z * h
        rows.append(h @ weights["head.weight"].astype(float) + weights["head.bias"])
    y = np.array(rows)
    trust = np.exp(y[:, : features.ANCHORS]) * seen.skill[0]
    trust /= trust.sum(1, keepdims=True)
    forecast = x + y[:, features.ANCHORS] * seen.size[0] - (trust * seen.below[0]).sum(1)
    return forecast, seen.size[0] * np.exp(np.clip(y[:, -1], -features.SPREAD_LIMIT, features.SPREAD_LIMIT))


def test_the_file_says_what_a_slow_oracle_says(engine: Engine) -> None:
    x = seasonal()
    forecast, spread = oracle(x, shipped_weights())
    found = said(engine, x)
    assert np.abs(found[0] - forecast).max() < 5e-3 * np.abs(np.diff(x)).mean()
    assert np.abs(found[1] / spread - 1).max() < 1e-3


def test_another_unit_and_another_zero_change_nothing_else(engine: Engine) -> None:
    x = seasonal()
    forecast, spread = said(engine, x)
    for times, plus in ((1000.0, 0.0), (0.01, -3.0), (1.8, 32.0)):
        other, wide = said(engine, times * x + plus)
        typical = times * np.abs(np.diff(x)).mean()
        assert np.abs(other - (times * forecast + plus)).max() < 0.02 * typical
        assert np.abs(wide / (times * spread) - 1)[10:].max() < 0.02


def test_it_beats_the_simple_forecasts_on_generated_series(engine: Engine) -> None:
    """Each rival is the best of its kind by hindsight, for each series."""
    x = many(4711, 25, 4000)
    rivals = judge.table([judge.misses(engine, row) for row in x])["rivals"]
    assert rivals["last"]["ratio"][1] < 0.9
    assert rivals["mean"]["ratio"][1] < 0.95
    assert rivals["season"]["ratio"][1] < 0.8


@pytest.mark.skipif(
    not (Path(os.environ.get("HOLDOVER_DATA", "")) / "nab").is_dir(), reason="no nab/ in the folder HOLDOVER_DATA"
)
def test_it_beats_them_on_recorded_series_that_it_has_never_seen(engine: Engine) -> None:
    folders = judge.nab(Path(os.environ["HOLDOVER_DATA"]) / "nab")
    rivals = judge.table([judge.misses(engine, x) for x in folders["realKnownCause"].values()])["rivals"]
    assert all(rivals[name]["ratio"][1] < 1 for name in ("last", "season", "mean"))


def test_it_learns_a_day(engine: Engine) -> None:
    """In a quiet signal a jump that comes every day at one hour is a surprise at first, and none in the end."""
    x = seasonal(10 * DAY, noise=0)
    jump = np.arange(201, len(x), DAY)
    surprise = np.abs(x[jump] - said(engine, x)[0][jump - 1])
    assert surprise[0] > 2.5
    assert surprise[-3:].max() < 0.1


def test_the_first_forecast_is_the_first_value(engine: Engine) -> None:
    forecast, spread = said(engine, np.array([273.15]))
    assert forecast[0] == pytest.approx(273.15, rel=1e-5)
    assert 0 < spread[0] < 1


@pytest.mark.parametrize("level", [0.0, -7.25, 1e-30, 1e6, 3e38])
def test_a_constant_is_foreseen(engine: Engine, level: float) -> None:
    forecast, spread = said(engine, np.full(3000, level))
    bounded = min(level, 1e15)
    assert np.abs(forecast - bounded).max() <= 2e-6 * abs(bounded) + 1e-18
    assert np.isfinite(spread).all()
    assert (spread > 0).all()


@pytest.mark.parametrize("times", [1e-30, 1e-12, 1e12, 1e25, 3e38])
def test_no_value_that_single_precision_holds_breaks_it_for_good(engine: Engine, times: float) -> None:
    """A stretch of absurd values between usual ones, and in the end it forecasts as before."""
    x = seasonal(8500)
    x[1500:1600] = np.random.default_rng(2).choice([-1.0, 0.0, 1.0], 100) * times
    forecast, spread = said(engine, x)
    assert np.isfinite(forecast).all()
    assert np.isfinite(spread).all()
    usual = np.abs(seasonal(8500)[7501:] - said(engine, seasonal(8500))[0][7500:-1]).mean()
    assert np.abs(x[7501:] - forecast[7500:-1]).mean() < 1.5 * usual


def test_one_wild_value_does_not_hide_the_day(engine: Engine) -> None:
    x, wild = seasonal(8 * DAY), seasonal(8 * DAY)
    wild[6 * DAY + 50] += 1000
    late = np.arange(7 * DAY, 8 * DAY - 1)
    miss, after = (np.abs(y[late + 1] - said(engine, y)[0][late]).mean() for y in (x, wild))
    assert after < 1.3 * miss


def test_it_finds_its_way_after_a_level_shift(engine: Engine) -> None:
    x = seasonal(2000)
    x[1000:] += 50
    forecast, _ = said(engine, x)
    miss = np.abs(x[1:] - forecast[:-1])
    assert miss[999] > 40
    assert miss[1010:1050].mean() < 3 * miss[900:990].mean()


@pytest.mark.timeout(600)
def test_the_recipe_trains_and_goes_on(
    train: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOLDOVER_DATA", raising=False)
    kept = ("--checkpoint", str(tmp_path / "kept.ckpt"), "--out", str(tmp_path), "--judged", "2")
    assert train.main(["--steps", "1", *kept]) == 0
    assert "step 1/1" in capsys.readouterr().out
    assert train.main(["--steps", "2", "--resume", *kept]) == 0
    assert "step 2/2" in capsys.readouterr().out
    _, contract = contract_io.load(tmp_path / "model.onnx")
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert contract.bitwise
    assert found["weights"] == contract.document["provenance"]["weights"]
    assert found["nab"] is None


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--steps", "0"), "--steps 0"),
        (("--resume", "--checkpoint", "nowhere.ckpt"), "no checkpoint nowhere.ckpt"),
        (("--out", "nowhere"), "no folder nowhere"),
    ],
)
def test_the_recipe_says_what_is_wrong_before_it_works(
    train: ModuleType, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], what: str
) -> None:
    assert train.main(words) == 2
    said = capsys.readouterr().err
    assert what in said
    assert len(said.splitlines()) == 1


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The whole-sequence graph of a net that has learnt nothing."""
    rng = np.random.default_rng(0)
    shapes = {"gru.input": (12, features.WIDTH), "gru.recurrent": (12, 4), "gru.bias": (24,)}
    shapes |= {"head.weight": (4, features.ANCHORS + 2), "head.bias": (features.ANCHORS + 2,)}
    model = build({name: rng.normal(0, 0.3, shape) for name, shape in shapes.items()})
    contract_io.write_whole(tmp_path / "whole.onnx", model.SerializeToString())
    return tmp_path / "whole.onnx"


def exporting(source: Path, *more: str) -> list[str]:
    """The words of an export to the same folder."""
    output = str(source.with_name("streamed.onnx"))
    return ["export", str(source), "-o", output, "--rate", "1", "--leads", "value", "--unit", "any", *more]


def test_an_export_says_how_far_ahead_a_forecast_is_and_who_judges_it(whole: Path) -> None:
    words = ("--meaning", "forecast=forecast", "--meaning", "spread=spread", "--horizon", "5", "--detector", "anomaly")
    assert main(exporting(whole, *words)) == 0
    _, contract = contract_io.load(whole.with_name("streamed.onnx"))
    assert [(o.meaning, o.horizon) for o in contract.outputs] == [("forecast", 5), ("spread", 0)]
    assert contract.detectors == ({"kind": "anomaly"},)


@pytest.mark.parametrize(
    ("words", "what"),
    [(("--horizon", "0"), "--horizon 0"), (("--detector", "oracle"), "expected one of beats, anomaly")],
)
def test_an_export_refuses_what_cannot_be(
    whole: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], what: str
) -> None:
    assert main(exporting(whole, *words)) == 2
    assert what in " ".join(capsys.readouterr().err.split())
    assert not whole.with_name("streamed.onnx").exists()


CHANNELS = ("temperature", "current", "vibration")


@dataclass(frozen=True)
class Pump:
    """The example as it was run: its CSV, what it said of the faults, and a model of few steps."""

    csv: Path
    said: str
    model: Path

    @property
    def faults(self) -> list[tuple[int, int]]:
        """First and last sample, one a minute; all are on the tenth day."""
        times = re.findall(r"(\d\d):(\d\d) to (\d\d):(\d\d) on the tenth day", self.said)
        starts = [(int(a) * 60 + int(b), int(c) * 60 + int(d)) for a, b, c, d in times]
        return [(9 * 1440 + first, 9 * 1440 + last) for first, last in starts]


@pytest.fixture(scope="module")
def pump(own: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Pump:
    """As its README says, with fewer steps."""
    place = tmp_path_factory.mktemp("pump")
    csv, model = place / "pump.csv", place / "pump.onnx"
    with contextlib.redirect_stdout(io.StringIO()) as made:
        assert own.main(["make", str(csv)]) == 0
    with contextlib.redirect_stdout(io.StringIO()) as trained:
        assert own.main(["train", str(csv), "-o", str(model), "--steps", "120"]) == 0
    assert "sample by sample ................." in trained.getvalue()
    return Pump(csv, made.getvalue(), model)


@pytest.mark.timeout(600)
def test_a_forecaster_of_ones_own_is_proven_and_says_what_it_gives(pump: Pump) -> None:
    _, contract = contract_io.load(pump.model)
    assert tuple(channel.name for channel in contract.signal.channels) == CHANNELS
    assert contract.signal.rate_hz == pytest.approx(1 / 60)
    assert {(o.meaning, o.width, o.horizon) for o in contract.outputs} == {("forecast", 3, 1), ("spread", 3, 0)}
    assert contract.document["verification"]["error_over_tolerance"] <= 1


@pytest.mark.timeout(600)
def test_each_fault_of_the_pump_is_an_alert_and_few_others_are(pump: Pump, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(pump.csv), "--model", str(pump.model), "--json"]) == 0
    alerts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    starts = [a["onset_sample"] for a in alerts if a["label"] == "anomaly" and a["phase"] == "start"]
    assert len(pump.faults) == 3
    for first, last in pump.faults:
        assert any(first <= start <= last for start in starts), f"nothing between {first} and {last}: {starts}"
    assert sum(start < 9 * 1440 for start in starts) <= 20


@pytest.mark.parametrize(
    ("text", "words", "what"),
    [
        (None, (), "cannot be read"),
        ("", (), "pump.csv"),
        ("time,a\n0,1\n1,2\n", (), "holds 2 samples; expected at least 1920"),
        ("time,a\n0,1\n1,x\n", (), "'x'"),
        ("time,a\n0,1\n1,2\n", ("--columns", "b"), "has no column 'b'; it has a"),
        ("time,a\n0,1\n1,2\n", ("--part", "1.5"), "--part 1.5"),
        ("time,a\n0,1\n1,2\n", ("--steps", "0"), "at least 1"),
        ("time,a\n" + "".join(f"{i},{'' if i % 9 else i}\n" for i in range(3000)), (), "fewer holes"),
    ],
)
def test_a_csv_that_will_not_do_is_refused_in_a_sentence(
    own: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str | None,
    words: tuple[str, ...],
    what: str,
) -> None:
    csv = tmp_path / "pump.csv"
    if text is not None:
        csv.write_text(text, encoding="utf-8")
    assert own.main(["train", str(csv), "-o", str(tmp_path / "pump.onnx"), *words]) > 0
    said = capsys.readouterr().err
    assert what in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "pump.onnx").exists()
