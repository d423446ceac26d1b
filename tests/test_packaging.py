"""The wheel: everything that runs is in it, nothing that only tests."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.processes import PATIENCE_S

REPOSITORY = Path(__file__).parent.parent
SOURCES = {
    "wfdb", "csv", "npz", "edf", "stdin", "tcp", "udp", "serial", "polar", "mqtt", "lsl", "brainflow", "ads1115",
    "ads1292r", "max30003",
}  # fmt: skip
NOT_SHIPPED = {"tests", "benchmarks", "docs", "examples", "src", "build", "dist"}
AWAY = ("no matching distribution", "could not find a version", "connection", "temporary failure", "no such option")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this tree, built from a copy so that the tree stays as it is."""
    if not (REPOSITORY / "README.md").exists():
        pytest.skip("there is no README.md here, which the wheel needs")
    place = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.part*", "shared")
    shutil.copytree(REPOSITORY, place / "tree", symlinks=True, ignore=ignored)
    here = ["--no-build-isolation"] if _has_backend() else []
    command = [sys.executable, "-m", "pip", "wheel", str(place / "tree"), "--no-deps", "-q", "-w", str(place), *here]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--retries", "1", "--timeout", "10"],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    if done.returncode and any(word in done.stderr.lower() for word in AWAY):
        pytest.skip(f"setuptools >= 77 is not here and cannot be fetched: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    (path,) = place.glob("*.whl")
    return zipfile.ZipFile(path)


def _has_backend() -> bool:
    try:
        return int(importlib.metadata.version("setuptools").partition(".")[0]) >= 77
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False


def test_the_wheel_holds_what_runs_and_no_tests(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for name in (
        "holdover/__init__.py",
        "holdover/__main__.py",
        "holdover/py.typed",
        "holdover/runtime/watch.py",
        "holdover/runtime/detect/rate.py",
        "holdover/runtime/engines/__init__.py",
        "holdover/devices/sources/npz_file.py",
        "holdover/apps/daemon.py",
        "holdover/apps/service.py",
        "holdover/apps/service/holdover.service",
        "holdover/apps/service/mosquitto.acl",
        "holdover/models/ecg_beats/model.onnx",
        "holdover/models/ecg_beats/CARD.md",
    ):
        assert name in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert any(name.endswith("/licenses/NOTICE") for name in names)
    assert [name for name in names if "test" in Path(name).name.lower()] == []
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"holdover"}
    assert {name.split("/")[1] for name in names if name.startswith("holdover/")} & NOT_SHIPPED == set()


def test_every_module_of_the_tree_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    modules = [path.relative_to(REPOSITORY) for room in _rooms() for path in (REPOSITORY / room).rglob("*.py")]
    missing = [str(m) for m in modules if f"holdover/{m}" not in names]
    assert missing == []


def test_the_model_in_the_wheel_is_that_of_the_tree(wheel: zipfile.ZipFile) -> None:
    place = Path("models/ecg_beats/model.onnx")
    assert wheel.read(f"holdover/{place}") == (REPOSITORY / place).read_bytes()


def test_the_wheel_lists_the_command_and_the_sources(wheel: zipfile.ZipFile) -> None:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    text = wheel.read(name).decode()
    assert "holdover = holdover.apps.cli:main" in text
    listed = text.partition("[holdover.sources]")[2].partition("[")[0]
    assert set(re.findall(r"^(\w+) = ", listed, re.MULTILINE)) == SOURCES


def test_the_installed_package_lists_its_sources() -> None:
    found = importlib.metadata.entry_points(group="holdover.sources")
    assert set(found.names) >= SOURCES
    assert all(callable(entry.load()) for entry in found)


def test_every_room_has_its_link() -> None:
    links = {path.name: path for path in (REPOSITORY / "src" / "holdover").iterdir() if path.is_symlink()}
    assert set(links) == _rooms()
    for name, link in links.items():
        assert str(link.readlink()) == f"../../{name}", "a relative link, which moves with the tree"
        assert link.resolve() == (REPOSITORY / name).resolve()


def _rooms() -> set[str]:
    """The folders of the tree that hold parts of the package."""
    folders = (path for path in REPOSITORY.iterdir() if path.is_dir() and not path.name.startswith("."))
    code = {path.name for path in folders if (path / "__init__.py").exists()}
    return (code | {"models"}) - NOT_SHIPPED
