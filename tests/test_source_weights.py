"""Raw weights become graphs that compute the textbook's equations; files that do not fit are refused by key."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from holdover.export.float64 import run_float64
from holdover.export.original import Original, SourceOptions
from holdover.export.sources.weights_npz import read
from holdover.runtime.engines.oracle import gru_step, lstm_step, rnn_step
from holdover.runtime.errors import ModelError, UsageError

Array = NDArray[Any]
HIDDEN, INPUTS = 5, 3
PLAIN = SourceOptions()


def lettered(letters: str, inputs: int = INPUTS, prefix: str = "", seed: int = 0) -> dict[str, Array]:
    """One W and one b a gate."""
    rng = np.random.default_rng(seed)
    shapes = {"W": (HIDDEN, HIDDEN + inputs), "b": (HIDDEN,)}
    return {f"{prefix}{kind}_{g}": rng.normal(0, 0.5, shapes[kind]) for g in letters for kind in "Wb"}


def stacked(gates: dict[str, Array], order: str) -> dict[str, Array]:
    """The same in one W and one b."""
    return {kind: np.concatenate([gates[f"{kind}_{g}"] for g in order]) for kind in "Wb"}


def saved(tmp_path: Path, **arrays: Any) -> Path:
    """A file of them."""
    np.savez(tmp_path / "weights.npz", **arrays)
    return tmp_path / "weights.npz"


def noise(batch: int = 2, time: int = 30) -> Array:
    """(batch, time, inputs), float32."""
    return np.random.default_rng(1).normal(0, 1, (batch, time, INPUTS)).astype(np.float32)


def run(original: Original, x: Array) -> dict[str, Array]:
    """ONNX Runtime's answer."""
    import onnxruntime

    onnx.checker.check_model(original.model, full_check=True)
    data = original.model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x": x}), strict=True))


def textbook(op: str, gates: dict[str, Array], x: Array, after: bool = False) -> Array:
    """The oracle, step by step in float64, from W . [h, x] + b."""
    w, r, b = ({}, {}, {})
    for letter in {"LSTM": "fico", "GRU": "zrh", "RNN": "h"}[op]:
        r[letter], w[letter] = np.split(gates[f"W_{letter}"], [HIDDEN], axis=1)
        b[letter] = gates[f"b_{letter}"]
    h = c = np.zeros((len(x), HIDDEN))
    ys = []
    for xt in x.astype(float).swapaxes(0, 1):
        if op == "LSTM":
            h, c, _ = lstm_step(xt, h, c, w, r, b)
        elif op == "GRU":
            h, _ = gru_step(xt, h, w, r, {k: (v, 0 * v) for k, v in b.items()}, after)
        else:
            h = rnn_step(xt, h, w["h"], r["h"], b["h"])
        ys.append(h)
    return np.stack(ys, axis=1)


@pytest.mark.parametrize(("op", "letters"), [("LSTM", "fico"), ("GRU", "zrh"), ("RNN", "h")])
def test_the_graph_is_the_textbook(tmp_path: Path, op: str, letters: str) -> None:
    gates, x = lettered(letters), noise()
    original = read(saved(tmp_path, **gates), PLAIN)
    wanted = textbook(op, gates, x)
    np.testing.assert_allclose(run(original, x)["y"], wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(run_float64(original.model, {"x": x})["y"], wanted, rtol=0, atol=1e-6)
    assert f"{op} of {HIDDEN} units over {INPUTS} inputs" in original.notes[0]


@pytest.mark.parametrize("after", [False, True])
def test_a_gru_resets_where_the_file_says(tmp_path: Path, after: bool) -> None:
    gates, x = lettered("zrh"), noise()
    original = read(saved(tmp_path, linear_before_reset=after, **gates), PLAIN)
    np.testing.assert_allclose(run(original, x)["y"], textbook("GRU", gates, x, after), rtol=0, atol=1e-6)
    assert np.abs(textbook("GRU", gates, x, not after) - textbook("GRU", gates, x, after)).max() > 1e-2


@pytest.mark.parametrize(("op", "letters", "other"), [("LSTM", "fico", "figo"), ("GRU", "zrh", "zrn")])
def test_other_letters_for_the_candidate_mean_the_same(tmp_path: Path, op: str, letters: str, other: str) -> None:
    gates, x = lettered(letters), noise()
    renamed = {key[:2] + dict(zip(letters, other, strict=True))[key[2:]]: value for key, value in gates.items()}
    found = run(read(saved(tmp_path, **renamed), PLAIN), x)["y"]
    np.testing.assert_allclose(found, textbook(op, gates, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("order", ["ifco", "iofc", "fico", "ifgo", "zrh", "rzn", "h"])
def test_stacked_gates_are_taken_apart_in_the_order_given(tmp_path: Path, order: str) -> None:
    letters = order.replace("g", "c").replace("n", "h")
    op = {4: "LSTM", 3: "GRU", 1: "RNN"}[len(order)]
    gates, x = lettered(letters), noise()
    original = read(saved(tmp_path, **stacked(gates, letters)), SourceOptions(gate_order=order))
    np.testing.assert_allclose(run(original, x)["y"], textbook(op, gates, x), rtol=0, atol=1e-6)


def test_layers_feed_one_another_and_heads_read_the_last(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    first, second = lettered("fico", seed=2), lettered("zrh", inputs=HIDDEN, seed=3)
    heads = {
        "head0.W": rng.normal(size=(2, HIDDEN)),
        "head0.b": rng.normal(size=2),
        "head1.W": rng.normal(size=(1, HIDDEN)),
    }
    layers = {f"l1.{k}": v for k, v in second.items()} | {f"l0.{k}": v for k, v in first.items()}
    x = noise()
    original = read(saved(tmp_path, **layers, **heads), PLAIN)
    memory = textbook("GRU", second, textbook("LSTM", first, x))
    found = run(original, x)
    assert list(found) == ["head0", "head1"]
    np.testing.assert_allclose(found["head0"], memory @ heads["head0.W"].T + heads["head0.b"], rtol=0, atol=3e-6)
    np.testing.assert_allclose(found["head1"], memory @ heads["head1.W"].T, rtol=0, atol=3e-6)


def test_a_single_head_and_relu_and_no_bias(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    w, head = rng.normal(0, 0.3, (HIDDEN, HIDDEN + INPUTS)), rng.normal(size=(2, HIDDEN))
    original = read(saved(tmp_path, W_h=w, **{"head.W": head}), SourceOptions(activation="relu"))
    x, h = noise(), np.zeros((2, HIDDEN))
    for t, xt in enumerate(x.astype(float).swapaxes(0, 1)):
        h = rnn_step(xt, h, w[:, HIDDEN:], w[:, :HIDDEN], np.zeros(HIDDEN), lambda v: np.maximum(v, 0))
        np.testing.assert_allclose(run(original, x)["head"][:, t], h @ head.T, rtol=0, atol=2e-5)


def test_what_is_known_of_the_file_is_told(tmp_path: Path) -> None:
    import hashlib

    path = saved(tmp_path, **lettered("fico"))
    original = read(path, PLAIN)
    assert original.kind == "weights"
    assert original.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert original.time_axes == {"x": 1}
    assert original.answer is None
    longer = run(original, noise(batch=3, time=77))["y"]
    assert longer.shape == (3, 77, HIDDEN)


LSTM = lettered("fico")
W, B = np.ones((HIDDEN, HIDDEN + INPUTS)), np.ones(HIDDEN)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a gate missing": ({k: v for k, v in LSTM.items() if k != "W_o"}, "left over: b_o"),
    "a gate missing with its bias": ({k: v for k, v in LSTM.items() if k[2:] != "o"}, "gates f, i, c"),
    "a key left over": (LSTM | {"W_o2": W}, "gates f, i, c, o, o2"),
    "a bias left over": (LSTM | {"b_z": B}, "left over: b_z"),
    "nothing": ({}, "has the layers"),
    "no recurrent layer": ({"head.W": W}, "has the layers"),
    "a hole": ({f"l1.{k}": v for k, v in LSTM.items()}, r"layers \[1\]"),
    "an unknown key": (LSTM | {"model/W": W}, "model/W is not known"),
    "a layer twice": (LSTM | {"l0.W_f": W}, "with and without its layer"),
    "another size": (LSTM | {"W_o": np.ones((4, 8))}, r"W_o has shape \(4, 8\), expected \(5, 8\)"),
    "another bias": (LSTM | {"b_o": np.ones((5, 1))}, r"b_o has shape \(5, 1\), expected \(5,\)"),
    "three axes": (LSTM | {"W_f": np.ones((1, 5, 8))}, r"expected \(hidden, hidden \+ inputs\)"),
    "a scalar": ({"W_h": 3.0}, r"expected \(hidden, hidden \+ inputs\)"),
    "no inputs": ({"W_h": np.ones((5, 5))}, r"expected \(hidden, hidden \+ inputs\)"),
    "no units": ({"W_h": np.ones((0, 3))}, r"expected \(hidden, hidden \+ inputs\)"),
    "a value that is not a number": (LSTM | {"b_i": B * np.nan}, "b_i contains values that are not finite"),
    "an endless value": (LSTM | {"W_i": W * np.inf}, "W_i contains values that are not finite"),
    "words": (LSTM | {"b_i": np.array(["a"])}, "b_i is of type"),
    "complex numbers": (LSTM | {"b_i": B * 1j}, "b_i is of type"),
    "layers that do not fit": (
        {f"l0.{k}": v for k, v in LSTM.items()} | {f"l1.{k}": v for k, v in LSTM.items()}, "has 5 channels"),
    "a head that does not fit": (LSTM | {"head.W": np.ones((2, 7))}, r"head has W \(2, 7\), expected W \(outputs, 5\)"),
    "a head of one bias": (LSTM | {"head.b": np.ones(2)}, "head.W is missing"),
    "a head's key left over": (LSTM | {"head.W": np.ones((2, 5)), "head.c": B}, "left over: c"),
    "a reset of no GRU": (LSTM | {"linear_before_reset": 1}, "single 0 or 1"),
    "a reset of two": (lettered("zrh") | {"linear_before_reset": 2}, "single 0 or 1"),
    "resets": (lettered("zrh") | {"linear_before_reset": np.ones(3)}, "single 0 or 1"),
    "too large for float32": (LSTM | {"W_i": W * 1e300}, "W_i contains values"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_does_not_fit_is_refused_by_key(tmp_path: Path, name: str) -> None:
    arrays, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        read(saved(tmp_path, **arrays), PLAIN)


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        ({"W": np.ones((20, 8))}, PLAIN, UsageError, "in which order"),
        ({"W": np.ones((20, 8))}, SourceOptions(gate_order="ifff"), UsageError, "twice"),
        ({"W": np.ones((20, 8))}, SourceOptions(gate_order="ifcz"), ModelError, "gates i, f, c, z"),
        ({"W": np.ones((20, 8))}, SourceOptions(gate_order=""), ModelError, "gates none"),
        ({"W": np.ones((21, 8))}, SourceOptions(gate_order="ifco"), ModelError, r"W \(21, 8\)"),
        ({"W": np.ones(20)}, SourceOptions(gate_order="ifco"), ModelError, r"W \(20,\)"),
        ({"W": np.ones((20, 8)), "b": np.ones(19)}, SourceOptions(gate_order="ifco"), ModelError, r"b \(19,\)"),
        ({"W": np.ones((20, 8)), "W_f": W}, SourceOptions(gate_order="ifco"), ModelError, "left over: W_f"),
        (LSTM, SourceOptions(activation="relu"), UsageError, "of an RNN alone"),
        ({"W_h": W}, SourceOptions(activation="sine"), UsageError, "tanh or relu"),
    ],
)
def test_options_and_file_must_fit(
    tmp_path: Path, arrays: dict[str, Any], options: SourceOptions, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read(saved(tmp_path, **arrays), options)


def test_pickled_arrays_are_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="plain arrays"):
        read(saved(tmp_path, W_h=np.array([{"a": 1}], dtype=object)), PLAIN)


def test_a_file_cut_anywhere_is_an_error_of_the_model(tmp_path: Path) -> None:
    data = saved(tmp_path, **LSTM).read_bytes()
    cut = tmp_path / "cut.npz"
    for size in range(0, len(data), 61):
        cut.write_bytes(data[:size])
        with pytest.raises(ModelError, match=r"cut\.npz"):
            read(cut, PLAIN)


def test_a_flipped_byte_never_shows_a_traceback(tmp_path: Path) -> None:
    data = saved(tmp_path, **LSTM).read_bytes()
    bad, refused = tmp_path / "bad.npz", 0
    for place in range(0, len(data), 29):
        bad.write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            read(bad, PLAIN)
        except ModelError:
            refused += 1
    assert refused > len(data) // 29 // 2


def test_what_is_no_archive_is_an_error_of_the_model(tmp_path: Path) -> None:
    np.save(tmp_path / "single.npy", W)
    for path in (tmp_path / "nowhere.npz", tmp_path, tmp_path / "single.npy"):
        with pytest.raises(ModelError, match=r"not an \.npz file"):
            read(path, PLAIN)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("W_h.npy", bytes(1 << 20))
        archive.getinfo("W_h.npy").file_size = (1 << 30) + 1
    with pytest.raises(ModelError, match="at most"):
        read(tmp_path / "bomb.npz", PLAIN)
