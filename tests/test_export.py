"""The export room: the graph against slow and obvious references, and the proof against models that cheat."""

import copy
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from scipy.signal import lfilter

from holdover.export import contract_io, settle, verify
from holdover.export.cnn_lstm import CnnLstm, Convolution, FrontEnd, build
from holdover.models.ecg_beats.data import load, view
from holdover.runtime.contract import KEY, Contract
from holdover.runtime.engine import initial_state
from holdover.runtime.engines.oracle import OracleEngine
from holdover.runtime.errors import ContractError, ModelError, SourceError, UsageError

SHIPPED = Path(__file__).parent.parent / "models" / "ecg_beats" / "model.onnx"
SHAPE = CnnLstm()
FRONT = SHAPE.front_end


@pytest.fixture(scope="module")
def shipped():
    """The shipped model and its contract."""
    return contract_io.load(SHIPPED)


@pytest.fixture(scope="module")
def beats():
    """Three streams of a made-up lead, (3, 20 s, 1): spikes, drift, noise and an electrode's offset, mV."""
    rng = np.random.default_rng(5)
    t = np.arange(20 * 120) / 120
    rates_hz, offsets = np.array([[1.1], [1.7], [0.8]]), np.array([[0.0], [-0.4], [3.0]])
    spikes = np.exp(-0.5 * (((t * rates_hz) % 1 - 0.5) / 0.02) ** 2)
    drift = 0.3 * np.sin(2 * np.pi * 0.2 * t)
    return (spikes + drift + offsets + 0.02 * rng.standard_normal((3, len(t))))[..., None].astype(np.float32)


def inner(model, x, *names):
    """Tensors inside the graph for one whole call."""
    probed = copy.deepcopy(model)
    probed.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    session = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    contract = contract_io.read(model)
    state = initial_state(contract, len(x))
    return session.run(list(names), {"x": x, **{s.input: state[s.name] for s in contract.states}})


def naive_convolution(x, weight, bias, stride):
    """ReLU of a causal convolution of x (time, in), by its definition: zeros before the start."""
    kernel, _, out = weight.shape
    padded = np.concatenate([np.zeros((kernel - stride, x.shape[1])), x])
    y = np.zeros((len(x) // stride, out))
    for t in range(len(y)):
        for k in range(kernel):
            y[t] += padded[t * stride + k] @ weight[k]
    return np.maximum(y + bias, 0)


def random_weights(seed=0, hidden=8, widths=(1, 4, 5, 6)):
    """Weights of a small net, by the names that `build` takes."""
    rng = np.random.default_rng(seed)
    w = {"head.weight": rng.normal(size=(hidden, 5)), "head.bias": rng.normal(size=5)}
    for i, (c, before, after) in enumerate(zip(SHAPE.convolutions, widths, widths[1:], strict=False)):
        w[f"conv{i}.weight"] = rng.normal(size=(c.kernel, before, after)) / np.sqrt(c.kernel * before)
        w[f"conv{i}.bias"] = rng.normal(size=after)
    for i, before in enumerate((widths[-1], hidden)):
        w[f"lstm{i}.input"] = rng.normal(size=(4 * hidden, before)) / 3
        w[f"lstm{i}.recurrent"] = rng.normal(size=(4 * hidden, hidden)) / 3
        w[f"lstm{i}.bias"] = rng.normal(size=4 * hidden)
    return w


def small(contract):
    """A small random net under the shipped model's contract."""
    model, states = build(SHAPE, random_weights())
    contract_io.attach(model, {**contract.document, "states": states})
    return model


@pytest.mark.parametrize(
    ("name", "before", "index"), [("conv0", "normal", 0), ("conv1", "conv0", 1), ("conv2", "conv1", 2)]
)
def test_a_convolution_written_as_a_matrix_product_equals_a_naive_convolution(shipped, beats, name, before, index):
    weights = random_weights()
    x, y = inner(small(shipped[1]), beats, before, name)
    shape, weight = SHAPE.convolutions[index], weights[f"{name}.weight"]
    for lane in range(len(beats)):
        wanted = naive_convolution(x[lane].reshape(-1, weight.shape[1]), weight, weights[f"{name}.bias"], shape.stride)
        np.testing.assert_allclose(y[lane], wanted, atol=1e-4)


def test_the_high_pass_in_the_graph_is_a_first_order_filter_of_scipy(shipped, beats):
    (baseline,) = inner(shipped[0], beats, "baseline")
    pole = FRONT.highpass_pole
    wanted = lfilter([1 - pole], [1, -pole], beats[..., 0].astype(float), axis=1)
    np.testing.assert_allclose(baseline[:, 0, :, 0].T, wanted, atol=1e-4)


def test_the_divisor_in_the_graph_follows_the_mean_size_of_each_frame(shipped, beats):
    y, divisor, normal = inner(shipped[0], beats, "highpass", "divisor", "normal")
    g = np.full(len(beats), FRONT.gain_start)
    for k in range(y.shape[1]):
        mean = np.abs(y[:, k]).mean(axis=1)
        g = FRONT.gain_pole * g + (1 - FRONT.gain_pole) * (FRONT.scale * mean + FRONT.floor_mv)
        np.testing.assert_allclose(divisor[k, 0, :, 0], g, rtol=1e-4)
        np.testing.assert_allclose(normal[:, k], np.clip(y[:, k] / g[:, None], -12, 12), atol=1e-3)


def test_an_offset_of_300_mv_does_not_blind_the_gain(shipped, beats):
    (divisor,) = inner(shipped[0], beats[:1] + np.float32(300), "divisor")
    assert divisor[10 * 20 :].max() < 4 * FRONT.limit_mv


def test_the_graph_equals_the_readable_oracle(shipped, beats):
    model = small(shipped[1])
    oracle = OracleEngine(model.SerializeToString(), "")
    contract = oracle.contract
    x = beats[:, :600]
    wanted, _ = oracle.step(x, initial_state(contract, len(x)))
    found = verify.run(verify.stepper(model, contract), contract, x, [x.shape[1]])
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], atol=2e-5)


def test_the_graph_equals_the_net_that_was_trained(shipped, beats):
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'holdover[train]'")
    from holdover.models.ecg_beats.net import SHAPE as trained_shape
    from holdover.models.ecg_beats.net import Memory, Net, normalise, weights

    torch.manual_seed(0)
    net = Net().eval()
    model, _ = build(trained_shape, weights(net))
    with torch.no_grad():
        wanted = net(torch.from_numpy(normalise(beats[..., 0].astype(float))), Memory.zeros(3))[0].numpy()
    found = verify.run(verify.stepper(model, shipped[1]), shipped[1], beats, [beats.shape[1]])
    y = np.concatenate([found[n] for n in ("beat", "offset", "class")], axis=2)
    np.testing.assert_allclose(y, wanted, atol=1e-4)


def test_the_shipped_contract_parses_and_pairs_with_the_graph(shipped):
    model, contract = shipped
    texts = [p.value for p in model.metadata_props if p.key == KEY]
    assert texts == [contract.text()]
    assert contract.bitwise
    assert [o.first_at + o.delay for o in contract.outputs] == [contract.hop - 1] * 3
    assert contract.by_meaning("class_logits").labels == ("N", "S", "V")
    assert all(s.is_steady for s in contract.states)


def test_how_samples_arrive_never_changes_what_the_shipped_model_says(shipped, beats):
    model, contract = shipped
    proof = verify.prove(model, contract, beats, oracle_of(model), count=24)
    assert proof.bitwise
    assert proof.refusals == ()
    assert proof.max_error < 1e-3
    assert set(proof.lookahead.values()) == {0}


def oracle_of(model):
    """The whole-sequence reference that the readable oracle gives."""
    oracle = OracleEngine(model.SerializeToString(), "")
    return lambda x: oracle.step(x, initial_state(oracle.contract, len(x)))[0]


def peeking(model):
    """The model with a planted fault: each frame sees the next frame of its call."""
    other = copy.deepcopy(model)
    nodes = list(other.graph.node)
    place = next(i for i, n in enumerate(nodes) if n.name == "features.by_time")
    most = np.iinfo(np.int64).max
    ends = {"one": [1], "last": [-1], "most": [most]}
    other.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v, np.int64), k) for k, v in ends.items())
    planted = [
        helper.make_node("Slice", ["conv2", "one", "most", "one"], ["peek.next"]),
        helper.make_node("Slice", ["conv2", "last", "most", "one"], ["peek.last"]),
        helper.make_node("Concat", ["peek.next", "peek.last"], ["peek"], axis=1),
    ]
    nodes[place].input[0] = "peek"
    del other.graph.node[:]
    other.graph.node.extend([*nodes[:place], *planted, *nodes[place:]])
    return other


def test_a_planted_look_ahead_is_found_and_refused(shipped, beats):
    model, contract = peeking(shipped[0]), shipped[1]
    step = verify.stepper(model, contract)
    whole = [beats.shape[1]]
    proof = verify.prove(model, contract, beats, lambda x: verify.run(step, contract, x, whole), count=4)
    assert not proof.bitwise
    assert all(1 <= k <= contract.hop for k in proof.lookahead.values())
    assert any("depends on" in reason for reason in proof.refusals)
    assert any("ways to cut" in reason for reason in proof.refusals)


def test_a_state_that_is_not_carried_is_refused(shipped, beats):
    model, contract = shipped
    forgetful = copy.deepcopy(model)
    for node in forgetful.graph.node:
        if node.name == "lstm1.directions":
            node.input[5] = "lstm0.h.in"
    proof = verify.prove(forgetful, contract, beats, oracle_of(model), count=4)
    assert not proof.bitwise
    assert any("ways to cut" in reason for reason in proof.refusals)


def windowed(memory, hop=6):
    """A model in NumPy that remembers exactly `memory` samples: always an event, offset the sum of them."""
    document = {
        "version": 1, "name": "window", "model_version": "1", "family": "test", "hop": hop, "first_chunk_min": hop,
        "grid": hop, "chunk_invariant": "bitwise",
        "signals": [{"input": "x", "axis": 1, "rate_hz": 120.0, "channels": [{"name": "a", "unit": "mV"}]}],
        "states": [{"name": "w", "input": "w.in", "output": "w.out", "init_shape": ["batch", memory],
                    "steady_shape": ["batch", memory]}],
        "outputs": [{"name": n, "kind": "frames", "meaning": m, "samples_per_frame": hop}
                    for n, m in (("beat", "event_logit"), ("offset", "offset"))],
    }  # fmt: skip

    def step(x, state):
        joined = np.concatenate([state["w"], x[..., 0]], axis=1)
        sums = np.cumsum(np.pad(joined, ((0, 0), (1, 0))), axis=1)
        past = (sums[:, memory + hop :: hop] - sums[:, hop:-memory:hop])[..., None]
        return {"beat": np.full_like(past, 9.0), "offset": past}, {"w": joined[:, -memory:]}

    return Contract.of(document), step


def test_settle_finds_how_long_a_known_memory_is():
    contract, step = windowed(memory=240)
    x = 100 * np.random.default_rng(0).standard_normal((4, 60 * 120, 1))
    found = settle.settle(step, contract, x, settle.Agreement(block_s=10))
    assert found["beat"] == 0
    assert 240 - 12 <= found["offset"] <= 240


def test_settle_finds_that_one_label_needs_less_of_the_past_than_another():
    contract, step = windowed(memory=240)
    label = {
        "name": "class",
        "kind": "frames",
        "meaning": "class_logits",
        "samples_per_frame": 6,
        "labels": list("NSV"),
    }
    contract = Contract.of(dict(contract.document) | {"outputs": [contract.document["outputs"][0], label]})

    def classed(x, state):
        """V by the last 60 samples alone; else S by the last 240."""
        found, after = step(x, state)
        joined = np.cumsum(np.pad(np.concatenate([state["w"], x[..., 0]], axis=1), ((0, 0), (1, 0))), axis=1)
        near = (joined[:, 246::6] - joined[:, 186:-60:6])[..., None]
        logits = [np.zeros_like(near), np.clip(found["offset"], -1e3, 1e3), 1e6 * np.sign(near)]
        return {"beat": found["beat"], "class": np.concatenate(logits, axis=2)}, after

    x = 100 * np.random.default_rng(0).standard_normal((4, 60 * 120, 1))
    agreement = settle.Agreement(block_s=10)
    assert settle.settle(classed, contract, x, agreement)["class"] > 180
    assert settle.settle_label(classed, contract, x, "V", agreement).keys() == {"class"}
    assert 36 <= settle.settle_label(classed, contract, x, "V", agreement)["class"] <= 60
    assert settle.settle_label(classed, contract, x, "S", agreement)["class"] > 180


def test_the_shipped_model_says_how_long_its_past_matters(shipped):
    found = {o.name: o.settle / 120 for o in shipped[1].outputs}
    assert 0.2 < found["beat"] < 3
    assert 1 < found["class"] < 12


def test_the_first_chunkings_are_single_hops_and_the_whole_and_all_fill_the_signal():
    cuts = list(verify.chunkings(600, 6, 30))
    assert cuts[:2] == [[6] * 100, [600]]
    assert all(sum(c) == 600 and all(n > 0 and n % 6 == 0 for n in c) for c in cuts)


def test_strides_that_do_not_make_a_hop_are_refused():
    with pytest.raises(UsageError, match="strides multiply to 3"):
        CnnLstm(convolutions=(Convolution(9, 3),))
    with pytest.raises(UsageError, match="whole strides"):
        CnnLstm(front_end=FrontEnd(hop=2), convolutions=(Convolution(7, 2),))


def test_a_model_without_a_contract_is_not_saved_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ContractError, match=r"no holdover\.contract"):
        contract_io.save(build(SHAPE, random_weights())[0], path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_saved_model_is_read_back_with_the_same_contract(shipped, tmp_path):
    size = contract_io.save(shipped[0], tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").stat().st_size == size
    assert contract_io.load(tmp_path / "m.onnx")[1].text() == shipped[1].text()
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"]


def test_a_contract_that_forgets_a_state_is_refused(shipped):
    model, contract = copy.deepcopy(shipped[0]), shipped[1]
    document = {**contract.document, "states": contract.document["states"][1:]}
    with pytest.raises(ContractError, match="does not name"):
        contract_io.attach(model, document)


def test_what_is_no_model_is_said_to_be_none(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="cannot be read"):
        contract_io.load(tmp_path / "m.onnx")


def test_the_recipe_names_the_records_that_are_missing(tmp_path):
    with pytest.raises(SourceError, match="101 106"):
        load(tmp_path, ["101", "106"])


def test_the_recipe_says_what_to_give_when_there_is_no_data(monkeypatch, capsys):
    pytest.importorskip("torch", reason="torch is not installed: pip install 'holdover[train]'")
    monkeypatch.delenv("HOLDOVER_DATA", raising=False)
    from holdover.models.ecg_beats.train import main

    assert main(["--steps", "1"]) == UsageError.exit_code
    assert "HOLDOVER_DATA" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb 4.3 under pandas 3.1
def test_on_a_real_record_the_shipped_model_finds_the_beats_that_are_annotated(shipped):
    folder = os.environ.get("HOLDOVER_DATA")
    if not folder:
        pytest.skip("HOLDOVER_DATA is not set: no recordings")
    (record,) = load(Path(folder) / "mitdb", ["119"])
    x = view(record)[: 120 * 120, None][None]
    found = verify.run(verify.stepper(*shipped), shipped[1], x, [x.shape[1]])
    p = 1 / (1 + np.exp(-found["beat"][0, :, 0].astype(float)))
    peaks = np.flatnonzero((p[1:-1] > 0.5) & (p[1:-1] >= p[:-2]) & (p[1:-1] > p[2:])) + 1
    spec = shipped[1].by_meaning("event_logit")
    at = spec.first_at + 6 * peaks + found["offset"][0, peaks, 0]
    truth = record.at[(record.at > 3 * 360) & (record.at < 118 * 360)] / 3
    assert np.mean([np.abs(at - t).min() < 18 for t in truth]) > 0.99
