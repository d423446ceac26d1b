"""The gates under the signal: the right one at the right sample, in the right order, blank where memory was lost."""

import json

import numpy as np
import onnx
import pytest

from holdover.apps.cli import main
from holdover.apps.picture.gates import COLUMNS, gates_of, under
from holdover.apps.picture.strip import Sheet, Strip, choose
from holdover.export.contract_io import attach, save
from holdover.runtime.detect.limits import Limits
from tests import graphs

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas

HIDDEN = 3
KEEP = np.array([0.5, 0.99, 0.9])


def model(folder, op="lstm", slope=0.0):
    """A layer whose keeping gates are `KEEP` at 0, and move with the signal alone; of a signal that is no ECG."""
    gates, keeps = {"lstm": (4, 2), "gru": (3, 0)}[op]
    made = graphs.recurrent(op, HIDDEN, 1)
    rows = slice(keeps * HIDDEN, (keeps + 1) * HIDDEN)
    w, b = np.zeros((1, gates * HIDDEN, 1), np.float32), np.zeros((1, 2 * gates * HIDDEN), np.float32)
    w[0, rows], b[0, rows] = slope, np.log(KEEP / (1 - KEEP))
    values = {"w": w, "r": np.zeros((1, gates * HIDDEN, HIDDEN), np.float32), "b": b}
    for t in made.graph.initializer:
        if t.name in values:
            t.CopyFrom(onnx.numpy_helper.from_array(values[t.name], t.name))
    (text,) = (p.value for p in made.metadata_props)
    attach(made, json.loads(text.replace('"mV"', '"g"')))
    save(made, folder / "m.onnx")
    return str(folder / "m.onnx")


def quiet(samples):
    """Not flat, which would be a signal that is lost."""
    return np.random.default_rng(1).normal(0, 1e-3, samples)


def recording(folder, x, rate_hz=100.0):
    np.savez(folder / "a.npz", x=np.float32(x)[:, None], fs=rate_hz, leads=np.array(["ch0"]), units=np.array(["g"]))
    return folder / "a.npz"


def bands(folder, path, x, rate_hz=100.0, every=False, sheet=None):
    strip = Strip(x, rate_hz, 0, [], [], "g")
    sheet = sheet or choose(len(x), rate_hz, [])
    return under(gates_of(path), every, Limits(), recording(folder, x, rate_hz), None, {})(strip, sheet)


@pytest.mark.parametrize("op", ["lstm", "gru"])
def test_units_stand_in_the_order_of_their_memory_with_their_time_constants(op, tmp_path):
    (band,) = bands(tmp_path, model(tmp_path, op), np.random.default_rng(0).normal(size=1000))
    (image,) = band.rows.values()
    longest_first = np.array([0.99, 0.9, 0.5])
    np.testing.assert_allclose(image, np.repeat(longest_first[:, None], 1000, axis=1), atol=1e-6)
    np.testing.assert_allclose(band.time_constants_s, -1 / np.log(longest_first) / 100, rtol=1e-4)


def test_all_gates_of_a_layer_share_one_order_and_a_cell_is_over_its_largest(tmp_path):
    every = bands(tmp_path, model(tmp_path), np.random.default_rng(0).normal(size=500), every=True)
    assert [b.part for b in every] == ["forget", "input", "output", "cell"]
    assert len({tuple(b.time_constants_s) for b in every}) == 1
    assert [b.lowest for b in every] == [0, 0, 0, -1]
    np.testing.assert_allclose(every[1].rows[0], 0.5)
    assert np.abs(every[3].rows[0]).max() <= 1


@pytest.mark.parametrize(("rate_hz", "slack"), [(100.0, 0), (400.0, 3)])
def test_a_gate_moves_in_the_column_of_the_sample_that_moves_it(rate_hz, slack, tmp_path):
    x = quiet(round(10 * rate_hz))
    x[round(4.5 * rate_hz) :] += 1
    (band,) = bands(tmp_path, model(tmp_path, slope=-5), x, rate_hz)
    image, steps = band.rows[0], 100 * 10
    assert image.shape[1] * band.pace == pytest.approx(len(x))
    moved = int(np.flatnonzero(image[0] < 0.8)[0]) * band.pace / rate_hz * 100
    assert 450 - slack <= moved <= 450 + slack
    assert band.pace == pytest.approx(rate_hz / 100)
    assert np.isfinite(image[:, : steps - 10]).all()


def test_where_the_signal_was_lost_there_is_no_memory_to_draw(tmp_path):
    x = np.random.default_rng(0).normal(size=1500)
    x[500:1000] = np.nan
    (band,) = bands(tmp_path, model(tmp_path), x)
    blank = np.isnan(band.rows[0]).all(axis=0)
    assert blank[500:1000].all()
    assert not blank[:500].any()
    assert not blank[1000:].any()


def test_rows_that_are_not_on_the_sheet_are_played_and_not_drawn(tmp_path):
    x = quiet(3000)
    x[2000:] += 1
    (band,) = bands(tmp_path, model(tmp_path, slope=-5), x, sheet=Sheet((1500, 2100), 300, ""))
    assert band.rows[1500][0].min() > 0.98
    assert band.rows[2100][0].max() < 0.5


def test_of_more_frames_than_pixels_one_a_pixel_is_kept(tmp_path):
    x = quiet(10 * COLUMNS)
    (band,) = bands(tmp_path, model(tmp_path), x, sheet=Sheet((0,), len(x), ""))
    assert band.rows[0].shape == (HIDDEN, COLUMNS)
    assert np.isfinite(band.rows[0][:, :-10]).all()


def test_a_recording_of_nothing_has_no_heat_maps(tmp_path):
    assert bands(tmp_path, model(tmp_path), np.full(1000, np.nan)) == []


def test_the_picture_grows_by_the_heat_maps(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: install holdover[replay]")
    pytest.importorskip("wfdb", reason="wfdb is not installed: install holdover[replay]")
    record = recording(tmp_path, np.random.default_rng(0).normal(size=1000))
    words = ["replay", str(record), "-o", str(tmp_path / "out"), "--model", model(tmp_path), "--plot"]
    heights = []
    for more in ([], ["--gates"], ["--gates", "all"]):
        assert main([*words, *more]) == 0
        heights.append(int.from_bytes((tmp_path / "out" / "a.png").read_bytes()[20:24]))
    assert heights[0] < heights[1] < heights[2]
    assert main([*words, "html", "--gates"]) == 0
    assert len((tmp_path / "out" / "a.html").read_bytes()) > 20_000
    capsys.readouterr()


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        ("lstm", ["--gates"], "add --plot"),
        ("rnn", ["--gates", "--plot"], "plain RNNs"),
        ("none", ["--gates", "--plot"], "no LSTM, GRU or RNN"),
    ],
)
def test_gates_that_cannot_be_drawn_are_refused_before_anything_is_played(kind, words, said, tmp_path, capsys):
    made = graphs.fifo() if kind == "none" else graphs.recurrent(kind, channels=1)
    save(made, tmp_path / "m.onnx")
    record = recording(tmp_path, np.zeros(1000))
    assert main(["replay", str(record), "-o", str(tmp_path), "--model", str(tmp_path / "m.onnx"), *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert "--tap" not in err
    assert "Traceback" not in err
    assert not (tmp_path / "a.blm").exists()
