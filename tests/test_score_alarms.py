"""Alarms scored as events: which match, what they are held against, and a slow oracle."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.evaluate.alarms import AlarmScore, AlarmTally, alarm_figures, compare_alarms
from holdover.evaluate.annotations import AnnotationFile, read_pair
from holdover.evaluate.event import Event, Maker, alarm_note, maker_note, read_alarms
from holdover.evaluate.period import Period
from holdover.evaluate.reference_events import by_rhythm, by_rules
from holdover.runtime.alert import Phase
from holdover.runtime.detect.limits import Limits
from holdover.runtime.errors import SourceError
from tests.ec57_oracle import annotation_file
from tests.scoring import data, score

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas
RATE_HZ = 100.0
END = 100_000
VT, VF = "ventricular_tachycardia", "ventricular_fibrillation"
WHOLE = Period(0, END, 15)


def notes(*told: tuple[int, str]) -> AnnotationFile:
    return annotation_file([(at, 22, 0, text) for at, text in told])


def rhythm(*marks: tuple[int, str]) -> AnnotationFile:
    return annotation_file([(at, 28, 0, text) for at, text in marks])


def alarms(*spans: tuple[int, int, int], label: str = VT, kind: str = "physiological") -> AnnotationFile:
    """Alarms that began, came true and ended at these samples."""
    told = []
    for onset, at, end in spans:
        told.append((at, f"start {label} high {kind} {onset}"))
        told.append((max(at, end), f"end {label} high {kind} {onset} {end}"))
    return notes(*sorted(told, key=lambda mark: mark[0]))


def beats(*at: int, symbols: str = "") -> AnnotationFile:
    codes = {"N": 1, "V": 5, "[": 32, "]": 33}
    return annotation_file([(k, codes[s], 0, "") for k, s in zip(at, symbols or "N" * len(at), strict=True)])


def tally(found: AlarmScore, label: str = VT, kind: str = "rhythm") -> AlarmTally:
    return found.tallies[kind, label]


def test_overlap_makes_a_match_and_latency_counts_to_where_the_alarm_came_true() -> None:
    reference = rhythm((1000, "(VT"), (2000, "(N"), (5000, "(VT"), (5500, "(N"), (9000, "(VT"), (9400, "(N"))
    found = tally(compare_alarms(alarms((1100, 1300, 1900), (7000, 7200, 7400)), reference, RATE_HZ, WHOLE))
    assert found == AlarmTally("high", reference=3, found=1, alarms=2, true=1, late_s=(3.0,))
    figures = found.figures(hours=12.0)
    assert (figures["Se"], figures["+P"], figures["false in 24 h"]) == (33.33, 50.0, 2.0)


def test_one_alarm_may_match_several_events_and_several_alarms_one() -> None:
    reference = rhythm((1000, "(VT"), (1100, "(N"), (1200, "(VT"), (1300, "(N"), (5000, "(VT"), (6000, "(N"))
    found = tally(
        compare_alarms(alarms((950, 1000, 1350), (5000, 5100, 5200), (5400, 5500, 5600)), reference, RATE_HZ, WHOLE)
    )
    assert found[1:5] == (3, 3, 3, 3)
    assert found.late_s == (0.0, 0.0, 1.0), "told before the second began; the first of two alarms counts"


@pytest.mark.parametrize(("onset", "matches"), [(2100, True), (2101, False)])
def test_the_tolerance_reaches_to_its_last_sample_and_no_further(onset: int, matches: bool) -> None:
    reference = rhythm((1000, "(VT"), (2000, "(N"))
    found = tally(compare_alarms(alarms((onset, onset, onset + 50)), reference, RATE_HZ, WHOLE, tolerance_s=1.0))
    assert (found.found, found.true) == (matches, matches)


def test_onsets_in_the_learning_period_are_not_counted_but_may_be_matched() -> None:
    reference = rhythm((900, "(VT"), (2000, "(N"), (3000, "(VT"), (3500, "(N"))
    told = alarms((950, 960, 970), (1500, 1600, 1700), (2950, 3100, 3400))
    found = tally(compare_alarms(told, reference, RATE_HZ, Period(1000, 3200, 15)))
    assert found[1:5] == (1, 1, 2, 2)
    assert tally(compare_alarms(told, reference, RATE_HZ, Period(1000, 2900, 15)))[1:5] == (0, 0, 1, 1)


def test_the_delay_that_an_alarm_file_states_is_in_the_latency() -> None:
    file = notes((1300, f"start {VT} high physiological 1000"), (9000, "by some-model 1.2 sha256:ab delay_s 0.983"))
    found = compare_alarms(file, rhythm((1000, "(VT"), (2000, "(N")), RATE_HZ, WHOLE)
    assert found.maker == Maker("some-model 1.2 sha256:ab", 0.983, 0.983)
    assert tally(found).late_s == pytest.approx((3.983,))


@pytest.mark.parametrize(("stated", "late_s"), [("delay_s 0.983 silence_s 0.483", 4.483), ("delay_s 0.983", 4.983)])
def test_an_asystole_is_told_after_the_delay_of_silence_where_the_file_states_one(stated: str, late_s: float) -> None:
    told = [(1400, "start asystole high physiological 1000"), (2000, "end asystole high physiological 1000 2000")]
    told += [(2300, f"start {VT} high physiological 2000"), (9000, f"by some-model {stated}")]
    reference = rhythm((1000, "(ASYS"), (2000, "(VT"), (3000, "(N"))
    found = compare_alarms(notes(*told), reference, RATE_HZ, WHOLE)
    assert tally(found, "asystole").late_s == pytest.approx((late_s,))
    assert tally(found, VT).late_s == pytest.approx((3.983,))


names = st.text(st.characters(categories=("Ll", "Nd"), include_characters=" .:-"), min_size=1, max_size=30)


@given(names, st.floats(0, 99), st.floats(0, 99))
def test_who_judged_can_be_read_as_it_is_written(name: str, delay_s: float, silence_s: float) -> None:
    maker = Maker(name, round(delay_s, 3), round(silence_s, 3))
    assert read_alarms(notes((5, maker_note(maker))), END).maker == maker


def test_a_note_of_three_words_is_enough() -> None:
    told = read_alarms(notes((50, "a remark"), (700, "start vt high"), (900, "end vt")), END)
    assert told.events == [Event("vt", "high", "physiological", 700, 700, 900)]


def test_what_starts_again_has_ended_and_what_never_ends_lasts() -> None:
    told = read_alarms(notes((700, "start vt high"), (900, "start vt high"), (950, "end pause")), END)
    assert [(event.onset, event.end) for event in told.events] == [(700, 900), (900, END)]


phases = st.builds(
    lambda phase, end, **known: Phase(phase=phase, end=end if phase == "end" else None, **known),
    label=st.sampled_from(["asystole", "signal_missing"]),
    phase=st.sampled_from(["start", "update", "end"]),
    onset=st.integers(0, 50),
    at=st.integers(50, 99),
    end=st.integers(50, 99),
    priority=st.sampled_from(["high", "medium", "low", "info"]),
    kind=st.sampled_from(["physiological", "technical"]),
)


@given(phases)
def test_every_phase_that_is_written_can_be_read(phase: Phase) -> None:
    told = read_alarms(notes((phase.at, alarm_note(phase))), END).events
    expected = [Event(phase.label, phase.priority, phase.kind, phase.onset, phase.at, END)]
    assert told == (expected if phase.phase == "start" else [])


@given(st.text(max_size=60))
def test_any_text_is_an_alarm_a_remark_or_an_error_that_names_its_place(text: str) -> None:
    try:
        told = read_alarms(notes((50, text)), END)
    except SourceError as error:
        assert text.startswith(("start ", "end "))
        assert "story.tst: annotation 1 at sample 50" in str(error)  # noqa: PT017 - both outcomes are right
    else:
        assert len(told.events) <= 1


def test_technical_alarms_are_counted_and_their_time_is_summed_once() -> None:
    spans = ((500, 510, 900), (2000, 2010, 3000))
    told = [(510, "start signal_missing medium technical 500"), (900, "end signal_missing medium technical 500 900")]
    told += [(2010, "start signal_missing medium technical 2000"), (2600, "start flat medium technical 2500")]
    told += [(3000, "end signal_missing medium technical 2000 3000"), (3200, "end flat medium technical 2500 3200")]
    found = compare_alarms(notes(*told), rhythm((0, "(N")), RATE_HZ, Period(800, END, 15))
    assert found.technical == {"flat": 1, "signal_missing": len(spans)}
    assert found.technical_s == (900 - 800 + 3200 - 2000) / RATE_HZ
    assert found.tallies == {}


def test_the_rules_say_what_reference_beats_should_raise() -> None:
    file = beats(1000, 1080, 1160, 2000, 2080, symbols="NNNNN")
    found = by_rules(file, RATE_HZ, 2500, Limits())
    assert found is not None
    assert [(e.label, e.onset, e.at, e.end) for e in found if e.label == "asystole"] == [
        ("asystole", 1160, 1560, 2000),
        ("asystole", 2080, 2480, 2500),
    ]


def test_no_asystole_is_expected_within_fibrillation_or_shutdown() -> None:
    file = beats(1000, 1080, 1100, 2000, 2080, symbols="NN[]N")
    assert [e.label for e in by_rules(file, RATE_HZ, 2200, Limits()) or ()] == []
    marks = [(1000, 1, 0, ""), (1080, 1, 0, ""), (1100, 14, -1, ""), (2000, 14, 0, ""), (2080, 1, 0, "")]
    assert by_rules(annotation_file(marks), RATE_HZ, 2200, Limits()) == []


@pytest.mark.parametrize("hidden", [((1100, 32, 0, ""), (2000, 33, 0, "")), ((1100, 14, -1, ""), (2000, 14, 0, ""))])
def test_an_asystole_is_expected_where_no_beat_comes_after_fibrillation_or_shutdown(
    hidden: tuple[tuple[int, int, int, str], ...],
) -> None:
    file = annotation_file([(1000, 1, 0, ""), (1080, 1, 0, ""), *hidden, (2600, 1, 0, "")])
    expected = by_rules(file, RATE_HZ, 2700, Limits()) or []
    assert [(e.onset, e.at, e.end) for e in expected if e.label == "asystole"] == [(2000, 2400, 2600)]


def test_signal_quality_that_was_never_lost_does_not_begin_the_count_anew() -> None:
    file = annotation_file([(1000, 1, 0, ""), (1080, 1, 0, ""), (1300, 14, 0, ""), (2000, 1, 0, "")])
    expected = by_rules(file, RATE_HZ, 2100, Limits()) or []
    assert [(e.onset, e.at) for e in expected if e.label == "asystole"] == [(1080, 1480)]


def test_the_rules_expect_no_technical_alarms() -> None:
    file = annotation_file([(10, 14, -1, ""), (100, 14, 0, ""), (9000, 1, 0, ""), (9100, 1, 0, "")])
    assert by_rules(file, RATE_HZ, 9150, Limits()) == []


def test_limits_move_what_is_expected() -> None:
    file = beats(1000, 1080, 1660, 1740)
    for asystole_s, expected in ((4.0, 1), (6.0, 0)):
        found = by_rules(file, RATE_HZ, 1800, Limits(asystole_s=asystole_s)) or []
        assert len([e for e in found if e.label == "asystole"]) == expected


def test_a_reference_without_beats_or_without_rhythm_says_nothing() -> None:
    assert by_rules(rhythm((1000, "(VT")), RATE_HZ, END, Limits()) is None
    assert by_rhythm(beats(1000), END) is None
    found = compare_alarms(alarms((1100, 1300, 1900)), beats(1000), RATE_HZ, WHOLE)
    assert set(found.seconds) == {"rules"}


def test_fibrillation_is_held_against_its_marks_and_never_against_beats() -> None:
    reference = beats(1000, 2000, 5000, symbols="N[]")
    found = compare_alarms(alarms((2100, 2500, 5100), label=VF), reference, RATE_HZ, WHOLE)
    assert tally(found, VF)[1:5] == (1, 1, 1, 1)
    assert ("rules", VF) not in found.tallies
    assert [(e.onset, e.end) for e in by_rhythm(rhythm((7, "(VFL"), (9, "(VF"), (20, "(N")), END) or ()] == [(7, 20)]


def test_marked_fibrillation_counts_beside_other_marked_rhythms() -> None:
    marks = rhythm((10, "(VT"), (20, "(VFIB"), (30, "(ASYS"), (40, "(VFL"), (50, "(N"))
    found = [(event.label, event.onset, event.end) for event in by_rhythm(marks, END) or ()]
    assert sorted(found, key=lambda event: event[1]) == [(VT, 10, 20), (VF, 20, 30), ("asystole", 30, 40), (VF, 40, 50)]


def test_fibrillation_in_brackets_is_not_counted_again_as_the_rhythm_that_marks_it() -> None:
    marks = [(10, 28, 0, "(VT"), (20, 28, 0, "(VFL"), (22, 32, 0, ""), (30, 33, 0, ""), (31, 28, 0, "(N")]
    found = [(event.label, event.onset, event.end) for event in by_rhythm(annotation_file(marks), END) or ()]
    assert sorted(found) == [(VF, 22, 30), (VT, 10, 20)]


def test_a_label_that_no_record_has_marked_is_not_held_against_rhythm() -> None:
    marked = compare_alarms(alarms((100, 200, 300)), rhythm((1000, "(VT"), (2000, "(N")), RATE_HZ, WHOLE)
    unmarked = compare_alarms(alarms((100, 200, 300)), rhythm((1000, "(N")), RATE_HZ, WHOLE)
    assert alarm_figures([unmarked])["against"]["rhythm"]["labels"] == {}
    both = alarm_figures([marked, unmarked])["against"]["rhythm"]
    assert (both["labels"][VT]["alarms"], both["labels"][VT]["true"], both["records"]) == (2, 0, 2)
    assert both["labels"][VT]["false in 24 h"] == round(24 * 2 / (2 * END / RATE_HZ / 3600), 2)
    assert both["priorities"]["high"]["alarms"] == 2


spans = st.lists(st.integers(0, 400), unique=True, max_size=14).map(sorted)


@settings(max_examples=500, deadline=None)
@given(cuts=st.tuples(spans, spans), lag=st.integers(0, 30), slack=st.integers(0, 20), start=st.sampled_from([0, 150]))
def test_matches_are_those_of_a_slow_oracle(
    cuts: tuple[list[int], list[int]], lag: int, slack: int, start: int
) -> None:
    """Both sides sample by sample: an event matches if a sample of it, give or take the slack, is of the other."""
    sides = [list(zip(cut[::2], cut[1::2], strict=False)) for cut in cuts]
    reference = rhythm(*((at, name) for on, off in sides[0] for at, name in ((on, "(VT"), (off, "(N"))))
    told = alarms(*((on, on + lag, off) for on, off in sides[1]))

    def near(one: tuple[int, int], other: tuple[int, int]) -> bool:
        reached = set(range(one[0] - slack, one[1] + slack + 1))
        return bool(reached & set(range(other[0], other[1] + 1)))

    counted = [[span for span in side if start <= span[0] < 380] for side in sides]
    found = [span for span in counted[0] if any(near(span, other) for other in sides[1])]
    true = [span for span in counted[1] if any(near(span, other) for other in sides[0])]
    firsts = [min(other[0] + lag for other in sides[1] if near(span, other)) for span in found]
    if not len(reference):
        return
    scored = compare_alarms(told, reference, 1.0, Period(start, 380, 15), tolerance_s=slack)
    if sides[0] or sides[1]:
        assert tally(scored)[1:5] == tuple(map(len, (counted[0], found, counted[1], true)))
        expected = [max(first - span[0], 0) for first, span in zip(firsts, found, strict=True)]
        assert tally(scored).late_s == tuple(map(float, expected))


def test_what_the_rules_raise_on_the_reference_beats_scores_full_marks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Record 232: a detector that finds the reference's beats, and holds them against the same limits, is perfect."""
    wfdb = pytest.importorskip("wfdb", reason="needs holdover[replay]")
    place = data("mitdb")
    known = read_pair(str(place / "232"), "atr", "atr").reference
    expected = by_rules(known, 360.0, 650_000, Limits()) or []
    marks = sorted(
        [(e.at, f"start {e.label} {e.priority} {e.kind} {e.onset}") for e in expected]
        + [(max(e.end, e.at), f"end {e.label} {e.priority} {e.kind} {e.onset} {e.end}") for e in expected],
        key=lambda mark: mark[0],
    )
    (tmp_path / "232.blm").write_bytes((place / "232.atr").read_bytes())
    wfdb.wrann(
        "232", "alm", np.array([at for at, _ in marks]), symbol=['"'] * len(marks),
        aux_note=[text for _, text in marks], fs=360, write_dir=str(tmp_path),
    )  # fmt: skip
    told = json.loads(score(capsys, tmp_path, "--ref", place, "--json").out)["alarms"]
    against = told["against"]["rules"]["labels"]
    assert against["asystole"]["reference"] == 14, "the oracle count of this record, all after the fifth minute"
    for label, figures in against.items():
        assert (figures["Se"], figures["+P"], figures["false in 24 h"]) == (100.0, 100.0, 0.0), label
    assert against["asystole"]["latency_s"] == {"p50": 4.0, "p95": 4.0, "p100": 4.0}
    said = score(capsys, tmp_path, "--ref", place).out
    assert "asystole" in said
    assert [line for line in said.splitlines() if len(line) > 80] == []
