"""A recording that cannot be what it is said to be is noticed, and one that can is not."""

from pathlib import Path

import numpy as np
import pytest

from holdover.apps.doubts import Doubts
from holdover.runtime.annotation import Annotation
from tests.processes import a_recording, holdover, signal_mv


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1.0, ""),
        (1000.0, "are its numbers microvolts or counts? State the unit"),
        (0.001, "are its numbers volts, or no electrode is on?"),
        (-1.0, "MLII seems to be upside down"),
    ],
    ids=["as it is", "microvolts", "volts", "upside down"],
)
def test_a_recording_in_the_wrong_unit_or_upside_down_is_noticed_and_said(
    tmp_path: Path, factor: float, words: str
) -> None:
    done = holdover("replay", a_recording(tmp_path / "r.npz", signal_mv()[: 90 * 360] * np.float32(factor)))
    assert done.returncode == 0, done.stderr
    said = " ".join(line.strip() for line in done.stderr.splitlines())
    assert (words in said) if words else ("State the unit" not in said and "upside" not in said)


def test_a_lead_that_may_point_down_is_not_doubted(tmp_path: Path) -> None:
    done = holdover("replay", a_recording(tmp_path / "r.npz", -signal_mv()[: 90 * 360], lead="V1"))
    assert "upside" not in done.stderr


def beats(n: int) -> list[Annotation]:
    """A beat each second."""
    return [Annotation(100 * i + 50, "N") for i in range(n)]


def downward(n: int) -> np.ndarray:
    """As many seconds at 100 Hz with a spike of 1 mV down in each, (samples, 1)."""
    x = 0.01 * np.random.default_rng(0).standard_normal((100 * n, 1)).astype(np.float32)
    x[50::100] -= 1.0
    return x


@pytest.mark.parametrize("cut", [1, 7, 100, 100_000])
def test_how_the_samples_come_changes_nothing(cut: int) -> None:
    x, doubts = downward(70), Doubts("II", 100.0)
    for at in range(0, len(x), cut):
        doubts.push(at, x[at : at + cut])
    assert [words.split(":")[0] for words in doubts.said(beats(70))] == ["II seems to be upside down"]


def test_few_beats_holes_nothing_and_what_is_not_finite_are_no_reason_to_doubt() -> None:
    few = Doubts("II", 100.0)
    few.push(0, downward(70))
    assert few.said(beats(5)) == []
    holes = Doubts("II", 100.0)
    for at in range(0, 100_000, 1000):
        holes.push(at, np.full((10, 1), np.nan, np.float32))
    assert holes.said(beats(900)) == []
    assert Doubts("II", 100.0).said(beats(9)) == []


def test_only_the_first_minute_is_kept() -> None:
    doubts = Doubts("II", 100.0)
    for at in range(0, 10**6, 1000):
        doubts.push(at, np.zeros((1000, 1), np.float32))
    doubts.push(10**12, np.ones((1000, 1), np.float32))
    assert sum(len(part) for part in doubts._parts) == 6000
