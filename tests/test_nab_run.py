"""Series through a detector in several processes: what comes back, what is left behind, and what an interrupt does."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.apps.nab_run import Judged, judge_all, told_once
from holdover.evaluate.nab import PROFILES, Labels
from holdover.evaluate.nab_card import fixed
from holdover.evaluate.nab_corpus import Series
from holdover.runtime.errors import HoldoverError, SourceError
from tests.brokers import wait_until
from tests.processes import PATIENCE_S
from tests.scoring import data, score

REPOSITORY = Path(__file__).parent.parent
START = np.datetime64("2026-03-01", "us")


def beyond(series: Series) -> Judged:
    """A detector: how far a value is beyond the greatest before it, in units of their range."""
    v = series.values
    high = np.maximum.accumulate(np.append(v[0], v[:-1]))
    range_ = high - np.minimum.accumulate(np.append(v[0], v[:-1]))
    scores = np.clip((v - high) / np.maximum(range_, 1), 0, 1)
    return Judged(scores, scores >= 0.5)


def no_value(series: Series) -> Judged:
    """A detector that finds what it cannot take."""
    raise SourceError(f"{series.labels.rows} rows are too many")


def dies(series: Series) -> Judged:
    """A detector that takes all memory there is."""
    os.kill(os.getpid(), signal.SIGKILL)
    return beyond(series)


def waits(series: Series) -> Judged:
    """A detector that says that it has begun, and takes its time."""
    print("begun", flush=True)
    time.sleep(PATIENCE_S)
    return beyond(series)


@pytest.fixture(autouse=True)
def detectors_that_other_processes_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY))


@pytest.fixture
def corpus() -> dict[str, Series]:
    """Eight series of a wave of 200 rows, each with a spike in its window at row 120 + its number."""
    made = {}
    for number in range(8):
        values = np.sin(np.arange(200) / 3)
        values[120 + number] = 5.0
        times = START + np.arange(200) * np.timedelta64(5, "m")
        made[f"plant/pump{number}.csv"] = Series(times, values, Labels(200, ((120 + number, 130 + number),)))
    return made


@pytest.mark.parametrize("jobs", [1, 2])
def test_each_series_is_judged_once_and_by_its_name(corpus: dict[str, Series], jobs: int) -> None:
    told: list[int] = []
    judged = judge_all(corpus, beyond, jobs, told.append)
    assert told == [200] * 8
    assert {name: int(one.scores.argmax()) for name, one in judged.items()} == {
        f"plant/pump{number}.csv": 120 + number for number in range(8)
    }
    outcome = fixed("", corpus, {name: one.alerts for name, one in judged.items()})
    assert outcome.final(PROFILES[0]) == (100.0, 8, 8, 0)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_detector_refuses_is_told(corpus: dict[str, Series], jobs: int) -> None:
    with pytest.raises(SourceError, match="200 rows are too many"):
        judge_all(corpus, no_value, jobs, lambda _rows: None)
    assert multiprocessing.active_children() == []


def test_a_process_that_is_killed_is_told(corpus: dict[str, Series]) -> None:
    with pytest.raises(HoldoverError, match="a process was killed"):
        judge_all(corpus, dies, 2, lambda _rows: None)
    assert multiprocessing.active_children() == []


def test_an_interrupt_leaves_no_process_behind() -> None:
    """Ctrl-C goes to all processes of a terminal's foreground group."""
    code = (
        "import numpy as np\nfrom holdover.apps.nab_run import judge_all\nfrom tests.test_nab_run import *\n"
        "one = Series(START + np.arange(9), np.zeros(9), Labels(9, ()))\n"
        "try:\n    judge_all({str(i): one for i in range(4)}, waits, 2, print)\n"
        "except KeyboardInterrupt:\n    print('interrupted')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S / 2)
    assert (process.returncode, out, err) == (0, "interrupted\n", "")
    wait_until(lambda: not _group_lives(process.pid), "all processes are gone", PATIENCE_S)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 8))
def test_a_score_is_told_if_none_of_the_rows_before_it_is_as_high(levels: list[int], rows: int) -> None:
    scores = np.array(levels, float)
    expected = [s if s > max(levels[max(0, i - rows) : i], default=-1) else 0 for i, s in enumerate(levels)]
    assert told_once(scores, rows).tolist() == expected


def a_corpus(place: Path, names: Sequence[str] = ("plant/pump.csv", "plant/fan.csv")) -> Path:
    """Series of a noisy wave of 1200 rows at 5 minutes, each with a spike at row 900, in a window."""
    rng = np.random.default_rng(7)
    times = [str(time).replace("T", " ") for time in START + np.arange(1200) * np.timedelta64(5, "m")]
    for name in names:
        values = np.sin(np.arange(1200) / 20) + 0.1 * rng.standard_normal(1200)
        values[900:903] += 8
        rows = "".join(f"{time},{value}\n" for time, value in zip(times, values.tolist(), strict=True))
        (place / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "data" / name).write_text("timestamp,value\n" + rows)
    (place / "labels").mkdir()
    window = [times[890], times[990]]
    (place / "labels/combined_windows.json").write_text(json.dumps({name: [window] for name in names}))
    return place


@pytest.fixture(scope="module")
def model() -> str:
    return str(REPOSITORY / "models/forecast/model.onnx")


def test_a_shipped_model_finds_a_spike_and_its_results_can_be_scored_again(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = a_corpus(tmp_path / "corpus")
    ran = score(capsys, "nab", "--run", model, "--nab", corpus, "-o", tmp_path / "out", "--json", "-j", "2")
    assert (ran.status, ran.err) == (0, "")
    optimised, unattended = json.loads(ran.out)["outcomes"].values()
    assert optimised["final"]["all"]["standard"]["score"] > 98
    assert (unattended["final"]["plant"]["standard"]["found"], unattended["thresholds"]) == (2, None)
    again = score(capsys, "nab", tmp_path / "out", "--nab", corpus, "--json")
    (read,) = json.loads(again.out)["outcomes"].values()
    assert read == optimised


def test_how_many_processes_never_changes_the_scores(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = a_corpus(tmp_path)
    one, two = (score(capsys, "nab", "--run", model, "--nab", corpus, "-j", jobs) for jobs in ("1", "2"))
    assert one.out == two.out
    assert "\n> forecast " not in one.out
    assert "unattended, expected false alerts a week: 1; set without these labels\n" in one.out


def test_a_series_of_one_row_and_one_with_holes_are_run(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = a_corpus(tmp_path)
    (corpus / "data/plant/fan.csv").write_text("timestamp,value\n2026-03-01 00:00:00,1\n")
    pump = (corpus / "data/plant/pump.csv").read_text().splitlines()
    pump[301:400] = [line.split(",")[0] + "," for line in pump[301:400]]
    (corpus / "data/plant/pump.csv").write_text("\n".join(pump) + "\n")
    window = json.loads((corpus / "labels/combined_windows.json").read_text())["plant/pump.csv"]
    labels = {"plant/pump.csv": window, "plant/fan.csv": []}
    (corpus / "labels/combined_windows.json").write_text(json.dumps(labels))
    ran = score(capsys, "nab", "--run", model, "--nab", corpus, "-j", "1")
    assert (ran.status, ran.err) == (0, "")
    assert "1/1" in ran.out


def test_a_model_without_a_detector_of_anomalies_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = score(capsys, "nab", "--run", "ecg-beats", "--nab", a_corpus(tmp_path))
    assert (said.status, said.err.count("\n")) == (4, 1)
    assert "ecg-beats has no detector of the kind 'anomaly'" in said.err


def test_where_nothing_can_be_written_it_is_told(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = a_corpus(tmp_path, ("plant/pump.csv",))
    (tmp_path / "out").write_text("")
    said = score(capsys, "nab", "--run", model, "--nab", corpus, "-o", tmp_path / "out", "-j", "1")
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert "cannot write" in said.err


def test_what_the_detector_cannot_be_asked_for_is_told(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = score(capsys, "nab", "--run", model, "--nab", a_corpus(tmp_path), "--per-week", "500", "-j", "1")
    assert (said.status, said.out, said.err.count("\n")) == (2, "", 1)
    assert "ask for" in said.err


@pytest.mark.timeout(900)
def test_the_shipped_model_scores_what_the_docs_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All 58 series; docs/anomaly-score.md holds what the command prints."""
    ran = score(capsys, "nab", "--run", "forecast", "--nab", data("nab"))
    optimised, unattended = (_totals(line) for line in ran.out.splitlines() if line.startswith("all "))
    assert min(optimised[0], unattended[0]) >= 60
    docs = (REPOSITORY / "docs/anomaly-score.md").read_text().splitlines()
    told = [_totals(line) for line in docs if line.startswith("all ")]
    assert told == [pytest.approx(optimised, abs=0.3), pytest.approx(unattended, abs=0.3)]


def _totals(line: str) -> tuple[float, ...]:
    return tuple(map(float, line.split()[1:4]))
