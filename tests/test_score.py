"""`holdover score`, the friendly whole: many records, alarms, the report."""

import hashlib
import json
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from holdover.evaluate.bxb import LABELS, RATES
from holdover.evaluate.figures import figures, wilson
from holdover.evaluate.reference_events import RHYTHMS
from holdover.runtime.detect.conditions import CONDITIONS
from tests.scoring import data, score

RECORDS = ("100", "203", "207", "210", "219", "232")


Spoken = Callable[..., str]


@pytest.fixture
def spoken(capsys: pytest.CaptureFixture[str]) -> Spoken:
    def say(*argv: str | Path) -> str:
        said = score(capsys, *argv)
        assert said.status == 0, said.err
        return said.out

    return say


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Path:
    place = data("ec57-golden")
    monkeypatch.chdir(place)
    return place


def test_many_records_have_the_gross_and_average_that_sumstats_tells(golden: Path, spoken: Spoken) -> None:
    told = json.loads(spoken(str(golden), "--ref", str(golden), "--test", "tst", "--json"))
    figures = told["maps"]["bxb"]["figures"]
    lines = {
        words[0]: words[1:] for words in map(str.split, (golden / "bxb.sum.txt").read_text().splitlines()) if words
    }
    assert [f"{figures[rate]['gross']:.2f}" for rate in RATES] == lines["Gross"]
    assert [f"{figures[rate]['average']:.2f}" for rate in RATES] == lines["Average"][:6]
    assert told["rr_error_ms"]["100"] == float((golden / "bxb.line.txt").read_text().splitlines()[1].split()[-1])
    assert (figures["Q Se"]["whole"], figures["V Se"]["whole"], figures["S Se"]["whole"]) == (11437, 699, 1331)
    assert all(low <= found["gross"] <= high for found in figures.values() for low, high in [found["interval"]])
    assert told["maps"]["bxb"]["figures without 232"]["S Se"]["whole"] == 1331 - 1168
    assert told["maps"]["de Chazal"]["figures"]["S Se"]["whole"] == 1330
    assert list(told["maps"]["bxb"]["records"]) == list(RECORDS)


def test_many_records_are_told_in_80_columns(golden: Path, spoken: Spoken) -> None:
    said = spoken(str(golden), "--ref", str(golden), "--test", "tst")
    assert "the same without record 232" in said
    assert [line for line in said.splitlines() if len(line) > 80] == []


def test_records_without_test_annotations_are_named(golden: Path, spoken: Spoken, tmp_path: Path) -> None:
    for name in ("100", "203"):
        (tmp_path / f"{name}.blm").write_bytes((golden / f"{name}.tst").read_bytes())
    said = spoken(str(tmp_path), "--ref", str(golden))
    assert "NOT SCORED:\n  207 210 219 232\n" in said


def test_one_record_has_no_interval(golden: Path, spoken: Spoken) -> None:
    told = json.loads(spoken(str(golden / "219"), "--ref", str(golden), "--test", "tst", "--json"))
    assert told["records"] == ["219"]
    assert told["maps"]["bxb"]["records"]["219"]["Q Se"] == {
        "part": 1754,
        "whole": 1773,
        "percent": 98.93,
        "interval": wilson(1754, 1773),
    }
    assert told["maps"]["bxb"]["figures"]["Q Se"] == {
        "part": 1754,
        "whole": 1773,
        "gross": 98.93,
        "average": 98.93,
        "interval": None,
    }


def test_f1_is_the_harmonic_mean_of_se_and_predictivity() -> None:
    counts = np.zeros((2, 7, 7), dtype=np.int64)
    n, v, o = (LABELS.index(letter) for letter in "NVO")
    counts[0, n, n], counts[0, v, v], counts[0, v, n], counts[0, o, v] = 90, 6, 2, 4  # V: Se 6/8, +P 6/10
    counts[1, n, n] = 50
    found = figures(counts)
    assert (found["V Se"]["gross"], found["V +P"]["gross"], found["V F1"]["gross"]) == (75.0, 60.0, 66.67)
    assert (found["V F1"]["average"], found["V F1"]["part"]) == (66.67, None), "a record without V has no F1 of V"
    assert (found["Q Se"]["gross"], found["Q F1"]["gross"]) == (100.0, 98.67), "148 of 148, 148 of 152: 296 of 300"
    assert found["S F1"]["gross"] is None


def test_an_f1_of_nothing_right_is_zero() -> None:
    counts = np.zeros((1, 7, 7), dtype=np.int64)
    counts[0, LABELS.index("V"), LABELS.index("N")] = counts[0, LABELS.index("N"), LABELS.index("V")] = 3
    assert figures(counts)["V F1"]["gross"] == 0.0


def test_wilson_gives_the_published_intervals() -> None:
    """Newcombe (Stat Med 17:857, 1998), table I, method 3: 81/263, 15/148, 0/20, 1/29."""
    published = {(81, 263): (25.53, 36.62), (15, 148): (6.24, 16.05), (0, 20): (0.0, 16.11), (1, 29): (0.61, 17.18)}
    for (part, whole), interval in published.items():
        assert wilson(part, whole) == pytest.approx(interval, abs=0.006)
    assert wilson(0, 0) is None


def test_the_interval_is_that_of_records_drawn_anew(golden: Path, spoken: Spoken) -> None:
    """The bootstrap once more, slowly: whole records drawn with replacement, pooled, percentiles of the rate."""
    told = json.loads(spoken(golden, "--ref", golden, "--test", "tst", "--json"))["maps"]["bxb"]
    parts = [(found["V Se"]["part"], found["V Se"]["whole"]) for found in told["records"].values()]
    rng = random.Random(1)
    drawn = []
    for _ in range(20000):
        sample = [parts[rng.randrange(len(parts))] for _ in parts]
        if whole := sum(n for _, n in sample):
            drawn.append(100 * sum(n for n, _ in sample) / whole)
    drawn.sort()
    slow = [drawn[round(q * (len(drawn) - 1))] for q in (0.025, 0.975)]
    assert told["figures"]["V Se"]["interval"] == pytest.approx(slow, abs=1.5)


def test_json_says_what_was_compared_and_of_which_files(golden: Path, spoken: Spoken) -> None:
    told = json.loads(spoken(golden, "--ref", golden, "--test", "tst", "-w", "0.05", "--json"))
    assert told["terms"]["window"] == "0.05"
    assert told["terms"]["start"] == "5:0"
    for record in RECORDS:
        for side, name in (("reference", "atr"), ("test", "tst")):
            digest = hashlib.sha256((golden / f"{record}.{name}").read_bytes()).hexdigest()
            assert told["sha256"][record][side] == digest
    assert told["alarms"] is None


def test_a_report_is_one_page_that_needs_nothing_else(golden: Path, spoken: Spoken, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    said = spoken(golden, "--ref", golden, "--test", "tst", "--report", page)
    text = page.read_text()
    assert [word for word in ("http://", "https://", "src=", "<script", "@import", "url(") if word in text] == []
    assert "not a medical device" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert all(f"<th>{record}</th>" in text for record in RECORDS)
    gross = re.search(r"^V Se +([0-9.]+)", said, re.MULTILINE)
    assert gross is not None
    assert f"<strong>{gross[1]}</strong>" in text
    assert hashlib.sha256((golden / "100.tst").read_bytes()).hexdigest()[:16] in text


def test_a_report_is_well_formed_and_escapes_what_it_is_told(golden: Path, spoken: Spoken, tmp_path: Path) -> None:
    (tmp_path / "<b>&.hea").write_text("x 1 360 650000\n")
    for name in ("atr", "tst"):
        (tmp_path / f"<b>&.{name}").write_bytes((golden / f"100.{name}").read_bytes())
    spoken(tmp_path, "--ref", tmp_path, "--test", "tst", "--report", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "<b>&" not in text
    assert "&lt;b&gt;&amp;" in text
    checker = _Tags()
    checker.feed(text)
    assert checker.open == []
    svg = ET.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    dots = {(e.get("class"), e.get("cx")) for e in svg.iter("circle")}
    assert dots, "the plot has dots"
    assert all(100 < float(str(cx)) < 1000 for _, cx in dots)


def test_the_table_of_detectors_in_the_docs_is_that_of_the_results() -> None:
    root = Path(__file__).parent.parent
    results = json.loads((root / "benchmarks" / "results" / "detectors.json").read_text())
    docs = (root / "docs" / "score.md").read_text()
    assert results["command"] in docs
    for name, found in results["detectors"].items():
        cells = [found[part][window] for part in ("44 records", "DS2") for window in ("150 ms", "50 ms")]
        row = " | ".join([f"| {name}", *("{Se:.2f} / {+P:.2f} / {F1:.2f}".format(**cell) for cell in cells)])
        assert f"{row} |" in docs, f"docs/score.md lacks the row {row}"


def test_every_label_that_is_held_against_rhythm_marks_is_documented() -> None:
    docs = (Path(__file__).parent.parent / "docs" / "score.md").read_text()
    for label, marks in RHYTHMS.items():
        row = next((line for line in docs.splitlines() if line.startswith("|") and f"`{label}`" in line), "")
        assert all(f"`{mark}`" in row for mark in marks), label
        assert label in CONDITIONS


class _Tags(HTMLParser):
    """Keeps the tags that are open; one that closes what is not open stays as a complaint."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - theirs
        if tag not in ("meta", "line", "circle", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in ("line", "circle"):
            self.open.append(f"/{tag}")
