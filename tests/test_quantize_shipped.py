"""The small models in the package: what its file, its figures and its card say, and that each decides as its parent."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdover.apps.cli import main
from holdover.apps.model.shipped import find_model
from holdover.export import contract_io
from holdover.export.measure import blocks
from holdover.quantize.cost import step_costs
from holdover.quantize.gate import Parity, failed, parse
from holdover.quantize.isolation import isolation
from holdover.runtime.engine import load
from tests.scoring import data
from tests.signals import recording

GATE = "V.f1>=-0.005,S.f1>=-0.01,labels>=0.995"


@pytest.fixture(scope="module", params=["ecg-beats", "ecg-rhythm"])
def float_model(request: pytest.FixtureRequest) -> Path:
    return find_model(request.param)


@pytest.fixture(scope="module")
def small_model(float_model: Path) -> Path:
    return find_model(f"{float_model.parent.name}_small")


@pytest.fixture(scope="module")
def said(small_model: Path) -> dict[str, Any]:
    found: dict[str, Any] = contract_io.load(small_model)[1].document["quantization"]
    return found


@pytest.fixture(scope="module")
def results(small_model: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((small_model.parent / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def card(small_model: Path) -> str:
    return (small_model.parent / "CARD.md").read_text(encoding="utf-8")


def test_it_was_made_of_the_shipped_float_model(said: dict[str, Any], small_model: Path, float_model: Path) -> None:
    assert said["parent"] == f"sha256:{hashlib.sha256(float_model.read_bytes()).hexdigest()}"
    small, large = contract_io.load(small_model)[1], contract_io.load(float_model)[1]
    assert (small.name, small.model_version) == (f"{large.name}-small", large.model_version)
    assert small.outputs == large.outputs
    assert small.states == large.states
    assert small.bitwise
    held_out = large.document["provenance"]["validation_records"]
    if isinstance(held_out, dict):
        held_out = [*held_out["mitdb"], *held_out["svdb"]]  # those whose beats are annotated
    assert said["held_out"] == held_out
    assert not set(said["calibrated_on"]) & set(held_out)


def test_it_is_three_times_smaller_and_within_the_gate(
    said: dict[str, Any], results: dict[str, Any], small_model: Path, float_model: Path
) -> None:
    assert float_model.stat().st_size >= 3 * small_model.stat().st_size
    assert said["gate"] == GATE
    measured = {name: Parity(**p) for name, p in results["tried"][said["method"]]["parity"].items()}
    assert failed(parse(GATE), measured) == []
    assert {n: pytest.approx(p.value, rel=1e-3) for n, p in measured.items()} == said["parity"]
    assert said["step_us"]["after"] <= 1.05 * said["step_us"]["before"]
    assert said["isolation"] == {"later": 0, "loud": 0, "nan": 0}
    assert results["drift"]["hours"] == 24


def test_the_card_gives_the_figures(card: str, results: dict[str, Any], small_model: Path, float_model: Path) -> None:
    before, after = float_model.stat().st_size, small_model.stat().st_size
    assert results["bytes"] == {"before": before, "after": after}
    assert f"{before:,} | {after:,}: {before / after:.2f} times smaller" in card
    (tried,) = results["tried"].values()
    step = tried["step_us"]
    assert f"{step['before']:.1f} | {step['after']:.1f}: {step['after'] / step['before']:.2f} times" in card
    labels, alerts = tried["parity"]["labels"], tried["parity"]["alerts"]
    assert f"{labels['value']:.2%}; least {labels['there']:.2%} on {labels['worst']}".replace("%", " %") in card
    assert f"{alerts['value']:.1%}; least {alerts['there']:.0%} on {alerts['worst']}".replace("%", " %") in card
    assert GATE in card
    for word in ("not a medical device", "DS2 was not looked at", "ODC-By"):
        assert re.search(word, card, re.IGNORECASE)


def test_a_step_costs_what_it_did_and_nothing_leaks(small_model: Path, float_model: Path) -> None:
    x = np.ascontiguousarray(recording()[: 20 * 360 : 3])
    assert isolation(small_model.read_bytes(), x).holds
    tries = (step_costs([float_model.read_bytes(), small_model.read_bytes()]) for _ in range(5))
    assert any(after <= 1.05 * before for before, after in tries), (
        "once in five, on a machine that does other things too"
    )


def test_it_says_what_its_parent_says_of_a_recording(small_model: Path, float_model: Path) -> None:
    x = np.ascontiguousarray(recording()[None, ::3])
    x = x[:, : x.shape[1] // 6 * 6]
    a, b = (blocks(load(path), x, [x.shape[1]]) for path in (float_model, small_model))
    beat = a["beat"][0, :, 0] > 0
    assert beat.sum() > 300
    assert np.mean((b["beat"][0, :, 0] > 0) == beat) > 0.995
    assert np.mean(a["class"][0, beat].argmax(1) == b["class"][0, beat].argmax(1)) > 0.99


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas
def test_it_passes_its_gate_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], small_model: Path, float_model: Path
) -> None:
    """On two of its held-out records, by the command."""
    place = data("mitdb")
    given = ["quantize", str(float_model), "-o", str(tmp_path / "m.onnx"), "--method", "weights-int8", "--json"]
    given += ["--calibrate", str(place / "101"), "--held-out", str(place / "118"), str(place / "119")]
    assert main([*given, "--seconds", "60", "--gate", GATE, "--name", "another"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tried"]["weights-int8"]["failures"] == []
    made, contract = contract_io.load(tmp_path / "m.onnx")
    assert contract.name == "another"
    assert [t.raw_data for t in made.graph.initializer] == [
        t.raw_data for t in contract_io.load(small_model)[0].graph.initializer
    ]
