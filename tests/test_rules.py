"""Rules on beats: hand-made rows of beats with answers worked out by hand, and what all rules share."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, cycle, pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.anomaly import LABELS as ANOMALY_LABELS
from holdover.runtime.detect.asystole import Asystole
from holdover.runtime.detect.atrial_fibrillation import AtrialFibrillation
from holdover.runtime.detect.beat_rule import BeatRule
from holdover.runtime.detect.bigeminy import Bigeminy
from holdover.runtime.detect.chain import HOLD_HIGH_S, HOLD_S, Chain
from holdover.runtime.detect.conditions import CONDITIONS, SILENCED, STAGES
from holdover.runtime.detect.couplet import Couplet
from holdover.runtime.detect.episode import Episode
from holdover.runtime.detect.extreme_bradycardia import ExtremeBradycardia
from holdover.runtime.detect.extreme_tachycardia import ExtremeTachycardia
from holdover.runtime.detect.fibrillation import Fibrillation
from holdover.runtime.detect.frequent import Frequent
from holdover.runtime.detect.idioventricular import IdioventricularRhythm
from holdover.runtime.detect.irregular import IrregularRhythm
from holdover.runtime.detect.limits import Limits
from holdover.runtime.detect.missed_beat import MissedBeat
from holdover.runtime.detect.no_beats import NoBeats
from holdover.runtime.detect.pause import Pause
from holdover.runtime.detect.r_on_t import ROnT
from holdover.runtime.detect.rate import Rate, heart_rate_bpm
from holdover.runtime.detect.rule import FAMILIES, RULES, SIGNAL_RULES, Rule
from holdover.runtime.detect.run import Run
from holdover.runtime.detect.supraventricular import SupraventricularRun
from holdover.runtime.detect.trigeminy import Trigeminy
from holdover.runtime.detect.ventricular import VentricularTachycardia
from holdover.runtime.snapshot import pack, unpack
from tests.signals import examples

Wave = NDArray[np.float32]
"""(samples, 1), mV."""

HZ = 100
TIGHT = Limits(
    asystole_s=2, pause_s=1.2, pvc_per_min=2, tachycardia_bpm=90, bradycardia_bpm=60, rate_hysteresis_bpm=5,
    rate_back_s=2, vt_beats=4, ivr_beats=4, cycles=2, extreme_tachycardia_beats=6, extreme_bradycardia_beats=3,
    extreme_bradycardia_s=3, repeat_low_s=5, repeat_medium_s=2,
)  # fmt: skip
STRICT = Limits(wrong_beats=0)


def row(symbols: str, rr_s: float = 0.5, begin_s: float = 1.0) -> list[Annotation]:
    """Beats at even distances."""
    return [Annotation(round((begin_s + i * rr_s) * HZ), s, score=0.9) for i, s in enumerate(symbols)]


def at(*places: int, symbol: str = "N") -> list[Annotation]:
    return [Annotation(place, symbol, score=0.9) for place in places]


def spaced(rr: Sequence[int], symbols: str = "N", begin: int = 100) -> list[Annotation]:
    """Beats at these distances, their symbols over and over."""
    places = accumulate(rr, initial=begin)
    return [Annotation(place, s, score=0.9) for place, s in zip(places, cycle(symbols), strict=False)]


def judge(rule: Rule, beats: Sequence[Annotation], until: int | None = None) -> list[Phase]:
    """All phases of a row of beats, seen at once up to just after the last."""
    return list(rule.update(beats, beats[-1].at + 1 if until is None else until))


def brief(phases: Iterable[Phase]) -> list[tuple[str, str, int, int, int | None]]:
    return [(p.label.removeprefix("ventricular_"), p.phase, p.onset, p.at, p.end) for p in phases]


def raised(beats: Sequence[Annotation], until: int, limits: Limits) -> list[Phase]:
    """What all rules raise, in the order in which a watch hears it."""
    phases = [(p.at, i, p) for i, make in enumerate(RULES.values()) for p in make(HZ, limits).update(beats, until)]
    return [p for _, _, p in sorted(phases, key=lambda item: item[:2])]


def said(beats: Sequence[Annotation], until: int | None = None, limits: Limits | None = None) -> list[Phase]:
    """What a person hears of a row of beats."""
    limits = limits or Limits()
    until = beats[-1].at + 1 if until is None else until
    chain = Chain(HZ, limits)
    return [q for p in raised(beats, until, limits) for q in chain.push(p)] + list(chain.due(until))


# beats at 100, 150, 200, ... (100 Hz, two a second: 120/min)


@pytest.mark.parametrize("symbols", ["NVN", "NNN", "NVNVN", "VN", "NV"])
@pytest.mark.parametrize("rule", [Couplet, Run, VentricularTachycardia, IdioventricularRhythm])
def test_single_ventricular_beats_are_no_row(symbols: str, rule: type[Couplet]) -> None:
    assert judge(rule(HZ, Limits()), row(symbols)) == []


@pytest.mark.parametrize("other", "NSFQ")
def test_exactly_two_in_a_row_are_a_couplet_known_at_the_next_beat(other: str) -> None:
    phases = judge(Couplet(HZ, STRICT), row(f"NVV{other}"))
    assert brief(phases) == [("couplet", "start", 150, 250, None), ("couplet", "end", 150, 250, 200)]
    assert phases[0].score == 0.9
    assert phases[0].evidence == {
        "beats": 2, "doubted_beats": 0, "rate_bpm": 120.0, "beat_samples": [150, 200], "rr_ms": [500],
    }  # fmt: skip


def test_two_in_a_row_are_not_yet_a_couplet() -> None:
    assert judge(Couplet(HZ, Limits()), row("NVV")) == []


def test_a_couplet_that_an_even_beat_follows_waits_for_one_more() -> None:
    beats = at(100, 150, symbol="V") + at(200, 280)
    assert judge(Couplet(HZ, Limits()), beats[:3]) == []
    assert brief(judge(Couplet(HZ, Limits()), beats)) == [
        ("couplet", "start", 100, 280, None),
        ("couplet", "end", 100, 280, 150),
    ]


@pytest.mark.parametrize("n", [3, 4])
def test_three_or_four_in_a_row_are_a_run_from_the_third_on(n: int) -> None:
    phases = said(row("N" + "V" * n + "N"), limits=STRICT)
    over, last = 150 + 50 * n, 100 + 50 * n
    assert brief(phases) == [("run", "start", 150, 250, None), ("run", "end", 150, over, last)]
    assert phases[0].evidence["run"] == "short"
    assert phases[1].evidence["beats"] == n
    assert phases[1].end_reason == "recovered"


def test_from_the_sixth_beat_on_a_run_is_long() -> None:
    phases = judge(Run(HZ, STRICT), row("VVVVVVVN"))
    assert [(p.phase, p.at, p.evidence.get("run")) for p in phases] == [
        ("start", 200, "short"),
        ("update", 350, "long"),
        ("end", 450, None),
    ]


def test_the_fifth_fast_one_makes_a_tachycardia_that_supersedes_the_run() -> None:
    phases = said(row("NVVVVVVN"), limits=STRICT)
    assert brief(phases) == [
        ("run", "start", 150, 250, None),
        ("run", "end", 150, 350, 350),
        ("tachycardia", "start", 150, 350, None),
        ("tachycardia", "end", 150, 450, 400),
    ]
    assert phases[1].end_reason == "superseded"
    assert phases[2].priority == "high"
    assert phases[2].latched
    assert phases[2].evidence["rr_ms"] == [500] * 4


def test_five_slow_ones_are_an_idioventricular_rhythm_that_supersedes_the_run() -> None:
    phases = brief(said(row("NVVVVVN", rr_s=0.61), limits=STRICT))
    assert phases == [
        ("run", "start", 161, 283, None),
        ("run", "end", 161, 405, 405),
        ("idioventricular_rhythm", "start", 161, 405, None),
        ("idioventricular_rhythm", "end", 161, 466, 405),
    ]


@pytest.mark.parametrize(("rr_s", "label"), [(0.6, "tachycardia"), (0.61, "idioventricular_rhythm")])
def test_the_rate_of_a_tachycardia_is_a_hundred_or_more(rr_s: float, label: str) -> None:
    assert brief(said(row("VVVVV", rr_s=rr_s)))[-1][0] == label


def test_a_slow_rhythm_that_quickens_is_a_tachycardia_from_its_fifth_fast_beat_on() -> None:
    beats = spaced([90] * 200 + [40] * 6, "V")
    fast = beats[200].at
    phases = judge(VentricularTachycardia(HZ, Limits()), beats)
    # 90 + 3 * 40 are 210 for four intervals: 114/min, one beat sooner than four fast ones would be
    assert brief(phases) == [("tachycardia", "start", fast - 90, fast + 120, None)]
    assert phases[0].evidence["rate_bpm"] == 114.3


def test_a_tachycardia_that_slows_down_ends_and_may_come_again_in_the_same_row() -> None:
    beats = spaced([40] * 6 + [90] * 10 + [40] * 6, "V")
    names = [(label, phase) for label, phase, *_ in brief(judge(VentricularTachycardia(HZ, Limits()), beats))]
    assert names == [("tachycardia", "start"), ("tachycardia", "end"), ("tachycardia", "start")]


def test_a_tachycardia_of_thirty_seconds_is_said_to_be_sustained_once() -> None:
    phases = judge(VentricularTachycardia(HZ, Limits()), row("V" * 100))
    assert [(p.phase, p.at) for p in phases] == [("start", 300), ("update", 3100)]
    assert phases[1].evidence["sustained"]
    assert phases[1].onset == phases[0].onset


def test_where_a_tachycardia_takes_as_many_beats_as_a_run_there_is_no_run_before_it() -> None:
    phases = said(row("NVVVN"), limits=Limits(vt_beats=3, wrong_beats=0))
    assert [p[0] for p in brief(phases)] == ["tachycardia", "tachycardia"]


@pytest.mark.parametrize("other", "NSQ")
def test_one_beat_called_wrong_does_not_break_a_tachycardia(other: str) -> None:
    beats = row(f"VVV{other}VVVV")
    phases = judge(VentricularTachycardia(HZ, Limits()), beats)
    assert brief(phases) == [("tachycardia", "start", 100, 350, None)]
    assert (phases[0].evidence["beats"], phases[0].evidence["doubted_beats"]) == (5, 1)
    assert judge(VentricularTachycardia(HZ, STRICT), beats) == []


@pytest.mark.parametrize("symbols", ["VVNNVVV", "VNVNVNVNV", "VNVVVNV", "NVVVNVNVV"])
def test_two_others_or_turns_are_no_row(symbols: str) -> None:
    assert judge(VentricularTachycardia(HZ, Limits()), row(symbols)) == []


@pytest.mark.parametrize("places", [(100, 150, 200, 270, 320, 370), (100, 150, 200, 250, 320, 370)])
def test_a_beat_out_of_pace_breaks_a_row(places: tuple[int, ...]) -> None:
    beats = [Annotation(p, s, score=0.9) for p, s in zip(places, "VVVNVV", strict=True)]
    assert judge(VentricularTachycardia(HZ, Limits()), beats) == []
    assert judge(VentricularTachycardia(HZ, Limits()), row("VVVNVV"))


def test_a_loss_ends_a_run_at_its_last_beat_and_forgets_the_row() -> None:
    rule = Run(HZ, Limits())
    judge(rule, row("NVVV"))
    assert brief(rule.interrupt(400, 420, "signal_lost")) == [("run", "end", 150, 420, 250)]
    assert judge(rule, row("VN", begin_s=5)) == []


@pytest.mark.parametrize(("rr_s", "n"), [(0.6, 2), (0.61, 0)])
def test_three_fast_supraventricular_beats_are_a_run(rr_s: float, n: int) -> None:
    phases = judge(SupraventricularRun(HZ, STRICT), row("NSSSN", rr_s=rr_s))
    assert [(p.label, p.phase, p.priority) for p in phases] == [
        ("supraventricular_run", "start", "low"),
        ("supraventricular_run", "end", "low"),
    ][:n]


@pytest.mark.parametrize("symbol", "ejn")
def test_escape_beats_are_no_supraventricular_run(symbol: str) -> None:
    assert judge(SupraventricularRun(HZ, Limits()), row("N" + symbol * 5)) == []


def test_the_eleventh_ventricular_beat_in_a_minute_makes_them_frequent() -> None:
    beats = row("VN" * 11, rr_s=1.0)  # ventricular beats at 100, 300, ..., 2100
    rule = Frequent(HZ, Limits())
    assert judge(rule, beats[:19]) == []
    phases = judge(rule, beats[19:])
    assert brief(phases) == [("frequent_ventricular_beats", "start", 100, 2100, None)]
    assert phases[0].evidence == {"ventricular_per_min": 11, "isolated_per_min": 11}
    # one by one they leave the minute, at 6100, 6300, ...; the sixth leaves five
    assert judge(rule, [], 7099) == []
    phases = judge(rule, [], 7100)
    assert brief(phases) == [("frequent_ventricular_beats", "end", 100, 7100, 7100)]
    assert phases[0].evidence == {"ventricular_per_min": 5, "isolated_per_min": 5}


def test_ventricular_beats_beside_another_are_not_isolated() -> None:
    (start,) = judge(Frequent(HZ, Limits()), row("VNVVNVVVNVNVVVV"))
    assert start.evidence == {"ventricular_per_min": 11, "isolated_per_min": 2}


def test_a_beat_leaves_the_minute_before_one_sixty_seconds_later_comes() -> None:
    rule = Frequent(HZ, Limits(pvc_per_min=1))
    assert judge(rule, at(100, 6100, symbol="V")) == []
    assert len(judge(Frequent(HZ, Limits(pvc_per_min=1)), at(100, 6099, symbol="V"))) == 1


def test_a_loss_starts_the_minute_anew() -> None:
    rule = Frequent(HZ, Limits(pvc_per_min=2))
    assert len(judge(rule, row("VVV"))) == 1
    assert brief(rule.interrupt(300, 320, "signal_lost")) == [("frequent_ventricular_beats", "end", 100, 320, 300)]
    assert judge(rule, row("VV", begin_s=5)) == []


PATTERNS = [
    (Bigeminy, "NVNVN", None),
    (Bigeminy, "NVNVNV", 350),
    (Bigeminy, "VNVNVN", None),
    (Bigeminy, "VVNVNVNV", 450),
    (Bigeminy, "NVNVNNVNV", None),
    (Bigeminy, "NVSVNVNV", None),
    (Bigeminy, "NVSVNVNVNV", 550),
    (Bigeminy, "NVNNVNNV", None),
    (Trigeminy, "NNVNNVNNV", 500),
    (Trigeminy, "NVNNVNNV", None),
    (Trigeminy, "NVNNVNNVNNV", 600),
    (Trigeminy, "NVNVNVNV", None),
    (Trigeminy, "NNNVNNVNNV", 550),
]


@pytest.mark.parametrize(("rule", "symbols", "place"), PATTERNS)
def test_three_cycles_make_a_pattern(rule: type[Bigeminy], symbols: str, place: int | None) -> None:
    starts = [p.at for p in judge(rule(HZ, Limits()), row(symbols)) if p.phase == "start"]
    assert starts == ([] if place is None else [place])


@pytest.mark.parametrize(("limits", "over"), [(STRICT, 450), (Limits(), 550)])
def test_a_pattern_is_over_when_it_is_broken_and_once_more_where_a_wrong_beat_is_tolerated(
    limits: Limits, over: int
) -> None:
    (_, end) = judge(Bigeminy(HZ, limits), row("NVNVNVNNNNN"))
    assert (end.phase, end.at, end.end) == ("end", over, 350)


def test_one_wrong_beat_does_not_end_a_bigeminy() -> None:
    assert len(judge(Bigeminy(HZ, Limits()), row("NVNVNVNNVNVNVNV"))) == 1
    assert len(judge(Bigeminy(HZ, STRICT), row("NVNVNVNNVNVNVNV"))) == 3


def r_on_t(early: int = 25, late: int = 101, rr: int = 80, symbol: str = "V") -> list[Annotation]:
    beats = spaced([rr] * 9 + [early, late])
    return [msgspec.structs.replace(b, symbol=symbol) if i == 10 else b for i, b in enumerate(beats)]


def test_a_ventricular_beat_on_the_t_wave_is_said_when_its_pause_has_lasted() -> None:
    phases = judge(ROnT(HZ, Limits()), r_on_t())
    v = r_on_t()[-2].at
    assert brief(phases) == [("r_on_t", "start", v, v + 100, None), ("r_on_t", "end", v, v + 100, v)]
    assert phases[0].evidence["rr_ms"][-1] == 250
    assert phases[0].priority == "medium"


@pytest.mark.parametrize("change", [{"early": 27}, {"late": 100}, {"rr": 60, "early": 19}, {"symbol": "N"}])
def test_what_is_no_r_on_t(change: dict[str, int]) -> None:
    assert judge(ROnT(HZ, Limits()), r_on_t(**change)) == []  # type: ignore[arg-type]


def test_the_rate_is_the_mean_of_twelve_intervals_without_the_extremes() -> None:
    assert heart_rate_bpm([0.8] * 3) is None
    assert heart_rate_bpm([0.5, 1.0, 1.0, 0.5]) == 80
    assert heart_rate_bpm([0.3, *[0.75] * 10, 1.1]) == 80
    assert heart_rate_bpm([9.0, 0.3, *[0.75] * 10, 1.1]) == 80
    assert heart_rate_bpm([0.6] * 11) == 100


def test_three_slow_intervals_make_the_last_four_decide() -> None:
    assert heart_rate_bpm([0.5] * 9 + [1.5] * 3) == pytest.approx(60 * 4 / 5.0)
    assert heart_rate_bpm([0.5] * 10 + [1.2, 1.5, 1.5]) != heart_rate_bpm([0.5] * 10 + [1.21, 1.5, 1.5])


def test_in_a_ventricular_run_its_own_intervals_decide() -> None:
    assert heart_rate_bpm([0.8] * 8 + [0.4] * 4, run=4) == 150
    assert heart_rate_bpm([0.8] * 9 + [0.4] * 3, run=3) == heart_rate_bpm([0.8] * 9 + [0.4] * 3)
    assert heart_rate_bpm([0.4] * 2 + [0.5] * 8, run=10) == 120
    rule = Rate(HZ, Limits())
    judge(rule, row("N" * 12, rr_s=0.8) + row("VVVVV", rr_s=0.4, begin_s=10.2))
    assert rule.bpm == 150


def test_tachycardia_starts_above_its_limit_and_ends_inside_by_the_hysteresis() -> None:
    rule = Rate(HZ, Limits(rate_back_s=0))
    assert judge(rule, row("N" * 20, rr_s=0.5)) == []  # exactly 120
    beats = [*accumulate([1050] + [49] * 12)]
    (start,) = judge(rule, at(*beats[1:]))
    assert (start.label, start.phase, start.priority) == ("tachycardia", "start", "medium")
    assert start.evidence == {"rate_bpm": 120.2, "limit_bpm": 120.0, "rr_ms": [500, 500, 500, 490, 490]}
    slower = [*accumulate([beats[-1]] + [52] * 20)]  # 115.4: not yet inside by 5
    assert judge(rule, at(*slower[1:])) == []
    slow = [*accumulate([slower[-1]] + [53] * 20)]
    (end,) = judge(rule, at(*slow[1:]))
    assert (end.phase, end.onset, end.end) == ("end", start.onset, end.at)
    assert end.evidence["rate_bpm"] <= 115


def test_a_rate_that_swings_about_its_limit_is_one_alarm() -> None:
    swings = spaced(([47] * 12 + [53] * 12) * 5 + [60] * 60)
    phases = judge(Rate(HZ, Limits()), swings)
    assert [p.phase for p in phases] == ["start", "end"]
    assert phases[1].at == (phases[1].end or 0) + 1500
    assert len(judge(Rate(HZ, Limits(rate_back_s=0)), swings)) > 4


def test_bradycardia_starts_below_its_limit_and_ends_inside_by_the_hysteresis() -> None:
    rule = Rate(HZ, Limits(rate_back_s=0))
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


def test_the_seventeenth_fast_beat_is_an_extreme_tachycardia() -> None:
    beats = spaced([80] * 5 + [42] * 16)  # 142.9/min
    rule = ExtremeTachycardia(HZ, Limits())
    assert judge(rule, beats[:-1]) == []
    (start,) = judge(rule, beats[-1:])
    assert (start.onset, start.at, start.priority, start.latched) == (500, 500 + 16 * 42, "high", True)
    assert (start.evidence["beats"], start.evidence["limit_bpm"]) == (17, 140)
    assert judge(ExtremeTachycardia(HZ, Limits()), spaced([43] * 40)) == []  # 139.5/min


@pytest.mark.parametrize(("rr", "n"), [(84, 1), (86, 0)])
def test_one_beat_that_was_not_found_does_not_hide_an_extreme_tachycardia(rr: int, n: int) -> None:
    beats = spaced([42] * 8 + [rr] + [42] * 8)
    assert len(judge(ExtremeTachycardia(HZ, Limits()), beats)) == n
    assert judge(ExtremeTachycardia(HZ, STRICT), beats) == []
    assert judge(ExtremeTachycardia(HZ, Limits()), spaced([42] * 4 + [84] + [42] * 2 + [84] + [42] * 8)) == []


@pytest.mark.parametrize("every", [5, 6, 7, 8, 12])
@pytest.mark.parametrize("rr", [22, 33, 42])
def test_a_beat_missed_again_and_again_does_not_hide_an_extreme_tachycardia(every: int, rr: int) -> None:
    beats = spaced([80] * 10 + ([rr] * (every - 2) + [2 * rr]) * 20)
    (start,) = judge(ExtremeTachycardia(HZ, Limits()), beats)
    assert start.onset == beats[10].at
    assert sum(start.onset < b.at <= start.at for b in beats) <= 16 + 16 // (every - 2)
    assert judge(ExtremeTachycardia(HZ, STRICT), beats) == []


@pytest.mark.parametrize("part", [[42, 42, 84], [42, 42, 42, 60], [30, 30, 30, 85], [42] * 4 + [86]])
def test_a_slower_beat_again_and_again_that_no_missed_one_explains_is_no_extreme_tachycardia(part: list[int]) -> None:
    assert judge(ExtremeTachycardia(HZ, Limits()), spaced(part * 20)) == []


def test_a_silence_ends_an_extreme_tachycardia_that_may_come_again() -> None:
    beats = spaced([42] * 20 + [500] + [42] * 20)
    (_, end, again) = judge(ExtremeTachycardia(HZ, Limits()), beats)
    assert (end.phase, end.at, end.end, end.end_reason) == ("end", beats[20].at + 200, beats[20].at, "recovered")
    assert (again.phase, again.onset) == ("start", beats[21].at)


@pytest.mark.parametrize(
    ("rule", "symbols", "rr"),
    [
        (VentricularTachycardia, "V" * 10, 40),
        (IdioventricularRhythm, "V" * 10, 90),
        (Run, "V" * 10, 90),
        (SupraventricularRun, "S" * 10, 50),
        (Bigeminy, "NV" * 5, 60),
        (Trigeminy, "NNV" * 4, 60),
        (Couplet, "NVV", 60),
    ],
)
def test_a_silence_of_two_seconds_ends_a_row_and_a_pattern(rule: type[Any], symbols: str, rr: int) -> None:
    beats = spaced([rr] * (len(symbols) - 1), symbols)
    last = beats[-1].at
    assert not [p for p in judge(rule(HZ, Limits()), beats, last + 200) if p.phase == "end"]
    (start, *_, end) = judge(rule(HZ, Limits()), beats, last + 6000)
    assert (end.phase, end.onset, end.at, end.end) == ("end", start.onset, last + 200, last)


@pytest.mark.parametrize("rule", [Couplet, Run, IdioventricularRhythm, Bigeminy])
def test_beats_that_lie_seconds_apart_are_no_row_and_no_pattern(rule: type[Any]) -> None:
    assert judge(rule(HZ, Limits()), spaced([1200] * 9, "NV" if rule is Bigeminy else "V")) == []


def test_an_extreme_rate_is_over_when_it_is_back_by_the_hysteresis_for_longer_than_one_wrong_beat() -> None:
    fast = ExtremeTachycardia(HZ, Limits())
    judge(fast, spaced([42] * 16))
    last = 100 + 16 * 42
    assert judge(fast, spaced([44] * 9, begin=last)[1:]) == []  # 136: inside, not by 5
    (end,) = judge(fast, spaced([45] * 3, begin=last + 9 * 44)[1:])
    assert (end.phase, end.at) == ("end", last + 9 * 44 + 3 * 45)


@pytest.mark.parametrize(
    ("rr", "seconds"),
    [([151] * 4, 6.04), ([174] * 4, 6.96), ([180] * 4, 7.0), ([230] * 4, 8.41), ([349] * 4, 8.49), ([399] * 4, 7.0)],
)
def test_five_slow_beats_or_seven_seconds_of_them_are_an_extreme_bradycardia(rr: list[int], seconds: float) -> None:
    (start,) = judge(ExtremeBradycardia(HZ, Limits()), spaced([80] * 3 + rr))
    assert start.onset == 340
    assert start.at - start.onset == pytest.approx(100 * seconds, abs=1)
    assert start.priority == "high"


@pytest.mark.parametrize("rr", [[150] * 9, [151, 151, 151, 149] * 4, [350, 80, 350, 80], [399, 80, 80]])
def test_what_is_no_extreme_bradycardia(rr: list[int]) -> None:
    assert judge(ExtremeBradycardia(HZ, Limits()), spaced([80] * 3 + rr)) == []


def test_an_extreme_bradycardia_ends_after_three_intervals_inside_by_the_hysteresis() -> None:
    rule = ExtremeBradycardia(HZ, Limits())
    judge(rule, spaced([160] * 4))
    assert judge(rule, spaced([140, 133, 133, 140, 133, 133], begin=740)[1:]) == []  # 42.9 and 45.1/min
    assert [p.phase for p in judge(rule, at(1552 + 133))] == ["end"]


def test_asystole_is_said_at_the_sample_where_four_seconds_are_over() -> None:
    rule = Asystole(HZ, Limits())
    assert list(rule.update(at(20, 100), 500)) == []
    (start,) = rule.update([], 501)
    assert (start.onset, start.at, start.priority, start.latched) == (100, 500, "high", True)
    assert start.evidence == {"last_beat_sample": 100, "limit_s": 4.0, "rr_ms": [800]}
    (end,) = rule.update(at(900), 901)
    assert (end.phase, end.onset, end.at, end.end, end.evidence) == ("end", 100, 900, 900, {"pause_s": 8.0})


def test_a_beat_after_exactly_four_seconds_is_in_time() -> None:
    assert judge(Asystole(HZ, Limits()), at(100, 500)) == []
    assert len(judge(Asystole(HZ, Limits()), at(100, 501))) == 2


def test_there_is_no_asystole_before_a_first_beat_nor_while_the_signal_is_lost() -> None:
    rule = Asystole(HZ, Limits())
    rule.listen(125)
    assert list(rule.update([], 10**6)) == []
    assert judge(rule, at(10**6), 10**6 + 300) == []
    assert list(rule.interrupt(10**6 + 300, 10**6 + 320, "signal_lost")) == []
    assert list(rule.update([], 10**7)) == []


def test_after_a_loss_an_asystole_is_counted_from_where_beats_can_be_found_again() -> None:
    rule = Asystole(HZ, Limits())
    rule.listen(0)
    judge(rule, at(100), 700)
    assert [p.phase for p in rule.interrupt(800, 820, "signal_lost")] == ["end"]
    for known in (1000, 1100, 1300):
        rule.listen(known)  # the first counts
        assert list(rule.update([], known)) == []
    (start,) = rule.update([], 1500)
    assert (start.phase, start.onset, start.at, start.evidence["last_beat_sample"]) == ("start", 1000, 1400, None)
    (end,) = judge(rule, at(2000))
    assert (end.phase, end.onset, end.end, end.evidence) == ("end", 1000, 2000, {"pause_s": 10.0})


@pytest.mark.parametrize("until", [525, 526])
def test_where_no_beat_was_ever_found_a_technical_alarm_says_so_once(until: int) -> None:
    rule = NoBeats(HZ, Limits())
    rule.listen(125)
    phases = list(rule.update([], until))
    assert [(p.label, p.phase, p.onset, p.at, p.kind, p.priority) for p in phases] == [
        ("no_beats", "start", 125, 525, "technical", "medium")
    ][: until - 525]
    if until == 525:
        return
    assert phases[0].evidence == {"limit_s": 4.0, "asystole": "cannot be excluded"}
    assert list(rule.interrupt(800, 820, "signal_lost")) == []
    rule.listen(1000)
    assert list(rule.update([], 5000)) == []
    (end,) = rule.update(at(5100), 5101)
    assert (end.phase, end.onset, end.at, end.end, end.end_reason) == ("end", 125, 5100, 5100, "recovered")
    list(rule.interrupt(6000, 6020, "signal_lost"))
    rule.listen(6100)
    assert list(rule.update([], 9000)) == [], "a beat was seen: an asystole is said instead"


def test_a_signal_that_never_came_is_not_said_to_lack_beats() -> None:
    rule = NoBeats(HZ, Limits())
    assert list(rule.update([], 10**6)) == []
    assert list(rule.interrupt(10**6, 10**6, "input_ended")) == []


def test_an_alarm_that_no_beat_was_found_ends_with_the_input() -> None:
    rule = NoBeats(HZ, Limits())
    rule.listen(0)
    list(rule.update([], 600))
    assert brief(rule.interrupt(700, 700, "input_ended")) == [("no_beats", "end", 0, 700, 700)]


def test_a_limit_that_is_lowered_speaks_from_what_is_known_on_and_keeps_the_onset() -> None:
    for rule, label in ((Asystole(HZ, Limits(asystole_s=10)), "asystole"), (NoBeats(HZ, Limits(asystole_s=10)), "")):
        rule.listen(0)
        assert list(rule.update(at(100) if label else [], 900)) == []
        rule.limits = Limits(asystole_s=4)
        (start,) = rule.update([], 910)
        assert (start.onset, start.at) == (100 if label else 0, 900)


def test_a_loss_ends_an_asystole() -> None:
    rule = Asystole(HZ, Limits())
    judge(rule, at(100), 700)
    (end,) = rule.interrupt(800, 820, "signal_lost")
    assert (end.phase, end.onset, end.at, end.end, end.end_reason) == ("end", 100, 820, 800, "signal_lost")


def test_a_pause_is_said_after_three_seconds_and_superseded_by_an_asystole() -> None:
    assert judge(Pause(HZ, Limits()), at(100, 400)) == []
    assert brief(judge(Pause(HZ, Limits()), at(100, 401))) == [
        ("pause", "start", 100, 400, None),
        ("pause", "end", 100, 401, 401),
    ]
    assert [(p.label, p.phase, p.at, p.end_reason) for p in said(at(100, 700))] == [
        ("pause", "start", 400, None),
        ("pause", "end", 500, "superseded"),
        ("asystole", "start", 500, None),
        ("asystole", "end", 700, "recovered"),
    ]


def test_a_pause_as_long_as_an_asystole_is_none() -> None:
    assert judge(Pause(HZ, Limits(pause_s=4)), at(100, 900)) == []


@pytest.mark.parametrize(("rr", "late"), [(80, 140), (51, 89), (50, 100), (40, 100)])
def test_a_beat_is_missed_when_it_is_late_by_three_quarters_or_by_a_second(rr: int, late: int) -> None:
    beats = spaced([rr] * 8 + [late])
    assert judge(MissedBeat(HZ, Limits()), beats) == []
    last = beats[-2].at
    phases = judge(MissedBeat(HZ, Limits()), spaced([rr] * 8 + [late + 1]))
    assert brief(phases) == [
        ("missed_beat", "start", last, last + late, None),
        ("missed_beat", "end", last, last + late + 1, last + late + 1),
    ]


@pytest.mark.parametrize("symbol", "VSQ")
def test_the_pause_after_a_premature_beat_is_no_missed_one(symbol: str) -> None:
    beats = spaced([80] * 8) + at(790, symbol=symbol) + at(990)
    assert judge(MissedBeat(HZ, Limits()), beats) == []


def fibrillating(mean: int, n: int = 300, seed: int = 0) -> list[int]:
    """RR intervals as irregular as those of atrial fibrillation, after a minute of sinus rhythm."""
    rng = np.random.default_rng(seed)
    rr = np.maximum(mean * (1 + 0.22 * rng.standard_normal(n)), 30)
    return [int(step) for step in (*(80 + 2 * rng.standard_normal(80)), *rr)]


@pytest.mark.parametrize("mean", [45, 60, 80, 100, 120])
@pytest.mark.parametrize("seed", range(5))
def test_an_irregular_rhythm_is_said_within_a_minute(mean: int, seed: int) -> None:
    beats = spaced(fibrillating(mean, seed=seed))
    (start, *_) = judge(IrregularRhythm(HZ, Limits()), beats)
    assert beats[80].at < start.at <= beats[80].at + 60 * HZ
    assert start.label == "irregular_rhythm"
    assert start.evidence["irregularity"] >= 0.725


@pytest.mark.parametrize("symbols", ["N", "NV", "NNV", "NS", "NNNNS"])
@pytest.mark.parametrize("rr", [[80, 80], [50, 110], [80, 82, 79, 81]])
def test_rhythms_with_a_pattern_are_not_irregular(symbols: str, rr: list[int]) -> None:
    assert judge(IrregularRhythm(HZ, Limits()), spaced(rr * 300, symbols)) == []


def test_an_irregular_rhythm_ends_when_it_is_regular_again() -> None:
    rr = fibrillating(80) + [80] * 100
    phases = judge(IrregularRhythm(HZ, Limits()), spaced(rr))
    assert [p.phase for p in phases] == ["start", "end"]


def told(shares: Sequence[float | None], rr: int = 80) -> list[Annotation]:
    """Beats at even distances, each with what the model says of the atria."""
    return [replace(b, fibrillates=share) for b, share in zip(spaced([rr] * (len(shares) - 1)), shares, strict=True)]


def test_atrial_fibrillation_is_said_once_the_model_has_been_sure_for_a_while_and_ends_so() -> None:
    shares = [0.02] * 40 + [0.98] * 60 + [0.02] * 60
    start, end = judge(AtrialFibrillation(HZ, Limits()), told(shares))
    assert (start.label, start.phase, end.phase) == ("atrial_fibrillation", "start", "end")
    assert 6 * HZ < start.onset - 40 * 80 < 9 * HZ  # regular intervals: the average passes 0.5 after 7 s, 0.71 after 13
    assert 12 * HZ < start.at - 40 * 80 < 15 * HZ
    assert 6 * HZ < end.at - 100 * 80 < 9 * HZ


@pytest.mark.parametrize(("share", "rr", "said"), [
    (0.5, fibrillating(90), ["start"]), (0.5, [80] * 300, []),
    (0.2, fibrillating(90), []), (0.95, [80] * 300, ["start"]),
])  # fmt: skip
def test_irregular_intervals_help_a_model_that_is_unsure_and_do_not_overrule_it(
    share: float, rr: list[int], said: list[str]
) -> None:
    beats = [replace(b, fibrillates=share) for b in spaced(rr)]
    assert [p.phase for p in judge(AtrialFibrillation(HZ, Limits()), beats)] == said


def test_a_model_that_wavers_or_says_nothing_raises_no_atrial_fibrillation() -> None:
    assert judge(AtrialFibrillation(HZ, Limits()), told([0.9, 0.1] * 100)) == []
    assert judge(AtrialFibrillation(HZ, Limits()), told([None] * 200)) == []
    assert judge(AtrialFibrillation(HZ, Limits()), spaced(fibrillating(60))) == []


def test_a_lost_signal_ends_an_atrial_fibrillation_and_what_was_counted() -> None:
    rule = AtrialFibrillation(HZ, Limits())
    assert [p.phase for p in judge(rule, told([0.98] * 60))] == ["start"]
    assert [p.end_reason for p in rule.interrupt(5000, 5100, "signal_lost")] == ["signal_lost"]
    assert rule.share == rule.mean == 0.0


def phase(label: str, name: str, place: int, onset: int | None = None, **more: object) -> Phase:
    end = {"end": place, "end_reason": "recovered"} if name == "end" else {}
    onset = place if onset is None else onset
    return Phase(label=label, phase=name, onset=onset, at=place, **(end | more))  # type: ignore[arg-type]


def chained(*phases: Phase, until: int = 10**6, limits: Limits | None = None) -> list[tuple[str, str, int, int]]:
    chain = Chain(HZ, limits or Limits())
    heard = [q for p in phases for q in chain.push(p)] + list(chain.due(until))
    assert [p.at for p in heard] == sorted(p.at for p in heard)
    return [(p.label, p.phase, p.onset, p.at) for p in heard]


def test_every_condition_is_raised_by_one_rule_and_every_chain_names_conditions() -> None:
    tables = (RULES, SIGNAL_RULES)
    labels = [e.label for table in tables for make in table.values() for e in _episodes(make(HZ, Limits()))]
    assert Counter([*labels, *ANOMALY_LABELS]) == Counter(CONDITIONS.keys())
    assert {label for chain in STAGES for label in chain} <= CONDITIONS.keys()
    for high, lows in SILENCED.items():
        assert {high, *lows} <= CONDITIONS.keys()
        assert high not in lows
    for chain in STAGES:
        for i, high in enumerate(chain[:-1]):
            assert set(chain[i + 1 :]) <= set(SILENCED[high]), "what ends another keeps it from coming back at once"
    assert sorted(name for names in FAMILIES.values() for name in names) == sorted([*RULES, *SIGNAL_RULES])


def _episodes(rule: Any) -> Sequence[Episode]:
    return rule.episodes if isinstance(rule, BeatRule) else [rule._episode]


def test_what_endangers_life_latches_and_nothing_else_does() -> None:
    assert {label for label, c in CONDITIONS.items() if c.latched} == {
        label for label, c in CONDITIONS.items() if c.priority == "high"
    }


def test_a_graver_alarm_silences_a_lesser_one_until_it_has_been_over_for_a_while() -> None:
    began, over = phase("ventricular_tachycardia", "start", 100), phase("ventricular_tachycardia", "end", 400, 100)
    fast = phase("tachycardia", "start", 200)
    hold = 400 + round(HOLD_S * HZ)
    assert chained(began, fast, over)[2:] == [("tachycardia", "start", 200, hold)]
    assert len(chained(began, fast, over, phase("tachycardia", "end", hold, 200))) == 2
    assert chained(began, fast, over, until=hold)[2:] == []


def test_an_asystole_behind_a_fibrillation_is_said_soon_after_it() -> None:
    began, over = phase("ventricular_fibrillation", "start", 100), phase("ventricular_fibrillation", "end", 900, 100)
    heard = chained(began, phase("asystole", "start", 600, 200), over)
    assert heard[2:] == [("asystole", "start", 200, 900 + round(HOLD_HIGH_S * HZ))]


def test_what_was_superseded_and_lasts_is_a_new_episode_afterwards() -> None:
    heard = chained(
        phase("tachycardia", "start", 100),
        phase("extreme_tachycardia", "start", 300),
        phase("extreme_tachycardia", "end", 500, 300),
        phase("tachycardia", "end", 9000, 100),
    )
    again = 500 + round(HOLD_S * HZ)
    assert heard == [
        ("tachycardia", "start", 100, 100),
        ("tachycardia", "end", 100, 300),
        ("extreme_tachycardia", "start", 300, 300),
        ("extreme_tachycardia", "end", 300, 500),
        ("tachycardia", "start", again, again),
        ("tachycardia", "end", again, 9000),
    ]


def test_what_repeats_is_withheld_for_a_while_and_counted() -> None:
    chain = Chain(HZ, Limits(repeat_low_s=10))
    heard = []
    for place in (100, 300, 700, 1100):
        for name in ("start", "end"):
            heard += list(chain.push(phase("ventricular_couplet", name, place)))
    assert [(p.phase, p.at, p.evidence) for p in heard] == [
        ("start", 100, {}),
        ("end", 100, {}),
        ("start", 1100, {"withheld": 2}),
        ("end", 1100, {}),
    ]


def test_what_was_withheld_and_lasts_is_said_when_the_wait_is_over() -> None:
    heard = chained(
        phase("pause", "start", 100), phase("pause", "end", 200, 100), phase("pause", "start", 300),
        limits=Limits(repeat_medium_s=30),
    )  # fmt: skip
    assert heard[2:] == [("pause", "start", 300, 3200)]


def test_no_alarm_of_high_priority_is_ever_withheld_for_having_been_said() -> None:
    heard = [
        entry
        for label, condition in CONDITIONS.items()
        if condition.priority == "high"
        for entry in chained(
            *(phase(label, name, 100 + i, 100 + i // 2 * 2) for i, name in enumerate(["start", "end"] * 3))
        )
    ]
    assert len(heard) == 6 * 5


def test_a_label_that_is_off_is_not_said() -> None:
    assert chained(phase("pause", "start", 1), phase("pause", "end", 2, 1), limits=Limits(off=["pause"])) == []


@pytest.mark.parametrize("why", ["silenced", "withheld", "superseded"])
def test_a_label_that_is_put_off_while_it_waits_is_not_said(why: str) -> None:
    vt = [phase("ventricular_tachycardia", "start", 300), phase("ventricular_tachycardia", "end", 400, 300)]
    before = {
        "silenced": [vt[0], phase("tachycardia", "start", 350), vt[1]],
        "withheld": [phase("tachycardia", n, 100 + i) for i, n in enumerate(("start", "end"))]
        + [phase("tachycardia", "start", 200)],
        "superseded": [phase("tachycardia", "start", 100)]
        + [phase("extreme_tachycardia", n, 200 + i, 200) for i, n in enumerate(("start", "end"))],
    }[why]
    off, heard = Chain(HZ, Limits()), {}
    for name, limits in (("off", Limits(off=["tachycardia"])), ("on", Limits())):
        chain = Chain(HZ, Limits())
        for p in before:
            list(chain.push(p))
        chain.limits = limits
        heard[name] = list(chain.due(10**6))
        off = chain if name == "off" else off
    assert [(p.label, p.phase) for p in heard["on"]] == [("tachycardia", "start")]
    assert heard["off"] == []
    off.limits = Limits()
    assert list(off.due(10**7)) == [], "what was dropped does not come back with the label"
    assert list(off.push(phase("tachycardia", "update", 10**7, 350))) == []
    assert list(off.push(phase("tachycardia", "end", 10**7, 350))) == []


def test_a_label_that_is_put_off_while_it_is_said_still_ends_and_has_no_more_updates() -> None:
    chain = Chain(HZ, Limits())
    assert len(list(chain.push(phase("ventricular_run", "start", 100)))) == 1
    chain.limits = Limits(off=["ventricular_run"])
    assert list(chain.push(phase("ventricular_run", "update", 200, 100))) == []
    assert [p.phase for p in chain.push(phase("ventricular_run", "end", 300, 100))] == ["end"]


def test_technical_alarms_pass() -> None:
    assert chained(phase("ventricular_fibrillation", "start", 1), phase("lead_off", "start", 2, kind="technical"))[1:]


MOTIFS: dict[str, list[tuple[int, str]]] = {
    "steady": [(80, "N")] * 12,
    "ventricular": [(45, "V")] * 6,
    "slow ventricular": [(80, "V")] * 6,
    "couplet": [(50, "V"), (45, "V"), (100, "N"), (80, "N")],
    "supraventricular": [(50, "S")] * 4 + [(90, "N")],
    "bigeminy": [(60, "N"), (50, "V")] * 5,
    "trigeminy": [(80, "N"), (80, "N"), (50, "V")] * 4,
    "r on t": [(80, "N")] * 9 + [(25, "V"), (110, "N")],
    "fast": [(41, "N")] * 20,
    "slow": [(170, "N")] * 6,
    "pauses": [(80, "N"), (350, "N"), (80, "N"), (450, "N")],
    "wrong": [(45, "V"), (45, "V"), (45, "N"), (45, "V"), (45, "V"), (45, "V")],
    "irregular": [(rr, "N") for rr in fibrillating(70, 100)[80:]],
}


@st.composite
def rows(draw: st.DrawFn) -> list[Annotation]:
    """Beats of random distances and kinds, in stretches that keep to one, and motifs that rules are about."""
    stretch = st.builds(
        lambda rr, symbol, n: [(rr, symbol)] * n, st.integers(20, 450), st.sampled_from("NVSQ"), st.integers(1, 15)
    )
    parts = draw(st.lists(st.one_of(stretch, st.sampled_from([*MOTIFS.values()])), min_size=1, max_size=12))
    return timeline([step for part in parts for step in part])


def timeline(steps: Sequence[tuple[int, str]]) -> list[Annotation]:
    """Beats; the atria are said to fibrillate where an interval is no whole tenth of a second."""
    places = accumulate(rr for rr, _ in steps)
    return [
        Annotation(place, symbol, score=0.5, fibrillates=0.95 if rr % 10 else 0.05)
        for place, (rr, symbol) in zip(places, steps, strict=True)
    ]


def all_motifs() -> list[Annotation]:
    return timeline([step for motif in MOTIFS.values() for step in [*motif, *MOTIFS["steady"]]])


@pytest.mark.parametrize("name", RULES)
def test_every_rule_speaks_of_the_motifs(name: str) -> None:
    beats = all_motifs()
    rule = RULES[name](HZ, Limits(pvc_per_min=3))
    rule.listen(-1000)
    labels = {p.label for p in judge(rule, beats, beats[-1].at + 10**4)}
    assert labels == ({e.label for e in _episodes(rule)} or {name})


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("limits", [Limits(pvc_per_min=3), TIGHT], ids=["default", "tight"])
@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_a_boundary_at_every_beat_and_a_restart_there_change_nothing(name: str, limits: Limits, shift: int) -> None:
    beats = all_motifs()
    parts, end = blocks(beats, [b.at + shift for b in beats])
    rule, heard = RULES[name](HZ, limits), []
    for block, until in parts:
        rule.listen(LISTENS)
        heard += list(rule.update(block, until))
        memory = pack(rule.snapshot())
        rule = RULES[name](HZ, limits)
        rule.restore(unpack(memory))
    assert sorted(heard, key=lambda p: p.at) == whole(name, beats, limits, end)


Check = Callable[[str, list[Annotation], list[int]], None]
LIMITS = (Limits(), TIGHT)
LISTENS = -150
"""Where beats can be found from on: so long before the first of them that tight limits speak of it."""
STAYS = {"asystole": {"seen"}, "no_beats": {"seen", "onset"}}
"""What a rule keeps through a loss."""


def whole(name: str, beats: list[Annotation], limits: Limits, until: int) -> list[Phase]:
    rule = RULES[name](HZ, limits)
    rule.listen(LISTENS)
    return sorted(rule.update(beats, until), key=lambda p: p.at)


def blocks(beats: list[Annotation], cuts: list[int]) -> tuple[list[tuple[list[Annotation], int]], int]:
    """Beats by the watermarks at which they become known."""
    end = beats[-1].at + 7000
    marks = [*sorted({c % end for c in cuts}), end]
    return [([b for b in beats if a <= b.at < z], z) for a, z in pairwise([0, *marks])], end


def same_in_any_blocks(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, end = blocks(beats, cuts)
    for limits in LIMITS:
        rule = RULES[name](HZ, limits)
        rule.listen(LISTENS)
        said = [p for block, until in parts for p in rule.update(block, until)]
        assert sorted(said, key=lambda p: p.at) == whole(name, beats, limits, end)


def nothing_late(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, _ = blocks(beats, cuts)
    for limits in LIMITS:
        rule, before = RULES[name](HZ, limits), 0
        for block, until in parts:
            rule.listen(LISTENS)
            places = [p.at for p in rule.update(block, until)]
            assert places == sorted(places)
            assert all(before <= place <= until for place in places)
            before = until


def restored_goes_on(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, end = blocks(beats, cuts)
    for limits in LIMITS:
        rule, said = RULES[name](HZ, limits), []
        for block, until in parts:
            rule.listen(LISTENS)
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
        rule.listen(LISTENS)
        list(rule.update(block, until))
        assert pack(memory) == before


def interrupt_closes_and_forgets(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, end = blocks(beats, cuts)
    for limits in LIMITS:
        rule, said, heard = RULES[name](HZ, limits), [], LISTENS
        for block, until in parts:
            rule.listen(heard)
            said += list(rule.update(block, until))
            said += list(rule.interrupt(until, until, "input_ended" if until == end else "signal_lost"))
            memory, fresh = rule.snapshot(), RULES[name](HZ, limits).snapshot()
            assert [key for key in memory if memory[key] != fresh[key] and key not in STAYS.get(name, ())] == []
            heard = until
        opened = [(p.label, p.onset) for p in said if p.phase == "start"]
        assert opened == sorted(set(opened), key=opened.index)
        assert sorted(opened) == sorted((p.label, p.onset) for p in said if p.phase == "end")
        for p in said:
            assert p.onset <= p.at <= end
            assert (p.phase == "end") == (p.end is not None) == (p.end_reason is not None)
            assert p.end is None or p.onset <= p.end <= p.at


def nothing_late_though_limits_change(name: str, beats: list[Annotation], cuts: list[int]) -> None:
    parts, _ = blocks(beats, cuts)
    rule, before = RULES[name](HZ, LIMITS[0]), 0
    for (block, until), limits in zip(parts, cycle((Limits(asystole_s=10, rate_back_s=60), TIGHT)), strict=False):
        rule.limits = limits
        rule.listen(LISTENS)
        found = list(rule.update(block, until))
        assert all(before <= p.at <= until and p.onset <= p.at for p in found)
        assert [p.at for p in found] == sorted(p.at for p in found)
        before = until


CHECKS: tuple[Check, ...] = (
    same_in_any_blocks,
    nothing_late,
    nothing_late_though_limits_change,
    restored_goes_on,
    snapshots_stand_still,
    interrupt_closes_and_forgets,
)
PAIRS = [pytest.param(name, check, id=f"{name}:{check.__name__}") for name in RULES for check in CHECKS]


@pytest.mark.parametrize(("name", "check"), PAIRS)
@examples(60)
@given(beats=rows(), cuts=st.lists(st.integers(1, 10**6), max_size=8))
def test_a_rule_keeps_its_promise(name: str, check: Check, beats: list[Annotation], cuts: list[int]) -> None:
    check(name, beats, cuts)


@examples(60)
@given(rows(), st.lists(st.integers(1, 10**6), max_size=12), st.sampled_from(LIMITS))
def test_what_is_said_does_not_depend_on_when_it_is_asked_for(
    beats: list[Annotation], cuts: list[int], limits: Limits
) -> None:
    end = beats[-1].at + 7000
    phases = raised(beats, end, limits)
    expected = said(beats, end, limits)
    chain, heard = Chain(HZ, limits), []
    for a, z in pairwise([0, *sorted({c % end for c in cuts}), end]):
        heard += [q for p in phases if a <= p.at < z for q in chain.push(p)] + list(chain.due(z))
        memory = pack(chain.snapshot())
        chain = Chain(HZ, limits)
        chain.restore(unpack(memory))
    assert heard + [q for p in phases if p.at == end for q in chain.push(p)] == expected
    _episodes_are_whole(expected)


def _episodes_are_whole(phases: Sequence[Phase]) -> None:
    """One start and at most one end for each label and onset, in order, and no two of a label at once."""
    opened: dict[str, int] = {}
    seen = set()
    assert [p.at for p in phases] == sorted(p.at for p in phases)
    for p in phases:
        if p.phase == "start":
            assert p.label not in opened
            assert (p.label, p.onset) not in seen
            seen.add((p.label, p.onset))
            opened[p.label] = p.onset
        else:
            assert opened[p.label] == p.onset
            if p.phase == "end":
                del opened[p.label]
                assert p.end is not None
                assert p.onset <= p.end <= p.at


def flutter(seconds: float, hz: float = 250.0, mv: float = 0.5, often_hz: float = 4.0) -> Wave:
    """A wave as of ventricular flutter, (samples, 1), mV."""
    t = np.arange(round(seconds * hz)) / hz
    wave = mv * np.sin(2 * np.pi * often_hz * t + 0.8 * np.sin(2 * np.pi * 0.3 * t))
    return wave.astype(np.float32)[:, np.newaxis]


def complexes(seconds: float, hz: float = 250.0, bpm: float = 70.0) -> Wave:
    """Narrow complexes on a baseline with T waves, (samples, 1), mV."""
    t = np.arange(round(seconds * hz)) / hz
    place = t % (60 / bpm)
    wave = np.exp(-(((place - 0.2) / 0.015) ** 2)) + 0.2 * np.exp(-(((place - 0.45) / 0.05) ** 2))
    return wave.astype(np.float32)[:, np.newaxis]


def watched(x: Wave, hz: float = 250.0, sizes: Sequence[int] = (10**6,), begin: int = 0) -> list[Phase]:
    """What the rule on the signal says of it, in chunks of these sizes, restarted after each."""
    rule, phases, start = Fibrillation(hz, Limits()), [], 0
    for size in cycle(sizes):
        if start >= len(x):
            break
        phases += list(rule.update(Chunk(begin + start, x[start : start + size])))
        memory = pack(rule.snapshot())
        rule = Fibrillation(hz, Limits())
        rule.restore(unpack(memory))
        start += size
    return phases + list(rule.interrupt(begin + len(x), begin + len(x), "input_ended"))


@pytest.mark.parametrize("hz", [125.0, 130.0, 250.0, 257.0, 360.0, 500.0, 1000.0])
@pytest.mark.parametrize("often_hz", [2.5, 4.0, 7.0])
def test_flutter_is_said_six_seconds_after_its_onset_and_ends_within_five(hz: float, often_hz: float) -> None:
    x = np.concatenate([complexes(10, hz), flutter(15, hz, often_hz=often_hz), complexes(12, hz)])
    start, end = watched(x, hz)
    assert (start.label, start.priority, start.latched) == ("ventricular_fibrillation", "high", True)
    assert 10 <= start.at / hz <= 16.5
    assert start.onset / hz == pytest.approx(10, abs=1.75)
    assert start.evidence["frequency_hz"] == pytest.approx(often_hz, rel=0.3)
    assert 25 <= end.at / hz <= 30


def _noise(mv: float, seed: int = 0) -> Wave:
    return (mv * np.random.default_rng(seed).standard_normal((5000, 1))).astype(np.float32)


CALM = {
    "sinus rhythm": complexes(20),
    "fast sinus rhythm": complexes(20, bpm=180),
    "flat": np.zeros((5000, 1), np.float32),
    "fine waves": flutter(20, mv=0.05),
    "mains 50 Hz": flutter(20, often_hz=50),
    "mains 60 Hz": flutter(20, often_hz=60),
    "breathing": flutter(20, often_hz=0.3, mv=2),
    "muscle": _noise(0.3),
    "steps": np.repeat(_noise(1)[::500], 500, axis=0),
    "huge": np.full((5000, 1), 1e30, np.float32),
}


@pytest.mark.parametrize("begin_s", [8, 8.1, 8.37, 8.5, 8.93])
def test_less_than_three_seconds_of_flutter_are_no_fibrillation(begin_s: float) -> None:
    assert watched(np.concatenate([complexes(begin_s), flutter(2.75), complexes(9)])) == []


@pytest.mark.parametrize("x", CALM.values(), ids=CALM)
def test_what_is_no_fibrillation(x: Wave) -> None:
    assert watched(x) == []


@examples(30)
@given(st.lists(st.integers(1, 2000), min_size=1, max_size=6), st.sampled_from([250.0, 360.0, 130.0]))
def test_how_samples_arrive_and_a_restart_never_change_what_is_said_of_a_fibrillation(
    sizes: list[int], hz: float
) -> None:
    x = np.concatenate([complexes(5, hz), flutter(9, hz), complexes(9, hz), flutter(8, hz)])
    expected = watched(x, hz, begin=10**9)
    assert [p.phase for p in expected] == ["start", "end", "start", "end"]
    assert watched(x, hz, sizes=sizes, begin=10**9) == expected


def test_a_loss_ends_a_fibrillation_and_begins_anew() -> None:
    rule = Fibrillation(250.0, Limits())
    assert [p.phase for p in rule.update(Chunk(0, flutter(8)))] == ["start"]
    (end,) = rule.interrupt(2000, 2050, "signal_lost")
    assert (end.phase, end.at, end.end, end.end_reason) == ("end", 2050, 2000, "signal_lost")
    assert pack(rule.snapshot()) == pack(Fibrillation(250.0, Limits()).snapshot())
    assert list(rule.update(Chunk(5000, flutter(5)))) == []


CONTRADICTIONS = {
    "bradycardia above tachycardia": {"bradycardia_bpm": 130},
    "no room for the hysteresis": {"bradycardia_bpm": 110, "tachycardia_bpm": 120, "rate_hysteresis_bpm": 5},
    "a tachycardia shorter than a run": {"run_beats": 6, "vt_beats": 5},
    "an idioventricular rhythm shorter than a run": {"run_beats": 5, "ivr_beats": 4},
    "no rate that is extreme": {"bradycardia_bpm": 10},
    "a negative rate": {"tachycardia_bpm": -1},
    "a rate of zero": {"bradycardia_bpm": 0},
    "asystole sooner than 2 s": {"asystole_s": 1},
    "a pause of half a second": {"pause_s": 0.5},
    "a bridge longer than 2 s": {"bridge_s": 2.5},
    "a run of two": {"run_beats": 2},
    "more wrong beats than one": {"wrong_beats": 2},
    "more beats than life has time for": {"extreme_tachycardia_beats": 18},
    "a limit that is none": {"asystole": 4},
    "a limit that is no number": {"flat_s": "long"},
    "a limit that is not a number": {"asystole_s": float("nan")},
    "off is no list": {"off": "pause"},
    "off names nothing": {"off": ["bigeminy"]},
    "off names what endangers life": {"off": ["asystole"]},
}


@pytest.mark.parametrize("table", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_limits_that_contradict_themselves_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(table, Limits)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"off": ["bigeminy"]}, ("'bigeminy'", "did you mean 'ventricular_bigeminy'")),
        ({"off": ["asystole"]}, ("'asystole'", "cannot be switched off")),
        ({"bradycardia_bpm": 10}, ("extreme_bradycardia_delta_bpm 10", "bradycardia_bpm 10", "smaller")),
        ({"run_beats": 5, "ivr_beats": 4}, ("ivr_beats 4", "run_beats 5")),
    ],
)
def test_a_contradiction_is_told_in_words(table: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(table, Limits)
    assert all(word in str(caught.value) for word in words)


def test_limits_that_leave_just_room_are_taken() -> None:
    assert msgspec.convert({"bradycardia_bpm": 109, "tachycardia_bpm": 120}, Limits).bradycardia_bpm == 109
