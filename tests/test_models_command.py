"""`holdover models`, the store behind it, and the daemon's part: probation, rollback, two models' memories apart."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from holdover.apps.model.manifest import Manifest, encode
from holdover.apps.model.options import ModelsOptions, default_store
from holdover.apps.model.serving import LATE_S, ServingModel
from holdover.apps.model.shipped import find_model
from holdover.apps.model.store import DOCUMENT, FILES, MAX_STARTS, ModelStore, StoreError, name_of
from holdover.export.contract_io import attach
from holdover.runtime.errors import LedgerError, ModelError, SourceError, UsageError
from tests import graphs
from tests.processes import PATIENCE_S, holdover


def model(version: str, **more: Any) -> bytes:
    """The same small model, told apart by what it says its version is."""
    made = graphs.fifo()
    contract = graphs.document([graphs.state("fifo", ["batch", 0, 1], ["batch", 6, 1], 6)], delay=6)
    attach(made, contract | {"name": "small", "model_version": version} | more)
    return bytes(made.SerializeToString())


def file(folder: Path, version: str, **more: Any) -> Path:
    path = folder / f"{version}.onnx"
    path.write_bytes(model(version, **more))
    return path


def installed(folder: Path, *versions: str) -> ModelStore:
    store = ModelStore(folder / "store")
    for version in versions:
        store.install("small", model(version), version, "unsigned")
    return store


def in_use(store: ModelStore) -> list[str | None]:
    entry = store.entry("small")
    assert entry is not None
    return [m.model_version if m else None for m in (entry.current, entry.previous)]


def options(store: ModelStore, probation_s: float = 600) -> ModelsOptions:
    return ModelsOptions(store=str(store.folder), probation_s=probation_s)


# The command


def test_install_list_roll_back_remove(tmp_path: Path) -> None:
    where = ("--store", tmp_path / "store")
    for version in ("1", "2"):
        done = holdover("models", "install", file(tmp_path, version), "--unsigned", *where)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"installed small {version}" in done.stdout
    assert "the memory of 1 is not carried over" in done.stdout
    listed = holdover("models", "list", *where).stdout
    assert [line.split()[:2] + line.split()[-1:] for line in listed.splitlines()[1:3]] == [
        ["small", "2", "probation"], ["small", "1", "previous"],
    ]  # fmt: skip
    assert "ecg_beats            shipped" in listed
    done = holdover("models", "rollback", "small", *where)
    assert done.stdout.startswith("small is 1 ")
    done = holdover("models", "rollback", "small", *where)
    assert done.stdout.startswith("small is 2 "), "a rollback can itself be undone"
    assert holdover("models", "remove", "small", *where).returncode == 0
    assert list((tmp_path / "store" / FILES).iterdir()) == []
    journal = holdover("models", "list", "--journal", *where).stdout.splitlines()
    assert [line.split()[1] for line in journal] == ["installed", "installed", "rolled", "rolled", "removed"]
    assert len(json.loads(holdover("models", "list", "--json", *where).stdout)["journal"]) == 5


def test_a_file_without_a_manifest_needs_a_word(tmp_path: Path) -> None:
    done = holdover("models", "install", file(tmp_path, "1"), "--store", tmp_path / "store")
    assert done.returncode == 2
    assert "--unsigned" in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_manifest_is_written_and_then_found_beside_the_file(tmp_path: Path) -> None:
    path = file(tmp_path, "1")
    done = holdover("models", "manifest", path)
    assert done.returncode == 0, done.stderr
    done = holdover("models", "install", path, "--store", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert "hash, structure" in done.stdout
    assert "manifest)" in done.stdout
    path.write_bytes(model("2"))
    done = holdover("models", "install", path, "--store", tmp_path / "store")
    assert done.returncode == 4
    assert "refused: hash" in done.stderr
    assert in_use(ModelStore(tmp_path / "store")) == ["1", None]


def test_signed_models_and_no_others_where_a_key_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    for name in ("ours", "theirs"):
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
        public = key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pem").write_bytes(private)
        (tmp_path / f"{name}.pub").write_bytes(public)
    path, where = file(tmp_path, "1"), ("--store", tmp_path / "store")
    assert holdover("models", "manifest", path, "--sign", tmp_path / "ours.pem").returncode == 0
    done = holdover("models", "install", path, "--key", tmp_path / "theirs.pub", *where)
    assert (done.returncode, "not of the key" in done.stderr) == (4, True)
    done = holdover("models", "install", path, "--key", tmp_path / "ours.pub", *where)
    assert (done.returncode, "signed)" in done.stdout) == (0, True)
    ours, theirs = (ModelsOptions(store=str(where[1]), key=str(tmp_path / f"{who}.pub")) for who in ("ours", "theirs"))
    assert ServingModel("small", ours).standing == "probation"
    with pytest.raises(ModelError, match="not of the key"):
        ServingModel("small", theirs)
    with pytest.raises(ModelError, match="no manifest"):
        ServingModel(str(file(tmp_path, "2")), ours)


def _manifest(folder: Path, text: bytes) -> list[str | Path]:
    path = file(folder, "1")
    path.with_name("1.onnx.manifest.json").write_bytes(text)
    return ["install", path]


HOSTILE: dict[str, tuple[int, Any]] = {
    "no such file": (4, lambda d: ["install", d / "nothing.onnx", "--unsigned"]),
    "a folder": (4, lambda d: ["install", d, "--unsigned"]),
    "text": (4, lambda d: ["install", _text(d), "--unsigned"]),
    "empty": (4, lambda d: ["install", _text(d, ""), "--unsigned"]),
    "manifest is text": (4, lambda d: _manifest(d, b"hello")),
    "manifest is nested": (4, lambda d: _manifest(d, b"[" * 99_999)),
    "manifest of another": (4, lambda d: _manifest(d, encode(Manifest("a", "1", "0" * 64, 1)))),
    "no such manifest": (4, lambda d: ["install", file(d, "1"), "--manifest", d / "none.json"]),
    "no such key": (2, lambda d: [*_manifest(d, b"{}"), "--key", d / "none.pem"]),
    "key is text": (2, lambda d: [*_manifest(d, b"{}"), "--key", _text(d)]),
    "name with a slash": (2, lambda d: ["install", file(d, "1"), "--unsigned", "--name", "../x"]),
    "name with nothing": (2, lambda d: ["install", file(d, "1", name="///"), "--unsigned"]),
    "store is a file": (4, lambda d: ["install", file(d, "1"), "--unsigned", "--store", _text(d)]),
    "roll back nothing": (2, lambda _: ["rollback", "small"]),
    "remove nothing": (2, lambda _: ["remove", "small"]),
    "sign with text": (2, lambda d: ["manifest", file(d, "1"), "--sign", _text(d)]),
    "manifest of text": (4, lambda d: ["manifest", _text(d)]),
}


def _text(folder: Path, text: str = "this is no model\n" * 100) -> Path:
    (folder / "text.onnx").write_text(text)
    return folder / "text.onnx"


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_is_said_in_a_line_and_a_code(case: str, tmp_path: Path) -> None:
    if "key" in case or "sign" in case:
        pytest.importorskip("cryptography")
    code, arguments = HOSTILE[case]
    done = holdover("models", *arguments(tmp_path), env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")})
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("holdover: ")


def test_a_model_of_other_channels_does_not_take_a_models_place(tmp_path: Path) -> None:
    where = ("--store", tmp_path / "store")
    assert holdover("models", "install", file(tmp_path, "1"), "--unsigned", *where).returncode == 0
    volts = {"input": "x", "axis": 1, "rate_hz": 100.0, "channels": [{"name": "z", "unit": "g"}]}
    other = file(tmp_path, "2", signals=[volts])
    done = holdover("models", "install", other, "--unsigned", *where)
    assert (done.returncode, "would not fit" in done.stderr) == (4, True)
    assert holdover("models", "install", other, "--unsigned", "--name", "other", *where).returncode == 0


# The store


def test_names_are_made_of_what_models_call_themselves() -> None:
    assert [name_of(n) for n in ("ecg-beats", "a/b c", "..", "é" * 80)] == ["ecg-beats", "a-b-c", "", ""]


def test_a_damaged_file_is_not_loaded(tmp_path: Path) -> None:
    store = installed(tmp_path, "1")
    entry = store.entry("small")
    assert entry is not None
    assert entry.current is not None
    place = store.path(entry.current)
    place.chmod(0o644)
    place.write_bytes(model("1")[:-1] + b"x")
    with pytest.raises(ModelError, match="damaged"):
        store.load(entry.current)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"[" * 99_999, b'{"about":"holdover.store/9"}', b'{"models":{"a":3}}']
)
def test_a_document_that_is_none_is_an_error_in_words(text: bytes, tmp_path: Path) -> None:
    store = installed(tmp_path, "1")
    (store.folder / DOCUMENT).write_bytes(text)
    with pytest.raises(ModelError, match=r"store\.json"):
        store.read()


def test_installing_the_same_file_again_keeps_what_was_before_it(tmp_path: Path) -> None:
    assert in_use(installed(tmp_path, "1", "2", "2")) == ["2", "1"]


def test_a_store_that_may_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match="--store"):
        installed(tmp_path, "1")


INSTALL = """
import sys
from pathlib import Path
from holdover.apps.model.store import ModelStore
store, data = ModelStore(Path(sys.argv[1])), [Path(name).read_bytes() for name in sys.argv[2:]]
print("up", flush=True)
while True:
    for i, model in enumerate(data):
        store.install("small", model, str(i), "unsigned")
"""


@pytest.mark.parametrize("after_s", [0.01, 0.03, 0.07, 0.15])
def test_a_kill_while_installing_leaves_one_model_or_the_other(after_s: float, tmp_path: Path) -> None:
    store = installed(tmp_path, "0", "1")
    command = [sys.executable, "-c", INSTALL, str(store.folder), str(file(tmp_path, "0")), str(file(tmp_path, "1"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(after_s)
        process.kill()
    assert set(in_use(store)) == {"0", "1"}
    entry = store.entry("small")
    assert entry is not None
    for found in (entry.current, entry.previous):
        assert found is not None
        assert store.load(found) == model(found.model_version)


def test_the_service_keeps_its_models_where_systemd_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/holdover:/var/lib/other")
    assert default_store() == Path("/var/lib/holdover/models")


# The daemon's part


def test_without_a_name_it_is_the_shipped_model() -> None:
    found = ServingModel(None)
    assert (found.standing, found.engine.contract.name, found.notice) == ("shipped", "ecg-rhythm", "")


def test_a_path_goes_through_the_gate(tmp_path: Path) -> None:
    path = file(tmp_path, "1")
    assert ServingModel(str(path)).standing == "file"
    bad = onnx.load_model_from_string(model("1"))
    bad.graph.node[0].op_type = "RandomNormal"
    path.write_bytes(bad.SerializeToString())
    with pytest.raises(ModelError, match="RandomNormal"):
        ServingModel(str(path))


def test_a_manifest_beside_a_path_must_be_its_own(tmp_path: Path) -> None:
    path = file(tmp_path, "1")
    path.with_name("1.onnx.manifest.json").write_bytes(encode(Manifest("small", "1", "0" * 64, 1)))
    with pytest.raises(ModelError, match="hash"):
        ServingModel(str(path))


def test_a_model_that_runs_long_enough_has_passed(tmp_path: Path) -> None:
    store, now = installed(tmp_path, "1"), [1000.0]
    serving = ServingModel("small", options(store), clock=lambda: now[0])
    serving.tick()
    serving.ready()
    now[0] += 599
    serving.tick()
    assert serving.standing == "probation"
    now[0] += 1
    serving.tick()
    assert serving.standing == "installed"
    entry = store.entry("small")
    assert entry is not None
    assert entry.probation is None
    assert ServingModel("small", options(store)).standing == "installed"
    assert store.read().journal[-1].what == "passed"


def test_three_starts_without_passing_roll_back_and_say_so(tmp_path: Path) -> None:
    store = installed(tmp_path, "1", "2")
    for _ in range(MAX_STARTS):
        found = ServingModel("small", options(store))
        assert (found.engine.contract.model_version, found.standing, found.notice) == ("2", "probation", "")
    found = ServingModel("small", options(store))
    assert (found.engine.contract.model_version, found.standing) == ("1", "installed")
    assert "rolled back to 1" in found.notice
    assert "3 times" in found.notice
    assert in_use(store) == ["1", None]
    assert store.read().journal[-1].what == "rolled back"
    assert ServingModel("small", options(store)).notice == "", "it is said once"


@pytest.mark.parametrize("error", [None, SourceError("no such file"), LedgerError("locked")])
def test_an_end_that_it_did_not_bring_about_is_not_held_against_a_model(
    error: Exception | None, tmp_path: Path
) -> None:
    store = installed(tmp_path, "1", "2")
    for _ in range(MAX_STARTS + 1):
        serving = ServingModel("small", options(store))
        serving.ready()
        serving.ended(error)
    assert in_use(store) == ["2", "1"]


@pytest.mark.parametrize("error", [ModelError("the graph does not take it"), MemoryError(), IndexError()])
def test_an_end_that_may_be_its_doing_is(error: Exception, tmp_path: Path) -> None:
    store = installed(tmp_path, "1", "2")
    for _ in range(MAX_STARTS + 1):
        serving = ServingModel("small", options(store))
        serving.ready()
        serving.ended(error)
    assert in_use(store) == ["1", None]


def test_streams_that_fall_behind_fail_a_probation(tmp_path: Path) -> None:
    store = installed(tmp_path, "1", "2")
    serving = ServingModel("small", options(store))
    serving.ready()
    serving.tick(late_s=LATE_S)
    assert serving.notice == ""
    serving.tick(late_s=LATE_S + 1)
    serving.ended()
    assert "61 s late" in serving.notice
    found = ServingModel("small", options(store))
    assert found.engine.contract.model_version == "1"
    assert "61 s late" in found.notice


def test_with_nothing_before_it_a_failing_model_stays_and_that_is_said(tmp_path: Path) -> None:
    store = installed(tmp_path, "1")
    for _ in range(MAX_STARTS):
        ServingModel("small", options(store))
    found = ServingModel("small", options(store))
    assert found.engine.contract.model_version == "1"
    assert "none to go back to" in found.notice


def test_the_shipped_model_stands_in_for_one_of_its_name(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    other = onnx.load_model_from_string(find_model("ecg-beats").read_bytes())
    other.producer_name = "somebody else"
    store.install("ecg-beats", other.SerializeToString(), "0.1.0", "unsigned")
    asked = options(store)
    assert ServingModel("ecg_beats", asked).standing == "probation"
    for _ in range(MAX_STARTS - 1):
        ServingModel("ecg_beats", asked)
    found = ServingModel("ecg_beats", asked)
    assert (found.standing, "the shipped one" in found.notice) == ("shipped", True)


def test_a_damaged_model_gives_way_to_the_one_before(tmp_path: Path) -> None:
    store = installed(tmp_path, "1", "2")
    entry = store.entry("small")
    assert entry is not None
    assert entry.current is not None
    store.path(entry.current).unlink()
    found = ServingModel("small", options(store))
    assert found.engine.contract.model_version == "1"
    assert "cannot be used" in found.notice
    assert in_use(store)[0] == "1"


def test_a_damaged_model_with_none_before_it_is_an_error(tmp_path: Path) -> None:
    store = installed(tmp_path, "1")
    entry = store.entry("small")
    assert entry is not None
    assert entry.current is not None
    store.path(entry.current).unlink()
    with pytest.raises(ModelError, match="cannot read the model"):
        ServingModel("small", options(store))


DAEMON = """
import sys, time
from holdover.apps.model.options import ModelsOptions
from holdover.apps.model.serving import ServingModel
serving = ServingModel("small", ModelsOptions(store=sys.argv[1], probation_s=600))
serving.ready()
print(serving.engine.contract.model_version, serving.notice, flush=True)
time.sleep(60)
"""


def test_a_process_that_is_killed_three_times_comes_back_with_the_model_before(tmp_path: Path) -> None:
    store = installed(tmp_path, "1", "2")
    said = []
    for _ in range(MAX_STARTS + 1):
        command = [sys.executable, "-c", DAEMON, str(store.folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            said.append(process.stdout.readline().split(" ")[0])
            process.send_signal(signal.SIGKILL)
            assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert said == ["2", "2", "2", "1"]


def test_two_models_of_one_shape_have_two_identities(tmp_path: Path) -> None:
    """What keeps the memory of one out of the other: a checkpoint names its model by this."""
    store = installed(tmp_path, "1", "2")
    two = ServingModel("small", options(store)).engine
    store.roll_back("small", "asked for")
    one = ServingModel("small", options(store)).engine
    assert one.contract.states == two.contract.states
    assert one.sha256 != two.sha256


def test_the_options_take_what_the_configuration_says() -> None:
    found = msgspec.convert({"store": "a", "probation_s": 5}, ModelsOptions)
    assert (found.store, found.key, found.probation_s) == ("a", None, 5)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"probation_s": -1}, ModelsOptions)
    with pytest.raises(UsageError):
        ModelStore(Path("/nonexistent")).install("a b", b"", "1", "unsigned")
