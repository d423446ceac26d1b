"""Rules on beats: hand-made rows of beats with answers worked out by hand, and what all rules share."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.asystole import Asystole
from holdover.runtime.detect.frequent import Frequent
from holdover.runtime.detect.limits import Limits
from holdover.runtime.detect.rate import Rate, heart_rate_bpm
from holdover.runtime.detect.rule import RULES, Rule
from holdover.runtime.detect.ventricular import Ventricular
from holdover.runtime.snapshot import pack, unpack
from tests.signals import examples

HZ = 100
TIGHT = Limits(asystole_s=2, pvc_per_min=2, tachycardia_bpm=90, bradycardia_bpm=60, rate_hysteresis_bpm=5, vt_beats=4)


def row(symbols: str, rr_s: float = 0.5, begin_s: float = 1.0) -> list[Annotation]:
    """Beats at even distances."""
    return [Annotation(round((begin_s + i * rr_s) * HZ), s, score=0.9) for i, s in enumerate(symbols)]


def at(*places: int, symbol: str = "N") -> list[Annotation]:
    return [Annotation(place, symbol, score=0.9) for place in places]


def judge(rule: Rule, beats: Sequence[Annotation], until: int | None = None) -> list[Phase]:
    """All phases of a row of beats, seen at once up to just after the last."""
    return list(rule.update(beats, beats[-1].at + 1 if until is None else until))


def brief(phases: Iterable[Phase]) -> list[tuple[str, str, int, int, int | None]]:
    return [(p.label.removeprefix("ventricular_"), p.phase, p.onset, p.at, p.end) for p in phases]


# beats at 100, 150, 200, ... (100 Hz, two a second: 120/min)


@pytest.mark.parametrize("symbols", ["NVN", "NNN", "NVNVN", "VN", "NV"])
def test_single_ventricular_beats_are_no_episode(symbols: str) -> None:
    assert judge(Ventricular(HZ, Limits()), row(symbols)) == []


@pytest.mark.parametrize("other", "NSFQ")
def test_exactly_two_in_a_row_are_a_couplet_known_at_the_next_beat(other: str) -> None:
    phases = judge(Ventricular(HZ, Limits()), row(f"NVV{other}"))
    assert brief(phases) == [("couplet", "start", 150, 250, None), ("couplet", "end", 150, 250, 200)]
    assert phases[0].score == 0.9
    assert phases[0].evidence == {"beats": 2, "rate_bpm": 120.0, "beat_samples": [150, 200]}


def test_two_in_a_row_are_not_yet_a_couplet() -> None:
    assert judge(Ventricular(HZ, Limits()), row("NVV")) == []


@pytest.mark.parametrize("n", [3, 4])
def test_three_or_four_in_a_row_are_a_run_from_the_third_on(n: int) -> None:
    phases = judge(Ventricular(HZ, Limits()), row("N" + "V" * n + "N"))
    over, last = 150 + 50 * n, 100 + 50 * n
    assert brief(phases) == [("run", "start", 150, 250, None), ("run", "end", 150, over, last)]
    assert phases[1].evidence["beats"] == n
    assert phases[1].end_reason == "recovered"


def test_the_fifth_fast_one_makes_a_tachycardia_that_supersedes_the_run() -> None:
    phases = judge(Ventricular(HZ, Limits()), row("NVVVVVVN"))
    assert brief(phases) == [
        ("run", "start", 150, 250, None),
        ("run", "end", 150, 350, 350),
        ("tachycardia", "start", 150, 350, None),
        ("tachycardia", "end", 150, 450, 400),
    ]
    assert phases[1].end_reason == "superseded"
    assert phases[2].priority == "high"
    assert phases[2].latched


def test_five_slow_ones_stay_a_run() -> None:
    phases = judge(Ventricular(HZ, Limits()), row("NVVVVVN", rr_s=0.61))
    assert [(label, phase) for label, phase, *_ in brief(phases)] == [("run", "start"), ("run", "end")]


@pytest.mark.parametrize(("rr_s", "label"), [(0.6, "tachycardia"), (0.61, "run")])
def test_the_rate_of_a_tachycardia_is_a_hundred_or_more(rr_s: float, label: str) -> None:
    assert brief(judge(Ventricular(HZ, Limits()), row("VVVVV", rr_s=rr_s)))[-1][0] == label


def test_a_slow_run_that_quickens_becomes_a_tachycardia() -> None:
    beats = at(100, 200, 300, 400, 500, 520, 540, 560, 580, 600, symbol="V")
    # eight beats: 7 intervals in 4.6 s are 91 a minute; nine: 8 in 4.8 s are exactly 100
    phases = brief(judge(Ventricular(HZ, Limits()), beats))
    assert phases[2] == ("tachycardia", "start", 100, 580, None)


def test_where_a_tachycardia_takes_as_many_beats_as_a_run_there_is_no_run_before_it() -> None:
    phases = judge(Ventricular(HZ, Limits(vt_beats=3)), row("NVVVN"))
    assert [p[0] for p in brief(phases)] == ["tachycardia", "tachycardia"]


def test_a_loss_ends_a_run_at_its_last_beat_and_forgets_the_row() -> None:
    rule = Ventricular(HZ, Limits())
    judge(rule, row("NVVV"))
    assert brief(rule.interrupt(400, 420, "signal_lost")) == [("run", "end", 150, 420, 250)]
    assert judge(rule, row("VN", begin_s=5)) == []


def test_the_eleventh_ventricular_beat_in_a_minute_makes_them_frequent() -> None:
    beats = row("VN" * 11, rr_s=1.0)  # ventricular beats at 100, 300, ..., 2100
    rule = Frequent(HZ, Limits())
    assert judge(rule, beats[:19]) == []
    assert brief(judge(rule, beats[19:])) == [("frequent_ventricular_beats", "start", 100, 2100, None)]
    # one by one they leave the minute, at 6100, 6300, ...; the sixth leaves five
    assert judge(rule, [], 7099) == []
    phases = judge(rule, [], 7100)
    assert brief(phases) == [("frequent_ventricular_beats", "end", 100, 7100, 7100)]
    assert phases[0].evidence == {"ventricular_per_min": 5}


def test_a_beat_leaves_the_minute_before_one_sixty_seconds_later_comes() -> None:
    rule = Frequent(HZ, Limits(pvc_per_min=1))
    assert judge(rule, at(100, 6100, symbol="V")) == []
    assert len(judge(Frequent(HZ, Limits(pvc_per_min=1)), at(100, 6099, symbol="V"))) == 1


def test_a_loss_starts_the_minute_anew() -> None:
    rule = Frequent(HZ, Limits(pvc_per_min=2))
    assert len(judge(rule, row("VVV"))) == 1
    assert brief(rule.interrupt(300, 320, "signal_lost")) == [("frequent_ventricular_beats", "end", 100, 320, 300)]
    assert judge(rule, row("VV", begin_s=5)) == []


def test_the_rate_is_the_mean_of_twelve_intervals_without_the_extremes() -> None:
    assert heart_rate_bpm([0.8] * 3) is None
    assert heart_rate_bpm([0.5, 1.0, 1.0, 0.5]) == 80
    assert heart_rate_bpm([0.3, *[0.75] * 10, 1.1]) == 80
    assert heart_rate_bpm([9.0, 0.3, *[0.75] * 10, 1.1]) == 80
    assert heart_rate_bpm([0.6] * 11) == 100


def test_three_slow_intervals_make_the_last_four_decide() -> None:
    assert heart_rate_bpm([0.5] * 9 + [1.5] * 3) == pytest.approx(60 * 4 / 5.0)
    assert heart_rate_bpm([0.5] * 10 + [1.2, 1.5, 1.5]) != heart_rate_bpm([0.5] * 10 + [1.21, 1.5, 1.5])


def test_tachycardia_starts_above_its_limit_and_ends_inside_by_the_hysteresis() -> None:
    rule = Rate(HZ, Limits())
    assert judge(rule, row("N" * 20, rr_s=0.5)) == []  # exactly 120
    beats = [*accumulate([1050] + [49] * 12)]
    (start,) = judge(rule, at(*beats[1:]))
    assert (start.label, start.phase, start.priority) == ("tachycardia", "start", "medium")
    assert start.evidence == {"rate_bpm": 120.2, "limit_bpm": 120.0}
    slower = [*accumulate([beats[-1]] + [52] * 20)]  # 115.4: not yet inside by 5
    assert judge(rule, at(*slower[1:])) == []
    slow = [*accumulate([slower[-1]] + [53] * 20)]
    (end,) = judge(rule, at(*slow[1:]))
    assert (end.phase, end.onset, end.end) == ("end", start.onset, end.at)
    assert end.evidence["rate_bpm"] <= 115


def test_bradycardia_starts_below_its_limit_and_ends_inside_by_the_hysteresis() -> None:
    rule = Rate(HZ, Limits())
    # the third interval over 1.2 s brings the last four to decide: 60 * 4 / (1 + 3 * 1.3) = 49.0
    (start,) = judge(rule, at(*accumulate([100] + [100] * 8 + [130] * 3)))
    assert (start.label, start.at, start.evidence["rate_bpm"]) == ("bradycardia", 1290, 49.0)
    (end,) = judge(rule, at(1290 + 100, 1290 + 200))
    # at the first, the last three are no longer all slow: ten of twelve without extremes decide
    assert (end.phase, end.at) == ("end", 1390)
    assert end.evidence["rate_bpm"] >= 55


def test_the_rate_forgets_at_a_loss() -> None:
    rule = Rate(HZ, Limits())
    judge(rule, row("N" * 10, rr_s=0.4))
    (end,) = rule.interrupt(600, 620, "signal_lost")
    assert (end.label, end.phase, end.at, end.end, end.end_reason) == ("tachycardia", "end", 620, 600, "signal_lost")
    assert rule.bpm is None
    assert judge(rule, row("N" * 4, rr_s=0.4, begin_s=8)) == []


def test_asystole_is_said_at_the_sample_where_four_seconds_are_over() -> None:
    rule = Asystole(HZ, Limits())
    assert list(rule.update(at(100), 500)) == []
    (start,) = rule.update([], 501)
    assert (start.onset, start.at, start.priority, start.latched) == (100, 500, "high", True)
    (end,) = rule.update(at(900), 901)
    assert (end.phase, end.onset, end.at, end.end, end.evidence) == ("end", 100, 900, 900, {"pause_s": 8.0})


def test_a_beat_after_exactly_four_seconds_is_in_time() -> None:
    assert judge(Asystole(HZ, Limits()), at(100, 500)) == []
    assert len(judge(Asystole(HZ, Limits()), at(100, 501))) == 2


def test_there_is_no_asystole_before_a_first_beat_nor_after_a_loss() -> None:
    rule = Asystole(HZ, Limits())
    assert list(rule.update([], 10**6)) == []
    assert judge(rule, at(10**6), 10**6 + 300) == []
    assert list(rule.interrupt(10**6 + 300, 10**6 + 320, "signal_lost")) == []
    assert list(rule.update([], 10**7)) == []


def test_a_loss_ends_an_asystole() -> None:
    rule = Asystole(HZ, Limits())
    judge(rule, at(100), 700)
    (end,) = rule.interrupt(800, 820, "signal_lost")
    assert (end.phase, end.onset, end.at, end.end, end.end_reason) == ("end", 100, 820, 800, "signal_lost")


@st.composite
def rows(draw: st.DrawFn) -> list[Annotation]:
    """Beats of random distances and kinds, in stretches that keep to one."""
    stretch = st.tuples(st.integers(20, 450), st.sampled_from("NVSQ"), st.integers(1, 15))
    parts = draw(st.lists(stretch, min_size=1, max_size=12))
    steps = [(rr, symbol) for rr, symbol, n in parts for _ in range(n)]
    places = accumulate(rr for rr, _ in steps)
    return [Annotation(place, symbol, score=0.5) for place, (_, symbol) in zip(places, steps, strict=True)]


Check = Callable[[str, list[Annotation], list[int]], None]
LIMITS = (Limits(), TIGHT)


def whole(name: str, beats: list[Annotation], limits: Limits, until: int) -> list[Phase]:
    return sorted(RULES[name](HZ, limits).update(beats, until), key=lambda p: p.at)


def blocks(beats: list[Annotation], cuts: list[int]) -> tuple[list[tuple[list[Annotation], int]], int]:
    """Beats by the watermarks at which they become known."""
    end = beats[-1].at + 7000
    marks = [*sorted({c % end for c in cuts}), end]
    return [([b for b in beats if a <= b.at < z], z) for a, z in pairwise([0, *marks])], end


def same_in_any_blocks(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, end = blocks(beats, cuts)
    for limits in LIMITS:
        rule = RULES[name](HZ, limits)
        said = [p for block, until in parts for p in rule.update(block, until)]
        assert sorted(said, key=lambda p: p.at) == whole(name, beats, limits, end)


def nothing_late(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, _ = blocks(beats, cuts)
    for limits in LIMITS:
        rule, before = RULES[name](HZ, limits), 0
        for block, until in parts:
            places = [p.at for p in rule.update(block, until)]
            assert places == sorted(places)
            assert all(before <= place <= until for place in places)
            before = until


def restored_goes_on(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, end = blocks(beats, cuts)
    for limits in LIMITS:
        rule, said = RULES[name](HZ, limits), []
        for block, until in parts:
            said += list(rule.update(block, until))
            memory = pack(rule.snapshot())
            rule = RULES[name](HZ, limits)
            rule.restore(unpack(memory))
        assert sorted(said, key=lambda p: p.at) == whole(name, beats, limits, end)


def snapshots_stand_still(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, _ = blocks(beats, cuts)
    rule = RULES[name](HZ, TIGHT)
    for block, until in parts:
        memory = rule.snapshot()
        before = pack(memory)
        list(rule.update(block, until))
        assert pack(memory) == before


def interrupt_closes_and_forgets(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, end = blocks(beats, cuts)
    for limits in LIMITS:
        rule, said = RULES[name](HZ, limits), []
        for block, until in parts:
            said += list(rule.update(block, until))
            said += list(rule.interrupt(until, until, "signal_lost"))
            assert pack(rule.snapshot()) == pack(RULES[name](HZ, limits).snapshot())
        opened = [(p.label, p.onset) for p in said if p.phase == "start"]
        assert opened == sorted(set(opened), key=opened.index)
        assert sorted(opened) == sorted((p.label, p.onset) for p in said if p.phase == "end")
        for p in said:
            assert p.onset <= p.at <= end
            assert (p.phase == "end") == (p.end is not None) == (p.end_reason is not None)
            assert p.end is None or p.onset <= p.end <= p.at


CHECKS: tuple[Check, ...] = (
    same_in_any_blocks,
    nothing_late,
    restored_goes_on,
    snapshots_stand_still,
    interrupt_closes_and_forgets,
)
PAIRS = [pytest.param(name, check, id=f"{name}:{check.__name__}") for name in RULES for check in CHECKS]


@pytest.mark.parametrize(("name", "check"), PAIRS)
@examples()
@given(beats=rows(), cuts=st.lists(st.integers(1, 10**6), max_size=8))
def test_a_rule_keeps_its_promise(name: str, check: Check, beats: list[Annotation], cuts: list[int]) -> None:
    check(name, beats, cuts)


CONTRADICTIONS = {
    "bradycardia above tachycardia": {"bradycardia_bpm": 130},
    "no room for the hysteresis": {"bradycardia_bpm": 110, "tachycardia_bpm": 120, "rate_hysteresis_bpm": 5},
    "a tachycardia shorter than a run": {"run_beats": 6, "vt_beats": 5},
    "a negative rate": {"tachycardia_bpm": -1},
    "a rate of zero": {"bradycardia_bpm": 0},
    "asystole sooner than 2 s": {"asystole_s": 1},
    "a bridge longer than 2 s": {"bridge_s": 2.5},
    "a run of two": {"run_beats": 2},
    "a limit that is none": {"asystole": 4},
    "a limit that is no number": {"flat_s": "long"},
}


@pytest.mark.parametrize("table", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_limits_that_contradict_themselves_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, Limits)


def test_limits_that_leave_just_room_are_taken() -> None:
    assert msgspec.convert({"bradycardia_bpm": 109, "tachycardia_bpm": 120}, Limits).bradycardia_bpm == 109
