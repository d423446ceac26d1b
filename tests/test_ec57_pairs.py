"""The arithmetic of the comparator: hand-worked cases, slow oracles, and real records against disturbed copies."""

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.evaluate.annotations import BXB_CLASSES, DE_CHAZAL_CLASSES, AnnotationFile, AnnotationPair, read_pair
from holdover.evaluate.bxb import LABELS, RATES, BeatScore, compare_beats
from holdover.evaluate.epicmp import compare_episodes
from holdover.evaluate.mxm import compare_measurements, measured_by_definition
from holdover.evaluate.period import Period, period
from holdover.evaluate.rxr import compare_runs
from holdover.runtime.errors import SourceError
from tests.ec57_oracle import (
    NEVER,
    Mark,
    Story,
    annotation_file,
    disturbed,
    marks_of,
    pair_of,
    slow_pairs,
    slow_runs,
    stories,
)
from tests.scoring import data

DS1 = "101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230".split()  # noqa: SIM905 - a list of records reads best as one line
DS2 = "100 103 105 111 113 117 121 123 200 202 210 212 213 214 219 221 222 228 231 232 233 234".split()  # noqa: SIM905 - same
W = 54


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


CELLS = {
    # cell: the rates in whose numerator it counts, and those in whose denominator alone; by hand from EC57, 4.3
    "Nn": ("Q Se, Q +P", ""),
    "Ns": ("Q Se, Q +P", "S +P"),
    "Nv": ("Q Se, Q +P, V FPR", "V +P"),
    "Nf": ("Q Se, Q +P", ""),
    "Nq": ("Q Se, Q +P", ""),
    "No": ("", "Q Se"),
    "Nx": ("", "Q Se"),
    "Sn": ("Q Se, Q +P", "S Se"),
    "Ss": ("Q Se, Q +P, S Se, S +P", ""),
    "Sv": ("Q Se, Q +P, V FPR", "S Se, V +P"),
    "Sf": ("Q Se, Q +P", "S Se"),
    "Sq": ("Q Se, Q +P", "S Se"),
    "So": ("", "Q Se, S Se"),
    "Sx": ("", "Q Se, S Se"),
    "Vn": ("Q Se, Q +P", "V Se"),
    "Vs": ("Q Se, Q +P", "V Se, S +P"),
    "Vv": ("Q Se, Q +P, V Se, V +P", ""),
    "Vf": ("Q Se, Q +P", "V Se"),
    "Vq": ("Q Se, Q +P", "V Se"),
    "Vo": ("", "Q Se, V Se"),
    "Vx": ("", "Q Se, V Se"),
    "Fn": ("Q Se, Q +P", ""),
    "Fs": ("Q Se, Q +P", "S +P"),
    "Fv": ("Q Se, Q +P", ""),
    "Ff": ("Q Se, Q +P", ""),
    "Fq": ("Q Se, Q +P", ""),
    "Fo": ("", "Q Se"),
    "Fx": ("", "Q Se"),
    "Qn": ("Q Se, Q +P", ""),
    "Qs": ("Q Se, Q +P", ""),
    "Qv": ("Q Se, Q +P", ""),
    "Qf": ("Q Se, Q +P", ""),
    "Qq": ("Q Se, Q +P", ""),
    "Qo": ("", "Q Se"),
    "Qx": ("", "Q Se"),
    "On": ("", "Q +P"),
    "Os": ("", "Q +P, S +P"),
    "Ov": ("V FPR", "Q +P, V +P"),
    "Of": ("", "Q +P"),
    "Oq": ("", "Q +P"),
    "Xn": ("", "Q +P"),
    "Xs": ("", "Q +P, S +P"),
    "Xv": ("V FPR", "Q +P, V +P"),
    "Xf": ("", "Q +P"),
    "Xq": ("", "Q +P"),
}
NOT_V = {f"{reference}{test}" for reference in "NSFQOX" for test in "nsfq"}
"""Cells of what neither is ventricular nor called so: only in the denominator of the false positive rate."""


def single(cell: str) -> AnnotationPair:
    """A pair of files that has one pair of beats in this cell, between two spans that hide nothing else."""
    shutdown = ((400, 600),)
    reference = Story(((500, cell[0]),) if cell[0] in "NSVFQ" else (), (), shutdown if cell[0] == "X" else ())
    test = Story(((500, cell[1].upper()),) if cell[1] in "nsvfq" else (), (), shutdown if cell[1] == "x" else ())
    return pair_of(reference, test)


@pytest.mark.parametrize("cell", CELLS)
def test_each_cell_counts_in_just_the_rates_that_it_belongs_to(cell: str) -> None:
    found = compare_beats(single(cell), Period(0, 1000, W))
    assert cells(found) == {cell: 1}
    numerators, others = (names.split(", ") if names else [] for names in CELLS[cell])
    denominators = {*numerators, *others} | ({"V FPR"} if cell in NOT_V else set())
    for rate in (*RATES, "V FPR"):
        assert found.rate(rate) == (rate in numerators, rate in denominators), rate


def test_rates_of_a_record_worked_out_by_hand() -> None:
    """Twelve reference beats and twelve of the test, worked out on paper."""
    reference = beats("N100 N400 S700 V1000 V1300 F1600 Q1900 N2200 V2500 S2800 N3100 N3400")
    test = beats("N101 V402 S699 V1000 N1310 V1600 V1900 N2200 S2500 N2800 N3100 N3300")
    found = compare_beats(pair_of(reference, test), Period(0, 4000, W))
    assert cells(found) == {
        "Nn": 3, "Nv": 1, "No": 1, "Ss": 1, "Sn": 1, "Vv": 1, "Vn": 1, "Vs": 1, "Fv": 1, "Qv": 1, "On": 1,
    }  # fmt: skip
    assert {rate: found.rate(rate) for rate in (*RATES, "V FPR")} == {
        "Q Se": (11, 12), "Q +P": (11, 12), "V Se": (1, 3), "V +P": (1, 2), "S Se": (1, 2), "S +P": (1, 2),
        "V FPR": (1, 7),
    }  # fmt: skip
    # reference RR: 300 throughout. Test: 301, 297, 301, 310, 290, 300, 300, 300, 300, 300, and 200 before what is extra
    assert (found.rr_error_sum, found.rr_errors) == (1 + 9 + 1 + 100 + 100 + 10000, 11)
    assert found.rr_error_ms(360.0) == pytest.approx((10211 / 11) ** 0.5 / 0.36)


def test_rates_leave_fusion_and_unknown_beats_out_of_the_false_positives() -> None:
    found = compare_beats(pair_of(beats("F100 Q500 N900"), beats("V100 V500 V900")), Period(0, 1000, W))
    assert (found.rate("V +P"), found.rate("V FPR"), found.rate("Q Se")) == ((0, 1), (1, 1), (3, 3))


def assert_as_slow(found: BeatScore, reference: list[Mark], test: list[Mark], span: Period) -> None:
    counts, error_sum, errors, shutdown = slow_pairs(reference, test, span.window, span.start, span.end)
    assert cells(found) == dict(counts)
    assert (found.rr_error_sum, found.rr_errors, found.shutdown) == (error_sum, errors, shutdown)


LONG = 10 if os.environ.get("HOLDOVER_LONG") else 1
"""How many times the random pairs of an ordinary run are tried."""


@settings(max_examples=2000 * LONG, deadline=None)
@pytest.mark.timeout(120 * LONG)
@given(
    data=st.data(), window=st.integers(1, 80), start=st.sampled_from([0, 200]), end=st.sampled_from([700, NEVER, -1, 0])
)
def test_pairs_are_those_of_a_slow_oracle(data: st.DataObject, window: int, start: int, end: int) -> None:
    reference = data.draw(stories())
    test = data.draw(disturbed(reference) if data.draw(st.booleans()) else stories())
    last = {700: start + 700, NEVER: NEVER - 1}.get(end, end)
    found = compare_beats(pair_of(reference, test), Period(start, last, window))
    assert_as_slow(found, reference.marks(), test.marks(), Period(start, last, window))


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


def test_every_mitdb_record_against_a_disturbed_copy_of_itself_counts_as_the_slow_oracle() -> None:
    headers = sorted(data("mitdb").glob("*.hea"))
    assert len(headers) == 48
    for seed, header in enumerate(headers):
        pair = read_pair(str(header.with_suffix("")), "atr", "atr")
        span = period(pair.rate_hz, pair.length)
        marks = muddled(marks_of(pair.reference), random.Random(seed))
        test = annotation_file([(*mark, "") for mark in marks])
        found = compare_beats(AnnotationPair(pair.record, pair.rate_hz, pair.length, pair.reference, test), span)
        assert_as_slow(found, marks_of(pair.reference), marks, span)
        assert found.n("NSVFQ", "NSVFQ") > 1000
        assert min(found.n("NSVFQ", "O"), found.n("NSVFQ", "X"), found.n("O", "NSVFQ")) > 10


def muddled(marks: list[Mark], rng: random.Random) -> list[Mark]:
    """A copy with beats dropped, moved, added and renamed, and four shutdowns of 20 s in which there are none."""
    out = []
    shut = [rng.randrange(120_000, 600_000) for _ in range(4)]
    for at, code, subtype in marks:
        what = rng.random()
        if any(on <= at <= on + 7200 for on in shut) or what < 0.02:
            continue
        moved = max(at + rng.randint(-70, 70), 1) if what < 0.1 else at
        out.append(
            (moved, rng.choice([1, 5, 6, 8, 13]) if 0.1 < what < 0.15 and code in BXB_CLASSES else code, subtype)
        )
        if what > 0.97:
            out.append((at + rng.choice([0, 1, 40, 100]), 1, 0))
    out += [mark for on in shut for mark in ((on, 14, -1), (on + 7200, 14, 0))]
    return sorted(out, key=lambda mark: mark[0])
