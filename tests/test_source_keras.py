"""Keras files become graphs that answer as Keras does; what cannot be read is refused by name."""

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from holdover.export.float64 import run_float64
from holdover.export.original import Original, SourceOptions
from holdover.export.sources.keras_file import read
from holdover.runtime.errors import ModelError, UsageError

h5py = pytest.importorskip("h5py", reason="the extra `keras`: pip install h5py")

Array = NDArray[Any]
FOLDER = Path(__file__).parent / "fixtures" / "keras"
MODELS = sorted(p.stem for p in FOLDER.glob("*.npz"))
TWO_LEADS = {"permute": SourceOptions(width=2)}


def fixture(name: str) -> tuple[Original, dict[str, Array], list[Array]]:
    """A model, its input, and Keras's own answer."""
    original = read(FOLDER / f"{name}.keras", TWO_LEADS.get(name, SourceOptions()))
    with np.load(FOLDER / f"{name}.npz") as kept:
        inputs = {key[3:]: kept[key] for key in kept if key.startswith("in:")}
        return original, inputs, [kept[f"out:{i}"] for i in range(len(kept) - len(inputs))]


def run(original: Original, inputs: dict[str, Array]) -> list[Array]:
    """ONNX Runtime's answer."""
    import onnxruntime

    data = original.model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def rewritten(tmp_path: Path, name: str, change: Callable[[dict[str, bytes]], None]) -> Path:
    """A fixture with some of its members replaced."""
    with zipfile.ZipFile(FOLDER / f"{name}.keras") as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    change(members)
    with zipfile.ZipFile(tmp_path / "changed.keras", "w") as archive:
        for n, data in members.items():
            archive.writestr(n, data)
    return tmp_path / "changed.keras"


def replacing(member: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    """Another content for a member."""
    return lambda members: members.update({member: data})


def configured(tmp_path: Path, name: str, change: Callable[[Any], None]) -> Path:
    """A fixture with another configuration."""

    def replace(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        change(config)
        members["config.json"] = json.dumps(config).encode()

    return rewritten(tmp_path, name, replace)


def weighted(tmp_path: Path, name: str, change: Callable[[Any], None]) -> Path:
    """A fixture with other weights."""

    def replace(members: dict[str, bytes]) -> None:
        data = io.BytesIO(members["model.weights.h5"])
        with h5py.File(data, "r+") as file:
            change(file)
        members["model.weights.h5"] = data.getvalue()

    return rewritten(tmp_path, name, replace)


def layer_of(config: Any, kind: str) -> Any:
    """The first layer of a class."""
    return next(entry for entry in config["config"]["layers"] if entry["class_name"] == kind)


def setting(kind: str, **values: Any) -> Callable[[Any], None]:
    """Change what a layer was given."""
    return lambda config: layer_of(config, kind)["config"].update(values)


def refusal(path: Path) -> str:
    """What the user is told."""
    with pytest.raises(ModelError) as caught:
        read(path, SourceOptions())
    return str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_answers_as_keras_does(name: str) -> None:
    original, inputs, wanted = fixture(name)
    onnx.checker.check_model(original.model, full_check=True)
    for found, value in zip(run(original, inputs), wanted, strict=True):
        assert found.shape == value.shape
        np.testing.assert_allclose(found, value, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", [n for n in MODELS if "bidirectional" not in n and n != "backwards"])
def test_in_float64_it_is_keras_to_the_rounding_of_keras(name: str) -> None:
    original, inputs, wanted = fixture(name)
    for found, value in zip(run_float64(original.model, inputs).values(), wanted, strict=True):
        np.testing.assert_allclose(found, value, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_batch_and_time_are_free(name: str) -> None:
    original, inputs, _ = fixture(name)
    for batch, time in ((1, 40), (3, 17)):
        rng = np.random.default_rng(batch)
        shapes = {n: list(x.shape) for n, x in inputs.items()}
        for n, axis in original.time_axes.items():
            shapes[n][0], shapes[n][axis] = batch, time
        longer = run(original, {n: rng.normal(0, 1, s).astype(np.float32) for n, s in shapes.items()})
        assert all(len(y) == batch and np.isfinite(y).all() for y in longer)


def test_a_file_is_read_without_keras_tensorflow_or_torch() -> None:
    import subprocess

    code = (
        "import sys; from pathlib import Path; from holdover.export.original import SourceOptions;"
        "from holdover.export.sources.keras_file import read; read(Path(sys.argv[1]), SourceOptions());"
        "print(sorted({'keras', 'tensorflow', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(FOLDER / "stack.keras")], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_names_hash_and_layout_come_from_the_file() -> None:
    import hashlib

    original, _, _ = fixture("residual")
    assert original.kind == "keras"
    assert original.sha256 == hashlib.sha256((FOLDER / "residual.keras").read_bytes()).hexdigest()
    assert [i.name for i in original.model.graph.input] == ["ecg"]
    assert [o.name for o in original.model.graph.output] == ["score"]
    assert original.time_axes == {"ecg": 1}
    assert original.answer is None
    assert original.model.ir_version == 8
    assert [o.version for o in original.model.opset_import] == [17]


def test_nodes_carry_the_names_of_their_layers() -> None:
    original, _, _ = fixture("stack")
    scopes = {node.name.split("/")[0] for node in original.model.graph.node if node.op_type == "LSTM"}
    assert scopes == {"below", "above"}


@pytest.mark.parametrize(("name", "direction"), [("bidirectional", "bidirectional"), ("backwards", "reverse")])
def test_other_directions_stay_in_the_graph_to_be_refused_by_name(name: str, direction: str) -> None:
    original, _, _ = fixture(name)
    (node,) = [n for n in original.model.graph.node if n.op_type in ("LSTM", "GRU")]
    assert {a.name: a.s for a in node.attribute}["direction"] == direction.encode()


def test_a_last_step_is_the_last_state_of_the_node() -> None:
    original, _, _ = fixture("rnn_last")
    (node,) = [n for n in original.model.graph.node if n.op_type == "RNN"]
    users = [n for n in original.model.graph.node if node.output[0] in n.input]
    assert all(n.op_type == "Squeeze" for n in original.model.graph.node if node.output[1] in n.input)
    assert any(node.output[1] in n.input for n in original.model.graph.node)
    assert len(users) <= 1


def test_a_fixed_number_of_samples_is_made_free_with_a_note() -> None:
    original, _, _ = fixture("stateful")
    assert any("fixes 21 samples" in note for note in original.notes)
    assert fixture("lstm")[0].notes == ()


def test_a_window_of_one_sample_needs_no_padding(tmp_path: Path) -> None:
    change = setting("MaxPooling1D", pool_size=[1], strides=[2])
    original = read(configured(tmp_path, "conv_same_strided", change), SourceOptions())
    x = np.random.default_rng(3).normal(0, 1, (1, 22, 2)).astype(np.float32)
    assert run(original, {original.model.graph.input[0].name: x})[0].shape == (1, 4, 3)


@pytest.mark.parametrize(("size", "stride", "noted"), [(3, 1, False), (4, 1, True), (3, 2, True)])
def test_the_ends_of_an_average_are_those_of_tensorflow_with_a_note(
    tmp_path: Path, size: int, stride: int, noted: bool
) -> None:
    change = setting("AveragePooling1D", pool_size=[size], strides=[stride])
    original = read(configured(tmp_path, "conv_valid", change), SourceOptions())
    assert any("torch backend repeats" in note for note in original.notes) == noted
    x = np.random.default_rng(3).normal(0, 1, (1, 22, 2)).astype(np.float32)
    node = next(n for n in original.model.graph.node if n.op_type == "AveragePool")
    inner = onnx.ModelProto()
    inner.CopyFrom(original.model)
    inner.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
    name = original.model.graph.input[0].name
    pooled, before = run(Original(inner, "keras", ""), {name: x})
    samples = before[0].T
    count = -(-len(samples) // stride)
    left = max((count - 1) * stride + size - len(samples), 0) // 2
    for k in range(count):
        there = samples[max(k * stride - left, 0) : k * stride - left + size]
        np.testing.assert_allclose(pooled[0, k], there.mean(axis=0), rtol=0, atol=1e-6)


def test_the_time_axis_can_be_told() -> None:
    options = SourceOptions(input_shape=("batch", 2, "time"))
    assert read(FOLDER / "permute.keras", options).time_axes == {"leads_first": 2}
    for shape in (("batch", "time"), ("batch", 3, "time"), ("batch", 2, 21), ("time", 2, "batch")):
        with pytest.raises(UsageError, match="input shape"):
            read(FOLDER / "permute.keras", SourceOptions(input_shape=shape))


@pytest.mark.parametrize(
    ("name", "layer", "kind", "why"),
    [
        ("lambda", "mine", "Lambda", "is code"),
        ("masking", "mask", "Masking", "no padding"),
        ("repeat", "again", "RepeatVector", "invents a time axis"),
        ("attention", "look", "MultiHeadAttention", "known are .*LSTM"),
        ("upsampling", "up", "UpSampling1D", "known are .*Conv1D"),
        ("flatten", "flat", "Flatten", "take the last step"),
        ("initial_state", "given", "LSTM", "only its input"),
    ],
)
def test_a_layer_that_cannot_be_is_named(name: str, layer: str, kind: str, why: str) -> None:
    with pytest.raises(ModelError, match=f"layer '{layer}' \\({kind}\\).*{why}"):
        read(FOLDER / f"refused_{name}.keras", SourceOptions())


CHANGES: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "a class of one's own": ("lstm", lambda c: layer_of(c, "LSTM").update(module="mine"), "class of your own"),
    "a model that is code": ("lstm", lambda c: c.update(class_name="MyModel"), "'MyModel', which is code"),
    "an unknown activation": ("lstm", setting("LSTM", activation="sine"), "'sine'"),
    "an activation that is code": (
        "conv_causal",
        setting("Conv1D", activation={"class_name": "function", "config": "mine"}),
        "the activation 'mine'",
    ),
    "channels first": ("conv_causal", setting("Conv1D", data_format="channels_first"),
                       "channels first"),
    "another padding": ("conv_causal", setting("Conv1D", padding="mirror"), "'mirror'"),
    "a pool with holes": ("conv_same_strided", setting("MaxPooling1D", strides=[3]), "ONNX Runtime does not"),
    "an epsilon of text": ("normal", setting("LayerNormalization", epsilon="small"), "valid graph"),
    "an epsilon that is no number": ("normal", setting("LayerNormalization", epsilon=float("nan")), "NaN is no number"),
    "no groups": ("conv_causal", setting("Conv1D", groups=0), "not as Keras 3 writes"),
    "more units": ("lstm", setting("LSTM", units=5), r"shape \(2, 16\).*\(2, 20\)"),
    "units beyond measure": ("lstm", setting("LSTM", units=10**30), "shape"),
    "units that are words": ("lstm", setting("LSTM", units="four"), "configuration says"),
    "units that are a mapping": ("lstm", setting("LSTM", units={}), "'lstm'"),
    "a key left out": ("lstm", lambda c: layer_of(c, "LSTM")["config"].pop("units"), "'lstm'.*'units'"),
    "a bias left out": ("gru", setting("GRU", use_bias=False), "3 weights .* expected 2"),
    "quantized": ("gru", setting("GRU", dtype="int8_from_float32"), "quantized"),
    "another name": ("stack", setting("LSTM", name="x"), "weights of layer 'below', expected 'x'"),
    "layers that are no list": ("lstm", lambda c: c["config"].update(layers=7), "not as Keras 3 writes"),
    "no layers": ("lstm", lambda c: c["config"].update(layers=[]), "never built|not as Keras 3 writes"),
    "an input of no shape": ("lstm", setting("InputLayer", batch_shape=[None]), "shape"),
    "free channels": ("lstm", setting("InputLayer", batch_shape=[None, None, None]),
                      "only batch and time"),
    "an axis of time": ("normal", setting("BatchNormalization", axis=1), "axis 1"),
    "a padding beyond measure": ("edges", setting("ZeroPadding1D", padding=[10**30, 0]),
                                 "not as Keras 3 writes"),
    "a circle": ("residual", lambda c: layer_of(c, "Add")["inbound_nodes"][0]["args"][0][0]["config"].update(
        keras_history=["add", 0, 0]), "waits for an input"),
    "an output that is not there": ("residual", lambda c: c["config"].update(output_layers=["nothing", 0, 0]),
                                    "nothing"),
    "a join of unlike sizes": ("two_inputs", lambda c: c["config"]["layers"][1]["config"].update(
        batch_shape=[None, None, 3]), "joins axes of sizes 2, 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_configuration_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    fixture_name, change, message = CHANGES[name]
    with pytest.raises(ModelError, match=message):
        read(configured(tmp_path, fixture_name, change), SourceOptions())


def fill(value: float) -> Callable[[Any], None]:
    """A bias with one other number."""

    def change(file: Any) -> None:
        file["layers/lstm/cell/vars/2"][3] = value

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, value: float) -> None:
    assert "layers/lstm/cell/vars/2 contains values that are not finite" in refusal(
        weighted(tmp_path, "lstm", fill(value))
    )


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    def words(file: Any) -> None:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = b"weights"

    assert "no plain numbers" in refusal(weighted(tmp_path, "lstm", words))


def test_a_link_out_of_the_weights_is_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones((4, 2))

    def link(file: Any) -> None:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars/0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")

    assert "link" in refusal(weighted(tmp_path, "lstm", link))


def test_weights_that_are_missing_or_swapped_are_refused(tmp_path: Path) -> None:
    assert "no weights at layers/dense" in refusal(weighted(tmp_path, "lstm", lambda f: f.__delitem__("layers/dense")))

    def rename(file: Any) -> None:
        file["layers/dense/vars"].attrs["name"] = "another"

    assert "weights of layer 'another'" in refusal(weighted(tmp_path, "lstm", rename))


def test_a_variance_below_zero_is_refused(tmp_path: Path) -> None:
    def below(file: Any) -> None:
        file["layers/batch_normalization/vars/3"][0] = -1.0

    assert "variance below zero" in refusal(weighted(tmp_path, "normal", below))


def test_a_file_of_keras_2_is_told_what_to_do(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file["x"] = 1
    assert "model.save('model.keras')" in refusal(tmp_path / "old.h5")

    def old(members: dict[str, bytes]) -> None:
        members["metadata.json"] = b'{"keras_version": "2.15.0"}'

    assert "Keras 2.15.0" in refusal(rewritten(tmp_path, "lstm", old))


@pytest.mark.parametrize("member", ["metadata.json", "config.json", "model.weights.h5"])
def test_a_missing_or_damaged_member_is_named(tmp_path: Path, member: str) -> None:
    assert member in refusal(rewritten(tmp_path, "lstm", lambda m: m.__delitem__(member)))
    for data in (b"", b"[]", b"\x00\xff", b"[" * 100_000):
        assert "changed.keras" in refusal(rewritten(tmp_path, "lstm", replacing(member, data)))


def test_weights_cut_anywhere_are_an_error_of_the_model(tmp_path: Path) -> None:
    with zipfile.ZipFile(FOLDER / "lstm.keras") as archive:
        whole = archive.read("model.weights.h5")
    for size in range(0, len(whole), 997):
        assert "changed.keras" in refusal(rewritten(tmp_path, "lstm", replacing("model.weights.h5", whole[:size])))


def test_a_file_cut_anywhere_is_an_error_of_the_model(tmp_path: Path) -> None:
    data = (FOLDER / "lstm.keras").read_bytes()
    for size in range(0, len(data), 97):
        (tmp_path / "cut.keras").write_bytes(data[:size])
        assert "cut.keras" in refusal(tmp_path / "cut.keras")


def test_a_flipped_byte_never_shows_a_traceback(tmp_path: Path) -> None:
    data = (FOLDER / "lstm.keras").read_bytes()
    for place in range(0, len(data), 41):
        (tmp_path / "bad.keras").write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            read(tmp_path / "bad.keras", SourceOptions())
        except ModelError as error:
            assert "bad.keras" in str(error)  # noqa: PT017 - some places are not looked at, and read well


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", bytes(1 << 20))
        archive.getinfo("config.json").file_size = (1 << 30) + 1
    assert "at most" in refusal(tmp_path / "bomb.keras")


def test_a_missing_reader_of_hdf5_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match="pip install 'holdover\\[keras\\]'"):
        read(str(FOLDER / "lstm.keras"), SourceOptions())


def test_what_is_no_file_is_an_error_of_the_model(tmp_path: Path) -> None:
    assert "folder" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / "nowhere.keras")
