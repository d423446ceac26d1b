"""The sources for PyTorch: modules, files of modules, files of weights; and what they refuse, in whose words."""

import hashlib
import os
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
safetensors = pytest.importorskip("safetensors.numpy")

from torch import nn  # noqa: E402 - torch is optional

from holdover.export.original import SourceOptions  # noqa: E402
from holdover.export.sources import state_dict, torch_module  # noqa: E402
from holdover.export.sources.torch_export import export  # noqa: E402
from holdover.runtime.errors import ModelError, UsageError  # noqa: E402
from tests.zoo_torch import FEATURES, STREAMABLE, UNSTREAMABLE, Compute, Leads, Transposed, seeded  # noqa: E402

ZOO = STREAMABLE | UNSTREAMABLE
RECURRENT = {"LSTM", "GRU", "RNN"}


@cache
def exported(name):
    factory, shape = ZOO[name]
    return export(factory(), SourceOptions(input_shape=shape))


def run(model, inputs):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def noise(shape, batch, time, seed=3):
    size = [{"batch": batch, "time": time}.get(d, d) for d in shape]
    return np.random.default_rng(seed).normal(0, 1, size).astype(np.float32)


def operators(original):
    return [node.op_type for node in original.model.graph.node]


def dims(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


# The zoo: about 1 s a module, nearly all of it in torch's tracer and in the table of operators that it makes each time.


@pytest.mark.parametrize("name", ZOO)
def test_the_graph_is_the_module_at_any_length_and_batch(name):
    factory, shape = ZOO[name]
    original, module = exported(name), factory()
    for batch, time in ((1, 29), (3, 100)):
        given = [noise(shape, batch, time, seed) for seed in range(len(original.time_axes))]
        with torch.no_grad():
            expected = module(*map(torch.from_numpy, given))
        if isinstance(expected, torch.Tensor):
            expected = (expected,)
        elif isinstance(expected, dict):
            expected = tuple(expected.values())
        found = run(original.model, dict(zip(original.time_axes, given, strict=True)))
        assert len(found) == len(expected)
        for a, b in zip(expected, found.values(), strict=True):
            np.testing.assert_allclose(b, a.numpy(), rtol=1e-4, atol=2e-5 * max(1.0, float(a.abs().max())))


@pytest.mark.parametrize("name", ZOO)
def test_the_file_says_nothing_of_the_machine_and_nothing_stale(name):
    original = exported(name)
    model, data = original.model, original.model.SerializeToString()
    onnx.checker.check_model(model, full_check=True)
    assert not model.graph.value_info
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    for word in (str(Path.cwd()), sys.prefix, ".py", "site-packages", "stack_trace", "pkg.torch"):
        assert word.encode() not in data
    assert {o.domain for o in model.opset_import} == {""}
    assert 17 <= model.opset_import[0].version <= 20
    assert model.ir_version <= 10
    assert all(dims(i) == list(ZOO[name][1]) for i in model.graph.input)
    assert original.time_axes == {i.name: ZOO[name][1].index("time") for i in model.graph.input}
    assert original.kind == "torch"


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("rnn_tanh", ["RNN"]), ("rnn_relu", ["RNN"]), ("lstm", ["LSTM"]), ("lstm_2", ["LSTM"] * 2),
        ("lstm_3", ["LSTM"] * 3), ("gru", ["GRU"]), ("gru_2", ["GRU"] * 2),
        ("gru_first_state", ["GRU"] * 2), ("lstm_author", ["LSTM"]),
        ("autoencoder", ["LSTM"] * 2), ("lstm_bidirectional", ["LSTM"]), ("gru_bidirectional", ["GRU"] * 2),
    ],
)  # fmt: skip
def test_a_recurrent_layer_is_one_node(name, nodes):
    graph = exported(name).model.graph
    assert [node.op_type for node in graph.node if node.op_type in RECURRENT] == nodes
    directions = {a.s for node in graph.node for a in node.attribute if a.name == "direction"}
    assert directions == ({b"bidirectional"} if "bidirectional" in name else set())


def test_the_answer_and_the_examples_go_together_with_the_graph():
    for name in ("two_leads", "cnn_norm_lstm_heads", "forecaster"):
        original = exported(name)
        expected, found = original.answer(original.inputs), run(original.model, original.inputs)
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert value.dtype == np.float32
            np.testing.assert_allclose(found[key], value, atol=1e-5)


def test_outputs_have_the_names_of_the_author():
    assert list(exported("cnn_norm_lstm_heads").answer(exported("cnn_norm_lstm_heads").inputs)) == ["beat", "class"]
    assert [o.name for o in exported("forecaster").model.graph.output] == ["y0", "y1"]


def test_an_output_called_like_an_input_or_like_a_value_inside_keeps_apart():
    module = Compute(lambda m, x: {"x": 2 * x, "linear": m.f(m.f(x)), "f.bias": x + 1}, f=nn.Linear(3, 3))
    original = export(module, SourceOptions(input_shape=FEATURES))
    assert [o.name for o in original.model.graph.output] == ["x_out", "linear", "f.bias"]
    onnx.checker.check_model(original.model, full_check=True)


@pytest.mark.parametrize(
    ("module", "width", "shape"),
    [
        (lambda: nn.LSTM(1, 4, batch_first=True), 1, ["batch", "time", 1]),
        (lambda: nn.LSTM(1, 4), 1, ["time", "batch", 1]),
        (lambda: nn.GRU(3, 4), 3, ["time", "batch", 3]),
        (lambda: nn.Conv1d(2, 4, 3), 2, ["batch", 2, "time"]),
        (lambda: nn.Conv1d(1, 4, 100), 1, ["batch", 1, "time"]),
        (lambda: Compute(lambda m, x: m.g(x[..., None])[0], g=nn.GRU(1, 4, batch_first=True)), 1, ["batch", "time"]),
        (Leads, 1, ["batch", "time", 1]),
    ],
)
def test_the_input_shape_is_found_by_trying(module, width, shape):
    original = export(seeded(module), SourceOptions(width=width))
    assert [dims(i) for i in original.model.graph.input] == [shape] * len(original.time_axes)


def test_a_module_for_one_entry_only_is_fixed_at_a_batch_of_one():
    start = torch.zeros(1, 1, 4)
    module = Compute(lambda m, x: m.lstm(x, (start, start))[0], lstm=nn.LSTM(3, 4, batch_first=True))
    original = export(module, SourceOptions(input_shape=FEATURES))
    assert dims(original.model.graph.input[0]) == [1, "time", 3]
    assert any("batch is fixed at 1" in note for note in original.notes)


def test_other_precisions_and_inputs_left_out_are_told():
    original = export(nn.GRU(3, 4, batch_first=True).double(), SourceOptions(input_shape=FEATURES))
    assert any("float64" in note for note in original.notes)
    assert any("hx" in note for note in original.notes)


def test_a_module_is_not_changed_by_its_export():
    module = nn.Sequential(nn.LSTM(3, 4, batch_first=True), nn.Dropout()).double().train()[0]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    export(module, SourceOptions(input_shape=FEATURES))
    after = module.state_dict()
    assert module.training
    assert type(module) is nn.LSTM
    assert list(after) == list(before)
    assert all(torch.equal(after[k], before[k]) and after[k].dtype == torch.float64 for k in before)


def test_the_hash_is_that_of_the_weights():
    factory, shape = ZOO["gru"]
    other = factory()
    with torch.no_grad():
        other[1].bias[0] += 1e-3
    again, changed = (export(m, SourceOptions(input_shape=shape)) for m in (factory(), other))
    assert again.sha256 == exported("gru").sha256 != changed.sha256


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_the_older_weight_norm_is_folded_into_the_weight():
    module = nn.utils.weight_norm(nn.Conv1d(2, 4, 3))
    assert operators(export(module, SourceOptions(input_shape=("batch", 2, "time")))) == ["Conv"]


def test_weights_that_are_computed_in_a_recurrent_layer_are_folded_too():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4, batch_first=True), "weight_hh_l0")
    assert operators(export(layer, SourceOptions(input_shape=FEATURES))).count("LSTM") == 1


class Stack(nn.Module):
    """torch's own encoder with its own mask."""

    def __init__(self):
        super().__init__()
        self.stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2)

    def forward(self, x):
        return self.stack(x, mask=nn.Transformer.generate_square_subsequent_mask(x.shape[1]))


def test_torchs_own_encoder_exports_at_any_length():
    original = export(seeded(Stack), SourceOptions(input_shape=("batch", "time", 4)))
    inputs = {"x": noise(("batch", "time", 4), 1, 50)}
    np.testing.assert_allclose(run(original.model, inputs)["y"], original.answer(inputs)["y"], atol=1e-5)


def test_nothing_of_torchs_chatter_reaches_the_user(capfd):
    export(Compute(lambda _, x: (print("from the module"), x + 1)[1]), SourceOptions(input_shape=FEATURES))
    said = capfd.readouterr()
    assert said.out == said.err == ""


# What cannot be exported.


def looping(cell):
    def forward(m, x):
        h, hs = None, []
        for t in range(x.shape[1]):
            h = m.cell(x[:, t], h)
            hs.append(h[0] if isinstance(h, tuple) else h)
        return torch.stack(hs, 1)

    return Compute(forward, cell=cell)


def unlike_itself(_, x):
    return 2 * x if torch.compiler.is_exporting() else x


def packed(m, x):
    lengths = torch.full((len(x),), x.shape[1])
    y, _ = m.lstm(nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True))
    return nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0]


class Keyword(nn.Module):
    """Needs an input by keyword."""

    def forward(self, x, *, mask):
        return x * mask


class Anything(nn.Module):
    """Takes what comes."""

    def forward(self, *xs):
        return xs[0]


REFUSED = {
    "keyword": (Keyword, ModelError, "mask by keyword"),
    "nameless": (Anything, ModelError, r"\*args"),
    "ceil_mode": (lambda: Transposed(nn.MaxPool1d(5, 3, ceil_mode=True)), ModelError, "length of time.*ceil_mode"),
    "proj_size": (lambda: nn.LSTM(3, 8, proj_size=4, batch_first=True), ModelError, "proj_size=4.*no projection"),
    "lstm_cell": (lambda: looping(nn.LSTMCell(3, 4)), ModelError, "cell is an nn.LSTMCell.*nn.LSTM over the whole"),
    "gru_cell": (lambda: looping(nn.GRUCell(3, 4)), ModelError, "nn.GRUCell.*weight_ih_l0"),
    "own_loop": (lambda: looping(Compute(lambda _, x: x)).eval(), UsageError, "positional argument"),
    "fixed_time": (lambda: Compute(lambda _, x: torch.stack([x[:, t] for t in range(x.shape[1])], 1)), ModelError,
                   "fixes the length of time.*loop"),
    "decides": (lambda: Compute(lambda _, x: x if x.mean() > 0 else -x), ModelError, "by the values.*torch.where"),
    "packed": (lambda: Compute(packed, lstm=nn.LSTM(3, 4, batch_first=True)), ModelError, "PackedSequence"),
    "one_length": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(720, 2)), UsageError, "made for one length"),
    "width": (lambda: nn.LSTM(5, 4, batch_first=True), UsageError, "Expected 5, got 3"),
    "raises": (lambda: Compute(lambda m, x: m.missing(x)), UsageError, "no attribute 'missing'"),
    "no_tensor": (lambda: Compute(lambda *_: None), ModelError, "gives a NoneType"),
    "empty": (lambda: Compute(lambda *_: {}), UsageError, "gives no tensor"),
    "nan": (lambda: Compute(lambda _, x: x / 0 * 0), UsageError, "not finite"),
    "unlike_itself": (lambda: Compute(unlike_itself), ModelError, "wrong graph: after 24 samples y differs"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused_in_words(name):
    make, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words) as caught:
        export(seeded(make), SourceOptions(input_shape=FEATURES))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [("batch", 3), ("time", "time"), ("batch", "time", 0), ("rows", "time"), (1, 2)])
def test_an_input_shape_without_one_time_is_refused(shape):
    with pytest.raises(UsageError, match="expected time once"):
        export(nn.Identity(), SourceOptions(input_shape=shape))


def test_a_shape_that_cannot_be_found_names_what_was_tried():
    with pytest.raises(UsageError, match=r"\(batch, time, 1\).*\(batch, 1, time\).*\(time, batch, 1\).*--input-shape"):
        export(nn.LSTM(3, 4), SourceOptions())


@pytest.mark.parametrize("package", ["torch", "onnxscript"])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"needs {package}.*pip install holdover\[torch\]"):
        torch_module.read("some.module:name", SourceOptions())


# By name, and from files.

NETS = """
import pathlib
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, units=4):
        super().__init__()
        torch.manual_seed(1)
        self.gru = nn.GRU(1, units, batch_first=True)
    def forward(self, x):
        return self.gru(x)[0]

class Bomb(Net):
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("exploded"),)

net = Net()
number = 7
def make(): return Net(5)
def needs(units): return Net(units)
def raises(): raise RuntimeError("no weights\\nat all")
def leaves(): raise SystemExit("bye")
def text(): return "net"
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A package of an author in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "authors_nets.py").write_text(NETS)
    (tmp_path / "authors_broken.py").write_text("def (:")
    (tmp_path / "authors_needy.py").write_text("import no_such_package_anywhere")
    yield tmp_path
    for name in ("authors_nets", "authors_broken", "authors_needy"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("name", "units"), [("Net", 4), ("net", 4), ("make", 5)])
@pytest.mark.usefixtures("nets")
def test_a_module_is_found_by_name_in_the_current_folder(name, units):
    before = list(sys.path)
    original = torch_module.read(f"authors_nets:{name}", SourceOptions())
    assert dims(original.model.graph.output[0]) == ["batch", "y_1", units]
    assert sys.path == before


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("authors_none:net", "no module authors_none"),
        ("authors_nets.more:net", "authors_nets.more"),
        ("authors_nets:nothing", "no 'nothing'.*Net, Bomb, net"),
        ("authors_nets:number", "of type int"),
        ("authors_nets:text", "of type str"),
        ("authors_nets:raises", r"RuntimeError: no weights \(authors_nets.py, line 22\)"),
        ("authors_nets:leaves", "SystemExit"),
        ("authors_nets:needs", "'units'.*without arguments"),
        ("authors_broken:net", "SyntaxError"),
        ("authors_needy:net", "no_such_package_anywhere"),
        (":net", "import"),
    ],
)
@pytest.mark.usefixtures("nets")
def test_a_name_that_gives_no_module_is_refused(spec, words):
    with pytest.raises(UsageError, match=words):
        torch_module.read(spec, SourceOptions())


def test_a_pickled_module_is_opened_only_if_trusted(nets, monkeypatch):
    monkeypatch.syspath_prepend(nets)
    import authors_nets

    torch.save(authors_nets.make(), nets / "net.pt")
    torch.save(authors_nets.Bomb(), nets / "bomb.pth")
    for path in ("net.pt", "bomb.pth"):
        for read in (torch_module.read, state_dict.read):
            with pytest.raises(UsageError, match=r"runs the code.*state_dict.*--trust"):
                read(path, SourceOptions())
    assert not (nets / "exploded").exists()
    assert operators(torch_module.read("net.pt", SourceOptions(trust=True))).count("GRU") == 1
    with pytest.raises(ModelError, match=r"bomb.pth holds a NoneType"):
        torch_module.read("bomb.pth", SourceOptions(trust=True))


def test_a_file_of_weights_is_handed_over(tmp_path):
    torch.save(nn.LSTM(2, 4).state_dict(), tmp_path / "weights.pt")
    assert torch_module.read(str(tmp_path / "weights.pt"), SourceOptions()).kind == "weights"


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and says so in several ways
def test_traced_programs_are_refused_with_the_reason(tmp_path):
    layer, x = nn.GRU(2, 4, batch_first=True).eval(), torch.zeros(1, 5, 2)
    torch.jit.save(torch.jit.trace(layer, x), tmp_path / "script.pt")
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "program.pt2")
    for name, kind in (("script.pt", "TorchScript"), ("program.pt2", "torch.export")):
        for read in (torch_module.read, state_dict.read):
            with pytest.raises(ModelError, match=rf"{kind}.*already taken apart.*state_dict"):
                read(str(tmp_path / name), SourceOptions())
    with pytest.raises(ModelError, match=r"TorchScript.*taken apart"):
        export(torch.jit.trace(layer, x), SourceOptions())


# Weights by name.


def two_stacks():
    return nn.ModuleDict({"first": nn.LSTM(2, 6), "second": nn.GRU(6, 4, 2), "head": nn.Linear(4, 3)})


def sequence(layers, x):
    for layer in layers:
        x = layer(x)
        x = x[0] if isinstance(x, tuple) else x
    return x


WEIGHTS = {
    "bare": (lambda: [nn.LSTM(3, 5, batch_first=True)], None),
    "lstm": (lambda: [nn.LSTM(3, 5, 2, batch_first=True), nn.Linear(5, 2)], None),
    "gru": (lambda: [nn.GRU(3, 5, 2, batch_first=True), nn.Linear(5, 2, bias=False)], None),
    "rnn": (lambda: [nn.RNN(3, 5, batch_first=True), nn.Linear(5, 2)], None),
    "rnn_relu": (lambda: [nn.RNN(3, 5, 2, nonlinearity="relu", batch_first=True)], "relu"),
    "without_bias": (lambda: [nn.LSTM(3, 5, bias=False, batch_first=True)], None),
    "bidirectional": (lambda: [nn.GRU(3, 5, 2, bidirectional=True, batch_first=True), nn.Linear(10, 2)], None),
    "rnn_both": (lambda: [nn.RNN(3, 5, bidirectional=True, nonlinearity="relu", batch_first=True)], "relu"),
    "stacks": (lambda: [nn.LSTM(3, 6, batch_first=True), nn.GRU(6, 4, batch_first=True), nn.Linear(4, 2)], None),
    "eleven": (lambda: [nn.GRU(width, width + 1, batch_first=True) for width in range(3, 14)], None),
    "heads": (lambda: [nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 4), nn.Linear(4, 2)], None),
    "layer_norm": (lambda: [nn.LSTM(3, 5, batch_first=True), nn.LayerNorm(5), nn.Linear(5, 2)], None),
    "norm_first": (lambda: [nn.LayerNorm(3), nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)], None),
    "batch_norm": (lambda: [nn.LSTM(3, 5, batch_first=True), Last(5), nn.Linear(5, 2)], None),
}  # fmt: skip


class Last(nn.BatchNorm1d):
    """Over the last axis."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_stack_of_weights_is_the_stack_of_layers(name, suffix, tmp_path):
    make, activation = WEIGHTS[name]
    layers = seeded(lambda: nn.ModuleList(make()))
    path, weights = tmp_path / f"weights{suffix}", (layers[0] if name == "bare" else layers).state_dict()
    if suffix == ".pt":
        torch.save(weights, path)
    else:
        safetensors.save_file({k: v.numpy() for k, v in weights.items()}, path)
    original = state_dict.read(path, SourceOptions(activation=activation))
    x = noise(FEATURES, 2, 40)
    with torch.no_grad():
        expected = sequence(layers, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(original.model, {"x": x})["y"], expected, atol=1e-5)
    assert (original.kind, original.time_axes) == ("weights", {"x": 1})
    assert original.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (original.model.opset_import[0].version, original.model.ir_version) == (17, 8)


def test_what_was_assumed_of_weights_is_told(tmp_path):
    net = nn.ModuleDict({"rnn": nn.RNN(3, 5, 2), "norm": nn.LayerNorm(5), "fc": nn.Linear(5, 2)})
    torch.save({"epoch": 3, "model": net.state_dict()}, tmp_path / "checkpoint.pth")
    notes = " / ".join(state_dict.read(tmp_path / "checkpoint.pth", SourceOptions()).notes)
    assert "those under 'model'" in notes
    assert "rnn (RNN, 2 layers, 5) -> norm (LayerNorm) -> fc (Linear, 2): no activation between" in notes
    assert "1e-05" in notes
    assert "tanh" in notes


def test_half_and_double_precision_weights_are_read(tmp_path):
    layer = nn.GRU(3, 4)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        torch.save(layer.to(kind).state_dict(), tmp_path / "weights.pt")
        model = state_dict.read(tmp_path / "weights.pt", SourceOptions()).model
        assert {i.data_type for i in model.graph.initializer} == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}


def changed(**changes):
    """Weights of an LSTM of two layers and a head, some replaced, some (None) taken away."""
    net = seeded(lambda: nn.ModuleDict({"lstm": nn.LSTM(3, 4, 2), "fc": nn.Linear(4, 2)}))
    weights = net.state_dict() | {k.replace("__", "."): v for k, v in changes.items()}
    return {k: v for k, v in weights.items() if v is not None}


def with_value(tensor, value):
    tensor = tensor.clone()
    tensor.view(-1)[3] = value
    return tensor


W = torch.zeros(16, 3)
ONES = torch.ones(4)
BAD_WEIGHTS = {
    "missing": (changed(lstm__weight_hh_l1=None), UsageError, "missing: lstm.weight_hh_l1"),
    "missing_bias": (changed(lstm__bias_ih_l0=None), UsageError, "missing: lstm.bias_ih_l0"),
    "missing_layer": (changed(lstm__weight_ih_l9=W), UsageError, "missing: lstm.bias_hh_l2, .*lstm.weight_ih_l2"),
    "far_layer": (changed(lstm__weight_ih_l99999999999=W), UsageError, "missing: lstm"),
    "huge_layer": ({f"weight_ih_l{'9' * 5000}": W}, UsageError, "missing: "),
    "one_direction": (changed(lstm__weight_ih_l0_reverse=W), UsageError, "missing: .*_reverse"),
    "nan": (changed(fc__weight=with_value(torch.zeros(2, 4), torch.nan)), ModelError, "fc.weight holds NaN"),
    "infinite": (changed(lstm__weight_ih_l0=with_value(W, torch.inf)), ModelError, "lstm.weight_ih_l0 holds NaN"),
    "too_large": (changed(lstm__weight_ih_l0=with_value(W.double(), 1e300)), ModelError, "lstm.weight_ih_l0"),
    "shape": (changed(lstm__weight_ih_l1=torch.zeros(16, 5)), UsageError, r"weight_ih_l1 has .*\(16, 5\).*\(16, 4\)"),
    "bias_shape": (changed(lstm__bias_hh_l1=torch.zeros(12)), UsageError, r"lstm.bias_hh_l1 has shape \(12,\)"),
    "gates": (changed(lstm__weight_hh_l0=torch.zeros(8, 4)), UsageError, r"\(8, 4\).*4 gates of an LSTM"),
    "no_units": (changed(lstm__weight_hh_l0=torch.zeros(16, 0)), UsageError, r"\(16, 0\)"),
    "no_axes": (changed(lstm__weight_hh_l0=torch.tensor(1.0)), UsageError, r"\(\)"),
    "integers": (changed(fc__weight=torch.zeros(2, 4, dtype=torch.int8)), UsageError, "fc.weight .*int8"),
    "head": (changed(fc__weight=torch.zeros(2, 5)), UsageError, "fc takes 5 values, but lstm before it gives 4"),
    "head_bias": (changed(fc__bias=torch.zeros(3)), UsageError, r"fc.bias has shape \(3,\)"),
    "proj_size": (nn.LSTM(3, 4, proj_size=2).state_dict(), ModelError, "weight_hr_l0.*proj_size"),
    "conv": (changed(conv__weight=torch.zeros(3, 1, 5)), UsageError, "not understood: conv.weight"),
    "attention": (nn.MultiheadAttention(4, 2).state_dict(), UsageError, "not understood: in_proj_weight"),
    "parallel_heads": (changed(other__weight=torch.zeros(3, 4)), UsageError, "other takes 4 values, but fc before"),
    "two_norms": (changed(a__weight=ONES, a__bias=ONES, b__weight=ONES, b__bias=ONES), UsageError,
                  "a, b of width 4 fits 1 places"),
    "homeless_norm": (changed(a__weight=W[:7, 0], a__bias=W[:7, 0]), UsageError, "a of width 7 fits 0 places"),
    "no_recurrence": (nn.Linear(3, 2).state_dict(), UsageError, "no recurrent layer"),
    "not_a_tensor": (changed(epoch=3), UsageError, "holds epoch; expected tensors"),
    "nothing": ({}, UsageError, "holds nothing"),
    "two_models": ({"a": changed(), "b": changed()}, UsageError, "holds a, b; expected a state_dict"),
    "a_list": ([1, 2], ModelError, "holds a list"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_are_no_plain_stack_are_refused_by_name(name, tmp_path):
    weights, kind, words = BAD_WEIGHTS[name]
    torch.save(weights, tmp_path / "weights.pt")
    with pytest.raises(kind, match=words) as caught:
        state_dict.read(tmp_path / "weights.pt", SourceOptions())
    assert len(str(caught.value)) < 1000


def test_an_activation_that_torch_does_not_have_is_refused(tmp_path):
    torch.save(nn.RNN(3, 4).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UsageError, match=r"'gelu'.*tanh or relu"):
        state_dict.read(tmp_path / "weights.pt", SourceOptions(activation="gelu"))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_damaged_file_is_refused(suffix, tmp_path):
    path = tmp_path / f"weights{suffix}"
    weights = changed()
    if suffix == ".pt":
        torch.save(weights, path)
    else:
        safetensors.save_file({k: v.numpy() for k, v in weights.items()}, path)
    whole = path.read_bytes()
    damaged = [whole[:n] for n in (0, 1, 7, 100, len(whole) // 2, len(whole) - 1)]
    for data in (*damaged, b"weights, I promise", b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"weights.*cannot be read"):
            state_dict.read(path, SourceOptions())


def test_an_older_file_of_torch_is_read_and_refused_when_cut_short(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(changed(), path, _use_new_zipfile_serialization=False)
    assert state_dict.read(path, SourceOptions()).kind == "weights"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelError, match="cut short"):
        torch_module.read(str(path), SourceOptions(trust=True))


def test_a_zip_that_is_not_torchs_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ModelError, match="cannot be read"):
        state_dict.read(tmp_path / "weights.pt", SourceOptions())


@pytest.mark.parametrize("name", ["none.pt", "none.safetensors", "", "folder.pt"])
def test_a_file_that_is_not_there_is_named(name, tmp_path):
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(ModelError, match="is no file"):
        state_dict.read(tmp_path / name, SourceOptions())
    with pytest.raises(ModelError, match=r"is no file.*package\.module:name"):
        torch_module.read(str(tmp_path / name), SourceOptions())


def test_safetensors_need_no_torch(tmp_path):
    safetensors.save_file({k: v.numpy() for k, v in changed().items()}, tmp_path / "weights.safetensors")
    code = (
        "import sys; from holdover.export.sources import state_dict; "
        "from holdover.export.original import SourceOptions; "
        "print(state_dict.read(sys.argv[1], SourceOptions()).kind, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "weights.safetensors")],
        capture_output=True, text=True, env=os.environ, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.split() == ["weights", "False"], done.stderr
