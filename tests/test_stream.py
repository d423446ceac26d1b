"""One signal's memory: however samples arrive, the same frames and the same watermark."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdover.runtime.chunk import Chunk
from holdover.runtime.engine import Engine, load
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.errors import ModelError, SourceError
from holdover.runtime.frames import Frames
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.stream import Stream
from tests import graphs

SHIPPED = Path(__file__).parent.parent / "models" / "ecg_beats" / "model.onnx"
RATES_HZ = (120.0, 360.0, 250.0, 257.0)
Array = NDArray[Any]


@pytest.fixture(scope="module")
def shipped() -> Engine:
    """The shipped model."""
    return load(SHIPPED)


def engine(name: str) -> OrtEngine:
    """A tiny engine of tests.graphs."""
    return OrtEngine(getattr(graphs, name)().SerializeToString(), "", name)


def run(stream: Stream, x: Array, cuts: list[int], at: int = 0) -> list[Frames]:
    """What a stream says of x, from sample `at`, when it is cut there."""
    edges = [0, *cuts, len(x)]
    return [stream.push(Chunk(at + a, x[a:b])) for a, b in pairwise(edges)]


def joined(said: list[Frames]) -> dict[str, bytes]:
    """The bits of all frames, by output."""
    return {name: np.concatenate([f.values[name] for f in said]).tobytes() for name in said[0].values}


def cuts_of(samples: int) -> st.SearchStrategy[list[int]]:
    """Where to cut, empty pieces among them."""
    return st.lists(st.integers(0, samples), max_size=12).map(sorted)


@settings(deadline=None)  # a busy machine takes its time
@given(rate_hz=st.sampled_from(RATES_HZ), cuts=cuts_of(1100), at=st.integers(0, 10**9))
def test_how_samples_arrive_never_changes_a_frame(shipped: Engine, rate_hz: float, cuts: list[int], at: int) -> None:
    x = graphs.signal(1100)
    whole, cut = Stream(shipped, rate_hz), Stream(shipped, rate_hz)
    wanted, found = run(whole, x, [], at), run(cut, x, cuts, at)
    assert joined(found) == joined(wanted)
    assert found[-1].until == wanted[-1].until
    assert joined([cut.finish()]) == joined([whole.finish()])


@pytest.mark.parametrize("name", ["fifo", "fifo_lstm", "block_sum"])
@settings(deadline=None)  # a busy machine takes its time
@given(cuts=cuts_of(300))
def test_it_is_the_same_for_growing_states_and_for_grids(name: str, cuts: list[int]) -> None:
    e, x = engine(name), graphs.signal(300)
    whole, cut = Stream(e, 100.0), Stream(e, 100.0)
    wanted, found = run(whole, x, []), [f for f in run(cut, x, cuts) if len(f.values["y"])]
    assert joined(found) == joined(wanted)
    assert joined([cut.finish()]) == joined([whole.finish()])


@settings(deadline=None)  # a busy machine takes its time
@given(rate_hz=st.sampled_from(RATES_HZ), cuts=cuts_of(900))
def test_the_watermark_depends_on_the_samples_that_came_and_not_on_their_cut(
    shipped: Engine, rate_hz: float, cuts: list[int]
) -> None:
    x = graphs.signal(900)
    single = Stream(shipped, rate_hz)
    until = [0] + [single.push(Chunk(i, x[i : i + 1])).until for i in range(900)]
    for end, frames in zip([*cuts, 900], run(Stream(shipped, rate_hz), x, cuts), strict=True):
        assert frames.until == until[end]
    assert until == sorted(until)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_frames_behind_the_watermark_never_come_again(shipped: Engine, rate_hz: float) -> None:
    stream, x, until = Stream(shipped, rate_hz), graphs.signal(2000), 0
    for frames in [*run(stream, x, list(range(13, 2000, 13)), at=40), stream.finish()]:
        for spec in shipped.contract.outputs:
            where = frames.at(spec)
            assert np.all((where >= until) | (where < 40))
        assert frames.until >= until
        until = frames.until
    assert until == 2040


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_watermark_is_at_most_the_stated_delay_behind(shipped: Engine, rate_hz: float) -> None:
    stream, x = Stream(shipped, rate_hz), graphs.signal(2000)
    for i in range(2000):
        assert stream.push(Chunk(i, x[i : i + 1])).until >= i + 1 - stream.delay


def test_frames_say_which_samples_they_are_about(shipped: Engine) -> None:
    stream = Stream(shipped, 360.0)
    said = run(stream, graphs.signal(1800), list(range(100, 1800, 100)), at=5000)
    spec = shipped.contract.outputs[0]
    where = np.concatenate([f.at(spec) for f in said])
    wanted = 5000 + 3 * (spec.first_at + spec.samples_per_frame * np.arange(len(where)))
    assert len(where) > 80
    assert np.array_equal(where, wanted)


def test_finish_says_what_is_left_and_no_more(shipped: Engine) -> None:
    stream, x = Stream(shipped, 360.0), graphs.signal(1000)
    said = [*run(stream, x, [400]), stream.finish()]
    for spec in shipped.contract.outputs:
        where = np.concatenate([f.at(spec) for f in said])
        assert np.array_equal(where, 3.0 * (spec.first_at + spec.samples_per_frame * np.arange(len(where))))
        assert 1000 - 3 * spec.samples_per_frame <= where[-1] < 1000
    assert said[-1].until == 1000


def test_what_finish_says_is_what_a_signal_that_stays_would_have_given(shipped: Engine) -> None:
    x = graphs.signal(700)
    stream, longer = Stream(shipped, 120.0), Stream(shipped, 120.0)
    said = [*run(stream, x, []), stream.finish()]
    held = run(longer, np.concatenate([x, np.repeat(x[-1:], 300, axis=0)]), [])
    for name, value in held[0].values.items():
        found = np.concatenate([f.values[name] for f in said])
        assert found.tobytes() == value[: len(found)].tobytes()


def test_after_finish_a_stream_is_a_new_one(shipped: Engine) -> None:
    stream, x = Stream(shipped, 250.0), graphs.signal(800)
    run(stream, -3 * x, [123])
    stream.finish()
    again, first = run(stream, x, [], at=9000), run(Stream(shipped, 250.0), x, [], at=9000)
    assert joined(again) == joined(first)
    assert (again[0].until, again[0].origin, again[0].first) == (first[0].until, 9000, first[0].first)


def test_finish_without_a_sample_says_nothing(shipped: Engine) -> None:
    frames = Stream(shipped, 360.0).finish()
    assert all(len(value) == 0 for value in frames.values.values())
    assert frames.until == 0


@pytest.mark.parametrize("samples", [1, 2, 5, 17])
def test_finish_after_a_few_samples_still_says_them(shipped: Engine, samples: int) -> None:
    stream = Stream(shipped, 360.0)
    stream.push(Chunk(50, graphs.signal(samples)))
    assert stream.finish().until == 50 + samples


@pytest.mark.parametrize("name", ["fifo", "fifo_lstm", "block_sum"])
@pytest.mark.parametrize("samples", [1, 4, 10])
def test_finish_gives_one_frame_a_sample(name: str, samples: int) -> None:
    stream = Stream(engine(name), 100.0)
    said = [stream.push(Chunk(0, graphs.signal(samples))), stream.finish()]
    assert sum(len(f.values["y"]) for f in said) == samples


@settings(deadline=None)  # a busy machine takes its time
@given(rate_hz=st.sampled_from(RATES_HZ), cut=st.integers(0, 900))
def test_a_stream_resumes_from_bytes_to_the_bit(shipped: Engine, rate_hz: float, cut: int) -> None:
    x = graphs.signal(900)
    first, other = Stream(shipped, rate_hz), Stream(shipped, rate_hz)
    before = first.push(Chunk(0, x[:cut]))
    other.push(Chunk(3, -x[:333]))
    other.restore(unpack(pack(first.snapshot())))
    after = [other.push(Chunk(cut, x[cut:])), other.finish()]
    whole = Stream(shipped, rate_hz)
    wanted = [*run(whole, x, []), whole.finish()]
    assert joined([before, *after]) == joined(wanted)
    assert [f.until for f in after] == [f.until for f in wanted]


@pytest.mark.parametrize("cut", [0, 2, 5, 8, 9, 14, 40])
def test_a_state_that_still_grows_resumes_too(cut: int) -> None:
    for name in ("fifo", "fifo_lstm"):
        e, x = engine(name), graphs.signal(100)
        first, other = Stream(e, 100.0), Stream(e, 100.0)
        first.push(Chunk(0, x[:cut]))
        other.restore(unpack(pack(first.snapshot())))
        for i in range(cut, 100):
            found, wanted = (s.push(Chunk(i, x[i : i + 1])) for s in (other, first))
            assert joined([found]) == joined([wanted])
            assert found.until == wanted.until


def test_a_snapshot_stays_as_it_was_when_the_stream_goes_on(shipped: Engine) -> None:
    stream, x = Stream(shipped, 250.0), graphs.signal(600)
    stream.push(Chunk(0, x[:301]))
    memory = stream.snapshot()
    before = pack(memory)
    stream.push(Chunk(301, x[301:]))
    assert pack(memory) == before


def test_the_memory_of_another_model_is_refused(shipped: Engine) -> None:
    with pytest.raises(ModelError, match="another model's"):
        Stream(engine("fifo"), 100.0).restore(Stream(shipped, 120.0).snapshot())


@pytest.mark.parametrize("size", [4, 40])
def test_the_caller_may_use_its_array_again(shipped: Engine, size: int) -> None:
    for rate_hz in RATES_HZ:
        stream, x = Stream(shipped, rate_hz), graphs.signal(1000)
        buffer, said = np.empty((size, 1), np.float32), []
        for i in range(0, 1000, size):
            buffer[:] = x[i : i + size]
            said.append(stream.push(Chunk(i, buffer)))
        buffer[:] = 1e6
        whole = Stream(shipped, rate_hz)
        assert joined([*said, stream.finish()]) == joined([*run(whole, x, []), whole.finish()])


@pytest.mark.parametrize("shape", [(6, 2), (6, 0), (6,), (1, 6, 1)])
def test_another_number_of_channels_is_refused(shipped: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(SourceError, match=r"the chunk has shape .*, the model takes \(samples, 1\)"):
        Stream(shipped, 120.0).push(Chunk(0, np.zeros(shape, np.float32)))


@pytest.mark.parametrize("at", [0, 99, 101, 5000])
def test_a_hole_or_a_step_back_is_refused_and_changes_nothing(shipped: Engine, at: int) -> None:
    stream, x = Stream(shipped, 120.0), graphs.signal(300)
    before = stream.push(Chunk(0, x[:100]))
    with pytest.raises(SourceError, match=f"begins at sample {at}, expected 100: fill or finish first"):
        stream.push(Chunk(at, x[100:]))
    after = stream.push(Chunk(100, x[100:]))
    assert joined([before, after]) == joined(run(Stream(shipped, 120.0), x, []))


def test_an_empty_chunk_says_nothing_and_begins_nothing(shipped: Engine) -> None:
    stream = Stream(shipped, 120.0)
    assert stream.push(Chunk(77, np.empty((0, 1), np.float32))).until == 0
    assert stream.push(Chunk(12, graphs.signal(60))).origin == 12
