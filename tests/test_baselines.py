"""The figures to beat: a detector that finds what is there, rules that call what is early, one scorer for all."""

import json
from pathlib import Path

import numpy as np
import pytest

wfdb = pytest.importorskip("wfdb", reason="needs holdover[replay]")
pytest.importorskip("scipy")

from holdover.models.ecg_rhythm import baselines  # noqa: E402  # after the skip
from holdover.runtime.errors import SourceError, UsageError  # noqa: E402  # after the skip

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas
KINDS = "NNNNNNNNNNNNANNNNNVNNNNNNANNNVNNNN"
"""Of the beats of a heart, A early and narrow, V early, wide and of another shape."""


def heart(rate_hz: float, kinds: str = KINDS, times: int = 1) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A lead in mV with T waves and a little noise, the samples of its beats, and their kinds."""
    every = list(kinds * times)
    rr = [0.5 if kind in "AV" else 1.1 if before in "AV" else 0.8 for before, kind in zip(["N", *every], every)]  # noqa: B905  # one more on purpose
    places = np.cumsum(rr) + 0.5
    t = np.arange(int((places[-1] + 1.5) * rate_hz)) / rate_hz
    x = 0.005 * np.random.default_rng(0).standard_normal(len(t))
    for place, kind in zip(places, every, strict=True):
        near = (t > place - 0.3) & (t < place + 0.7)
        d = t[near] - place
        narrow = np.exp(-0.5 * (d / 0.012) ** 2) - 0.2 * np.exp(-0.5 * ((d - 0.03) / 0.012) ** 2)
        wide = 0.6 * np.exp(-0.5 * ((d - 0.06) / 0.03) ** 2) - 1.6 * np.exp(-0.5 * (d / 0.025) ** 2)
        x[near] += (wide if kind == "V" else narrow) + 0.25 * np.exp(-0.5 * ((d - 0.28) / 0.05) ** 2)
    return x, np.rint(places * rate_hz).astype(np.int64), every


@pytest.mark.parametrize("rate_hz", [128.0, 250.0, 360.0])
def test_the_rules_call_what_is_early_by_its_shape(rate_hz: float) -> None:
    x, at, kinds = heart(rate_hz)
    assert baselines.classes(x, rate_hz, at) == kinds


def test_a_faster_rhythm_is_early_for_eight_beats_and_then_the_usual_one() -> None:
    at = np.cumsum([300] * 12 + [180] * 14)
    x = np.zeros(at[-1] + 500)
    for place in at:
        x[place - 5 : place + 6] += np.hanning(11)
    assert baselines.classes(x, 360.0, at) == ["N"] * 12 + ["A"] * 8 + ["N"] * 6


@pytest.mark.parametrize("beats", [0, 1])
def test_of_no_beats_or_one_nothing_is_early(beats: int) -> None:
    assert baselines.classes(np.zeros(1000), 360.0, np.arange(beats) + 500) == ["N"] * beats


@pytest.mark.parametrize("name", baselines.DETECTORS)
@pytest.mark.filterwarnings("ignore")  # of the packages
def test_each_detector_finds_each_beat_once(name: str) -> None:
    x, at, _ = heart(360.0, KINDS.replace("V", "N"))
    found = np.unique(baselines.DETECTORS[name](x, 360.0))
    learned = at[at > 5 * 360]  # GQRS and XQRS learn first
    apart = np.abs(found[:, None] - learned)
    assert (apart.min(0) < 0.05 * 360).all()
    assert (found > 5 * 360 - 100).sum() == len(learned)


def test_hamilton_finds_nothing_in_a_flat_line_and_a_beat_after_a_pause() -> None:
    assert len(baselines.hamilton(np.zeros(10_000), 360.0)) == 0
    assert len(baselines.hamilton(np.full(10_000, 4.0), 360.0)) == 0
    x, at, _ = heart(360.0, "N" * 20)
    still = np.concatenate([x[: at[9] + 200], np.full(6 * 360, x[at[9] + 200]), x[at[10] - 150 :]])
    assert len(baselines.hamilton(still, 360.0)) == 20


def write(folder: Path, name: str, rate_hz: float) -> None:
    """Put a record of six minutes and its reference there."""
    folder.mkdir(parents=True, exist_ok=True)
    x, at, kinds = heart(rate_hz, times=14)
    wfdb.wrsamp(
        name, fs=rate_hz, units=["mV"], sig_name=["MLII"], p_signal=x[:, None], fmt=["16"], write_dir=str(folder)
    )
    wfdb.wrann(name, "atr", at, symbol=kinds, write_dir=str(folder))


def test_the_figures_come_from_the_scorer_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mitdb", "1", 360)
    write(tmp_path / "svdb", "2", 128)
    monkeypatch.setattr(baselines, "PARTS", {"ds2": ("mitdb", ("1",)), "svdb": ("svdb", ("2",))})
    monkeypatch.setattr(baselines, "DETECTORS", {"Hamilton": baselines.hamilton})
    output = tmp_path / "found.json"
    assert baselines.main(["--data", str(tmp_path), "-o", str(output), "-j", "1"]) == 0
    found = json.loads(output.read_text())["detectors"]["Hamilton"]
    for part in ("ds2", "svdb"):
        figures = found[part]["maps"]["de Chazal"]["figures"]
        assert [figures[f"{letter} F1"]["gross"] for letter in "QVS"] == [100.0, 100.0, 100.0]
        assert figures["S Se"]["whole"] > 0


def test_what_is_missing_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "found.json"
    assert baselines.main(["--data", str(tmp_path / "none"), "-o", str(output)]) == UsageError.exit_code
    assert "--data" in capsys.readouterr().err
    write(tmp_path / "mitdb", "100", 360)
    assert baselines.main(["--data", str(tmp_path), "-o", str(output)]) == SourceError.exit_code
    told = capsys.readouterr().err
    assert "mitdb/103" in told
    assert "svdb/849" in told
    assert "mitdb/100 " not in told
    assert not output.exists()
