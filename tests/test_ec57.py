"""The comparator of the field: golden texts of the reference programs, hand-worked cases, and slow oracles."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.apps import score
from holdover.evaluate.annotations import BXB_CLASSES, DE_CHAZAL_CLASSES, AnnotationFile, AnnotationPair, read_pair
from holdover.evaluate.bxb import LABELS, BeatScore, compare_beats
from holdover.evaluate.epicmp import compare_episodes
from holdover.evaluate.mxm import compare_measurements, measured_by_definition
from holdover.evaluate.period import Period, clock, period, samples
from holdover.evaluate.rxr import compare_runs
from holdover.evaluate.sumstats import summary
from holdover.runtime.errors import SourceError, UsageError
from tests.ec57_oracle import NEVER, Story, annotation_file, disturbed, pair_of, slow_pairs, slow_runs, stories

RECORDS = ("100", "203", "207", "210", "219", "232")
DS1 = "101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230".split()  # noqa: SIM905 - a list of records reads best as one line
DS2 = "100 103 105 111 113 117 121 123 200 202 210 212 213 214 219 221 222 228 231 232 233 234".split()  # noqa: SIM905 - same
W = 54


def data(folder: str) -> Path:
    if not os.environ.get("HOLDOVER_DATA"):
        pytest.skip("HOLDOVER_DATA does not name the folder of real recordings")
    place = Path(os.environ["HOLDOVER_DATA"]) / folder
    if not place.is_dir():
        pytest.skip(f"HOLDOVER_DATA has no folder {folder}")
    return place


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Path:
    place = data("ec57-golden")
    monkeypatch.chdir(place)
    return place


Spoken = Callable[..., str]


@pytest.fixture
def spoken(capsys: pytest.CaptureFixture[str]) -> Spoken:
    def say(*argv: str) -> str:
        assert score.main(argv) == 0
        return capsys.readouterr().out

    return say


PAIR = ("-a", "atr", "tst")


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("bxb", ("bxb", "-S")),
        ("bxb-v", ("bxb", "-s")),
        ("bxb-f0", ("bxb", "-f", "0", "-S")),
        ("rxr", ("rxr", "-S")),
        ("af", ("epicmp", "-A")),
    ],
)
def test_reports_are_those_of_the_reference_programs(
    golden: Path, spoken: Spoken, tmp_path: Path, record: str, text: str, argv: tuple[str, ...]
) -> None:
    out = tmp_path / "report.txt"
    program, *options = argv
    spoken(program, "-r", record, *PAIR, *options, str(out))
    assert out.read_bytes() == (golden / f"{record}.{text}.txt").read_bytes()


@pytest.mark.parametrize("record", RECORDS)
def test_bxb_says_what_was_missed_in_shutdown_on_stdout(
    golden: Path, spoken: Spoken, tmp_path: Path, record: str
) -> None:
    said = spoken("bxb", "-r", record, *PAIR, "-v", "-S", str(tmp_path / "report.txt"))
    assert said == (golden / f"{record}.bxb-list.txt").read_text()


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (("bxb", "-L"), ("bxb", "shutdown")),
        (("rxr", "-L"), ("rxr-v", "rxr-s")),
        (("epicmp", "-L", "-A"), ("af",)),
        (("epicmp", "-L", "-V"), ("vf",)),
    ],
)
def test_line_formats_and_their_sums_are_those_of_the_reference_programs(
    golden: Path, spoken: Spoken, tmp_path: Path, argv: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    program, *options = argv
    files = [tmp_path / f"{text}.line.txt" for text in texts]
    for record in RECORDS:
        spoken(program, "-r", record, *PAIR, *options, *map(str, files))
    for file, text in zip(files, texts, strict=True):
        assert file.read_bytes() == (golden / file.name).read_bytes()
        assert spoken("sumstats", str(file)) == (golden / f"{text}.sum.txt").read_text()


def beats(story: str) -> Story:
    """A story such as "N96 V160"."""
    return Story(tuple((int(word[1:]), word[0]) for word in story.split()))


def cells(found: BeatScore) -> dict[str, int]:
    grid = {f"{a}{b.lower()}": found.n(a, b) for a in LABELS for b in LABELS}
    return {name: n for name, n in grid.items() if n}


def test_two_test_beats_at_equal_distance_leave_the_earlier_one_over() -> None:
    found = compare_beats(pair_of(beats("N500"), beats("V490 N510")), Period(0, 1000, W))
    assert cells(found) == {"Ov": 1, "Nn": 1}
    assert [str(match) for match in found.mismatches] == ["O(490)/V(490)"]


def test_two_reference_beats_at_equal_distance_leave_the_earlier_one_missed() -> None:
    found = compare_beats(pair_of(beats("V490 N510"), beats("N500")), Period(0, 1000, W))
    assert cells(found) == {"Vo": 1, "Nn": 1}


def test_a_rival_that_has_a_nearer_beat_of_its_own_is_no_rival() -> None:
    found = compare_beats(pair_of(beats("N96 N160"), beats("N128 N185")), Period(0, 1000, 37))
    assert cells(found) == {"Nn": 2}


def test_the_window_reaches_to_its_last_sample_and_no_further() -> None:
    assert cells(compare_beats(pair_of(beats("N500"), beats("N554")), Period(0, 1000, W))) == {"Nn": 1}
    assert cells(compare_beats(pair_of(beats("N500"), beats("N555")), Period(0, 1000, W))) == {"No": 1, "On": 1}


def test_the_last_beat_of_the_learning_period_may_belong_to_the_first_after_it() -> None:
    assert cells(compare_beats(pair_of(beats("N1010"), beats("N990")), Period(1000, 2000, W))) == {"Nn": 1}
    assert cells(compare_beats(pair_of(beats("N1010 N1400"), beats("N900 N1400")), Period(1000, 2000, W))) == {
        "No": 1,
        "Nn": 1,
    }


def test_an_extra_beat_just_after_the_learning_period_is_not_counted() -> None:
    found = compare_beats(pair_of(beats("N980 N1300"), beats("N700 N1004 N1300")), Period(1000, 2000, W))
    assert cells(found) == {"Nn": 1}


def test_detections_in_reference_fibrillation_are_not_counted() -> None:
    reference = Story(((100, "N"), (900, "N")), fibrillation=((300, 700),))
    assert cells(compare_beats(pair_of(reference, beats("N100 V400 V500 N900")), Period(0, 1000, W))) == {"Nn": 2}


def test_beats_missed_in_shutdown_are_told_apart_and_its_time_is_summed() -> None:
    test = Story(((100, "N"), (900, "N")), shutdown=((300, 700),))
    found = compare_beats(pair_of(beats("N100 V500 N900"), test), Period(0, 1000, W))
    assert (cells(found), found.shutdown) == ({"Nn": 2, "Vx": 1}, 400)


def test_shutdown_that_never_ends_lasts_to_the_end_of_the_record() -> None:
    test = annotation_file([(100, 1, 0, ""), (300, 14, -1, "")])
    pair = AnnotationPair("story", 360.0, 1000, beats("N100 N500").file(), test)
    found = compare_beats(pair, Period(0, 1000, W))
    assert (cells(found), found.shutdown) == ({"Nn": 1, "Nx": 1}, 700)


def test_a_single_shutdown_mark_reaches_to_a_window_from_its_neighbours() -> None:
    test = annotation_file([(100, 1, 0, ""), (300, 14, -1, ""), (900, 1, 0, "")])
    pair = AnnotationPair("story", 360.0, 1000, beats("N100 N500 N900").file(), test)
    found = compare_beats(pair, Period(0, 1000, W))
    assert (cells(found), found.shutdown) == ({"Nn": 2, "Nx": 1}, 900 - W - (100 + W))


def test_rr_errors_are_of_the_intervals_that_both_have() -> None:
    found = compare_beats(pair_of(beats("N100 N400 N700"), beats("N100 N410 N700")), Period(0, 1000, W))
    assert (found.rr_error_sum, found.rr_errors) == (200.0, 2)


def test_rates_leave_fusion_and_unknown_beats_out_of_the_false_positives() -> None:
    found = compare_beats(pair_of(beats("F100 Q500 N900"), beats("V100 V500 V900")), Period(0, 1000, W))
    assert (found.rate("V +P"), found.rate("V FPR"), found.rate("Q Se")) == ((0, 1), (1, 1), (3, 3))


@settings(max_examples=1000, deadline=None)
@given(data=st.data(), window=st.integers(1, 80), start=st.sampled_from([0, 200]), long=st.booleans())
def test_pairs_are_those_of_a_slow_oracle(data: st.DataObject, window: int, start: int, long: bool) -> None:
    reference = data.draw(stories())
    test = data.draw(disturbed(reference) if data.draw(st.booleans()) else stories().map(lambda s: Story(s.beats)))
    end = NEVER - 1 if long else start + 700
    found = compare_beats(pair_of(reference, test), Period(start, end, window))
    counts, error_sum, errors = slow_pairs(reference, test, window, start, end)
    assert cells(found) == {name: n for name, n in counts.items() if n}
    assert (found.rr_error_sum, found.rr_errors) == (error_sum, errors)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_runs_are_those_of_a_slow_oracle(data: st.DataObject) -> None:
    labels = st.lists(st.sampled_from("NSVVVF"), min_size=1, max_size=40)
    sides = [
        Story(tuple((300 * (k + 1) + data.draw(st.integers(-20, 20)), label) for k, label in enumerate(side)))
        for side in (data.draw(labels), data.draw(labels))
    ]
    for found, ectopic in zip(compare_runs(pair_of(*sides), Period(0, NEVER, W)), ("VF", "S"), strict=True):
        for matrix, first, turned in ((found.sensitivity, 0, False), (found.predictivity, 1, True)):
            expected = np.zeros((7, 7), dtype=np.int64)
            for (length, longest), n in slow_runs(sides[first], sides[1 - first], ectopic, W).items():
                expected[(longest, length) if turned else (length, longest)] = n
            assert np.array_equal(matrix, expected)


def rhythm(*changes: tuple[int, str]) -> AnnotationFile:
    return annotation_file([(at, 28, 0, aux) for at, aux in changes])


@settings(max_examples=300, deadline=None)
@given(cuts=st.tuples(*[st.lists(st.integers(1, 400), unique=True, max_size=9)] * 2), start=st.sampled_from([0, 100]))
def test_episodes_overlap_as_their_samples_do(cuts: tuple[list[int], list[int]], start: int) -> None:
    files = [rhythm((0, "(N"), *((at, ("(AFIB", "(N")[k % 2]) for k, at in enumerate(sorted(cut)))) for cut in cuts]
    spans = [
        [range(max(on, start), off) for on, off in zip(ats[::2], [*ats[1::2], 400], strict=False) if off >= start]
        for ats in (sorted(cut) for cut in cuts)
    ]
    found = compare_episodes(AnnotationPair("story", 360.0, 400, *files), Period(start, 400, W), "AF")
    for tally, own, others in ((found.reference, *spans), (found.test, *spans[::-1])):
        other = {at for span in others for at in span}
        own = [span for span in own if span.start < 400]
        assert tally.duration == sum(map(len, own))
        assert tally.overlap == sum(len(other & set(span)) for span in own)
        assert tally.match == sum(bool(other & set(span)) for span in own)
        assert tally.match + tally.mismatch == len(own)


def test_flutter_can_be_left_out_of_the_predictivity_of_fibrillation() -> None:
    reference = rhythm((100, "(AFL"), (200, "(N"), (500, "(AFIB"), (600, "(N"))
    test = rhythm((120, "(AFIB"), (180, "(N"), (500, "(AFIB"), (700, "(N"))
    pair = AnnotationPair("story", 360.0, 1000, reference, test)
    plain = compare_episodes(pair, Period(0, 1000, W), "AF")
    without = compare_episodes(pair, Period(0, 1000, W), "AF", exclude_flutter=True)
    assert (plain.test.match, plain.test.mismatch, plain.test.duration) == (1, 1, 260)
    assert (without.test.match, without.test.mismatch, without.test.duration) == (1, 0, 200)
    assert without.reference == plain.reference


def measures(*values: tuple[int, float]) -> AnnotationFile:
    return annotation_file([(at, 23, 0, str(value)) for at, value in values])


def test_measurements_are_compared_with_the_nearest_reference() -> None:
    pair = AnnotationPair(
        "story", 360.0, 1000, measures((100, 60), (200, 80), (300, 100)), measures((90, 61), (210, 78), (310, 100))
    )
    found = compare_measurements(pair, Period(0, 1000, W))
    assert (found.error_sum, found.reference_sum, found.measurements) == (1 + 4, 240, 3)
    assert found.rms_error(normalized=False) == pytest.approx((5 / 3) ** 0.5)
    assert found.rms_error() == pytest.approx(100 * (5 / 3) ** 0.5 / 80)
    assert measured_by_definition(pair, Period(0, 1000, W)) == found


@settings(max_examples=300, deadline=None)
@given(
    sides=st.tuples(*[st.dictionaries(st.integers(0, 900), st.integers(40, 200), min_size=1)] * 2),
    start=st.sampled_from([0, 300]),
)
def test_measurements_by_definition_are_those_of_a_slow_oracle(
    sides: tuple[dict[int, int], dict[int, int]], start: int
) -> None:
    reference, test = (dict(sorted(side.items())) for side in sides)
    pair = AnnotationPair("story", 360.0, 1000, measures(*reference.items()), measures(*test.items()))
    counted = [at for at in test if at >= start]
    if not counted:
        with pytest.raises(SourceError, match="in the period"):
            measured_by_definition(pair, Period(start, 1000, W))
        return
    nearest = [reference[min(reference, key=lambda other: (abs(other - at), -other))] for at in counted]
    found = measured_by_definition(pair, Period(start, 1000, W))
    assert found.error_sum == sum((ref - test[at]) ** 2 for ref, at in zip(nearest, counted, strict=True))
    assert (found.reference_sum, found.measurements) == (sum(nearest), len(counted))


def test_without_measurements_there_is_nothing_to_compare() -> None:
    pair = AnnotationPair("story", 360.0, 1000, measures((100, 60)), beats("N100").file())
    with pytest.raises(SourceError, match=r"story\.tst has no measurements of type 0"):
        compare_measurements(pair, Period(0, 1000, W))


def test_many_records_have_the_gross_and_average_that_sumstats_tells(golden: Path, spoken: Spoken) -> None:
    told = json.loads(spoken(str(golden), "--ref", str(golden), "--test", "tst", "--json"))
    figures = told["maps"]["bxb"]["figures"]
    lines = {
        words[0]: words[1:] for words in map(str.split, (golden / "bxb.sum.txt").read_text().splitlines()) if words
    }
    assert [f"{figures[rate]['gross']:.2f}" for rate in figures] == lines["Gross"]
    assert [f"{figures[rate]['average']:.2f}" for rate in figures] == lines["Average"][:6]
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
    assert "NOT SCORED, no test annotations:\n  207 210 219 232\n" in said


def test_one_record_has_no_interval(golden: Path, spoken: Spoken) -> None:
    told = json.loads(spoken(str(golden / "219"), "--ref", str(golden), "--test", "tst", "--json"))
    assert told["records"] == ["219"]
    assert told["maps"]["bxb"]["figures"]["Q Se"] == {
        "part": 1754,
        "whole": 1773,
        "gross": 98.93,
        "average": 98.93,
        "interval": None,
    }


def test_what_cannot_be_scored_is_said(record: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score.main(["bxbb", "--ref", str(tmp_path)]) == 2
    assert "bxbb is no folder, no record with annotations bxbb.blm, and none of bxb, rxr" in capsys.readouterr().err
    assert score.main([str(tmp_path), "--ref", str(tmp_path)]) == 3
    assert "has no annotations to score (*.blm)" in capsys.readouterr().err
    (tmp_path / "999.blm").write_bytes(Path(f"{record}.tst").read_bytes())
    assert score.main([str(tmp_path), "--ref", str(tmp_path)]) == 3
    assert "999.hea is missing" in capsys.readouterr().err


CLASSES = {
    "de Chazal DS1": (DS1, DE_CHAZAL_CLASSES, 0, (45866, 944, 3788, 415, 8)),
    "de Chazal DS2": (DS2, DE_CHAZAL_CLASSES, 0, (44259, 1837, 3221, 388, 7)),
    "de Chazal DS2 after 5 min": (DS2, DE_CHAZAL_CLASSES, 108000, (36926, 1608, 2686, 288, 7)),
    "bxb DS1": (DS1, BXB_CLASSES, 0, (45834, 976, 3788, 415, 8)),
    "bxb DS2": (DS2, BXB_CLASSES, 0, (44046, 2050, 3221, 388, 7)),
    "bxb DS2 after 5 min": (DS2, BXB_CLASSES, 108000, (36713, 1821, 2686, 288, 7)),
}


@pytest.mark.parametrize("name", CLASSES)
def test_mitdb_has_the_beats_that_everyone_counts(name: str) -> None:
    records, classes, start, expected = CLASSES[name]
    place = data("mitdb")
    files = [read_pair(str(place / record), "atr", "atr").reference for record in records]
    labels = [classes.get(code, "") for file in files for code in file.code[file.at >= start].tolist()]
    assert tuple(labels.count(label) for label in "NSVFQ") == expected
    assert sum(map(bool, labels)) == {(0, 22): 51021 if records is DS1 else 49712}.get((start, 22), 41515)


def test_every_mitdb_record_agrees_with_itself_and_lacks_just_what_is_taken_away() -> None:
    for header in sorted(data("mitdb").glob("*.hea")):
        pair = read_pair(str(header.with_suffix("")), "atr", "atr")
        file, span = pair.reference, period(pair.rate_hz, pair.length)
        whole = compare_beats(pair, span)
        off_diagonal = whole.counts - np.diag(np.diag(whole.counts))
        assert (off_diagonal.sum(), whole.rr_error_sum) == (0, 0)
        gone = (np.arange(len(file)) % 50 == 7) & np.isin(file.code, list(BXB_CLASSES)) & (file.at > span.start + 999)
        kept = AnnotationFile(
            file.path,
            file.annotator,
            file.at[~gone],
            file.code[~gone],
            file.subtype[~gone],
            tuple(aux for aux, out in zip(file.aux, gone, strict=True) if not out),
        )
        part = compare_beats(AnnotationPair(pair.record, pair.rate_hz, pair.length, file, kept), span)
        assert part.n("NSVFQ", "OX") == part.n("NSVFQ", "O") == gone.sum()
        assert part.n("OX", "NSVFQ") == 0


HEADER = "100 1 360 3600\n100.dat 16 200\n"


def write_annotations(path: Path, *words: int) -> None:
    path.write_bytes(b"".join(word.to_bytes(2, "little") for word in (*words, 0)))


def beat(code: int, gap: int) -> int:
    return code << 10 | gap


@pytest.fixture
def record(tmp_path: Path) -> str:
    (tmp_path / "100.hea").write_text(HEADER)
    write_annotations(tmp_path / "100.atr", beat(1, 100), beat(1, 300))
    write_annotations(tmp_path / "100.tst", beat(1, 102), beat(5, 300))
    return str(tmp_path / "100")


def complaint(record: str, capsys: pytest.CaptureFixture[str], *, status: int = 3) -> str:
    assert score.main(["bxb", "-r", record, *PAIR, "-f", "0"]) == status
    return capsys.readouterr().err


def test_a_missing_record_or_annotator_is_named(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no record elsewhere: elsewhere.hea is missing" in complaint("elsewhere", capsys)
    Path(f"{record}.tst").unlink()
    assert "100.tst is missing: no annotator tst" in complaint(record, capsys)


def test_an_empty_file_is_named(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_annotations(Path(f"{record}.tst"))
    assert "100.tst is empty: not one annotation in it" in complaint(record, capsys)


def test_beats_out_of_order_are_named_with_their_place(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    back = (-50) & 0xFFFFFFFF
    skip = (59 << 10, back >> 16, back & 0xFFFF)
    write_annotations(Path(f"{record}.tst"), beat(1, 100), beat(1, 300), *skip, beat(1, 0))
    said = complaint(record, capsys)
    assert "100.tst: annotation 3 is at sample 350, before the one ahead of it at sample 400" in said


def test_annotations_after_the_end_of_the_record_are_named(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_annotations(Path(f"{record}.tst"), *[beat(1, 1000)] * 5)
    assert "100.tst: annotation 4 is at sample 4000, after the end of the record" in complaint(record, capsys)


def test_a_file_of_another_rate_is_named(record: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = b"## time resolution: 250"
    note = (beat(22, 0), 63 << 10 | len(text), *(int.from_bytes(text[k : k + 2], "little") for k in range(0, 24, 2)))
    write_annotations(Path(f"{record}.tst"), *note, beat(1, 100))
    assert "100.tst counts time at 250 Hz, its record at 360 Hz" in complaint(record, capsys)


def test_records_are_found_along_the_wfdb_variable(
    record: str, spoken: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WFDB", f". {Path(record).parent}")
    said = spoken("bxb", "-r", "100", *PAIR, "-f", "0", "-l", "-", "-")
    assert said.split()[:12] == ["100", "1", "0", "0", "0", "1", "0", "0", "0", "0", "0", "0"]


def test_reports_without_a_golden_text_are_laid_out_like_those_with_one(
    record: str, spoken: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(record).parent)
    condensed = spoken("bxb", "-r", "100", *PAIR, "-f", "0", "-C", "-").splitlines()
    assert condensed[4:11] == [
        "         Algorithm",
        "      n+f+q    s    v  o+x",
        "     _____________________",
        "  N  |    1    0    1    0",
        "  S  |    0    0    0    0",
        "  V  |    0    0    0    0",
        " F+Q |    0    0    0    0",
    ]
    spoken("bxb", "-r", "100", *PAIR, "-f", "0", "-l", "beats.txt", "shutdown.txt")
    heading, line = Path("beats.txt").read_text().splitlines()
    assert line == " 100     1   0   0   0   1    0   0   0   0   0   0 100.00 100.00      -   0.00 50.000"
    assert len(line) == len(heading)
    runs = spoken("rxr", "-r", "100", *PAIR, "-f", "0", "-c", "-").splitlines()
    assert runs[4:8] == [
        "          Algorithm Run Length",
        "         nc    v    c    s    l",
        "     __________________________",
        "  NC |         0    0    0    0",
    ]


def test_measurements_are_reported_and_averaged(
    record: str, spoken: Spoken, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, rate in (("atr", b"80"), ("tst", b"76")):
        text = int.from_bytes(rate, "little")
        write_annotations(Path(f"{record}.{name}"), beat(23, 100), 63 << 10 | 2, text, beat(1, 10))
    assert spoken("mxm", "-r", "100", *PAIR, "-f", "0", "-t", "s100", "-u").splitlines()[-2:] == [
        "   Unnormalized RMS error:  5.6569 (n = 1)",
        "Mean reference measurement: 160",
    ]
    assert spoken("mxm", "-r", "100", *PAIR, "-f", "0", "--by-definition").splitlines()[-2:] == [
        "     Normalized RMS error:  5.0000% (n = 1)",
        "Mean reference measurement: 80",
    ]
    spoken("mxm", "-r", "100", *PAIR, "-f", "0", "-l", "rate.txt")
    assert spoken("sumstats", "rate.txt").splitlines()[2:] == [
        "Record\tRMS error (%)\tMean reference measurement",
        "   100\t 3.5355\t\t160",
        "_" * 50,
        "Average  3.5355\t\t160",
        "",
        "Summary of results from 1 record",
    ]


def test_times_are_written_as_the_reference_programs_write_them() -> None:
    assert [samples(text, 360, 650000) for text in ("5:0", ".15", "1:0:0", "s77", "e", "0")] == [
        108000,
        54,
        1296000,
        77,
        650000,
        0,
    ]
    assert clock(3599 * 360 + 360, 360.0) == " 1:00:00.000"


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "s-1", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        samples(text, 360)


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(UsageError, match="before its start"):
        period(360, 650000, start="10:0", end="5:0")


def test_sumstats_names_the_line_it_cannot_read(golden: Path) -> None:
    text = (golden / "bxb.line.txt").read_text()
    with pytest.raises(SourceError, match=r"beats\.txt, line 8: not a line of this report: 'rubbish'"):
        summary(text + "rubbish\n", "beats.txt")
    with pytest.raises(SourceError, match="is no line-format report"):
        summary("rubbish\n", "beats.txt")
