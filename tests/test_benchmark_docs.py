"""The pages that show benchmarks show their committed figures, and what compares peers tells right from wrong."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


def part(name):
    """A module of a benchmark, which is no package."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["memory", "peers"])
def test_the_tables_of_a_page_are_those_of_its_figures(name):
    result = json.loads((BENCHMARKS / "results" / f"{name}.json").read_text())
    tables = part(f"{name}/report").tables(result)
    assert len(tables) > 1000
    assert tables in (ROOT / "docs" / f"{name}.md").read_text()


def test_every_family_and_task_was_measured():
    result = json.loads((BENCHMARKS / "results" / "memory.json").read_text())
    families = {f["family"]: f for f in result["families"]}
    assert {"RNN tanh", "LSTM", "GRU", "causal convolution", "windowed Transformer"} <= families.keys()
    for f in families.values():
        assert [t["task"] for t in f["tasks"]] == [*(f"recall {n}" for n in (10, 30, 100, 300, 1000)), "adding 100"]
        assert all(len(t["runs"]) == result["seeds"] for t in f["tasks"])
        assert f["max_error"] < 1e-4
    sizes = {name: f["parameters"] / families["RNN tanh"]["parameters"] for name, f in families.items()}
    assert sizes["LSTM"] == pytest.approx(4, abs=0.2)
    assert sizes["GRU"] == pytest.approx(3, abs=0.2)


def test_the_graphs_put_to_the_peers_are_those_of_the_zoo_and_this_runtime_streams_all():
    from tests.zoo_onnx import ZOO

    result = json.loads((BENCHMARKS / "results" / "peers.json").read_text())
    graphs = {g["graph"] for g in result["graphs"]}
    assert graphs <= set(ZOO), "measured again after a graph was renamed; one that is new may wait for the next run"
    assert len(graphs) > 0.9 * len(ZOO)
    assert {g["engines"]["holdover"]["verdict"] for g in result["graphs"]} == {"right"}


def streamed(y, hop, delay=0):
    """What steps of a hop give, (1, frames, width), after frames of garbage."""
    y = np.concatenate([np.full((1, delay, y.shape[2]), 9.0), y], axis=1)
    return np.split(y, y.shape[1] // hop, axis=1)


@pytest.mark.parametrize("delay", [0, 4, 20])
def test_a_constant_delay_is_no_error(delay):
    compare = part("peers/compare")
    y = np.random.default_rng(0).normal(size=(1, 64, 3))
    assert compare.error(streamed(y[:, : 64 - delay], 2, delay), 1, y, 1) == 0
    assert compare.error(streamed(y[:, : 64 - delay], 2, delay), 1, y.transpose(0, 2, 1), 2) == 0


def test_what_is_wrong_is_not_passed():
    compare = part("peers/compare")
    y = np.random.default_rng(0).normal(size=(1, 64, 3))
    off, holes = y.copy(), y.copy()
    off[0, 60] += 0.1
    holes[0, 60] = np.nan
    assert compare.error(streamed(off, 2), 1, y, 1) == pytest.approx(0.1 / np.abs(y).max())
    assert compare.error(streamed(holes, 2), 1, y, 1) == np.inf
    assert compare.error(streamed(y[..., :2], 2), 1, y, 1) == np.inf
    assert compare.error(streamed(y[:, :4], 2), 1, y, 1) == np.inf
    assert compare.error([None, *streamed(y, 2)], 1, y, 1) == 0


def test_of_an_output_without_a_time_axis_the_last_counts():
    compare = part("peers/compare")
    said = [np.array([[1.0]]), None, np.array([[2.0]])]
    assert compare.error(said, 1, np.array([2.0]), None) == 0
    assert compare.error(said, 1, np.array([1.0]), None) == 1
