"""The gate before model files that nobody vouches for: what it takes, what it refuses, that it lives through all."""

import json
import resource
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from holdover.apps.model import manifest as model_manifest
from holdover.apps.model.gate import Budget, Gate, read_stated
from holdover.apps.model.manifest import Golden, GoldenOutput, Manifest, Stated, trial_signal
from holdover.apps.model.shipped import find_model
from holdover.apps.model.shipped_hash import is_as_shipped
from holdover.apps.model.trial import MAX_TRIAL_SAMPLES, Order, trial
from holdover.export.contract_io import attach
from holdover.runtime.contract import KEY
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.errors import ModelError, UsageError
from holdover.runtime.model_gate import CHECKS, examine
from holdover.runtime.model_operators import OPERATORS
from holdover.runtime.onnx_outline import Outline
from holdover.runtime.protobuf import Malformed
from tests import graphs, model_fuzz, mutants
from tests.serving import Server

SOUND = mutants.originals()
TIGHT = Budget(memory_mb=512, cpu_s=3, wall_s=20)


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with Gate(TIGHT) as found:
        yield found


def changed(change: Callable[[onnx.ModelProto], Any], name: str = "lstm") -> bytes:
    model = onnx.load_model_from_string(SOUND[name])
    change(model)
    return bytes(model.SerializeToString())


def refused(data: bytes, check: str) -> str:
    verdict = examine(data)
    assert verdict.refusal is not None
    assert verdict.refusal.check == check, verdict.refusal
    assert verdict.refusal.do
    return verdict.refusal.found


@pytest.mark.parametrize("name", [*SOUND, "shipped"])
def test_a_sound_model_passes_every_check(name: str, gate: Gate) -> None:
    verdict = gate.judge(SOUND[name] if name in SOUND else find_model().read_bytes())
    assert verdict.accepted, verdict.refusal
    ran = ("load", "run", "finite", "repeat", "golden", "extremes", "watch")
    assert verdict.checks == (*(c for c in CHECKS if c != "hash"), *ran)


@pytest.mark.parametrize("name", SOUND)
def test_the_outline_is_what_onnx_reads(name: str) -> None:
    model, outline = onnx.load_model_from_string(SOUND[name]), Outline.read(SOUND[name])
    assert [n.op_type for n in outline.nodes] == [n.op_type for n in model.graph.node]
    assert [n.inputs for n in outline.nodes] == [tuple(n.input) for n in model.graph.node]
    assert [(t.name, t.dims, t.data_type) for t in outline.initializers] == [
        (t.name, tuple(t.dims), t.data_type) for t in model.graph.initializer
    ]
    assert [t.size for t in outline.initializers] == [numpy_helper.to_array(t).nbytes for t in model.graph.initializer]
    assert dict(outline.metadata) == {p.key: p.value for p in model.metadata_props}
    assert [v.name for v in outline.inputs] == [v.name for v in model.graph.input]


def _typed(model: onnx.ModelProto) -> None:
    """Weights as numbers of their own fields, not raw."""
    for tensor in model.graph.initializer:
        found = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, tensor.data_type, found.shape, found.reshape(-1).tolist()))


def test_weights_in_typed_fields_are_as_good_as_raw_ones(gate: Gate) -> None:
    data = changed(_typed)
    assert all(t.is_whole and t.held is not None for t in Outline.read(data).initializers)
    assert gate.judge(data).accepted


@pytest.mark.parametrize("size", range(0, 400, 7))
def test_a_file_cut_short_anywhere_is_a_verdict(size: int) -> None:
    assert not examine(SOUND["fifo"][:size]).accepted


def _set(name: str, value: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        next(a for n in model.graph.node for a in n.attribute if a.name == name).i = value

    return change


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    tensor.ClearField("raw_data")


def _dims(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = dims

    return change


def _operator(op: str, domain: str = "") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type, model.graph.node[0].domain = op, domain

    return change


def _opset(domain: str, version: int) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.opset_import.append(helper.make_opsetid(domain, version))


def _contract(**keys: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (entry,) = model.metadata_props
        entry.value = json.dumps(json.loads(entry.value) | keys)

    return change


def _state(**keys: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        (entry,) = model.metadata_props
        document = json.loads(entry.value)
        document["states"][0] |= keys
        entry.value = json.dumps(document)

    return change


def _text(value: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: setattr(model.metadata_props[0], "value", value)


def _again(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key=KEY, value=model.metadata_props[0].value)


def _function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    model.functions.append(helper.make_function("", "Abs", ["x"], ["y"], [node], [helper.make_opsetid("", 17)]))


REFUSED: dict[str, tuple[str, Callable[[onnx.ModelProto], Any], str]] = {
    "hidden size beyond all bounds": ("tensors", _set("hidden_size", 2**31), "hidden_size"),
    "hidden size that the weights do not have": ("tensors", _set("hidden_size", 6), "recurrent weights"),
    "external data": ("tensors", _external, "another file"),
    "weights that are not there": ("tensors", _dims(1, 20, 2000), "do not hold them"),
    "negative shape": ("tensors", _dims(-1, -20, -2), "shape"),
    "shape whose product overflows": ("tensors", _dims(2**62, 2**62, 4), "do not hold them"),
    "rank of 500": ("tensors", _dims(*[1] * 500), "shape"),
    "endless loop": ("operators", mutants.endless, "Loop"),
    "operator that draws": ("operators", _operator("RandomNormal"), "RandomNormal"),
    "operator of a stranger": ("operators", _operator("Run", "evil"), "evil.Run"),
    "domain of a stranger": ("versions", _opset("evil", 1), "evil"),
    "two opsets": ("versions", _opset("ai.onnx", 18), "none twice"),
    "opset from the future": ("versions", lambda m: setattr(m.opset_import[0], "version", 99), "opset 99"),
    "IR from the future": ("versions", lambda m: setattr(m, "ir_version", 99), "IR version 99"),
    "function": ("structure", _function, "functions"),
    "no contract": ("contract", lambda m: m.ClearField("metadata_props"), "0 contracts"),
    "two contracts": ("contract", _again, "2 contracts"),
    "contract without a bottom": ("contract", _text("[" * 100_000), ""),
    "contract that is no JSON": ("contract", _text("hello"), "not JSON"),
    "state of a million GB": ("bounds", _state(init_shape=[10**6, "batch", 10**12]), "state"),
    "state beyond all numbers": ("bounds", _state(init_shape=[10**300, "batch", 10**300]), "state"),
    "hop of a year": ("bounds", _contract(hop=2**40, grid=2**40, first_chunk_min=1), "hop"),
    "name that moves the cursor": ("bounds", _contract(name="\x1b[2J"), "calls something"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_be_read_off_a_file_is_refused_without_running_it(case: str) -> None:
    check, change, word = REFUSED[case]
    assert word in refused(changed(change), check)


def test_a_parser_that_merges_is_given_nothing_to_merge() -> None:
    data = SOUND["lstm"]
    merged = onnx.load_model_from_string(data + data)
    assert len(merged.graph.node) == 2 * len(onnx.load_model_from_string(data).graph.node), "protobuf itself merges"
    assert "twice" in refused(data + data, "structure")


def test_a_field_that_nobody_knows_is_refused() -> None:
    with pytest.raises(Malformed, match="field 100"):
        Outline.read(SOUND["lstm"] + bytes([0xA2, 0x06, 1, 0]))


def _packed(field: int, data: bytes) -> bytes:
    """A field of so many bytes."""

    def number(value: int) -> bytes:
        head = b""
        while value >= 0x80:
            head, value = head + bytes([value & 0x7F | 0x80]), value >> 7
        return head + bytes([value])

    return number(field << 3 | 2) + number(len(data)) + data


@pytest.mark.parametrize("tensor", [
    _packed(1, bytes(30 << 20)),
    _packed(1, b"\x01") + b"\x10\x07" + _packed(7, bytes(30 << 20)),
    _packed(8, b"x" * (30 << 20)),
    _packed(8, b"\xff"),
], ids=["dims", "numbers", "name", "no UTF-8"])  # fmt: skip
def test_a_large_file_of_small_numbers_or_names_takes_little_memory_to_refuse(tensor: bytes) -> None:
    node = _packed(1, _packed(1, b"a") + _packed(2, b"b") + _packed(4, b"Abs"))
    data = b"\x08\x08" + _packed(7, node + _packed(5, tensor))
    tracemalloc.start()
    try:
        assert examine(data).refusal is not None
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_more_fields_than_any_model_has_are_refused() -> None:
    assert "fields" in refused(b"\x08\x08" + _packed(7, _packed(1, b"") * 300_000), "structure")


def test_no_operator_on_the_list_draws_or_goes_on_for_ever() -> None:
    for op in (
        "Loop",
        "RandomUniform",
        "Multinomial",
        "Bernoulli",
        "StringSplit",
        "SequenceMap",
        "NonZero",
        "ImageDecoder",
    ):
        assert op not in OPERATORS[""]
        assert onnx.defs.has(op)


def test_operators_on_the_list_are_operators() -> None:
    assert [op for op in sorted(OPERATORS[""]) if not onnx.defs.has(op)] == []


def _extra(nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto], last: str) -> bytes:
    model = onnx.load_model_from_string(SOUND["block-sum"])
    mutants._added(model, nodes, tensors, last)
    return bytes(model.SerializeToString())


def _ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _eight_hundred_gb() -> bytes:
    """ConstantOfShape of 800 GB, its shape a product so that nobody can read it off the file."""
    nodes = [helper.make_node("Mul", ["a", "b"], ["s"]), helper.make_node("ConstantOfShape", ["s"], ["c"])]
    return _extra(nodes, [_ints("a", 500_000), _ints("b", 400_000)], "c")


def _slow() -> bytes:
    """A large matrix that hangs on the signal, times itself, time and again: no more than two are there at once."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Expand", ["most", "s"], ["m0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"m{i}", f"m{i}"], [f"m{i + 1}"]) for i in range(400)]
    return _extra(nodes, [_ints("s", 1500, 1500)], "m400")


@pytest.mark.parametrize(("make", "checks"), [(_eight_hundred_gb, ("memory", "run", "load")), (_slow, ("time",))])
def test_what_takes_all_memory_or_time_takes_the_child_at_most(
    make: Callable[[], bytes], checks: tuple[str, ...], gate: Gate
) -> None:
    data = make()
    assert examine(data).accepted, "nothing can be seen without running it"
    verdict = gate.judge(data)
    assert verdict.refusal is not None
    assert verdict.refusal.check in checks, verdict.refusal
    assert gate.judge(SOUND["lstm"]).accepted, "the gate goes on"


def test_an_endless_loop_ends_with_the_child(gate: Gate) -> None:
    """Past the list of operators, which would stop it: the limit alone."""
    model = onnx.load_model_from_string(SOUND["block-sum"])
    mutants.endless(model)
    deaths = gate.deaths
    report = gate._try(model.SerializeToString(), "0" * 64, None, False)
    assert report.failed == "time"
    assert gate.deaths > deaths
    assert gate.judge(SOUND["lstm"]).accepted


def test_a_child_that_is_killed_is_replaced_and_the_verdict_is_another_childs(gate: Gate) -> None:
    assert gate.judge(SOUND["lstm"]).accepted
    assert gate._child is not None
    gate._child._process.kill()
    assert gate.judge(SOUND["gru"]).accepted


def test_the_child_may_write_no_files_and_gets_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with Gate(TIGHT) as own:
        assert own.judge(SOUND["lstm"]).accepted
        assert own._child is not None
        pid = own._child._process.pid
        assert b"CREDENTIALS" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert resource.prlimit(pid, resource.RLIMIT_FSIZE) == (0, 0)
        assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
        assert resource.prlimit(pid, resource.RLIMIT_AS)[0] < 4 << 30
        assert resource.prlimit(pid, resource.RLIMIT_CPU)[0] <= 60


def test_the_judging_process_imports_neither_onnx_nor_the_engine() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom holdover.runtime.model_gate import examine\n"
        "assert examine(Path(sys.argv[1]).read_bytes()).accepted\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code, find_model()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not {"onnx", "onnxruntime", "google"} & set(done.stdout.split())


# What only a run can show


def _tried(model: onnx.ModelProto, golden: Golden | None = None) -> str:
    data = model.SerializeToString()
    return trial(Order(data, "0" * 64, golden)).failed


def test_numbers_that_are_not_finite_are_refused() -> None:
    model = graphs.fifo()
    next(t for t in model.graph.initializer if t.name == "two").raw_data = np.float32(np.inf).tobytes()
    assert _tried(model) == "finite"


def test_a_model_that_depends_on_the_cut_and_does_not_say_so_is_refused() -> None:
    model = graphs.block_sum()
    contract = graphs.document([graphs.state("total", ["batch", 1, 1])])
    attach(model, contract)
    assert _tried(model) == "repeat"


def test_a_state_of_another_shape_than_its_contract_says_is_refused() -> None:
    model = graphs.fifo()
    attach(model, graphs.document([graphs.state("fifo", ["batch", 0, 1], ["batch", 5, 1], 6)], delay=6))
    assert _tried(model) in ("run", "repeat")


def test_detectors_that_the_model_cannot_feed_are_refused() -> None:
    model = graphs.recurrent("lstm")
    attach(model, graphs.document(
        [graphs.state("h", [1, "batch", 5]), graphs.state("c", [1, "batch", 5])], channels=2,
        detectors=[{"kind": "beats"}],
    ))  # fmt: skip
    assert _tried(model) == "watch"


def _given(name: str, samples: int = 240) -> Golden:
    engine = OrtEngine(SOUND[name], "0" * 64)
    found = engine.lane().push(trial_signal(samples, len(engine.contract.signal.channels)))
    return Golden(samples, {n: GoldenOutput.of(np.asarray(v)) for n, v in found.items()})


def _stated(name: str, golden: Golden | None = None) -> Stated:
    sha256 = examine(SOUND[name]).sha256
    return Stated(Manifest("tiny", "0.0.1", sha256, len(SOUND[name]), golden=golden), b"", None, signed=False)


def test_golden_vectors_are_held_against_the_run(gate: Gate) -> None:
    golden = _given("lstm")
    assert gate.judge(SOUND["lstm"], _stated("lstm", golden)).accepted
    y = golden.outputs["y"].values().copy()
    y[100, 2] += 0.05 * np.ptp(y)
    verdict = gate.judge(SOUND["lstm"], _stated("lstm", Golden(240, {"y": GoldenOutput.of(y)})))
    assert verdict.refusal is not None
    assert (verdict.refusal.check, "off by" in verdict.refusal.found) == ("golden", True)


def test_golden_vectors_in_the_contract_count_too(gate: Gate) -> None:
    import msgspec

    golden = msgspec.to_builtins(_given("gru"))
    good = changed(_contract(verification={"golden": golden}), "gru")
    assert gate.judge(good).accepted
    golden["outputs"]["y"] = msgspec.to_builtins(GoldenOutput.of(_given("gru").outputs["y"].values()[::-1]))
    verdict = gate.judge(changed(_contract(verification={"golden": golden}), "gru"))
    assert verdict.refusal is not None
    assert verdict.refusal.check == "golden"


@pytest.mark.parametrize("golden", [
    Golden(-5, {}), Golden(2**60, {}), Golden(MAX_TRIAL_SAMPLES + 1, {}), Golden(240, {}),
    Golden(240, {"y": GoldenOutput(240, 5, "!")}), Golden(240, {"y": GoldenOutput(2**62, 2**62, "")}),
    Golden(240, {"y": GoldenOutput.of(np.full((240, 5), np.nan, np.float32))}),
])  # fmt: skip
def test_golden_vectors_that_cannot_be_are_a_verdict(golden: Golden, gate: Gate) -> None:
    verdict = gate.judge(SOUND["lstm"], _stated("lstm", golden))
    assert verdict.refusal is not None
    assert verdict.refusal.check == "golden"


# Manifest and signature


def test_a_file_is_held_against_the_hash_in_its_manifest(gate: Gate) -> None:
    assert "hash" in gate.judge(SOUND["lstm"], _stated("lstm")).checks
    verdict = gate.judge(SOUND["gru"], _stated("lstm"))
    assert verdict.refusal is not None
    assert (verdict.refusal.check, verdict.checks) == ("hash", ("size",))


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"null", b'{"schema":"other/9","name":"a","model_version":"","sha256":"","bytes":1}',
    b'{"schema":"holdover.manifest/1"}', b"[" * 100_000, b"\xff\xfe", b'{"name":1}',
])  # fmt: skip
def test_a_manifest_that_is_none_is_said_to_be_none(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx.manifest.json"
    path.write_bytes(text)
    with pytest.raises(ModelError, match="manifest"):
        model_manifest.read(path)


def test_a_manifest_comes_back_as_it_was_written() -> None:
    manifest = Manifest("a", "1", "0" * 64, 3, golden=_given("fifo"))
    assert model_manifest.decode(model_manifest.encode(manifest)) == manifest
    assert b'"schema": "holdover.manifest/1"' in model_manifest.encode(manifest)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """A private and a public key, in files."""
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private, public = tmp_path / "key.pem", tmp_path / "pub.pem"
    private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    return private, public


def _signed(folder: Path, key: Path) -> Path:
    path = folder / "m.onnx.manifest.json"
    path.write_bytes(model_manifest.encode(_stated("lstm").manifest))
    path.with_name(path.name + ".sig").write_bytes(model_manifest.sign(path.read_bytes(), key))
    return path


def test_every_change_to_a_signed_manifest_or_its_signature_is_seen(keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    path = _signed(tmp_path, private)
    assert model_manifest.read(path, public).signed
    for place in (path, path.with_name(path.name + ".sig")):
        sound = place.read_bytes()
        for at in range(0, len(sound), max(len(sound) // 40, 1)):
            place.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
            with pytest.raises(ModelError, match="signature"):
                model_manifest.read(path, public)
        place.write_bytes(sound)
    assert model_manifest.read(path, public).signed


def test_a_signature_of_another_key_or_none_is_refused(keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    path = _signed(tmp_path, private)
    path.with_name(path.name + ".sig").write_bytes(bytes(64))
    with pytest.raises(ModelError, match="not of the key"):
        model_manifest.read(path, public)
    path.with_name(path.name + ".sig").unlink()
    with pytest.raises(ModelError, match="no signature"):
        model_manifest.read(path, public)
    with pytest.raises(ModelError, match="no manifest"):
        read_stated(tmp_path / "other.onnx", None, public)


@pytest.mark.parametrize("text", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nMCo=\n-----END PUBLIC KEY-----\n"])
def test_a_key_that_is_none_is_said_to_be_none(text: bytes, keys: tuple[Path, Path], tmp_path: Path) -> None:
    path = _signed(tmp_path, keys[0])
    keys[1].write_bytes(text)
    with pytest.raises(UsageError, match=r"pub\.pem"):
        model_manifest.read(path, keys[1])
    with pytest.raises(UsageError, match="private key"):
        model_manifest.sign(b"", keys[1])


def test_openssl_signs_what_is_verified_here(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl here")

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], cwd=tmp_path, check=True, capture_output=True, timeout=60)

    openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    openssl("pkey", "-in", "key.pem", "-pubout", "-out", "pub.pem")
    path = _signed(tmp_path, tmp_path / "key.pem")
    name = path.name
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", "pub.pem", "-rawin", "-in", name, "-sigfile", f"{name}.sig")
    openssl("pkeyutl", "-sign", "-inkey", "key.pem", "-rawin", "-in", name, "-out", f"{name}.sig")
    assert model_manifest.read(path, tmp_path / "pub.pem").signed


def test_the_shipped_model_is_known_and_a_copy_of_it_is_not(tmp_path: Path) -> None:
    assert is_as_shipped(find_model())
    copy = tmp_path / "model.onnx"
    copy.write_bytes(find_model().read_bytes())
    assert not is_as_shipped(copy)


# Fuzzing


def test_tampered_files_never_get_past_the_gate_to_end_what_serves(tmp_path: Path) -> None:
    tally = model_fuzz.run(seed=4, count=300, folder=tmp_path)
    print(dict(tally.verdicts), f"child deaths {tally.child_deaths}, served {tally.served}")
    assert tally.wrong == []
    assert tally.files == 300
    assert {"structure", "operators", "tensors", "contract", "load", "run", "accepted"} <= set(tally.verdicts)


def test_the_same_seed_makes_the_same_files() -> None:
    def first() -> list[tuple[str, str, bytes]]:
        made = mutants.mutants(9)
        return [next(made) for _ in range(50)]

    assert first() == first()


def test_the_server_that_judges_acceptances_does_notice_an_end(tmp_path: Path) -> None:
    server = Server()
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    good.write_bytes(SOUND["lstm"])
    bad.write_bytes(b"this is no model")
    assert server.serve(good)
    assert not server.serve(bad)
    assert "ModelError" in server.said
    assert server.serve(good)
    server.close()
