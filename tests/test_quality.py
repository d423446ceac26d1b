"""What of a signal can be used, in samples: bridged, lost, back, and what is said of it."""

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from numpy.typing import NDArray

from holdover.runtime.alert import Phase
from holdover.runtime.annotation import Annotation
from holdover.runtime.chunk import Chunk
from holdover.runtime.detect.limits import Limits, SensorLimits, SignalLimits
from holdover.runtime.errors import ConfigError
from holdover.runtime.quality import Lost, Piece, Quality, Usable
from holdover.runtime.quality_measures import mains_basis, measure
from holdover.runtime.snapshot import pack, unpack
from tests.signals import Trouble, cut, disturb, examples

HZ = 100  # 200 ms are 20 samples, 1.5 s are 150
SETTLE = 300


def wave(n: int, channels: int = 1) -> NDArray[np.float32]:
    """A signal that never stays constant, (n, channels)."""
    t = np.arange(n)[:, np.newaxis] + 7 * np.arange(channels)
    return np.sin(t / 5).astype(np.float32)


ECG = SignalLimits()


SENSOR = Limits(sensor=SensorLimits(flat_samples=150))


def a_quality(limits: Limits | None = None, rate_hz: float = HZ, signal: SignalLimits | None = ECG) -> Quality:
    return Quality(rate_hz, limits or Limits(), SETTLE, signal)


def pieces(quality: Quality, chunks: Iterable[Chunk], finish: bool = True) -> list[Piece]:
    found = [piece for chunk in chunks for piece in quality.push(chunk)]
    return found + (list(quality.finish()) if finish else [])


def joined(found: Iterable[Piece]) -> list[object]:
    """Pieces as plain values, usable samples that follow one another joined to one."""
    out: list[object] = []
    for piece in found:
        if not isinstance(piece, Usable):
            out.append(piece)
        elif out and isinstance(out[-1], tuple) and out[-1][0] + len(out[-1][1]) // 4 == piece.chunk.at:
            out[-1] = (out[-1][0], out[-1][1] + piece.chunk.x.tobytes())
        else:
            out.append((piece.chunk.at, piece.chunk.x.tobytes()))
    return out


def phases(found: Iterable[Piece]) -> list[tuple[str, str, int, int]]:
    return [(p.label, p.phase, p.onset, p.at) for p in found if isinstance(p, Phase)]


def marks(found: Iterable[Piece]) -> list[tuple[int, str, int, str]]:
    return [(a.at, a.symbol, a.subtype, a.aux) for a in found if isinstance(a, Annotation)]


def fed(found: Iterable[Piece]) -> list[tuple[int, int]]:
    """Stretches of usable samples."""
    return [(p.chunk.at, p.chunk.end) for p in found if isinstance(p, Usable)]


@pytest.mark.parametrize("n", [1, 7, 20])
@pytest.mark.parametrize("kind", ["hole", "nan", "inf", "rail", "lead_off"])
def test_up_to_200_ms_are_bridged_by_a_straight_line_and_noted(kind: str, n: int) -> None:
    x = wave(300)
    found = pieces(a_quality(), disturb(x, [Trouble(kind, 100, n)]))
    assert marks(found) == [(100, '"', 0, f"bridged {n}")]
    assert phases(found) == []
    assert fed(found) == [(0, 100), (100, 300)]
    last = next(p.chunk.x for p in reversed(found) if isinstance(p, Usable))
    line = np.linspace(x[99, 0], x[100 + n, 0], n + 2)[1:-1]
    np.testing.assert_allclose(last[:n, 0], line, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(last[n:], x[100 + n :])


@pytest.mark.parametrize(
    ("kind", "label"),
    [("hole", "signal_missing"), ("nan", "signal_missing"), ("inf", "signal_missing"), ("rail", "signal_saturated"),
     ("lead_off", "lead_off")],
)  # fmt: skip
def test_one_sample_more_is_a_loss_with_an_alarm_until_detection_is_back(kind: str, label: str) -> None:
    found = pieces(a_quality(), disturb(wave(800), [Trouble(kind, 100, 21)]))
    assert [p for p in found if isinstance(p, Lost)] == [Lost(100, 120)]
    assert marks(found) == [(100, "~", -1, label), (121, "~", 0, "")]
    assert phases(found) == [
        (label, "start", 100, 120),
        (label, "update", 100, 121),
        (label, "end", 100, 121 + SETTLE),
    ]
    assert fed(found) == [(0, 100), (121, 800)]


@pytest.mark.parametrize("rate_hz", [1.0, 0.5, 0.2])
def test_a_slow_signal_has_one_sample_bridged(rate_hz: float) -> None:
    one = pieces(a_quality(rate_hz=rate_hz), disturb(wave(50), [Trouble("nan", 10, 1)]))
    assert marks(one) == [(10, '"', 0, "bridged 1")]
    two = pieces(a_quality(rate_hz=rate_hz), disturb(wave(50), [Trouble("nan", 10, 2)]))
    assert [p for p in two if isinstance(p, Lost)] == [Lost(10, 11)]
    assert phases(two)[0] == ("signal_missing", "start", 10, 11)


def test_holes_that_meet_are_one() -> None:
    troubles = [Trouble("nan", 100, 10), Trouble("hole", 110, 9), Trouble("lead_off", 119, 2)]
    found = pieces(a_quality(), disturb(wave(300), troubles))
    assert phases(found)[0] == ("lead_off", "start", 100, 120)
    assert [p for p in found if isinstance(p, Lost)] == [Lost(100, 120)]


def test_a_second_loss_before_detection_is_back_is_the_same_alarm() -> None:
    found = pieces(a_quality(), disturb(wave(1000), [Trouble("nan", 100, 50), Trouble("rail", 200, 50)]))
    assert phases(found) == [
        ("signal_missing", "start", 100, 120),
        ("signal_missing", "update", 100, 150),
        ("signal_missing", "end", 100, 250 + SETTLE),
    ]
    assert len([p for p in found if isinstance(p, Lost)]) == 2


def test_an_electrode_that_flaps_is_one_alarm_and_no_storm() -> None:
    troubles = [Trouble("lead_off", at, 30) for at in range(100, 4100, 50)]
    found = pieces(a_quality(), disturb(wave(6000), troubles))
    assert [p[1] for p in phases(found)] == ["start", "update", "end"]


@pytest.mark.parametrize("level", [0.0, 1.25, -20.5])
def test_a_constant_value_is_a_flat_line_from_its_150th_sample_on(level: float) -> None:
    x = np.concatenate([wave(100), np.full((400, 1), level, np.float32), wave(500)])
    found = pieces(a_quality(SENSOR, signal=None), [Chunk(0, x)])
    assert marks(found)[0] == (249, "~", -1, "signal_flat")
    assert phases(found)[0] == ("signal_flat", "start", 249, 269)
    assert fed(found)[0] == (0, 249)


def test_a_value_that_stays_for_less_than_it_takes_is_used() -> None:
    x = np.concatenate([wave(100), np.full((149, 1), 3.0, np.float32), wave(100)])
    assert joined(pieces(a_quality(SENSOR, signal=None), [Chunk(0, x)])) == [(0, x.tobytes())]


def test_a_flat_channel_is_enough_and_two_that_pause_in_turn_are_not_flat() -> None:
    x = wave(600, channels=2)
    x[100:, 1] = 0.5
    assert phases(pieces(a_quality(), [Chunk(0, x)]))[0] == ("signal_flat", "start", 249, 269)
    turns = np.stack([np.arange(600) // 2, (np.arange(600) + 1) // 2], axis=1).astype(np.float32)
    assert fed(pieces(a_quality(SENSOR, signal=None), [Chunk(0, turns)])) == [(0, 600)]


@pytest.mark.parametrize("rate_hz", [1 / 300, 1.0, 100.0])
def test_a_sensor_may_give_one_value_for_long_and_any_value_at_all(rate_hz: float) -> None:
    x = np.full((2000, 1), 71.5, np.float32)
    assert fed(pieces(a_quality(rate_hz=rate_hz, signal=None), [Chunk(0, x)])) == [(0, 2000)]
    railed = a_quality(Limits(sensor=SensorLimits(rail=70)), rate_hz, None)
    assert phases(pieces(railed, [Chunk(0, x)]))[0][0] == "signal_saturated"


def test_a_missing_row_of_a_slow_sensor_is_bridged_and_two_are_a_loss() -> None:
    x = wave(500)
    chunks = [Chunk(0, x[:100]), Chunk(101, x[101:300]), Chunk(302, x[302:])]
    found = pieces(a_quality(rate_hz=1 / 300, signal=None), chunks)
    assert fed(found)[:2] == [(0, 100), (100, 300)]
    assert [(p[0], p[1], p[2]) for p in phases(found)][:1] == [("signal_missing", "start", 300)]


@pytest.mark.parametrize("rate_hz", [0.2, 0.4, 0.5, 0.9])
def test_where_a_flat_line_would_be_less_than_two_samples_none_is_looked_for(rate_hz: float) -> None:
    quality = a_quality(rate_hz=rate_hz)
    assert quality.flat == 0
    assert fed(pieces(quality, [Chunk(0, np.ones((50, 1), np.float32))])) == [(0, 50)]


@pytest.mark.parametrize("kind", ["hole", "nan"])
def test_missing_samples_do_not_hide_a_flat_line(kind: str) -> None:
    x = np.full((1000, 1), 0.7, np.float32)
    found = pieces(a_quality(), disturb(x, [Trouble(kind, at, 15) for at in range(50, 1000, 100)]))
    label, phase, onset, at = phases(found)[0]
    assert (label, phase) == ("signal_flat", "start")
    assert at == onset + 20
    assert at <= 2 * HZ
    assert len(phases(found)) == 2


def test_limits_of_zero_switch_flat_line_and_rail_off() -> None:
    x = np.full((1000, 1), 99.0, np.float32)
    assert fed(pieces(a_quality(Limits(flat_s=0, rail=0)), [Chunk(0, x)])) == [(0, 1000)]


def test_other_limits_hold_from_where_they_are_set() -> None:
    quality = a_quality(signal=None)
    x = wave(2000)
    pieces(quality, [Chunk(0, x[:100])], finish=False)
    quality.limits = Limits(bridge_s=0.5, sensor=SensorLimits(flat_samples=40))
    assert (quality.bridge, quality.flat) == (50, 40)
    found = pieces(quality, [Chunk(150, x[150:300])], finish=False)
    assert marks(found) == [(100, '"', 0, "bridged 50")]
    found = pieces(quality, [Chunk(300, np.full((200, 1), 5.0, np.float32))], finish=False)
    assert phases(found) == [("signal_flat", "start", 339, 389)]


def test_dead_from_the_start_is_an_alarm_and_no_loss() -> None:
    found = pieces(a_quality(), [Chunk(40, np.full((100, 1), np.nan, np.float32)), Chunk(140, wave(400))])
    assert [p for p in found if isinstance(p, Lost)] == []
    assert phases(found) == [
        ("signal_missing", "start", 40, 60),
        ("signal_missing", "update", 40, 140),
        ("signal_missing", "end", 40, 140 + SETTLE),
    ]
    assert fed(found) == [(140, 540)]
    assert marks(found) == [(40, "~", -1, "signal_missing"), (140, "~", 0, "")]


def test_the_mark_of_a_record_that_begins_dead_stands_where_wfdb_keeps_it() -> None:
    found = pieces(a_quality(), [Chunk(0, np.full((100, 1), np.nan, np.float32)), Chunk(100, wave(400))])
    assert marks(found) == [(1, "~", -1, "signal_missing"), (100, "~", 0, "")]


@pytest.mark.parametrize("kind", ["hole", "nan", "lead_off", "rail"])
@pytest.mark.parametrize(("bad", "of"), [(19, 20), (10, 20), (20, 40), (18, 36)])
def test_a_signal_that_is_there_for_moments_only_is_lost_within_two_seconds(kind: str, bad: int, of: int) -> None:
    x = wave(5000)
    found = pieces(a_quality(), disturb(x, [Trouble(kind, at, bad) for at in range(1000, 4000, of)]))
    (start, update, end) = [p for p in found if isinstance(p, Phase)]
    assert 1000 < start.at <= 1000 + 2 * HZ
    assert 4000 - of <= update.at <= 4000 + HZ
    assert end.at == update.at + SETTLE
    assert {p.priority for p in (start, update, end)} == {"medium"}
    assert len([p for p in found if isinstance(p, Lost)]) == 1
    assert not [a for a, _ in fed(found) if start.at < a < 4000 - of]


def test_moments_without_a_signal_that_are_rare_are_bridged() -> None:
    found = pieces(a_quality(), disturb(wave(5000), [Trouble("nan", at, 10) for at in range(1000, 4000, 40)]))
    assert phases(found) == []
    assert len(marks(found)) == 75


def test_an_electrode_that_comes_and_goes_for_ten_minutes_is_an_episode_or_two() -> None:
    troubles = [Trouble("lead_off", at, 30) for at in range(1000, 60_000, 6 * HZ)]
    found = [p for p in pieces(a_quality(), disturb(wave(62_000), troubles)) if isinstance(p, Phase)]
    assert sum(p.phase == "start" for p in found) == sum(p.phase == "end" for p in found) <= 2
    assert len(found) <= 30
    told = [p.evidence["detection"] for p in found if "detection" in p.evidence]
    assert {"suspended", "resumed"} <= set(told)
    assert {p.priority for p in found} == {"medium"}
    *_, end = found
    assert (end.phase, end.end_reason, end.at) == ("end", "recovered", troubles[-1].at + 30 + 10 * HZ)


def test_an_electrode_that_was_off_once_is_announced_as_shortly_as_ever() -> None:
    troubles = [Trouble("lead_off", at, 30) for at in (1000, 10_000)]
    assert [p[1] for p in phases(pieces(a_quality(), disturb(wave(20_000), troubles)))] == 2 * [
        "start",
        "update",
        "end",
    ]


def test_a_baseline_that_keeps_jumping_is_few_episodes() -> None:
    x = ecg(120)
    for at in range(10 * E, len(x), 8 * E):
        x[at : at + 4 * E] += 1.5
    starts = [s for s in judged(x) if s[:2] == ("baseline_jump", "start")]
    assert 1 <= len(starts) <= 4


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(flat_s=10), "flat_s 10 .* asystole_s 4"),
        (Limits(asystole_s=2), "flat_s 1.5 .* asystole_s 2"),
        (Limits(bridge_s=1.5), "bridge_s 1.5 .* asystole_s 4"),
    ],
)
def test_limits_by_which_a_dead_ecg_would_be_an_asystole_are_refused(limits: Limits, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        a_quality(limits)
    a_quality(limits, signal=None)
    a_quality(replace(limits, flat_s=0.0))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"noise_uv": 300.0}, "noise_uv 300 is more than noise_only_uv 250"),
        ({"flat_uv": 500.0}, "flat_uv 500 is more than quiet_uv 100"),
    ],
)
def test_limits_of_a_signal_that_contradict_each_other_are_refused(limits: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SignalLimits(**limits)


def test_a_hole_of_any_length_is_one_step() -> None:
    quality = a_quality()
    found = pieces(quality, [Chunk(0, wave(100)), Chunk(10**12, wave(400))], finish=False)
    assert phases(found)[0] == ("signal_missing", "start", 100, 120)
    assert fed(found) == [(0, 100), (10**12, 10**12 + 400)]
    assert quality.until == 10**12 + 400


def test_repeated_samples_are_dropped_and_the_alarm_ends_ten_seconds_after_the_last() -> None:
    x = wave(3000)
    chunks = [Chunk(0, x[:500]), Chunk(300, x[300:600]), Chunk(600, x[600:900]), Chunk(0, x[:10]), Chunk(900, x[900:])]
    found = pieces(a_quality(), chunks)
    assert joined(p for p in found if isinstance(p, Usable)) == [(0, x.tobytes())]
    assert phases(found) == [
        ("timestamps_backward", "start", 500, 500),
        ("timestamps_backward", "end", 500, 1900),
    ]
    (end,) = [p for p in found if isinstance(p, Phase) and p.phase == "end"]
    assert (end.end, end.evidence) == (900, {"dropped_samples": 210})


def test_what_is_open_ends_with_the_input() -> None:
    found = pieces(a_quality(), [Chunk(0, wave(500)), Chunk(100, wave(10)), Chunk(600, wave(5))])
    ends = [(p.label, p.at, p.end_reason) for p in found if isinstance(p, Phase) and p.phase == "end"]
    assert ends == [("signal_missing", 605, "input_ended"), ("timestamps_backward", 605, "input_ended")]


def test_a_fault_stands_at_the_sample_before_which_it_was_found() -> None:
    chunks = [Chunk(0, wave(100)), Chunk(160, wave(400), fault="clock_jump")]
    early = [Chunk(0, wave(100)), Chunk(160, wave(0)), Chunk(160, wave(400), fault="clock_jump")]
    found = pieces(a_quality(), chunks)
    assert ("clock_jump", "start", 160, 160) in phases(found)
    assert ("clock_jump", "end", 160, 160) in phases(found)
    assert joined(found) == joined(pieces(a_quality(), early))


def test_what_falls_on_one_sample_keeps_its_order_however_it_arrives() -> None:
    # time stamps have been in order for ten seconds at the very sample at which the signal is back
    x = wave(3000)
    chunks = [Chunk(0, x[:500]), Chunk(400, x[400:500]), Chunk(1500, x[1500:])]
    found = pieces(a_quality(), chunks)
    assert ("timestamps_backward", "end", 500, 1500) in phases(found)
    assert ("signal_missing", "update", 500, 1500) in phases(found)
    early = [*chunks[:2], Chunk(1500, x[:0]), chunks[2]]
    assert in_order(found) == in_order(pieces(a_quality(), early))


@st.composite
def troubled(draw: st.DrawFn) -> list[Chunk]:
    kinds = st.sampled_from(["hole", "nan", "inf", "rail", "flat", "lead_off", "repeat", "go_back", "clock_jump"])
    trouble = st.builds(Trouble, kinds, st.integers(0, 2999), st.one_of(st.integers(1, 40), st.integers(1, 1200)))
    return disturb(wave(3000), draw(st.lists(trouble, max_size=8)), draw(st.sampled_from([0, 10**9])))


SIZES = st.lists(st.integers(1, 400), min_size=1, max_size=8)
EMPTY = st.lists(st.booleans(), min_size=1, max_size=5)


def in_order(found: Iterable[Piece]) -> list[object]:
    """What is fed and marked in order of arrival, then phases by their sample, as a watch gives them."""
    found = list(found)
    said = sorted((p for p in found if isinstance(p, Phase)), key=lambda p: p.at)
    return [*joined(p for p in found if not isinstance(p, Phase)), *said]


@examples()
@given(troubled(), SIZES, EMPTY)
def test_how_samples_arrive_never_changes_what_is_made_of_them(
    chunks: list[Chunk], sizes: list[int], empty: list[bool]
) -> None:
    assert in_order(pieces(a_quality(), cut(chunks, sizes, empty))) == in_order(pieces(a_quality(), chunks))


@examples()
@given(troubled(), SIZES)
def test_a_quality_restored_at_any_chunk_goes_on_the_same(chunks: list[Chunk], sizes: list[int]) -> None:
    quality, found = a_quality(), list[Piece]()
    for chunk in cut(chunks, sizes):
        memory = pack(quality.snapshot())
        quality = a_quality()
        quality.restore(unpack(memory))
        found += quality.push(chunk)
    found += quality.finish()
    assert in_order(found) == in_order(pieces(a_quality(), chunks))


@examples()
@given(troubled(), SIZES)
def test_what_is_fed_is_finite_without_holes_and_new_after_a_loss(chunks: list[Chunk], sizes: list[int]) -> None:
    quality = a_quality()
    end: int | None = None
    for chunk in cut(chunks, sizes):
        for piece in quality.push(chunk):
            if isinstance(piece, Usable):
                assert np.isfinite(piece.chunk.x).all()
                assert end is None or piece.chunk.at == end
                end = piece.chunk.end
            elif isinstance(piece, Lost):
                assert piece.at == end
                assert piece.at < piece.known <= piece.at + quality.bridge
                end = None


@examples()
@given(troubled(), SIZES)
def test_nothing_is_said_of_what_lies_before_the_watermark(chunks: list[Chunk], sizes: list[int]) -> None:
    quality, until = a_quality(), 0
    for chunk in cut(chunks, sizes):
        for piece in quality.push(chunk):
            at = piece.chunk.at if isinstance(piece, Usable) else piece.at
            assert at >= until
        assert quality.until >= until
        until = quality.until


E = 250
"""Rate of the signals below, Hz."""


def ecg(seconds: float, channels: int = 1) -> NDArray[np.float32]:
    """Beats of 1 mV, 75 a minute, on the noise of a recorder, (samples, channels), mV."""
    t = np.arange(round(seconds * E))[:, np.newaxis] / E + 0.1 * np.arange(channels)
    beats = np.exp(-((((t + 0.3) % 0.8) - 0.4) ** 2) / (2 * 0.012**2))
    return (beats + 0.005 * np.random.default_rng(0).standard_normal(t.shape)).astype(np.float32)


def sine(seconds: float, hz: float, mv: float) -> NDArray[np.float32]:
    t = np.arange(round(seconds * E))[:, np.newaxis] / E
    return (mv * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def hiss(seconds: float, mv: float) -> NDArray[np.float32]:
    return (mv * np.random.default_rng(1).standard_normal((round(seconds * E), 1))).astype(np.float32)


def judged(*parts: NDArray[np.float32], **limits: float) -> list[tuple[str, str, float]]:
    """(label, phase, seconds) of what is said of parts that follow one another."""
    quality = a_quality(rate_hz=E, signal=SignalLimits(**limits))
    return [
        (label, phase, at / E) for label, phase, _, at in phases(pieces(quality, [Chunk(0, np.concatenate(parts))]))
    ]


def test_an_ecg_is_neither_dead_nor_doubtful_with_as_much_mains_and_drift_as_monitors_must_bear() -> None:
    drift = sine(60, 0.2, 0.5)
    for x in (ecg(60), ecg(60) + sine(60, 50, 0.05), ecg(60) + sine(60, 60, 0.3), ecg(60) + drift, 0.25 * ecg(60)):
        assert judged(x) == []


@pytest.mark.parametrize(
    ("label", "dead"),
    [
        ("signal_flat", hiss(10, 0.005)),
        ("signal_flat", hiss(10, 0.003) + sine(10, 50, 0.05)),
        ("mains_only", hiss(10, 0.01) + sine(10, 50, 1)),
        ("mains_only", hiss(10, 0.01) + sine(10, 60.2, 5)),
        ("mains_only", sine(10, 50, 1) + sine(10, 100, 0.3) + sine(10, 0.3, 1)),
        ("noise_only", hiss(10, 1)),
    ],
)
def test_what_holds_no_ecg_is_lost_within_two_seconds_and_back_at_once(label: str, dead: NDArray[np.float32]) -> None:
    said = judged(ecg(10.1), dead, ecg(10))
    (start, update, end) = [s for s in said if s[0] == label]
    assert 11.5 < start[2] <= 12.1
    assert update[1] == "update"
    assert update[2] == pytest.approx(20.1, abs=0.85)
    assert end[2] == pytest.approx(update[2] + SETTLE / E)


def test_a_pause_with_the_noise_of_an_attached_electrode_is_no_dead_signal() -> None:
    assert judged(ecg(10), hiss(8, 0.012) + sine(8, 0.3, 0.06), ecg(10)) == []


def test_a_pause_after_a_jump_is_a_lost_electrode_until_there_are_beats() -> None:
    t = np.arange(20 * E)[:, np.newaxis] / E
    knock = (-2 * np.exp(-t)).astype(np.float32)
    said = judged(ecg(10), knock + hiss(20, 0.012), ecg(10))
    assert [(label, phase) for label, phase, _ in said] == [
        ("baseline_jump", "start"), ("baseline_jump", "end"),
        ("electrode_pop", "start"), ("electrode_pop", "update"), ("electrode_pop", "end"),
    ]  # fmt: skip
    at = [at for _, _, at in said]
    assert at[0] <= 10.5
    assert at[2] <= 12
    assert 20.5 < at[3] < 21.5  # ten seconds later nobody can say that the heart has not stopped


def test_a_jump_and_noise_over_beats_are_announced_and_detection_goes_on() -> None:
    x = np.concatenate([ecg(20), ecg(10) + 2, ecg(10) + hiss(10, 0.2), ecg(20)])
    found = pieces(a_quality(rate_hz=E), [Chunk(0, x)])
    assert {(p.label, p.priority) for p in found if isinstance(p, Phase)} == {
        ("baseline_jump", "low"),
        ("noise", "low"),
    }
    assert {p.end_reason for p in found if isinstance(p, Phase) and p.phase == "end"} == {"recovered"}
    assert [p for p in found if isinstance(p, Lost)] == []
    spans = [(a.subtype, a.at / E) for a in found if isinstance(a, Annotation)]
    assert [subtype for subtype, _ in spans] == [1, 0, 1, 0]
    assert [at for _, at in spans] == pytest.approx([20.3, 25.8, 30.3, 45.2], abs=0.5)


def test_one_dead_channel_is_enough() -> None:
    x = ecg(20, channels=2)
    x[10 * E :, 1:] = hiss(10, 0.005)
    assert judged(x)[0][:2] == ("signal_flat", "start")


def test_limits_decide_what_is_dead() -> None:
    line = hiss(10, 0.02)
    assert judged(ecg(10), line, ecg(10)) == []
    assert judged(ecg(10), line, ecg(10), flat_uv=200, quiet_uv=200)[0][:2] == ("signal_flat", "start")


def test_what_is_no_ecg_is_not_judged() -> None:
    for quality in (a_quality(rate_hz=E, signal=None), a_quality(rate_hz=63.0)):
        assert phases(pieces(quality, [Chunk(0, sine(10, 50, 1))])) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, -3e38, 1e-40])
def test_hostile_values_are_judged_without_a_warning(value: float) -> None:
    x = ecg(10)
    x[3 * E : 6 * E : 2] = value
    found = pieces(a_quality(Limits(rail=0), rate_hz=E), [Chunk(0, x)])
    assert all(np.isfinite(p.chunk.x).all() for p in found if isinstance(p, Usable))


@st.composite
def dead(draw: st.DrawFn) -> list[Chunk]:
    """Live and dead stretches of any length, with troubles in them, at any place of the clock."""
    kinds = {
        "ecg": ecg(8), "flat": hiss(8, 0.005), "mains": sine(8, 50, 0.7), "hiss": hiss(8, 0.5),
        "noisy": ecg(8) + hiss(8, 0.15), "drift": hiss(8, 0.003) + sine(8, 0.02, 0.8),
        "jump": hiss(8, 0.012) + 3, "constant": np.full((8 * E, 1), 1, np.float32),
    }  # fmt: skip
    part = st.tuples(st.sampled_from(sorted(kinds)), st.integers(1, 8 * E))
    x = np.concatenate([kinds[kind][:n] for kind, n in draw(st.lists(part, min_size=2, max_size=6))])
    trouble = st.builds(
        Trouble, st.sampled_from(["hole", "nan", "lead_off", "rail", "repeat", "clock_jump"]),
        st.integers(0, len(x) - 1), st.one_of(st.integers(1, 60), st.integers(1, 1500)),
    )  # fmt: skip
    return disturb(x, draw(st.lists(trouble, max_size=4)), draw(st.sampled_from([0, 10**9 + 7])))


@examples(60)
@given(dead(), SIZES, EMPTY)
def test_how_dead_signals_arrive_never_changes_what_is_said(
    chunks: list[Chunk], sizes: list[int], empty: list[bool]
) -> None:
    whole = in_order(pieces(a_quality(rate_hz=E), chunks))
    quality, found = a_quality(rate_hz=E), list[Piece]()
    for i, chunk in enumerate(cut(chunks, sizes, empty)):
        if i % 3 == 0:
            memory = pack(quality.snapshot())
            quality = a_quality(rate_hz=E)
            quality.restore(unpack(memory))
        until = quality.until
        new = list(quality.push(chunk))
        assert all((p.chunk.at if isinstance(p, Usable) else p.at) >= until for p in new)
        found += new
    assert in_order([*found, *quality.finish()]) == whole


@pytest.mark.parametrize("rate_hz", [64.0, 128.0, 130.0, 250.0, 360.0, 1000.0])
def test_windows_measure_the_same_alone_as_together(rate_hz: float) -> None:
    length = round(0.25 * rate_hz)
    x = np.random.default_rng(2).standard_normal((23, length, 2)).astype(np.float32)
    basis, lag = mains_basis(length, rate_hz), max(round(0.01 * rate_hz), 1)
    together = measure(x, basis, lag)
    for i in range(len(x)):
        alone = measure(x[i : i + 1], basis, lag)
        for name in together.__slots__:
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[i])


def test_mains_of_any_phase_is_taken_out_and_a_beat_is_left() -> None:
    basis = mains_basis(62, E)
    for phase in range(5):
        x = sine(1, 50, 1)[phase : phase + 62]
        m = measure(x[np.newaxis], basis, 2)
        assert m.mains[0, 0] == pytest.approx(1000, rel=0.01)
        assert m.left[0, 0] < 1
    beat = measure(ecg(2)[np.newaxis, 200:262], basis, 2)
    assert beat.left[0, 0] > 500
