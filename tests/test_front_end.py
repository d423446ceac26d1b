"""Preprocessing in the file: what SciPy gives is what is streamed, however samples come, and nonsense is refused."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy import signal

from holdover.apps.cli import main
from holdover.apps.export import PROCESSING
from holdover.export.contract_io import load
from holdover.export.describe import Statement
from holdover.export.exporting import Options, export, verify
from holdover.export.front_end_sections import check_sections
from holdover.export.front_end_steps import FORMS, parse
from holdover.export.front_end_taps import MAX_FILE_BYTES, MAX_TAPS, taps_of
from holdover.export.original import Original
from holdover.export.proof import engine_of, feed, pieces
from holdover.runtime.chunk import Chunk
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ModelError, UsageError
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.stream import Stream

LONG = bool(os.environ.get("HOLDOVER_LONG"))
SECONDS = 24 * 3600 if LONG else 60
TOLERANCE_MV = 2e-5
"""Of a result of up to 320 mV: one rounding to single precision, 1.6e-5 mV, and what double precision adds."""
SETTLED_MV = 1e-6
"""Of a high-pass once the offset has gone, where numbers are small."""
TAPS = np.hanning(33)[1:-1] * np.linspace(0.1, 0.02, 31)
LAST_STEP = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=0)]


def model(nodes, inputs, tensors=(), outputs=("y",)):
    """An ONNX model; inputs are axes by name."""
    ins = [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in inputs.items()]
    outs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(np.asarray(v), name) for name, v in dict(tensors).items()]
    graph = helper.make_graph(nodes, "g", ins, outs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def nothing(*dims):
    """A model that gives what it takes: (batch, time, 1) or other axes."""
    return model([helper.make_node("Identity", ["x"], ["y"])], {"x": list(dims) or ["batch", "time", 1]})


def net(stride=1):
    """Convolution and GRU over (batch, 2 channels, time)."""
    rng = np.random.default_rng(3)
    sizes = {"kernel": (4, 2, 5), "w": (1, 9, 4), "r": (1, 9, 3), "b": (1, 18)}
    tensors = {name: rng.normal(0, 0.4, size).astype(np.float32) for name, size in sizes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["seen"], pads=[4, 0], strides=[stride]),
        helper.make_node("Transpose", ["seen"], ["steps"], perm=[2, 0, 1]),
        helper.make_node("GRU", ["steps", "w", "r", "b"], ["all"], hidden_size=3),
        helper.make_node("Squeeze", ["all", "one"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["y"], perm=[1, 0, 2]),
    ]
    return model(nodes, {"x": ["batch", 2, "time"]}, tensors | {"one": np.array([1])})


def exported(net, steps, rate_hz=250.0, leads=("a",), **more):
    processing = parse(steps, rate_hz)
    said = Statement("tiny", rate_hz, leads, "mV")
    return export(Original(net, "onnx", "0" * 64), Options(said, processing=processing, **more))


def engine(done):
    return engine_of(done.model.SerializeToString())


def raw(samples, rate_hz, block=0, channels=1, offset=300.0):
    """Electrode offset, wander, beats, mains and noise in mV, (samples, channels); blocks of one length go on."""
    t = (block * samples + np.arange(samples)) / rate_hz
    beat = np.exp(-(((t % 0.8 - 0.4) / 0.012) ** 2))
    clean = offset + 5 * np.sin(2 * np.pi * 0.01 * t) + beat + 0.1 * np.sin(2 * np.pi * 50 * t)
    noise = np.random.default_rng(block).normal(0, 0.05, (samples, channels))
    return (clean[:, np.newaxis] + noise).astype(np.float32)


def sos(kind, corner_hz, rate_hz, order=2):
    return signal.butter(order, corner_hz, kind, fs=rate_hz, output="sos")


# What SciPy gives

CORNERS = [("highpass", 0.05), ("highpass", 0.5), ("lowpass", 40.0)]


@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("rate_hz", [100, 250, 500, 1000])
@pytest.mark.parametrize(("kind", "corner_hz"), CORNERS)
def test_a_streamed_filter_is_that_of_scipy(kind, corner_hz, rate_hz):
    """HOLDOVER_LONG=1 and -s: over 24 h, and the table of the documentation."""
    ran = engine(exported(nothing(), [(kind, str(corner_hz))], rate_hz))
    stream, sections = Stream(ran, rate_hz), sos(kind, corner_hz, rate_hz)
    zi, size = np.zeros((len(sections), 2, 1)), rate_hz * 30
    settle, worst, late = ran.contract.outputs[0].settle, 0.0, 0.0
    for block in range(SECONDS // 30):
        x = raw(size, rate_hz, block)
        wanted, zi = signal.sosfilt(sections, x.astype(np.float64), axis=0, zi=zi)
        found = stream.push(Chunk(block * size, x)).values["y"]
        assert len(found) == size  # nothing is held back: the errors are of the same samples
        errors = np.abs(found - wanted)
        worst = max(worst, float(errors.max()))
        late = max(late, float(errors[max(2 * settle - block * size, 0) :].max(initial=0)))
    print(f"| {kind} {corner_hz:g} Hz | {rate_hz} | {SECONDS / 3600:g} | {worst:.1e} | {late:.1e} |")
    assert worst <= TOLERANCE_MV
    assert kind == "lowpass" or late <= SETTLED_MV


def running(x, rate_hz, tau_s, floor):
    """Weighted mean and deviation of the past, sample by sample."""
    y, fade = np.empty_like(x), np.exp(-1 / (tau_s * rate_hz))
    for n in range(len(x)):
        weights = fade ** np.arange(n, -1, -1.0)[:, np.newaxis]
        mean = (weights * x[: n + 1]).sum(axis=0) / weights.sum()
        std = np.sqrt((weights * (x[: n + 1] - mean) ** 2).sum(axis=0) / weights.sum())
        y[n] = (x[n] - mean) / (std + floor)
    return y


ORACLES = {
    "gain": ([("gain", "-2.5")], lambda x: -2.5 * x),
    "offset": ([("offset", "-1.5")], lambda x: x - 1.5),
    "difference": ([("difference", None)], lambda x: np.diff(x, axis=0, prepend=0)),
    "fir": ([("fir", "TAPS")], lambda x: signal.lfilter(TAPS, 1, x, axis=0)),
    "notch": ([("notch", "50,20")], lambda x: signal.lfilter(*signal.iirnotch(50, 20, 250), x, axis=0)),
    "odd order": ([("highpass", "0.5,3")], lambda x: signal.sosfilt(sos("highpass", 0.5, 250, 3), x, axis=0)),
    "high order": ([("lowpass", "40,8")], lambda x: signal.sosfilt(sos("lowpass", 40, 250, 8), x, axis=0)),
    "fixed": ([("normalise", "300,2")], lambda x: (x - 300) / 2),
    "running": ([("normalise", "running,0.5,0.05")], lambda x: running(x, 250, 0.5, 0.05)),
    "several": (
        [("offset", "-300"), ("highpass", "0.5"), ("difference", None), ("gain", "3"), ("lowpass", "40")],
        lambda x: signal.sosfilt(
            sos("lowpass", 40, 250),
            3 * np.diff(signal.sosfilt(sos("highpass", 0.5, 250), x - 300, axis=0), axis=0, prepend=0), axis=0),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "oracle"), ORACLES.values(), ids=ORACLES)
def test_each_step_is_what_its_name_says(steps, oracle, tmp_path):
    np.save(tmp_path / "taps.npy", TAPS)
    steps = [(k, str(tmp_path / "taps.npy") if v == "TAPS" else v) for k, v in steps]
    done = exported(nothing("batch", "time", 2), steps, leads=("a", "b"))
    assert done.proof.bitwise
    x = raw(700, 250, channels=2)
    found = feed(engine(done), x, pieces(len(x), np.random.default_rng(1)))["y"]
    wanted = oracle(x.astype(np.float64))
    assert np.abs(found - wanted).max() <= 1e-6 * max(1, np.abs(wanted).max())


def test_a_step_of_one_tap_and_a_file_of_text(tmp_path):
    (tmp_path / "taps.csv").write_text("0.25,\n0.5\n0.25\n")
    (tmp_path / "one.txt").write_text("2")
    done = exported(nothing(), [("fir", str(tmp_path / "taps.csv")), ("fir", str(tmp_path / "one.txt"))])
    x = raw(50, 250)
    wanted = signal.lfilter([0.5, 1, 0.5], 1, x.astype(np.float64), axis=0)
    assert np.allclose(feed(engine(done), x, [50])["y"], wanted, rtol=1e-7)


def test_the_order_on_the_command_line_is_the_order_in_the_file():
    x = raw(20, 250)
    for steps, wanted in (
        ([("gain", "2"), ("offset", "1")], 2 * x + 1),
        ([("offset", "1"), ("gain", "2")], 2 * (x + 1)),
    ):
        assert np.allclose(feed(engine(exported(nothing(), steps)), x, [20])["y"], wanted, rtol=1e-6)


# In a model

FRONT = [("highpass", "0.5"), ("notch", "50"), ("normalise", "running,0.2")]


@pytest.fixture(scope="module")
def fronted():
    return exported(net(), FRONT, leads=("a", "b"))


def test_a_model_with_its_preprocessing_is_proven_to_the_bit(fronted):
    assert fronted.proof.bitwise
    assert fronted.contract.bitwise
    assert fronted.proof.max_error <= 1e-5
    assert set(fronted.proof.lookahead.values()) == {0}


def test_the_model_sees_the_signal_as_its_author_made_it(fronted):
    x = raw(900, 250, channels=2)
    own = signal.sosfilt(sos("highpass", 0.5, 250), x.astype(np.float64), axis=0)
    own = running(signal.lfilter(*signal.iirnotch(50, 30, 250), own, axis=0), 250, 0.2, 0.01)
    bare = engine(exported(net(), [], leads=("a", "b")))
    wanted = feed(bare, own.astype(np.float32), [900])["y"]
    assert np.ptp(wanted) > 0.5
    assert np.abs(feed(engine(fronted), x, [900])["y"] - wanted).max() < 1e-5


def test_how_samples_arrive_and_a_restored_memory_change_no_bit(fronted):
    x, ran = raw(700, 250, channels=2), engine(fronted)
    whole = feed(ran, x, [700])["y"]
    rng = np.random.default_rng(8)
    for _ in range(4):
        assert feed(ran, x, pieces(700, rng))["y"].tobytes() == whole.tobytes()
    first, second = Stream(ran, 250), Stream(engine(fronted), 250)
    said = first.push(Chunk(0, x[:333])).values["y"]
    second.restore(unpack(pack(first.snapshot())))
    said = np.concatenate([said, second.push(Chunk(333, x[333:])).values["y"], second.finish().values["y"]])
    assert said.tobytes() == whole.tobytes()


@pytest.mark.parametrize("dims", [(1, 2, "time"), ("time", "batch", 2), ("time", 2), ("batch", "time", 2, 1)], ids=str)
def test_inputs_of_every_layout(dims):
    done = exported(nothing(*dims), [("highpass", "2")], leads=("a", "b"), time_axis=dims.index("time"))
    x = raw(300, 250, channels=2)
    wanted = signal.sosfilt(sos("highpass", 2, 250), x.astype(np.float64), axis=0)
    assert np.abs(feed(engine(done), x, [100, 200])["y"].reshape(300, 2) - wanted).max() < TOLERANCE_MV


def test_each_of_several_inputs_is_preprocessed():
    both = model(
        [helper.make_node("Concat", ["u", "v"], ["y"], axis=2)],
        {"u": ["batch", "time", 1], "v": ["batch", "time", 2]},
    )
    done = exported(both, [("difference", None)], leads=("a", "b", "c"))
    x = raw(200, 250, channels=3)
    found = feed(engine(done), x, [200])["y"]
    assert np.abs(found - np.diff(x.astype(np.float64), axis=0, prepend=0)).max() < TOLERANCE_MV


KERNEL = np.random.default_rng(5).normal(size=(2, 2, 9)).astype(np.float32)
HEADS = {
    "one that looks ahead": (
        model([helper.make_node("Conv", ["x", "k"], ["y"], pads=[4, 4])], {"x": ["batch", 2, "time"]}, {"k": KERNEL}),
        [("highpass", "2"), ("after", "y"), ("normalise", "running,0.3"), ("difference", None)]),
    "one over all of time": (model(LAST_STEP, {"x": ["batch", "time", 2]}), [("notch", "50"), ("offset", "1")]),
}  # fmt: skip


@pytest.mark.parametrize(("net", "steps"), HEADS.values(), ids=HEADS)
def test_other_models_are_proven_too(net, steps):
    done = exported(net, steps, leads=("a", "b"))
    assert done.proof.max_error <= 1e-5
    assert done.proof.refusals == ()


def test_a_name_that_is_taken_is_said():
    nodes = [helper.make_node("Neg", ["x"], ["x.raw"]), helper.make_node("Neg", ["x.raw"], ["y"])]
    with pytest.raises(ModelError, match=r"x\.raw"):
        exported(model(nodes, {"x": ["batch", "time", 1]}), [("gain", "2")])


@pytest.mark.parametrize("name", ["one", "end", "taps", "step", "z", "past", "window", "after"])
def test_what_a_tensor_of_the_model_is_called_does_not_matter(name, tmp_path):
    np.save(tmp_path / "taps.npy", TAPS)
    nodes = [helper.make_node("Mul", ["x", name], ["y"])]
    doubled = model(nodes, {"x": ["batch", "time", 1]}, {name: np.array([2], np.float32)})
    done = exported(doubled, [("fir", str(tmp_path / "taps.npy")), ("highpass", "0.5")], 100)
    onnx.checker.check_model(done.model, full_check=True)


def test_verify_and_export_call_the_same_settled():
    done = exported(nothing(), [("highpass", "0.05")])
    data = done.model.SerializeToString()
    again = verify(data, done.contract, Original(nothing(), "onnx", "0" * 64), None, None, "noise")
    assert again.settle == done.proof.settle
    assert again.settle["y"] > 30 * 250


def test_it_is_not_called_settled_before_the_filters_are(tmp_path):
    np.save(tmp_path / "taps.npy", TAPS)
    done = exported(nothing(), [("highpass", "0.5"), ("fir", str(tmp_path / "taps.npy"))], 100)
    settle = done.contract.outputs[0].settle
    assert 200 < settle < 500
    ran, x = engine(done), raw(2 * settle, 100, offset=0)
    shifted = x.copy()
    shifted[:settle] += 300
    apart = np.abs(feed(ran, x, [len(x)])["y"] - feed(ran, shifted, [len(x)])["y"])
    assert apart[settle:].max() > 1  # the past is still heard when it ends ...
    assert apart[-1].max() <= 300 * 2e-3  # ... and no longer after `settle`


def test_statistics_that_never_fade_do_not_hold_up_the_export():
    done = exported(nothing(), [("normalise", "running,86400")])
    assert done.contract.outputs[0].settle > 86400 * 250


# Behind an output


def test_an_output_is_filtered_at_the_rate_of_its_frames():
    done = exported(net(stride=2), [("after", "y"), ("lowpass", "5"), ("gain", "2")], leads=("a", "b"))
    assert done.proof.max_error <= 1e-5
    assert [o.name for o in done.contract.outputs] == ["y"]
    assert done.contract.document["postprocessing"]["y"][0]["kind"] == "lowpass"
    x = raw(400, 250, channels=2, offset=0)
    bare = feed(engine(exported(net(stride=2), [], leads=("a", "b"))), x, [400])["y"]
    wanted = 2 * signal.sosfilt(sos("lowpass", 5, 125), bare.astype(np.float64), axis=0)
    assert np.abs(feed(engine(done), x, pieces(400, np.random.default_rng(2)))["y"] - wanted).max() < 1e-5


@pytest.mark.parametrize(
    "dims", [("batch", "time"), ("time", 3), ("batch", 2, "time"), ("batch", "time", 2, 2)], ids=str
)
def test_outputs_of_every_layout(dims):
    width = int(np.prod([n for n in dims if isinstance(n, int)], dtype=int))
    nodes = [helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    done = exported(
        model(nodes, {"x": list(dims)}, outputs=("y", "z")), [("after", "y"), ("difference", None)],
        leads=tuple("abcd"[:width]), time_axis=dims.index("time"),
    )  # fmt: skip
    x = raw(200, 250, channels=width)
    found = feed(engine(done), x, [77, 123])
    assert np.abs(found["y"] + np.diff(x.astype(np.float64), axis=0, prepend=0)).max() < TOLERANCE_MV
    assert np.array_equal(found["z"], x)  # what else follows the tensor stays as it was


AFTER = {
    "an output that is not there": (net(), [("after", "z"), ("gain", "2")], "no such output; the model has y"),
    "a corner above half the rate of the frames": (net(2), [("after", "y"), ("lowpass", "70")], "below 62.5, half"),
    "an output over all of time": (
        model(LAST_STEP, {"x": ["batch", "time", 2]}), [("after", "y"), ("gain", "2")], "expected frames"),
    "nothing behind it": (net(), [("gain", "2"), ("after", "y")], "nothing follows"),
}  # fmt: skip


@pytest.mark.parametrize(("net", "steps", "word"), AFTER.values(), ids=AFTER)
def test_what_cannot_stand_behind_an_output_is_refused(net, steps, word):
    with pytest.raises(UsageError, match=word):
        exported(net, steps, leads=("a", "b"))


# Bad input

BAD = {
    "a corner above half the rate": ("highpass", "125", "125; expected a frequency in Hz above 0 and below 125, half"),
    "a corner of zero": ("lowpass", "0", "corner_hz"),
    "a corner of NaN": ("lowpass", "nan", "nan; expected a frequency in Hz above 0 and below 125"),
    "no number": ("lowpass", "", r"--lowpass '': expected HZ\[,ORDER\]"),
    "words": ("lowpass", "low", r"expected HZ\[,ORDER\], numbers"),
    "too many numbers": ("lowpass", "40,2,3", r"HZ\[,ORDER\]"),
    "an order of zero": ("lowpass", "40,0", "order is 0"),
    "an order too high": ("lowpass", "40,9", "order is 9"),
    "an order between": ("lowpass", "40,2.5", "ORDER is a whole number"),
    "a notch above half the rate": ("notch", "130", "at_hz is 130"),
    "a quality of zero": ("notch", "50,0", "quality"),
    "a gain of nothing": ("gain", "", "--gain '': expected G, one number"),
    "two offsets": ("offset", "1,2", "expected O, one number"),
    "a gain of zero": ("gain", "0", "factor is 0"),
    "a gain of infinity": ("gain", "inf", "factor is inf"),
    "a gain beyond float32": ("gain", "1e39", "factor"),
    "an offset of NaN": ("offset", "nan", "add is nan"),
    "a deviation of zero": ("normalise", "0,0", "std is 0"),
    "a mean alone": ("normalise", "1", r"expected running\[,TAU_S\[,FLOOR\]\] or MEAN,STD"),
    "a tau of less than a sample": ("normalise", "running,0.001", "tau_s"),
    "a floor below zero": ("normalise", "running,1,-1", "floor"),
    "an odd word": ("normalise", "walking,1", r"expected running\[,TAU_S\[,FLOOR\]\] or MEAN,STD"),
}


@pytest.mark.parametrize(("option", "text", "word"), BAD.values(), ids=BAD)
def test_a_step_that_cannot_be_gets_a_sentence(option, text, word):
    with pytest.raises(UsageError, match=word):
        parse([(option, text)], 250.0)


def test_refusals_name_the_form_that_the_help_names():
    for option, metavar, _ in PROCESSING:
        if metavar and option in FORMS:
            assert all(form in FORMS[option] for form in metavar.split("|"))
    assert {option for option, *_ in PROCESSING} - set(FORMS) == {"fir", "after"}


UNSTABLE = [("highpass", 0.01, 2, 1000), ("highpass", 0.02, 8, 2000), ("highpass", 0.05, 2, 2000)]


@pytest.mark.parametrize(("kind", "corner_hz", "order", "rate_hz"), UNSTABLE)
def test_a_filter_unstable_in_float32_is_refused_with_the_radius_of_its_pole(kind, corner_hz, order, rate_hz):
    with pytest.raises(UsageError, match=r"unstable in float32: a pole lies at radius 1\.000\d+") as said:
        parse([(kind, f"{corner_hz},{order}")], rate_hz)
    rounded = sos(kind, corner_hz, rate_hz, order).astype(np.float32).astype(np.float64)
    radius = max(np.abs(np.roots(s[3:])).max() for s in rounded)
    assert f"{radius:.7f}"[:8] in str(said.value)


def test_only_filters_whose_poles_stay_inside_are_let_through():
    """Held against long impulse responses of the rounded sections, which an unstable one does not let die."""
    impulse = np.zeros(400_000)
    impulse[0] = 1
    for corner_hz in (0.01, 0.012, 0.015, 0.02, 0.03, 0.05):
        for rate_hz in (360, 1000, 2000):
            sections = sos("highpass", corner_hz, rate_hz)
            poles = np.hstack([[[1, 0, 0]], sections[:, 3:].astype(np.float32).astype(np.float64)])
            answer = np.abs(signal.sosfilt(poles, impulse))
            rest = answer[-1000:].max() / answer.max()
            try:
                check_sections(sections, "filter")
            except UsageError:
                assert rest > 0.99
            else:
                assert rest < 0.9


TAP_FILES = {
    "empty": (b"", ".csv", "0 taps"),
    "words": (b"one,two", ".csv", "cannot be read as numbers"),
    "NaN": (b"0.5,nan", ".csv", "tap of nan"),
    "huge": (b"0.5,1e300", ".csv", "1e\\+300"),
    "zeros": (b"0,0,0", ".txt", "all taps"),
    "too many": (b"1," * (MAX_TAPS + 1), ".csv", "1025 taps"),
    "too large a file": (b"1," * MAX_FILE_BYTES, ".csv", "bytes"),
    "no text": (b"\xff\xfe\x00\x01", ".csv", "cannot be read"),
    "an empty .npy": (b"", ".npy", "cannot be read"),
    "no .npy": (b"0.5,0.5", ".npy", "cannot be read"),
}


@pytest.mark.parametrize(("data", "ending", "word"), TAP_FILES.values(), ids=TAP_FILES)
def test_a_file_of_no_taps_is_refused(data, ending, word, tmp_path):
    path = tmp_path / f"taps{ending}"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=word):
        taps_of(str(path))


ARRAYS = {
    "two axes": (np.ones((2, 3)), "one axis"),
    "complex": (np.ones(3, complex), "complex128"),
    "objects": (np.array([1, "a"], object), "cannot be read"),
    "nothing": (np.ones(0), "0 taps"),
}


@pytest.mark.parametrize(("array", "word"), ARRAYS.values(), ids=ARRAYS)
def test_an_array_of_no_taps_is_refused(array, word, tmp_path):
    np.save(tmp_path / "taps.npy", array, allow_pickle=True)
    with pytest.raises(UsageError, match=word):
        taps_of(str(tmp_path / "taps.npy"))


def test_a_damaged_or_lying_array_is_refused(tmp_path):
    path = tmp_path / "taps.npy"
    np.save(path, TAPS)
    whole = path.read_bytes()
    for data in (whole[:-40], whole[:50], whole.replace(b"(31,), }    ", b"(9999999999,)".ljust(12)), whole[:8]):
        path.write_bytes(data)
        with pytest.raises(UsageError, match="cannot be read"):
            taps_of(str(path))
    for path in (tmp_path, tmp_path / "nowhere.npy"):
        with pytest.raises(UsageError, match="cannot be read"):
            taps_of(str(path))


# On the command line


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, and its streaming form with preprocessing."""
    folder = tmp_path_factory.mktemp("front")
    onnx.save(net(), folder / "net.onnx")
    given = ["--rate", "250", "--leads", "I,II", "--highpass", "0.5", "--gain", "1.5", "--after", "y", "--gain", "-2"]
    assert main(["export", str(folder / "net.onnx"), "-o", str(folder / "out.onnx"), *given]) == 0
    return folder


def test_the_contract_says_what_is_in_the_file_and_the_proof_is_repeated(files, capsys):
    document = load(files / "out.onnx")[1].document
    assert document["preprocessing"] == [
        {"kind": "highpass", "corner_hz": 0.5, "order": 2}, {"kind": "gain", "factor": 1.5}]  # fmt: skip
    assert document["postprocessing"] == {"y": [{"kind": "gain", "factor": -2.0}]}
    assert main(["verify", str(files / "out.onnx"), "--against", str(files / "net.onnx")]) == 0
    assert "against" in capsys.readouterr().out


def test_the_report_names_the_steps(files, capsys):
    given = ["--rate", "250", "--leads", "I,II", "--notch", "50", "--after", "y", "--difference"]
    assert main(["export", str(files / "net.onnx"), "-o", str(files / "other.onnx"), *given]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "in the file, before the model: notch (at_hz 50, quality 30)" in said
    assert "in the file, behind y: difference" in said


MALFORMED = {
    "no list": ({"preprocessing": 3}, "preprocessing"),
    "no step": ({"preprocessing": ["highpass"]}, "there is no preprocessing"),
    "an unknown kind": ({"preprocessing": [{"kind": ["gain"]}]}, "there is no preprocessing"),
    "a number that is missing": ({"preprocessing": [{"kind": "highpass", "corner_hz": 1}]}, "order is None"),
    "taps of words": ({"preprocessing": [{"kind": "fir", "taps": ["a"]}]}, "taps"),
    "no mapping": ({"postprocessing": [1]}, "postprocessing"),
}


def verified(files, keys):
    contract = Contract.of(load(files / "out.onnx")[1].document | keys)
    return verify((files / "out.onnx").read_bytes(), contract, Original(net(), "onnx", "0" * 64), None, None, "noise")


@pytest.mark.parametrize(("keys", "word"), MALFORMED.values(), ids=MALFORMED)
def test_a_contract_with_malformed_steps_is_refused(keys, word, files):
    with pytest.raises((UsageError, ModelError), match=word):
        verified(files, keys)


@pytest.mark.parametrize("steps", [[], [{"kind": "gain", "factor": 1.5}]], ids=["none", "fewer"])
def test_a_contract_that_names_other_steps_is_seen_through(steps, files):
    assert "differs from the original" in verified(files, {"preprocessing": steps}).refusals[0]


def test_a_mistake_leaves_no_file(files, tmp_path, capsys):
    given = ["export", str(files / "net.onnx"), "-o", str(tmp_path / "m.onnx"), "--rate", "250", "--leads", "I,II"]
    assert main([*given, "--highpass", "200"]) == 2
    assert "half the rate" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_model_whose_states_are_inputs_is_refused(tmp_path, capsys):
    nodes = [helper.make_node("Add", ["x", "h"], ["hn"]), helper.make_node("Neg", ["hn"], ["y"])]
    graph = model(nodes, {"x": [1, 1, 1], "h": [1, 1, 1]}, outputs=("y", "hn"))
    onnx.save(graph, tmp_path / "states.onnx")
    given = ["export", str(tmp_path / "states.onnx"), "-o", str(tmp_path / "m.onnx"), "--rate", "250", "--leads", "I"]
    assert main([*given, "--gain", "2"]) == 2
    assert "states are inputs" in capsys.readouterr().err
