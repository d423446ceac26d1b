"""A model that looks ahead speaks of the last samples too, and a head over all of time says what the whole says."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from holdover.export.describe import Statement
from holdover.export.exporting import Options, export
from holdover.export.original import Original
from holdover.export.proof import engine_of
from holdover.runtime.chunk import Chunk
from holdover.runtime.engine import Engine
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.stream import Stream

Array = NDArray[Any]
RATE_HZ = 100.0


def whole(*nodes: onnx.NodeProto, **weights: Array) -> onnx.ModelProto:
    """A graph from x (batch, 1, time) to y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, "time"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in weights.items()]
    graph = helper.make_graph(list(nodes), "whole", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def kernel() -> Array:
    return np.random.default_rng(0).normal(size=(2, 1, 7)).astype(np.float32)


def ahead() -> onnx.ModelProto:
    """A convolution that sees three samples of either side."""
    return whole(helper.make_node("Conv", ["x", "w"], ["y"], pads=[3, 3]), w=kernel())


def strided() -> onnx.ModelProto:
    """The same, a frame every three samples."""
    return whole(helper.make_node("Conv", ["x", "w"], ["y"], pads=[3, 3], strides=[3]), w=kernel())


def mean() -> onnx.ModelProto:
    """The mean over all of time of a causal convolution."""
    conv = helper.make_node("Conv", ["x", "w"], ["c"], pads=[6, 0], strides=[2])
    return whole(conv, helper.make_node("ReduceMean", ["c"], ["y"], axes=[2], keepdims=0), w=kernel())


@cache
def streaming(make: Callable[[], onnx.ModelProto], hop: int = 1) -> Engine:
    model = make()
    done = export(Original(model, "onnx", "0" * 64), Options(Statement("m", RATE_HZ, ("I",), "mV"), hop=hop))
    return engine_of(done.model.SerializeToString())


def answer(model: onnx.ModelProto, x: Array) -> Array:
    """The original over a whole sequence, (frames, width)."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x.T[np.newaxis]})
    return np.asarray(y[0].T if y.ndim == 3 else y)


def signal(n: int) -> Array:
    return np.random.default_rng(1).normal(size=(n, 1)).astype(np.float32)


@pytest.mark.parametrize("make", [ahead, strided])
@pytest.mark.parametrize("samples", [30, 31, 32, 33, 47])
def test_the_last_frames_are_those_of_the_original(samples: int, make: Callable[[], onnx.ModelProto]) -> None:
    x = signal(samples)
    stream = Stream(streaming(make), RATE_HZ)
    said = [stream.push(Chunk(at, x[at : at + 4])) for at in range(0, samples, 4)]
    y = np.concatenate([f.values["y"] for f in [*said, stream.finish()]])
    wanted = answer(make(), x)
    assert y.shape == wanted.shape
    assert np.abs(y - wanted).max() < 1e-5


def test_a_stream_restored_just_before_its_end_says_the_same() -> None:
    engine, x = streaming(ahead), signal(40)
    first, second = Stream(engine, RATE_HZ), Stream(engine, RATE_HZ)
    first.push(Chunk(0, x))
    second.restore(unpack(pack(first.snapshot())))
    assert first.finish().values["y"].tobytes() == second.finish().values["y"].tobytes()


def test_after_its_end_a_stream_begins_anew() -> None:
    engine, x = streaming(ahead), signal(40)
    stream = Stream(engine, RATE_HZ)
    runs = []
    for at in (0, 1000):
        pushed = stream.push(Chunk(at, x))
        runs.append(np.concatenate([pushed.values["y"], stream.finish().values["y"]]))
    assert runs[0].tobytes() == runs[1].tobytes()


@pytest.mark.parametrize("samples", [0, 1, 2])
def test_a_signal_shorter_than_the_first_block_is_said_nothing_of(samples: int) -> None:
    stream = Stream(streaming(ahead), RATE_HZ)
    stream.push(Chunk(0, signal(samples)))
    assert len(stream.finish().values["y"]) == 0


def test_an_end_after_resampling_has_a_frame_for_each_sample_of_the_model() -> None:
    engine, t = streaming(ahead), np.arange(500) / (2.5 * RATE_HZ)
    stream = Stream(engine, 2.5 * RATE_HZ)
    x = np.sin(2 * np.pi * 3 * t).astype(np.float32)[:, np.newaxis]
    said = [stream.push(Chunk(0, x)), stream.finish()]
    assert sum(len(f.values["y"]) for f in said) == 200


@pytest.mark.parametrize("samples", [24, 25, 37, 48])
def test_a_head_over_all_of_time_ends_at_what_the_whole_says(samples: int) -> None:
    model, x = mean(), signal(samples)
    engine = streaming(mean, hop=8)
    assert engine.contract.hop == engine.contract.grid == 8
    stream = Stream(engine, RATE_HZ)
    values = np.concatenate([f.values["y"] for f in (stream.push(Chunk(0, x)), stream.finish())])
    assert np.abs(values[-1] - answer(model, x)[0]).max() < 1e-5
    for k in range(samples // 8):
        assert np.abs(values[k] - answer(model, x[: 8 * (k + 1)])[0]).max() < 1e-5
