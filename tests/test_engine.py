"""Engines: ONNX Runtime against the textbook, lanes against the pure step, and files that are no model."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from holdover.export.contract_io import attach
from holdover.runtime.contract import KEY
from holdover.runtime.engine import MAX_MODEL_MB, Engine, Lane, PlainLane, check_state, initial_state, load
from holdover.runtime.engines.oracle import OracleEngine, gru_step, lstm_step, rnn_step
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.errors import ContractError, ModelError
from tests import graphs

SHIPPED = Path(__file__).parent.parent / "models" / "ecg_beats" / "model.onnx"
Array = NDArray[Any]
Found = dict[str, Array]

BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{kind: lambda kind=kind: graphs.recurrent(kind) for kind in graphs.RECURRENT},  # type: ignore[misc]
    "fifo": graphs.fifo,
    "fifo-lstm": graphs.fifo_lstm,
    "block-sum": graphs.block_sum,
    "shipped": lambda: onnx.load(SHIPPED),
}
ENGINES: dict[str, OrtEngine] = {}
every_graph = pytest.mark.parametrize("name", BUILDERS)
both_engines = pytest.mark.parametrize("engine", ["onnxruntime", "oracle"])


def engine_of(name: str) -> OrtEngine:
    """A graph's engine, loaded once."""
    if name not in ENGINES:
        ENGINES[name] = OrtEngine(BUILDERS[name]().SerializeToString(), "0" * 64, name)
    return ENGINES[name]


def block_of(engine: Engine) -> int:
    """Samples that a push is a multiple of."""
    return engine.contract.hop if engine.contract.bitwise else engine.contract.grid


def sizes_of(engine: Engine) -> st.SearchStrategy[list[int]]:
    """Chunk sizes in samples; the first is as long as the first must be."""
    block = block_of(engine)
    first = -(-engine.contract.first_chunk_min // block)
    others = st.lists(st.integers(1, 40), max_size=8)
    return st.tuples(st.integers(first, first + 20), others).map(lambda t: [n * block for n in (t[0], *t[1])])


def pushed(lane: Lane, x: Array, sizes: list[int], start: int = 0) -> Found:
    """Outputs of a lane over chunks, joined."""
    parts = []
    for size in sizes:
        parts.append(lane.push(x[start : start + size]))
        start += size
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def stepped(engine: Engine, x: Array) -> tuple[Found, Found]:
    """Outputs and last state by the pure step: in one call, or by the grid where the cut matters."""
    state, parts = initial_state(engine.contract), []
    size = len(x) if engine.contract.bitwise else engine.contract.grid
    for start in range(0, len(x), size):
        outputs, after = engine.step(x[np.newaxis, start : start + size], state)
        state = dict(after)
        parts.append(outputs)
    return {name: np.concatenate([p[name][0] for p in parts]) for name in parts[0]}, state


def same_bits(a: Found, b: Found) -> bool:
    """Whether two sets of tensors are equal, bit for bit."""
    return set(a) == set(b) and all(a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a)


def test_the_lstm_step_gives_a_case_worked_by_hand() -> None:
    w = {"i": 0.5, "o": -1.0, "f": 1.0, "c": 2.0}
    r = {"i": 0.25, "o": 0.5, "f": -0.5, "c": 1.0}
    b = {"i": 0.0, "o": 0.1, "f": 1.0, "c": -0.2}
    x, h, c = 0.8, 0.5, -0.4
    # pre-activations: i = 0.4 + 0.125, o = -0.8 + 0.25 + 0.1, f = 0.8 - 0.25 + 1, c = 1.6 + 0.5 - 0.2
    i, o, f = (1 / (1 + math.exp(-v)) for v in (0.525, -0.45, 1.55))
    cell = f * c + i * math.tanh(1.9)
    weights, recurrent = ({gate: np.array([[v]]) for gate, v in table.items()} for table in (w, r))
    bias = {gate: np.array([v]) for gate, v in b.items()}
    hidden, memory, gates = lstm_step(np.array([[x]]), np.array([[h]]), np.array([[c]]), weights, recurrent, bias)
    assert memory.item() == pytest.approx(0.27085, abs=1e-5)
    assert memory.item() == pytest.approx(cell, abs=1e-12)
    assert hidden.item() == pytest.approx(o * math.tanh(cell), abs=1e-12)
    assert [gates[g].item() for g in "iofc"] == pytest.approx([i, o, f, math.tanh(1.9)], abs=1e-12)


def test_an_lstm_with_open_forget_gate_and_shut_input_gate_holds_its_cell() -> None:
    zero = {gate: np.zeros((1, 1)) for gate in "iofc"}
    bias = {"i": np.array([-100.0]), "o": np.array([100.0]), "f": np.array([100.0]), "c": np.array([3.0])}
    _, cell, _ = lstm_step(np.ones((1, 1)), np.zeros((1, 1)), np.array([[0.7]]), zero, zero, bias)
    assert cell.item() == pytest.approx(0.7, abs=1e-12)


def test_the_rnn_step_is_tanh_of_the_weighted_sum() -> None:
    y = rnn_step(np.array([[0.5]]), np.array([[0.2]]), np.array([[2.0]]), np.array([[-1.0]]), np.array([0.1]))
    assert y.item() == pytest.approx(math.tanh(0.9), abs=1e-12)


@pytest.mark.parametrize(("linear", "inner"), [(False, 2.0 * 0.5 * 0.4 + 0.3), (True, 0.5 * (2.0 * 0.4 + 0.3))])
def test_the_gru_step_resets_before_or_after_its_matrix(linear: bool, inner: float) -> None:
    w = {"z": np.zeros((1, 1)), "r": np.zeros((1, 1)), "h": np.ones((1, 1))}
    r = {"z": np.zeros((1, 1)), "r": np.zeros((1, 1)), "h": np.full((1, 1), 2.0)}
    none = (np.zeros(1), np.zeros(1))
    b = {"z": none, "r": none, "h": (np.array([0.1]), np.array([0.3]))}
    y, _ = gru_step(np.array([[0.6]]), np.array([[0.4]]), w, r, b, linear)
    assert y.item() == pytest.approx(0.5 * math.tanh(0.7 + inner) + 0.5 * 0.4, abs=1e-12)


@pytest.mark.parametrize("name", [*graphs.RECURRENT, "fifo", "fifo-lstm", "shipped"])
def test_onnx_runtime_agrees_with_the_textbook(name: str) -> None:
    engine = engine_of(name)
    oracle = OracleEngine(BUILDERS[name]().SerializeToString(), "", name)
    x = graphs.signal(120, len(engine.contract.signal.channels))
    state: Any = initial_state(engine.contract)
    for piece in (x[np.newaxis, :60], x[np.newaxis, 60:]):
        found, after = engine.step(piece, state)
        wanted, expected = oracle.step(piece, state)
        for a, b in ((found, wanted), (after, expected)):
            assert {n: v.shape for n, v in a.items()} == {n: v.shape for n, v in b.items()}
            assert all(np.allclose(a[n], b[n], rtol=0, atol=1e-5) for n in b)
        state = after


@every_graph
@given(data=st.data())
def test_how_samples_are_cut_never_changes_what_a_lane_says(name: str, data: st.DataObject) -> None:
    engine = engine_of(name)
    sizes = data.draw(sizes_of(engine))
    x = graphs.signal(sum(sizes), len(engine.contract.signal.channels), seed=len(sizes))
    lane = engine.lane()
    found = pushed(lane, x, sizes)
    wanted, state = stepped(engine, x)
    assert same_bits(found, wanted)
    assert same_bits(lane.snapshot(), state)


@every_graph
@given(data=st.data())
def test_a_restored_lane_goes_on_as_if_nothing_had_been(name: str, data: st.DataObject) -> None:
    engine = engine_of(name)
    sizes = [*data.draw(sizes_of(engine)), block_of(engine)]
    cut = data.draw(st.integers(1, len(sizes) - 1))
    x = graphs.signal(sum(sizes), len(engine.contract.signal.channels))
    first, other = engine.lane(), engine.lane()
    pushed(first, x, sizes[:cut])
    memory = first.snapshot()
    on = pushed(first, x, sizes[cut:], sum(sizes[:cut]))
    pushed(other, -x, sizes)  # a lane that has been elsewhere
    other.restore(memory)
    assert same_bits(pushed(other, x, sizes[cut:], sum(sizes[:cut])), on)


@every_graph
def test_two_lanes_of_an_engine_do_not_hear_each_other(name: str) -> None:
    engine = engine_of(name)
    block = max(block_of(engine), engine.contract.first_chunk_min)
    x = graphs.signal(20 * block, len(engine.contract.signal.channels))
    alone = pushed(engine.lane(), x, [block] * 20)
    one, two = engine.lane(), engine.lane()
    parts = []
    for i in range(20):
        parts.append(one.push(x[i * block : (i + 1) * block]))
        two.push(50 * x[i * block : (i + 1) * block])
    assert same_bits({n: np.concatenate([p[n] for p in parts]) for n in parts[0]}, alone)


@every_graph
def test_what_a_lane_gave_stays_as_it_was(name: str) -> None:
    engine = engine_of(name)
    lane, block = engine.lane(), max(block_of(engine), engine.contract.first_chunk_min)
    x = graphs.signal(4 * block, len(engine.contract.signal.channels))
    lane.push(x[:block])
    said, memory = lane.push(x[block : 2 * block]), lane.snapshot()
    before = {n: v.copy() for n, v in said.items()}, {n: v.copy() for n, v in memory.items()}
    lane.push(x[2 * block : 3 * block])
    lane.push(x[3 * block :])
    assert same_bits(dict(said), before[0])
    assert same_bits(memory, before[1])


def test_the_plain_lane_cuts_as_the_bound_one_does() -> None:
    for name in ("block-sum", "lstm"):
        engine, x = engine_of(name), graphs.signal(48, 2 if name == "lstm" else 1)
        assert same_bits(pushed(PlainLane(engine), x, [8, 40]), pushed(engine.lane(), x, [40, 8]))


def test_a_model_with_a_grid_is_always_stepped_by_the_grid() -> None:
    engine = engine_of("block-sum")
    whole = engine.step(graphs.signal(32)[np.newaxis], initial_state(engine.contract))[0]["y"][0]
    cut = engine.lane().push(graphs.signal(32))["y"]
    sums = graphs.signal(32).reshape(8, 4).sum(1)
    totals = np.concatenate([[0], np.cumsum(sums)[:-1]])
    assert np.allclose(cut[:, 0], graphs.signal(32)[:, 0] + np.repeat(sums + totals, 4), atol=1e-5)
    assert not np.allclose(cut, whole, atol=1e-3)


def test_a_growing_state_grows_sample_by_sample_and_then_stays() -> None:
    lane, x = engine_of("fifo").lane(), graphs.signal(20)
    lengths, said = [], []
    for i in range(20):
        said.append(lane.push(x[i : i + 1])["y"])
        lengths.append(lane.snapshot()["fifo"].shape[1])
    assert lengths == [1, 2, 3, 4, 5] + [6] * 15
    assert [len(y) for y in said] == [0] * 6 + [1] * 14
    assert np.array_equal(np.concatenate(said), 2 * x[:14])


def test_a_state_of_another_model_is_refused() -> None:
    lane, good = engine_of("lstm").lane(), engine_of("lstm").lane().snapshot()
    for state in (
        {"h": good["h"]},
        {**good, "more": good["h"]},
        {**good, "c": good["c"].astype(np.float64)},
        {**good, "c": np.zeros((1, 1, 6), np.float32)},
        {**good, "c": np.zeros((5,), np.float32)},
    ):
        with pytest.raises(ModelError, match="another model's"):
            lane.restore(state)


def test_a_state_between_empty_and_full_is_taken_and_a_longer_one_is_not() -> None:
    contract = engine_of("fifo").contract
    check_state(contract, {"fifo": np.zeros((1, 3, 1), np.float32)})
    for shape in ((1, 7, 1), (2, 3, 1), (1, 3, 2)):
        with pytest.raises(ModelError, match="expected float32"):
            check_state(contract, {"fifo": np.zeros(shape, np.float32)})


def test_a_contract_that_is_untrue_to_its_graph_is_a_model_error() -> None:
    model = graphs.recurrent("lstm")
    contract = graphs.document([graphs.state(n, [1, "batch", 9]) for n in "hc"], channels=2)
    attach(model, contract)
    engine = OrtEngine(model.SerializeToString(), "")
    with pytest.raises(ModelError, match="export the model again"):
        engine.lane().push(graphs.signal(1, 2))


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = graphs.saved(graphs.fifo(), tmp_path / "m.onnx")
    assert load(path).sha256 == load(path, "oracle").sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@both_engines
@pytest.mark.parametrize("content", [b"no model at all", b"\x08\x08\x12" + b"\xff" * 40, b"{}"])
def test_a_file_that_is_not_onnx_is_said_to_be_none(tmp_path: Path, engine: str, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        load(path, engine)


@both_engines
@pytest.mark.parametrize("part", [0.3, 0.9])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, engine: str, part: float) -> None:
    whole = SHIPPED.read_bytes()
    (tmp_path / "m.onnx").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ModelError, match=r"m\.onnx"):
        load(tmp_path / "m.onnx", engine)


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModelError, match=r"m\.onnx is empty; expected an ONNX file"):
        load(tmp_path / "m.onnx")


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"No such file.*give the path of an ONNX file"):
        load(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="Is a directory"):
        load(tmp_path)


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate((MAX_MODEL_MB + 1) << 20)
    with pytest.raises(ModelError, match=f"has {MAX_MODEL_MB + 1} MB; expected .* at most {MAX_MODEL_MB} MB"):
        load(tmp_path / "m.onnx")


@both_engines
def test_weights_in_another_file_are_refused(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(graphs.recurrent("lstm"), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size
    with pytest.raises(ModelError, match=r"weights in another file.* save it with its weights inside"):
        load(path, engine)


@both_engines
def test_an_onnx_file_without_a_contract_is_said_to_be_one(tmp_path: Path, engine: str) -> None:
    model = graphs.fifo()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ContractError, match=f"carries no contract .*{KEY}.*export it"):
        load(tmp_path / "m.onnx", engine)


@both_engines
def test_a_state_without_its_pair_in_the_graph_is_named(tmp_path: Path, engine: str) -> None:
    model = graphs.recurrent("lstm")
    contract = graphs.document([graphs.state("h", [1, "batch", 5])], channels=2)
    helper.set_model_props(model, {KEY: msgspec.json.encode(contract).decode()})
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ContractError, match=r"the graph has input c\.in, which the contract does not name"):
        load(tmp_path / "m.onnx", engine)


def test_an_engine_that_does_not_exist_is_said_not_to(tmp_path: Path) -> None:
    path = graphs.saved(graphs.fifo(), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="choose onnxruntime or oracle"):
        load(path, "tensorrt")
