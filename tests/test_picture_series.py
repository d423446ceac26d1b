"""The picture of a sensor's series shows its values, the band, the probabilities and the alerts."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from holdover.apps.picture.draw import Span, draw
from holdover.runtime.detect.anomaly import Judged

pytest.importorskip("matplotlib")

PNG = b"\x89PNG"


def judged(n: int) -> list[Judged]:
    """A band around a line, one sample of it alarmed, two without a band."""
    band = [(np.nan, np.nan) if i < 2 else (i - 1.0, i + 1.0) for i in range(n)]
    return [
        Judged(i, float(i), float(i), low, high, 1e-9 if i == 7 else 1.0, i == 7) for i, (low, high) in enumerate(band)
    ]


@pytest.mark.parametrize("n", [1, 10, 5000, 40_000])
def test_a_series_of_any_length_is_drawn(n: int, tmp_path: Path) -> None:
    spans = [Span("calibrating", "technical", "info", 0, 5), Span("anomaly", "physiological", "medium", 7, None)]
    draw(tmp_path / "a.png", np.arange(n, dtype=np.float32), 1 / 300, spans=spans, title="pump", judged=judged(n))
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_a_series_that_is_constant_or_missing_is_drawn(tmp_path: Path) -> None:
    for value in (7.0, np.nan, 1e30):
        draw(tmp_path / "a.png", np.full(50, value, np.float32), 1.0, judged=judged(50))
        assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_another_alert_changes_the_picture_and_the_page_names_it(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=300).astype(np.float32)
    pictures = []
    for i, spans in enumerate(([], [Span("anomaly", "physiological", "medium", 100, 150)])):
        draw(tmp_path / f"{i}.png", x, 1.0, spans=spans, unit="bar", judged=judged(300))
        pictures.append((tmp_path / f"{i}.png").read_bytes())
    assert pictures[0] != pictures[1]
    draw(tmp_path / "a.html", x, 1.0, spans=spans, title="pump", unit="bar", judged=judged(300))
    page = (tmp_path / "a.html").read_text()
    assert "anomaly" in page
    assert "beats" not in page


def test_replay_of_a_sensor_draws_its_series_and_speaks_of_no_beats(tmp_path: Path) -> None:
    x = 20 + np.random.default_rng(0).normal(size=800)
    x[700] += 40
    rows = "".join(f"{1.7e9 + 300 * i:.0f},{value:.3f}\n" for i, value in enumerate(x))
    (tmp_path / "pump.csv").write_text("time,value\n" + rows)
    command = [sys.executable, "-m", "holdover", "replay", "pump.csv", "--model", "forecast", "-o", ".", "--plot"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "beats" not in said.stderr
    assert "calibrating" in said.stderr
    assert any("start" in line and "anomaly" in line for line in said.stdout.splitlines())
    assert (tmp_path / "pump.png").read_bytes().startswith(PNG)
