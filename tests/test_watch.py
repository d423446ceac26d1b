"""The loop of one stream says the same however its samples arrive, and never falls silent."""

import json
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.limits import Limits
from holdover.runtime.errors import ContractError
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.watch import bodies
from tests.signals import (
    ALL_RULES,
    KINDS,
    RATE_HZ,
    TIGHT,
    Said,
    Samples,
    Trouble,
    a_watch,
    calm,
    cut,
    disturb,
    disturbed,
    examples,
    full_engine,
    hear,
    new_engine,
    recording,
    sizes,
)

S = round(RATE_HZ)
EVENT_SETTLE = 450
CLASS_SETTLE = 1476
BRIDGE = 72
DEAD = ("hole", "nan", "inf", "rail", "flat", "lead_off")

BUSY = msgspec.structs.replace(
    TIGHT, repeat_low_s=2, repeat_medium_s=1, rate_back_s=1, pause_s=1, cycles=2, extreme_tachycardia_beats=5
)
LIMITS = st.sampled_from([Limits(), TIGHT, BUSY])


def the_same(a: Said, b: Said) -> None:
    assert a.annotations == b.annotations
    assert bodies(a.alerts) == bodies(b.alerts)


@examples(40)
@given(disturbed(), sizes(), st.lists(st.booleans(), min_size=1, max_size=7), LIMITS, st.sampled_from([360.0, 250.0]))
def test_how_samples_arrive_never_changes_annotations_or_alerts(
    chunks: list[Chunk], sizes: list[int], empty: list[bool], limits: Limits, rate_hz: float
) -> None:
    whole = hear(a_watch(limits, rate_hz=rate_hz), chunks)
    the_same(hear(a_watch(limits, rate_hz=rate_hz), cut(chunks, sizes, empty)), whole)


def test_one_sample_at_a_time_says_the_same_as_all_at_once() -> None:
    troubles = [Trouble(kind, (3 + 6 * i) * S, (i + 1) * 40) for i, kind in enumerate(KINDS)]
    chunks = disturb(recording()[: 60 * S], troubles)
    whole = hear(a_watch(TIGHT), chunks)
    causes = {a.phase.evidence.get("cause") for a in whole.alerts}
    assert {label for label, _ in whole.technical} | causes >= {"signal_missing", "signal_saturated", "clock_jump"}
    the_same(hear(a_watch(TIGHT), cut(chunks, [1], [False, True])), whole)


@examples(20)
@given(
    disturbed(seconds=25),
    sizes(),
    st.lists(st.integers(0, 25 * S), min_size=1, max_size=4, unique=True),
    LIMITS,
)
def test_a_watch_restored_at_any_sample_goes_on_to_the_same_bytes(
    chunks: list[Chunk], sizes: list[int], places: list[int], limits: Limits
) -> None:
    whole = hear(a_watch(limits), chunks)
    watch, said = a_watch(limits), Said([], [])
    for place, chunk in ((p, c) for c in cut(chunks, sizes) for p, c in at_places(c, places)):
        if place:
            memory = pack(watch.snapshot())
            watch = a_watch(limits, new_engine(detectors=list(ALL_RULES)))
            watch.restore(unpack(memory))
        step = watch.push(chunk)
        said.annotations.extend(step.annotations)
        said.alerts.extend(step.alerts)
    last = watch.finish()
    said.annotations.extend(last.annotations)
    said.alerts.extend(last.alerts)
    the_same(said, whole)


def at_places(chunk: Chunk, places: list[int]) -> list[tuple[bool, Chunk]]:
    """A chunk cut at places; whether each part begins at one of them."""
    within = sorted({p for q in places for p in (q, q + 10**9) if chunk.at <= p < chunk.end})
    bounds = sorted({chunk.at, *within, chunk.end}) if len(chunk) else [chunk.at, chunk.at]
    parts = []
    for a, b in pairwise(bounds):
        off = None if chunk.lead_off is None else chunk.lead_off[a - chunk.at : b - chunk.at]
        fault = chunk.fault if a == chunk.at else ""
        parts.append((a in within, Chunk(a, chunk.x[a - chunk.at : b - chunk.at], off, fault=fault)))
    return parts


def test_the_recording_has_beats_and_the_rules_speak() -> None:
    said = hear(a_watch(TIGHT), [Chunk(0, recording())])
    symbols = [b.symbol for b in said.beats]
    assert 450 < len(symbols) < 600
    assert symbols.count("V") > 100
    labels = {a.phase.label for a in said.alerts if a.phase.kind == "physiological"}
    assert labels >= {"ventricular_couplet", "frequent_ventricular_beats", "tachycardia", "asystole"}
    assert labels >= {"ventricular_trigeminy", "missed_beat", "irregular_rhythm"}


def test_finish_closes_everything() -> None:
    x = recording()[: 45 * S].copy()
    x[40 * S :] = np.nan
    chunks = [Chunk(0, x), Chunk(20 * S, x[:100]), Chunk(45 * S, x[40 * S : 40 * S + 1])]
    watch = a_watch(TIGHT)
    before = [a for c in chunks for a in watch.push(c).alerts]
    after = watch.finish().alerts
    opened = {a.episode_id for a in before} - {a.episode_id for a in before if a.phase.phase == "end"}
    assert {a.phase.label for a in before if a.episode_id in opened} == {"signal_missing", "timestamps_backward"}
    assert {a.episode_id for a in after if a.phase.phase == "end"} == opened
    assert {a.phase.end_reason for a in after} == {"input_ended"}
    assert not watch.finish().alerts


def test_a_watch_that_got_nothing_ends_with_nothing() -> None:
    assert hear(a_watch(), []) == Said([], [])
    assert hear(a_watch(), [Chunk(0, recording()[:0])]) == Said([], [])
    assert hear(a_watch(), [Chunk(7, recording()[:1])]) == Said([], [])


def test_rules_that_are_open_end_with_the_input() -> None:
    said = hear(a_watch(TIGHT), [Chunk(0, recording()[: 60 * S])])
    last = [a.phase for a in said.alerts if a.phase.at >= 60 * S]
    assert last
    assert {(p.phase, p.end_reason) for p in last} == {("end", "input_ended")}


@pytest.mark.parametrize("kind", DEAD)
def test_a_dead_signal_is_said_within_two_seconds_and_no_beat_is_found_in_it(kind: str) -> None:
    begin, back = 20 * S, 32 * S
    said = hear(a_watch(), disturb(calm()[: 45 * S], [Trouble(kind, begin, back - begin)]))
    (start, update, end) = [a.phase for a in said.alerts if a.phase.kind == "technical"]
    unseen = round(1.5 * S) - 1 if kind == "flat" else 0
    assert start.onset == pytest.approx(begin + unseen, abs=1)
    assert start.at == start.onset + BRIDGE
    assert start.at <= begin + 2 * S
    assert (update.phase, update.at) == ("update", back)
    assert (end.phase, end.at, end.end, end.end_reason) == ("end", back + CLASS_SETTLE, back, "recovered")
    assert not said.phases("asystole")
    held = [b for b in said.beats if begin + 36 < b.at < back + EVENT_SETTLE]
    assert not held
    marks = [(a.at, a.subtype) for a in said.annotations if a.symbol == "~"]
    assert marks == [(start.onset, -1), (back, 0)]


@pytest.mark.parametrize("kind", DEAD)
def test_a_record_that_is_dead_throughout_raises_one_technical_alarm_and_nothing_else(kind: str) -> None:
    x = recording()[: 20 * S]
    chunks = disturb(x, [Trouble(kind, 0, len(x))])
    if kind == "hole":
        chunks = [Chunk(0, x[:0]), *chunks]
    said = hear(a_watch(), cut(chunks, [50, 900]))
    assert not said.beats
    label = {"flat": "signal_flat", "rail": "signal_saturated", "lead_off": "lead_off"}.get(kind, "signal_missing")
    assert said.technical == [(label, "start"), (label, "end")]
    assert len(said.alerts) == 2
    assert said.alerts[0].phase.at <= 2 * S
    assert said.alerts[1].phase.end_reason == "input_ended"


@pytest.mark.parametrize("level", [0.0, 0.5, -3.0])
def test_a_flat_line_that_loses_packets_is_still_a_flat_line(level: float) -> None:
    x = np.full((20 * S, 1), level, np.float32)
    troubles = [Trouble(kind, at * S, 36) for at in range(1, 20) for kind in ("hole", "nan")[at % 2 :][:1]]
    said = hear(a_watch(), disturb(x, troubles))
    assert not said.beats
    assert said.technical[0] == ("signal_flat", "start")
    assert said.alerts[0].phase.at <= 2 * S
    assert not said.phases("asystole")


def test_a_signal_that_comes_late_is_watched_from_its_first_sample() -> None:
    x = calm()[: 30 * S]
    said = hear(a_watch(), disturb(x, [Trouble("nan", 0, 10 * S)]))
    assert said.technical == [("signal_missing", phase) for phase in ("start", "update", "end")]
    late = hear(a_watch(), [Chunk(10 * S, x[10 * S :])])
    assert said.beats == late.beats


@pytest.mark.parametrize("begin", [0, 5000])
def test_beats_are_held_back_until_the_model_has_settled(begin: int) -> None:
    said = hear(a_watch(), [Chunk(begin, recording()[: 60 * S])])
    places = [(b.at - begin, b.symbol) for b in said.beats]
    assert EVENT_SETTLE <= places[0][0] < EVENT_SETTLE + S
    assert {s for at, s in places if at < CLASS_SETTLE - 18} == {"Q"}
    assert {s for at, s in places if at > CLASS_SETTLE + 18} == {"N", "V"}


def test_after_a_loss_the_memory_is_new() -> None:
    x, begin, back = recording()[: 60 * S], 20 * S, 21 * S
    said = hear(a_watch(), disturb(x, [Trouble("hole", begin, back - begin)]))
    fresh = hear(a_watch(), [Chunk(back, x[back:])])
    assert [b for b in said.beats if b.at >= back] == fresh.beats
    before = hear(a_watch(), [Chunk(0, x[:begin])])
    assert [b for b in said.beats if b.at < back] == before.beats


@pytest.mark.parametrize("kind", ["hole", "nan", "lead_off"])
@pytest.mark.parametrize("n", [1, 36, BRIDGE])
def test_a_short_hole_is_bridged_by_a_straight_line_and_noted(kind: str, n: int) -> None:
    x, at = calm()[: 40 * S], 20 * S
    said = hear(a_watch(), disturb(x, [Trouble(kind, at, n)]))
    assert [(a.at, a.aux) for a in said.annotations if a.symbol == '"'] == [(at, f"bridged {n}")]
    assert not said.technical
    line = x.copy()
    line[at - 1 : at + n + 1, 0] = np.linspace(x[at - 1, 0], x[at + n, 0], n + 2)
    drawn = hear(a_watch(), [Chunk(0, line)])
    assert [(b.at, b.symbol) for b in said.beats] == [(b.at, b.symbol) for b in drawn.beats]


def test_a_hole_of_hours_costs_no_memory_and_changes_nothing_after_it() -> None:
    x, far = calm()[: 40 * S], 10**9
    first, second = Chunk(0, x[: 20 * S]), Chunk(20 * S + far, x[20 * S :])
    short = hear(a_watch(), [first, replace(second, at=21 * S)])
    watch = a_watch()
    watch.push(first)
    size = len(pack(watch.snapshot()))
    tracemalloc.start()
    watch.push(Chunk(second.at, x[:0]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20
    assert len(pack(watch.snapshot())) < size + 1000
    long = hear(a_watch(), [first, second])
    shift = far - S
    assert [replace_at(b.at, shift, 20 * S) for b in short.beats] == [b.at for b in long.beats]
    assert [a.phase.at + (shift if a.phase.at > 21 * S - 1 else 0) for a in short.alerts] == [
        a.phase.at for a in long.alerts
    ]


def replace_at(at: int, shift: int, beyond: int) -> int:
    return at + shift if at >= beyond else at


def test_repeated_samples_are_dropped_and_said_once_an_episode() -> None:
    x = recording()[: 60 * S]
    clean = hear(a_watch(), [Chunk(0, x)])
    troubles = [Trouble("repeat", at * S, 100) for at in (10, 12, 19, 40)]
    said = hear(a_watch(), disturb(x, troubles))
    assert said.annotations == clean.annotations
    assert said.phases("timestamps_backward") == [
        ("start", 10 * S, 10 * S, None),
        ("end", 10 * S, 29 * S, 19 * S),
        ("start", 40 * S, 40 * S, None),
        ("end", 40 * S, 50 * S, 40 * S),
    ]
    dropped = [a.phase.evidence["dropped_samples"] for a in said.alerts if a.phase.evidence.get("dropped_samples")]
    assert dropped == [300, 100]


def test_a_clock_that_was_set_is_said_and_detection_goes_on() -> None:
    x = recording()[: 40 * S]
    clean = hear(a_watch(), [Chunk(0, x)])
    said = hear(a_watch(), disturb(x, [Trouble("clock_jump", 20 * S, 1)]))
    assert said.annotations == clean.annotations
    assert said.phases("clock_jump") == [("start", 20 * S, 20 * S, None), ("end", 20 * S, 20 * S, 20 * S)]


def test_a_fault_named_twice_at_one_sample_is_said_once() -> None:
    x = recording()[: 4 * S]
    chunks = [Chunk(0, x[:S]), Chunk(S, x[:0], fault="clock_jump"), Chunk(S, x[S:], fault="clock_jump")]
    assert hear(a_watch(), chunks).technical == [("clock_jump", "start"), ("clock_jump", "end")]


def stopped(n: int, seed: int = 0) -> Samples:
    """A heart that has stopped on an electrode that is on: breath and muscle, (n, 1), mV."""
    rng = np.random.default_rng(seed)
    x = 0.05 * np.sin(2 * np.pi * 0.3 * np.arange(n) / S) + 0.015 * rng.standard_normal(n)
    return x.astype(np.float32)[:, np.newaxis]


def an_asystole(seconds: int) -> Samples:
    """Twenty seconds of beats, then none."""
    x = recording()[: 20 * S]
    return np.concatenate([x, x[-1] + stopped((seconds - 20) * S)])


def test_asystole_is_said_four_seconds_after_the_last_beat_of_a_living_signal() -> None:
    said = hear(a_watch(), cut([Chunk(0, an_asystole(40))], [777]))
    assert not said.technical
    last = said.beats[-1].at
    assert last < 21 * S
    assert said.phases("asystole") == [("start", last, last + 4 * S, None), ("end", last, 40 * S, 40 * S)]


def test_an_asystole_is_heard_within_its_time_and_the_declared_delay_of_detection() -> None:
    x, watch = an_asystole(40), a_watch()
    assert watch.silence_delay_s <= 0.5 < watch.delay_s
    beats: list[int] = []
    for chunk in cut([Chunk(0, x)], [18]):
        step = watch.push(chunk)
        beats += [a.at for a in step.annotations if a.is_beat]
        if any(a.phase.label == "asystole" for a in step.alerts):
            break
    assert chunk.end - beats[-1] <= (4.0 + watch.silence_delay_s + 0.1) * S
    assert chunk.end - beats[-1] <= 4.7 * S


@pytest.mark.parametrize("kind", ["hole", "nan", "lead_off", "rail"])
def test_an_asystole_that_goes_on_behind_a_loss_is_said_again(kind: str) -> None:
    back = 27 * S
    chunks = disturb(an_asystole(60), [Trouble(kind, 26 * S, S)])
    said = hear(a_watch(), chunks)
    first, lost, again, over = said.phases("asystole")
    assert (first[0], lost[0], again[0], over[0]) == ("start", "end", "start", "end")
    assert lost[3] == 26 * S
    assert back <= again[1] <= back + EVENT_SETTLE + S
    assert again[2] == again[1] + 4 * S
    assert over[2] == 60 * S
    the_same(hear(a_watch(), cut(chunks, [333, 50])), said)


def test_beats_that_come_back_after_a_loss_are_no_asystole() -> None:
    said = hear(a_watch(), disturb(calm()[: 60 * S], [Trouble("nan", at * S, S) for at in (20, 30, 40)]))
    assert not said.phases("asystole")
    assert not said.phases("no_beats")


def test_where_no_beat_was_ever_found_that_is_said_once_and_until_one_is() -> None:
    x = np.concatenate([stopped(40 * S), calm()[: 20 * S]])
    chunks = disturb(x, [Trouble("hole", 20 * S, S)])
    said = hear(a_watch(), chunks)
    first = said.beats[0].at
    assert first >= 40 * S
    assert said.phases("no_beats") == [
        ("start", EVENT_SETTLE, EVENT_SETTLE + 4 * S, None),
        ("end", EVENT_SETTLE, first, first),
    ]
    (start, end) = [a for a in said.alerts if a.phase.label == "no_beats"]
    assert (start.phase.kind, start.phase.priority) == ("technical", "medium")
    assert start.phase.evidence == {"limit_s": 4.0, "asystole": "cannot be excluded"}
    assert start.episode_id == end.episode_id
    assert not said.phases("asystole")
    the_same(hear(a_watch(), cut(chunks, [333, 50])), said)


def test_that_no_beat_was_found_survives_a_restart() -> None:
    x, watch, alerts = stopped(30 * S), a_watch(), []
    for chunk in cut(disturb(x, [Trouble("hole", 12 * S, S)]), [S]):
        memory = pack(watch.snapshot())
        watch = a_watch()
        watch.restore(unpack(memory))
        alerts += watch.push(chunk).alerts
    alerts += watch.finish().alerts
    told = [(a.phase.phase, a.phase.end_reason) for a in alerts if a.phase.label == "no_beats"]
    assert told == [("start", None), ("end", "input_ended")]


def test_an_asystole_limit_lowered_in_its_midst_never_speaks_of_what_was_promised_to_be_over() -> None:
    watch, until, heard = a_watch(Limits(asystole_s=10, pause_s=9)), 0, []
    last = hear(a_watch(), [Chunk(0, an_asystole(40))]).beats[-1].at
    for chunk in cut([Chunk(0, an_asystole(40))], [90]):
        if chunk.at >= last + 8 * S:
            watch.set_limits(Limits(asystole_s=4, pause_s=3))
        step = watch.push(chunk)
        assert all(until <= a.phase.at < step.until for a in step.alerts)
        heard += [(a.phase, until) for a in step.alerts if a.phase.label == "asystole"]
        until = step.until
    ((start, promised),) = heard
    assert (start.onset, start.at) == (last, promised)
    assert last + 7 * S < start.at < last + 9 * S


@pytest.mark.parametrize("rate_hz", [360.0, 250.0])
def test_a_fibrillation_is_heard_within_ten_seconds_and_silences_the_asystole_behind_it(rate_hz: float) -> None:
    n = round(30 * rate_hz)
    t = np.arange(n) / rate_hz
    x = np.resize(recording()[: 20 * S, 0], 2 * n)[:n].astype(np.float32)
    wave = 0.4 * np.sin(2 * np.pi * 5 * t + 0.7 * np.sin(2 * np.pi * 0.4 * t))
    chunks = [Chunk(0, np.concatenate([x, wave.astype(np.float32)])[:, np.newaxis])]
    said = hear(a_watch(rate_hz=rate_hz), cut(chunks, [100]))
    (start, *_) = said.phases("ventricular_fibrillation")
    assert n <= start[2] + round(4 * rate_hz)
    assert start[2] - n <= 8 * rate_hz
    after = [a.phase for a in said.alerts if a.phase.phase == "start" and a.phase.at > start[2]]
    assert after == []


def test_a_model_of_another_unit_gets_no_rule_on_millivolts() -> None:
    signal = json.loads(json.dumps(full_engine().contract.document["signals"]))
    signal[0]["channels"][0]["unit"] = "uV"
    watch = a_watch(engine=new_engine(detectors=list(ALL_RULES), signals=signal))
    assert "fibrillation" in a_watch().snapshot()["rules"]
    assert "fibrillation" not in watch.snapshot()["rules"]


def test_a_memory_of_other_rules_is_refused_by_name() -> None:
    memory = a_watch().snapshot()
    del memory["rules"]["pause"]
    with pytest.raises(KeyError, match="pause"):
        a_watch().restore(memory)


def test_other_limits_hold_from_where_they_are_set() -> None:
    x = calm()[: 60 * S]
    chunks = disturb(x, [Trouble("hole", 10 * S, 300), Trouble("hole", 30 * S, 300), Trouble("flat", 45 * S, 400)])
    begin = 45 * S - int(x[45 * S - 1, 0] == x[45 * S, 0])
    watch = a_watch()
    said = Said([], [])
    for chunk in cut(chunks, [90]):
        if chunk.at >= 20 * S and watch.quality.limits == Limits():
            watch.set_limits(Limits(bridge_s=1.0, flat_s=0.5))
        step = watch.push(chunk)
        said.annotations.extend(step.annotations)
        said.alerts.extend(step.alerts)
    labels = [a.phase.label for a in said.alerts if a.phase.phase == "start" and a.phase.kind == "technical"]
    assert labels == ["signal_missing"]
    assert [(a.at, a.aux) for a in said.annotations if a.symbol == '"'] == [
        (30 * S, "bridged 300"),
        (begin + 179, f"bridged {45 * S + 400 - begin - 179}"),
    ]


def test_other_limits_reach_the_rules() -> None:
    watch = a_watch(Limits(tachycardia_bpm=300, bradycardia_bpm=20))
    alerts = watch.push(Chunk(0, recording()[: 30 * S])).alerts
    assert not [a for a in alerts if a.phase.label in ("tachycardia", "bradycardia")]
    watch.set_limits(TIGHT)
    alerts = watch.push(Chunk(30 * S, recording()[30 * S : 90 * S])).alerts
    assert [a for a in alerts if a.phase.label in ("tachycardia", "bradycardia")]


def test_what_a_snapshot_holds_is_not_moved_by_what_follows() -> None:
    watch = a_watch(TIGHT)
    for chunk in cut([Chunk(0, recording()[: 60 * S])], [7 * S, 100, 1]):
        memory = watch.snapshot()
        before = pack(memory)
        watch.push(chunk)
        assert pack(memory) == before


BAD_DETECTORS = {
    "unknown kind": [{"kind": "beats"}, {"kind": "fibrillation"}],
    "no kind": [{"threshold": 0.8}],
    "unknown option of beats": [{"kind": "beats", "speed": 3}],
    "unknown option of a rule": [{"kind": "beats"}, {"kind": "rate", "speed": 3}],
    "a threshold that is no number": [{"kind": "beats", "threshold": "high"}],
    "a threshold that nothing reaches": [{"kind": "beats", "threshold": 4}],
    "a refractory time that is no number": [{"kind": "beats", "refractory_s": "long"}],
    "rules without beats": [{"kind": "asystole"}],
    "a rhythm that no output tells": [{"kind": "beats"}, {"kind": "rhythm"}],
}


@pytest.mark.parametrize("detectors", BAD_DETECTORS.values(), ids=BAD_DETECTORS)
def test_detectors_that_do_not_fit_are_refused(detectors: list[dict[str, object]]) -> None:
    with pytest.raises(ContractError):
        a_watch(engine=new_engine(detectors=detectors))


def test_a_model_that_names_no_detector_is_run_and_its_signal_watched() -> None:
    said = hear(a_watch(engine=new_engine(detectors=[])), disturb(recording()[: 20 * S], [Trouble("nan", 5 * S, S)]))
    assert not said.beats
    assert said.technical == [("signal_missing", phase) for phase in ("start", "update", "end")]


def test_the_heart_rate_is_that_of_the_recording() -> None:
    watch = a_watch()
    assert watch.heart_rate_bpm is None
    watch.push(Chunk(0, recording()[: 60 * S]))
    assert watch.heart_rate_bpm is not None
    assert 80 < watch.heart_rate_bpm < 130
