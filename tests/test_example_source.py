"""A source in a package of its own is found, listed, probed, recorded and watched by a daemon without touching ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import wait_until
from tests.processes import Daemon, configure, free_port, holdover

EXAMPLE = Path(__file__).parent.parent / "examples" / "load-source"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the example's package is installed."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "package")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site")]
    done = subprocess.run([*command, str(folder / "package")], capture_output=True, text=True, timeout=110)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip("pip cannot get setuptools here, which builds the example")
    assert done.returncode == 0, done.stderr
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def test_it_is_listed_with_the_package_that_brings_it(environment: dict[str, str]) -> None:
    done = holdover("devices", "list", env=environment)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "load by holdover-load; this machine's processor: holdover devices probe load" in said


def test_it_is_probed_and_recorded(environment: dict[str, str], tmp_path: Path) -> None:
    done = holdover("devices", "probe", "load", "rate_hz=20", "--seconds", "3", env=environment)
    assert "load: busy, 20 Hz stated" in done.stdout, done.stderr
    assert "missing: 0 of" in done.stdout
    words = ["record", "load", "rate_hz=20", "-o", tmp_path / "busy", "--seconds", "3", "--no-alarms"]
    done = holdover("devices", *words, env=environment)
    assert "60 samples, 3.0 s" in done.stdout, done.stderr


def test_its_own_errors_are_one_sentence(environment: dict[str, str]) -> None:
    done = holdover("devices", "probe", "load", "rate_hz=5000", env=environment)
    assert done.returncode == 3
    assert done.stderr.strip() == "holdover: load: rate_hz = 5000 cannot be; expected 0.01 to 50"


def test_a_daemon_watches_it(environment: dict[str, str], tmp_path: Path) -> None:
    stream = 'id = "machine-room"\nsource = { kind = "load", rate_hz = 20 }'
    config = configure(tmp_path, free_port(), stream)
    config.write_text('model = "forecast"\n' + config.read_text())
    with Daemon(config, env=environment) as daemon:
        daemon.hear("ready: 1 stream")
        journal = tmp_path / "ledger.journal"
        wait_until(
            lambda: sum(f.stat().st_size for f in journal.rglob("*") if f.is_file()) > 500, "a second of samples"
        )
        assert "error" not in daemon.talk().lower()
