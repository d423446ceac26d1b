"""From frames to beats: frames made by hand, and those of the shipped model."""

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.runtime.annotation import Annotation
from holdover.runtime.chunk import Chunk
from holdover.runtime.contract import Contract
from holdover.runtime.detect.beats import Beats
from holdover.runtime.errors import ContractError
from holdover.runtime.frames import Frames
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.stream import Stream
from tests.signals import RATE_HZ, examples, full_engine, recording

STEP = 6  # a frame is 6 model samples of 120 Hz: 50 ms; the source runs at 360 Hz, 18 samples a frame
RATIO = Fraction(3)
EVENT: dict[str, Any] = {"name": "beat", "kind": "frames", "meaning": "event_logit", "samples_per_frame": STEP}
OFFSET = EVENT | {"name": "offset", "meaning": "offset"}
RHYTHM = EVENT | {
    "name": "rhythm",
    "meaning": "rhythm_logits",
    "labels": ["N", "AF", "VF"],
    "delay": 84,
    "first_at": -42,
}
CLASS = EVENT | {"name": "class", "meaning": "class_logits", "labels": ["N", "S", "V"], "delay": 42}


def a_contract(*outputs: dict[str, Any]) -> Contract:
    signal = {"input": "x", "axis": 1, "rate_hz": 120.0, "channels": [{"name": "MLII", "unit": "mV"}]}
    head = {"version": 1, "name": "hand", "model_version": "1", "signals": [signal], "states": []}
    numbers = {"hop": STEP, "first_chunk_min": STEP, "grid": STEP, "chunk_invariant": "bitwise"}
    return Contract.parse(json.dumps(head | numbers | {"outputs": list(outputs)}))


def frames(contract: Contract, first: int, until: int, **values: Sequence[Any]) -> Frames:
    arrays = {k: np.array(v, np.float32).reshape(len(v), -1) for k, v in values.items()}
    return Frames(arrays, {o.name: first for o in contract.outputs}, 0, RATIO, until)


def logits(n: int, peaks: dict[int, float], shoulder: float = -1.0) -> list[float]:
    """Event logits of n frames: sure of nothing but the peaks and, half, of the frames beside them."""
    beside = {k + d for k in peaks for d in (-1, 1)}
    return [peaks.get(k, shoulder if k in beside else -9.0) for k in range(n)]


def found(contract: Contract, n: int, **values: Sequence[Any]) -> list[Annotation]:
    return Beats(contract).update(frames(contract, 0, n * 18, **values), last=True)[0]


def test_a_peak_is_a_beat_at_its_frame() -> None:
    (beat,) = found(a_contract(EVENT), 40, beat=logits(40, {20: 4.0}))
    assert (beat.at, beat.symbol) == (20 * 18, "N")
    assert beat.score == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)


def test_the_offset_moves_a_beat_by_model_samples_and_by_no_more_than_a_frame() -> None:
    c = a_contract(EVENT, OFFSET)
    moves = [0.0] * 40
    moves[10], moves[20], moves[30] = 2.0, -50.0, 50.0
    beats = found(c, 40, beat=logits(40, {10: 4, 20: 4, 30: 4}), offset=moves)
    assert [b.at for b in beats] == [10 * 18 + 6, 20 * 18 - 18, 30 * 18 + 18]


def test_of_two_peaks_within_the_refractory_time_the_larger_is_the_beat_and_of_equals_the_first() -> None:
    c = a_contract(EVENT)
    assert [b.at // 18 for b in found(c, 40, beat=logits(40, {10: 3, 14: 4}))] == [14]
    assert [b.at // 18 for b in found(c, 40, beat=logits(40, {10: 4, 14: 3}))] == [10]
    assert [b.at // 18 for b in found(c, 40, beat=logits(40, {10: 4, 14: 4}))] == [10]
    assert [b.at // 18 for b in found(c, 40, beat=logits(40, {10: 4, 15: 3}))] == [10, 15]


def test_three_frames_in_a_row_may_add_up_to_a_beat() -> None:
    share = float(np.log(0.3 / 0.7))
    assert len(found(a_contract(EVENT), 40, beat=logits(40, dict.fromkeys((19, 20, 21), share), -9))) == 1
    assert len(found(a_contract(EVENT), 40, beat=logits(40, dict.fromkeys((19, 20), share), -9))) == 0


@pytest.mark.parametrize("settle", [0, 60, 120])
def test_no_beat_is_called_before_the_event_output_has_settled(settle: int) -> None:
    peaks = dict.fromkeys(range(5, 60, 5), 4.0)
    beats = found(a_contract(EVENT | {"settle": settle}), 60, beat=logits(60, peaks))
    assert [b.at // 3 for b in beats] == [k * STEP for k in peaks if k * STEP >= settle]


def test_beats_are_q_until_the_class_output_has_settled() -> None:
    c = a_contract(EVENT | {"settle": 60}, CLASS | {"settle": 180})
    peaks = dict.fromkeys(range(5, 60, 5), 4.0)
    classes = [[0, 0, 5]] * 60
    beats = Beats(c).update(frames(c, 0, 60 * 18, beat=logits(60, peaks), **{"class": classes}), last=True)[0]
    assert [(b.at // 18, b.symbol) for b in beats] == [(k, "Q" if k < 30 else "V") for k in range(10, 60, 5)]


def test_a_class_that_settles_sooner_is_told_sooner() -> None:
    c = a_contract(EVENT | {"settle": 60}, CLASS | {"settle": 300, "settle_labels": {"V": 120}})
    peaks = dict.fromkeys(range(5, 60, 5), 4.0)
    kinds = [[0.0, 0, 5] if k // 5 % 2 else [5.0, 0, 0] for k in range(60)]
    kinds = [kinds[round(k / 5) * 5 % 60] for k in range(60)]
    beats = Beats(c).update(frames(c, 0, 60 * 18, beat=logits(60, peaks), **{"class": kinds}), last=True)[0]
    wanted = [(k, ("V" if k >= 20 else "Q") if k // 5 % 2 else ("N" if k >= 50 else "Q")) for k in range(10, 60, 5)]
    assert [(b.at // 18, b.symbol) for b in beats] == wanted
    assert Beats(c).settle == 120
    assert Beats(a_contract(EVENT | {"settle": 60})).settle == 60


@pytest.mark.parametrize("sooner", [{"X": 1}, {"V": 301}, {"V": -1}])
def test_labels_that_settle_later_than_all_or_are_none_are_refused(sooner: dict[str, int]) -> None:
    with pytest.raises(ContractError, match="settle_labels"):
        a_contract(EVENT, CLASS | {"settle": 300, "settle_labels": sooner})


def test_frames_before_the_first_sample_are_no_beats() -> None:
    c = a_contract(EVENT | {"first_at": -25})
    assert [b.at for b in found(c, 40, beat=logits(40, {2: 4.0, 20: 4.0}))] == [(20 * STEP - 25) * 3]


@pytest.mark.parametrize("first_at", [-60, -42, 0, 42])
def test_the_class_is_read_at_the_place_of_the_beat(first_at: int) -> None:
    c = a_contract(EVENT, CLASS | {"first_at": first_at})
    shift = -first_at // STEP
    kinds = [[3.0, 0, 0]] * 60
    for k in range(-1, 2):
        kinds[20 + shift + k] = [0, 3.0, 0]
    values: dict[str, list[Any]] = {"beat": logits(60, {20: 4.0, 30: 4.0}), "class": kinds}
    assert [b.symbol for b in Beats(c).update(frames(c, 0, 60 * 18, **values), last=True)[0]] == ["S", "N"]


def test_a_beat_carries_the_rhythm_of_the_frame_that_comes_with_its_class() -> None:
    c = a_contract(EVENT, CLASS | {"first_at": 0}, RHYTHM | {"settle": 60})
    rhythm = [[0.0, 0.0, -50.0]] * 60
    rhythm[20], rhythm[40] = [0.0, 3.0, -50.0], [3.0, 0.0, -50.0]
    values: dict[str, list[Any]] = {"beat": logits(60, dict.fromkeys((10, 20, 30, 40), 4.0)), "rhythm": rhythm}
    beats = found(c, 60, **values, **{"class": [[3.0, 0, 0]] * 60})
    assert [b.fibrillates for b in beats] == [None, 0.9526, 0.5, 0.0474]  # the first before the rhythm has settled


def test_without_a_rhythm_output_a_beat_says_nothing_of_the_rhythm() -> None:
    (beat,) = found(a_contract(EVENT), 40, beat=logits(40, {20: 4.0}))
    assert beat.fibrillates is None


@pytest.mark.parametrize(
    ("rhythm", "words"),
    [({"labels": ["N", "VF"]}, "labels N, VF"), ({"delay": 90}, "do not come with"), ({"first_at": 0}, "first_at")],
)
def test_a_rhythm_output_that_does_not_fit_is_refused(rhythm: dict[str, Any], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        Beats(a_contract(EVENT, CLASS | {"first_at": 0}, RHYTHM | rhythm))


def blocks(values: dict[str, list[Any]], sizes: list[int], delays: dict[str, int], n: int) -> Iterator[dict[str, Any]]:
    """Frames of every output as they come, each later by its delay in frames."""
    said, sent, i = dict.fromkeys(values, 0), 0, 0
    while sent < n:
        sent = min(sent + sizes[i % len(sizes)], n)
        i += 1
        upto = {k: n if sent == n else max(sent - delays[k], 0) for k in values}
        yield {k: (said[k], values[k][said[k] : upto[k]]) for k in values}
        said = upto


@examples()
@given(
    st.lists(st.floats(-6, 6, width=32), min_size=1, max_size=120),
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.sampled_from([-60, -42, 0, 42]),
    st.booleans(),
)
def test_how_frames_arrive_never_changes_the_beats(
    logits: list[float], sizes: list[int], first_at: int, again: bool
) -> None:
    c = a_contract(EVENT, OFFSET, CLASS | {"first_at": first_at}, RHYTHM | {"first_at": first_at - 42})
    rng = np.random.default_rng(len(logits))
    n = len(logits)
    values: dict[str, list[Any]] = {
        "beat": logits, "offset": (6 * rng.standard_normal(n)).tolist(), "class": rng.standard_normal((n, 3)).tolist(),
        "rhythm": rng.standard_normal((n, 3)).tolist(),
    }  # fmt: skip
    whole = Beats(c).update(Frames(_arrays(values), dict.fromkeys(values, 0), 0, RATIO, n * 18), last=True)[0]
    beats, said, until = Beats(c), list[Annotation](), 0
    for part in blocks(values, sizes, {"beat": 1, "offset": 1, "class": 8, "rhythm": 8}, n):
        first = {k: start for k, (start, _) in part.items()}
        arrays = _arrays({k: v for k, (_, v) in part.items()})
        last = all(first[k] + len(arrays[k]) == n for k in values)
        some, known = beats.update(Frames(arrays, first, 0, RATIO, n * 18), last=last)
        assert known >= until
        assert all(b.at >= until for b in some)
        assert last or all(b.at < known + 18 for b in some)
        said, until = said + some, known
        if again:
            memory = pack(beats.snapshot())
            beats = Beats(c)
            beats.restore(unpack(memory))
    assert said == whole
    assert all(b.at - a.at > 2 * 18 for a, b in pairwise(said))


def _arrays(values: dict[str, list[Any]]) -> dict[str, Any]:
    return {k: np.array(v, np.float32).reshape(len(v), 3 if k in ("class", "rhythm") else 1) for k, v in values.items()}


def test_the_shipped_model_marks_the_peaks_of_the_recording() -> None:
    engine, x = full_engine(), recording()[:21600]
    stream, detector = Stream(engine, RATE_HZ), Beats(engine.contract)
    beats = detector.update(stream.push(Chunk(0, x)))[0] + detector.update(stream.finish(), last=True)[0]
    assert 85 < len(beats) < 120
    slope = np.abs(np.diff(x[:, 0]))
    steep = [slope[max(b.at - 36, 0) : b.at + 36].max() > 4 * np.median(slope) for b in beats]
    assert np.mean(steep) > 0.98


def test_the_wait_after_a_peak_is_told() -> None:
    assert Beats(a_contract(EVENT)).look_s == pytest.approx(0.25)
    assert Beats(a_contract(EVENT), refractory_s=0.3).look_s == pytest.approx(0.35)


REFUSED = {
    "no event output": (CLASS,),
    "class frames of another length": (EVENT, CLASS | {"samples_per_frame": 3}),
    "offset frames of another length": (EVENT, OFFSET | {"samples_per_frame": 3}),
    "offset frames of another place": (EVENT, OFFSET | {"first_at": 6}),
    "offset frames that come later": (EVENT, OFFSET | {"delay": 6}),
}


@pytest.mark.parametrize("outputs", REFUSED.values(), ids=REFUSED)
def test_a_model_whose_outputs_do_not_fit_is_refused(outputs: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(ContractError):
        Beats(a_contract(*outputs))


@pytest.mark.parametrize(
    "options",
    [{"threshold": 0}, {"threshold": 3.1}, {"refractory_s": 0}, {"refractory_s": 99}],
)
def test_options_that_find_no_beat_or_any_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ContractError):
        Beats(a_contract(EVENT), **options)
