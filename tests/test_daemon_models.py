"""A daemon and its models: on probation, back by itself, a memory that stays with its own model."""

import json
from pathlib import Path

import onnx

from holdover.apps.model.shipped import find_model
from holdover.apps.model.store import MAX_STARTS, ModelStore
from holdover.runtime.ledger import Ledger
from tests.brokers import Subscriber, any_broker, wait_until
from tests.processes import Daemon, a_recording, configure, free_port, from_file, holdover


def _other(version: str) -> bytes:
    """The shipped model under another hash."""
    model = onnx.load_model_from_string(find_model("ecg-beats").read_bytes())
    model.producer_name = version
    return bytes(model.SerializeToString())


def _config(folder: Path, port: int, model: str = "ecg-beats", probation_s: float = 600) -> Path:
    config = configure(
        folder, port, from_file("bed", a_recording(folder / "208.npz"), 5),
        more=f'[models]\nstore = "store"\nprobation_s = {probation_s}\n',
    )  # fmt: skip
    config.write_text(f'model = "{model}"\n{config.read_text()}')
    return config


def test_a_daemon_that_is_killed_three_times_comes_back_with_the_model_before_and_says_so(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.install("ecg-beats", _other("first"), "1", "unsigned")
    store.install("ecg-beats", _other("second"), "2", "unsigned")
    entry = store.entry("ecg-beats")
    assert entry is not None
    assert entry.current is not None
    assert entry.previous is not None
    with any_broker() as broker, Subscriber(broker, tmp_path):
        config = _config(tmp_path, broker.port)
        for _ in range(MAX_STARTS):
            with Daemon(config) as daemon:
                daemon.ready()
                daemon.kill()
        with Daemon(config) as daemon:
            daemon.hear("was rolled back to 1").ready()
            assert "bed: the checkpoint is another model's" in daemon.talk() or "going on" not in daemon.talk()
            assert daemon.stop() == 0, daemon.talk()
    with Ledger(tmp_path / "ledger.db") as ledger:
        saved = ledger.checkpoint("bed")
        assert saved is not None
        assert saved.model_sha256 == entry.previous.sha256
    assert [e.what for e in store.read().journal] == ["installed", "installed", "rolled back"]


def test_a_memory_of_one_model_never_enters_another(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.install("ecg-beats", _other("first"), "1", "unsigned")
    config = _config(tmp_path, free_port())
    with Daemon(config) as daemon:
        daemon.ready()
        assert daemon.stop() == 0
    with Daemon(config) as daemon:
        daemon.hear("bed: going on at sample").ready()
        assert daemon.stop() == 0
    store.install("ecg-beats", _other("second"), "2", "unsigned")
    with Daemon(config) as daemon:
        daemon.hear("bed: the checkpoint is another model's").ready()
        assert daemon.stop() == 0


def test_a_probation_that_is_passed_is_over(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.install("ecg-beats", _other("first"), "1", "unsigned")
    with Daemon(_config(tmp_path, free_port(), probation_s=0)) as daemon:
        daemon.ready()
        wait_until(lambda: daemon.said("has passed its probation"), "it has passed", 30)
        assert daemon.stop() == 0
    entry = store.entry("ecg-beats")
    assert entry is not None
    assert entry.probation is None


def test_an_input_that_is_not_there_is_not_the_models_fault(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.install("ecg-beats", _other("first"), "1", "unsigned")
    config = _config(tmp_path, free_port())
    (tmp_path / "208.npz").unlink()
    for _ in range(MAX_STARTS + 1):
        done = holdover("run", config)
        assert done.returncode == 3, done.stderr
    entry = store.entry("ecg-beats")
    assert entry is not None
    assert entry.current is not None
    assert json.dumps(store.read().journal[-1].what) == '"installed"'
