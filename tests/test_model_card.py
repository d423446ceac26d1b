"""The card of a shipped model says what the file and the measured figures say."""

import json
import re
from pathlib import Path

import pytest

from holdover.export import contract_io

FOLDER = Path(__file__).parent.parent / "models" / "ecg_beats"


@pytest.fixture(scope="module")
def card():
    return (FOLDER / "CARD.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results():
    return json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def contract():
    return contract_io.load(FOLDER / "model.onnx")[1]


def test_the_results_are_those_of_the_shipped_weights(results, contract):
    assert results["weights"] == contract.document["provenance"]["weights"]
    assert results["file_bytes"] == (FOLDER / "model.onnx").stat().st_size
    assert results["verification"] == contract.document["verification"]
    assert results["settle_samples"] == {o.name: o.settle for o in contract.outputs}


def test_the_card_gives_the_measured_figures(card, results):
    gross = results["validation"]["gross"]
    for name in ("qrs", "veb", "sveb"):
        row = f"{gross[f'{name}_se']:.2f} | {gross[f'{name}_ppv']:.2f} | {gross[f'{name}_f1']:.2f}"
        assert row in card, f"the card lacks the validation row {name}: {row}"
    assert f"{results['file_bytes']:,} bytes" in card
    assert f"{results['parameters']:,} parameters" in card
    assert f"{results['steps']:,} steps" in card


def test_the_card_gives_the_delays_and_settling_times_of_the_contract(card, contract):
    rate = contract.signal.rate_hz
    for o in contract.outputs:
        row = f"| `{o.name}` | {o.delay / rate:.2f} s | {o.settle / rate:.2f} s |"
        assert row in card, f"the card lacks the row {row}"


def test_the_card_says_what_a_user_must_know(card):
    for word in ("not a medical device", "ODC-By", "10.13026/C2F305", "Moody", "Goldberger", "## DS2 looks", "208"):
        assert re.search(re.escape(word), card, re.IGNORECASE), f"the card does not mention {word}"


def test_the_model_file_carries_no_path_and_no_doc_string():
    model, _ = contract_io.load(FOLDER / "model.onnx")
    assert not model.doc_string
    assert not model.graph.doc_string
    assert not any(n.doc_string for n in model.graph.node)
    assert not re.search(rb"/(home|work|tmp|root|Users)/", (FOLDER / "model.onnx").read_bytes())
