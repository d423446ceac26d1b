"""What cannot be scored on the NAB corpus: said in one sentence, with the file and the line."""

import json
from pathlib import Path

import pytest

from holdover.evaluate.nab import PROFILES
from holdover.evaluate.nab_card import at_threshold, fixed
from holdover.evaluate.nab_corpus import read_corpus, read_published, read_results
from holdover.runtime.errors import SourceError
from tests.scoring import Said, score

Pytest = pytest.CaptureFixture[str]

TIMES = [f"2026-03-01 00:{minute:02d}:00" for minute in range(0, 60, 5)]


def table(file: Path, column: str, numbers: list[str], times: list[str] = TIMES) -> Path:
    rows = (f"{time},{number}" for time, number in zip(times, numbers, strict=False))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([f"timestamp,{column}", *rows]) + "\n")
    return file


def labels(place: Path, windows: object) -> None:
    (place / "labels").mkdir(parents=True, exist_ok=True)
    (place / "labels" / "combined_windows.json").write_text(json.dumps(windows))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One series of twelve rows, with a window over the seventh to ninth."""
    place = tmp_path / "corpus"
    table(place / "data/plant/pump.csv", "value", [str(row % 3) for row in range(12)])
    labels(place, {"plant/pump.csv": [["2026-03-01 00:30:00.000000", "2026-03-01 00:40:00.000000"]]})
    return place


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Scores of it that find the window."""
    place = tmp_path / "mine"
    table(place / "plant/mine_pump.csv", "anomaly_score", ["0"] * 6 + ["1"] + ["0"] * 5)
    return place


def said(capsys: Pytest, corpus: Path, *options: str | Path) -> Said:
    return score(capsys, "nab", *options, "--nab", corpus)


def complaint(capsys: Pytest, corpus: Path, results: Path) -> str:
    told = said(capsys, corpus, results)
    assert (told.status, told.out, told.err.count("\n")) == (3, "", 1)
    return told.err


def test_a_corpus_of_ones_own_is_scored_without_published_scores(corpus: Path, results: Path, capsys: Pytest) -> None:
    told = said(capsys, corpus, results)
    assert told.status == 0
    assert "all                                100.00   100.00   100.00      1/1      0\n" in told.out
    assert "published" not in told.out


def test_results_without_the_detectors_name_are_found_too(corpus: Path, results: Path, capsys: Pytest) -> None:
    (results / "plant/mine_pump.csv").rename(results / "plant/pump.csv")
    assert said(capsys, corpus, results).status == 0


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda place: labels(place, {}), "has no labels for plant/pump.csv"),
        (lambda place: labels(place, []), "holds list; expected a JSON object"),
        (lambda place: labels(place, {"plant/pump.csv": [], "plant/fan.csv": []}), "data/plant/fan.csv is missing"),
        (lambda place: labels(place, {"plant/pump.csv": [["noon", "dusk"]]}), "is no list of windows"),
        (lambda place: labels(place, {"plant/pump.csv": [TIMES[:3]]}), "is no list of windows"),
        (lambda place: labels(place, {"plant/pump.csv": 7}), "is no list of windows"),
        (lambda place: labels(place, {"plant/pump.csv": {"a": 1}}), "is no list of windows"),
        (lambda place: labels(place, {"plant/pump.csv": [["2025-01-01", TIMES[3]]]}), "is no time of a row"),
        (lambda place: labels(place, {"plant/pump.csv": [TIMES[4:2:-1]]}), "windows run backward or overlap"),
        (lambda place: labels(place, {"plant/pump.csv": [TIMES[2:4], TIMES[3:5]]}), "windows run backward or overlap"),
        (lambda place: (place / "labels/combined_windows.json").write_text("{"), "cannot read"),
        (lambda place: (place / "labels/combined_windows.json").unlink(), "No such file"),
        (lambda place: (place / "data/plant/pump.csv").unlink(), "is no corpus: no series in data/*/*.csv"),
        (lambda place: (place / "data/plant/pump.csv").write_text(""), "has the columns none; expected timestamp and"),
        (lambda place: (place / "data/plant/pump.csv").write_bytes(b"\xff\xfe\0"), "cannot read"),
        (lambda place: table(place / "data/plant/pump.csv", "value", []), "has no rows after its header"),
        (lambda place: table(place / "data/plant/pump.csv", "volts", ["1"]), "has the columns timestamp, volts"),
        (lambda place: table(place / "data/plant/pump.csv", "value", ["1", "two"]), "line 3: 'two' is no number"),
        (lambda place: table(place / "data/plant/pump.csv", "value", ["1", "2,3"]), "line 3: 3 fields; expected 2"),
        (lambda place: table(place / "data/plant/pump.csv", "value", ["1"], ["dawn"]), "line 2: 'dawn' is no time"),
        (lambda place: (place / "final_results.json").write_text('{"a": 1}'), "expected a score for each profile"),
        (lambda place: (place / "final_results.json").write_text('{"a": {"standard": "x"}}'), "expected a score"),
    ],
)
def test_a_corpus_that_is_none_is_refused(
    spoil: object, expected: str, corpus: Path, results: Path, capsys: Pytest
) -> None:
    assert callable(spoil)
    spoil(corpus)
    assert expected in complaint(capsys, corpus, results)


@pytest.mark.parametrize(
    ("numbers", "times", "expected"),
    [
        (["0"] * 5, TIMES, "has 5 rows; expected the 12 of plant/pump.csv"),
        (["0"] * 12, TIMES[::-1], "line 2: 2026-03-01 00:55:00; expected 2026-03-01 00:00:00, as in plant/pump.csv"),
        (["0", "1.5"] + ["0"] * 10, TIMES, "line 3: anomaly score 1.5; expected 0 to 1"),
        (["0"] * 11 + ["-1e-9"], TIMES, "line 13: anomaly score -1e-09; expected 0 to 1"),
        (["nan"] + ["0"] * 11, TIMES, "line 2: anomaly score nan; expected 0 to 1"),
        ([""] + ["0"] * 11, TIMES, "line 2: anomaly score nan; expected 0 to 1"),
        (["inf"] + ["0"] * 11, TIMES, "line 2: anomaly score inf; expected 0 to 1"),
        (["high"] + ["0"] * 11, TIMES, "line 2: 'high' is no number"),
    ],
)
def test_scores_that_cannot_be_are_refused(
    numbers: list[str], times: list[str], expected: str, corpus: Path, results: Path, capsys: Pytest
) -> None:
    table(results / "plant/mine_pump.csv", "anomaly_score", numbers, times)
    assert expected in complaint(capsys, corpus, results)


def test_results_that_are_missing_are_named(corpus: Path, results: Path, capsys: Pytest) -> None:
    (results / "plant/mine_pump.csv").unlink()
    assert "plant/pump.csv: No such file" in complaint(capsys, corpus, results)
    assert "is no folder; expected one of results" in complaint(capsys, corpus, results / "nowhere")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "say what to score"),
        (("mine", "--threshold", "1.1"), "--threshold 1.1 cannot be"),
        (("mine", "--threshold", "nan"), "--threshold nan cannot be"),
        (("mine", "--per-week", "0"), "--per-week 0 cannot be"),
        (("mine", "--per-week", "inf"), "--per-week inf cannot be"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: tuple[str, ...], expected: str, corpus: Path, capsys: Pytest
) -> None:
    told = said(capsys, corpus, *options)
    assert (told.status, told.err.count("\n")) == (2, 1)
    assert expected in told.err


def test_without_a_place_the_corpus_is_asked_for(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: Pytest
) -> None:
    monkeypatch.delenv("HOLDOVER_DATA", raising=False)
    told = score(capsys, "nab", results)
    assert told.status == 2
    assert "where is the corpus?" in told.err


def test_a_series_of_one_value_is_scored(tmp_path: Path) -> None:
    table(tmp_path / "data/plant/pump.csv", "value", ["1"])
    labels(tmp_path, {"plant/pump.csv": [[TIMES[0], TIMES[0]]]})
    corpus = read_corpus(tmp_path)
    scores = read_results(table(tmp_path / "mine/plant/pump.csv", "anomaly_score", ["1"]).parents[1], corpus)
    assert fixed("", corpus, at_threshold(scores, 0.5)).final(PROFILES[0]) == (100, 1, 1, 0)
    assert read_published(tmp_path) == {}


def test_a_value_may_be_missing_and_a_time_may_stand_twice_or_go_back(tmp_path: Path) -> None:
    """As in NAB's own machine_temperature_system_failure.csv; a window begins where its time stands first."""
    table(tmp_path / "data/plant/pump.csv", "value", ["1", "", "nan", "2"], [TIMES[k] for k in (0, 2, 1, 2)])
    labels(tmp_path, {"plant/pump.csv": [[TIMES[2], TIMES[2]]]})
    series = read_corpus(tmp_path)["plant/pump.csv"]
    assert series.labels.windows == ((1, 1),)
    assert [value == value for value in series.values.tolist()] == [True, False, False, True]


def test_a_label_beyond_all_years_is_refused(corpus: Path) -> None:
    labels(corpus, {"plant/pump.csv": [["9" * 30, TIMES[3]]]})
    with pytest.raises(SourceError, match="is no time of a row"):
        read_corpus(corpus)
