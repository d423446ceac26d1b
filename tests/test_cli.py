"""The command line: its help, its exit codes, and what it says to what cannot be."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from holdover import __version__
from holdover.apps.cli import COMMANDS
from tests.processes import PATIENCE_S, a_recording, configure, free_port, from_file, from_tcp, holdover, signal_mv

REPOSITORY = Path(__file__).parent.parent
HEAVY = ("numpy", "onnxruntime", "msgspec", "paho", "onnx", "scipy")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_a_terminal_of_80_columns(command: str) -> None:
    done = holdover(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"holdover {command}".strip() in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


def test_without_a_command_it_helps() -> None:
    done = holdover()
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)
    assert "exit codes:" in done.stdout


def test_it_tells_its_version() -> None:
    done = holdover("--version")
    assert (done.returncode, done.stdout) == (0, f"holdover {__version__}\n")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_no_heavy_library(command: str) -> None:
    code = (
        "import sys\nfrom holdover.apps.cli import main\n"
        f"try:\n    main({[*command.split(), '--help']})\nexcept SystemExit:\n    pass\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0
    heavy = HEAVY if command not in ("config", "alerts") else ("numpy", "onnxruntime")
    assert [name for name in heavy if name in done.stderr.split()] == []


def test_an_unknown_command_is_answered_with_those_there_are() -> None:
    done = holdover("rum")
    assert done.returncode == 2
    assert "rum" in done.stderr
    assert all(name in done.stderr for name in COMMANDS)


def test_every_command_is_documented() -> None:
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text() for page in pages if page.exists())
    if not pages[0].exists():
        pytest.skip("there is no README.md here")
    assert [name for name in COMMANDS if f"holdover {name}" not in text] == []


def _text(folder: Path) -> Path:
    path = folder / "text.onnx"
    path.write_text("this is no model\n" * 100)
    return path


def _no_contract(folder: Path) -> Path:
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), folder / "bare.onnx")
    return folder / "bare.onnx"


def _empty(folder: Path) -> Path:
    path = folder / "empty.npz"
    path.write_bytes(b"")
    return path


def _hollow(folder: Path) -> Path:
    return a_recording(folder / "hollow.npz", np.zeros(0, np.float32))


def _inner(folder: Path) -> Path:
    (folder / "inner").mkdir()
    return folder / "inner"


def _record(folder: Path) -> Path:
    return a_recording(folder / "208.npz", signal_mv()[:3600])


def _toml(folder: Path, text: str) -> Path:
    path = folder / "holdover.toml"
    path.write_text(text)
    return path


def _daemon(folder: Path, stream: str, more: str = "") -> Path:
    config = configure(folder, free_port(), stream)
    config.write_text(more + config.read_text())
    return config


HOSTILE: dict[str, tuple[int, Callable[[Path], list[str | Path]]]] = {
    "replay, no such record": (3, lambda d: ["replay", d / "nothing"]),
    "replay, no such npz": (3, lambda d: ["replay", d / "nothing.npz"]),
    "replay, empty file": (3, lambda d: ["replay", _empty(d)]),
    "replay, no samples": (3, lambda d: ["replay", _hollow(d), "-o", d / "out", "--plot"]),
    "replay, text as recording": (3, lambda d: ["replay", _text(d)]),
    "replay, text as npz": (3, lambda d: ["replay", _text(d).rename(d / "text.npz")]),
    "replay, text as header": (3, lambda d: ["replay", _text(d).rename(d / "text.hea")]),
    "replay, text as edf": (3, lambda d: ["replay", _text(d).rename(d / "text.edf")]),
    "replay, text as csv": (3, lambda d: ["replay", _text(d).rename(d / "text.csv"), "--rate", "360"]),
    "replay, empty folder": (3, lambda d: ["replay", d]),
    "replay, no such lead": (3, lambda d: ["replay", _record(d), "--lead", "V9"]),
    "replay, bad time": (3, lambda d: ["replay", _record(d), "-f", "noon"]),
    "replay, range past the end": (3, lambda d: ["replay", _record(d), "-f", "1:00:00"]),
    "replay, no such model": (4, lambda d: ["replay", _record(d), "--model", d / "nothing.onnx"]),
    "replay, text as model": (4, lambda d: ["replay", _record(d), "--model", _text(d)]),
    "replay, folder as model": (4, lambda d: ["replay", _record(d), "--model", d]),
    "replay, model without contract": (4, lambda d: ["replay", _record(d), "--model", _no_contract(d)]),
    "replay, jobs, no such model": (4, lambda d: ["replay", _record(d), d / "b.npz", "-j2", "--model", "x"]),
    "replay, folder as configuration": (2, lambda d: ["replay", _record(d), "--config", d]),
    "replay, plot without folder": (2, lambda d: ["replay", _record(d), "--plot"]),
    "replay, speed 0": (2, lambda d: ["replay", _record(d), "--speed", "0"]),
    "replay, speed nan": (2, lambda d: ["replay", _record(d), "--speed", "nan"]),
    "replay, rate nan": (3, lambda d: ["replay", _record(d), "--rate", "nan"]),
    "replay, stream with a space": (2, lambda d: ["replay", _record(d), "--stream", "bed 3"]),
    "replay, output in a file": (2, lambda d: ["replay", _record(d), "-o", _text(d) / "out"]),
    "replay, output is a file": (2, lambda d: ["replay", _record(d), "-o", _text(d)]),
    "replay, the same name twice": (2, lambda d: ["replay", _record(d), _record(_inner(d)), "-o", d / "out"]),
    "run, no such file": (2, lambda d: ["run", d / "nothing.toml"]),
    "run, folder": (2, lambda d: ["run", d]),
    "run, text": (2, lambda d: ["run", _text(d)]),
    "run, unknown kind": (3, lambda d: ["run", _daemon(d, 'id = "a"\nsource = { kind = "tcpp", port = 1 }')]),
    "run, unknown option": (3, lambda d: ["run", _daemon(d, from_tcp("a", 9000, ", colour = 3"))]),
    "run, impossible port": (3, lambda d: ["run", _daemon(d, from_tcp("a", 99999))]),
    "run, kind is a number": (2, lambda d: ["run", _daemon(d, 'id = "a"\nsource = { kind = 3 }')]),
    "run, path is a number": (2, lambda d: ["run", _daemon(d, 'id = "a"\nsource = { kind = "npz", path = 3 }')]),
    "run, leads are numbers": (
        3,
        lambda d: ["run", _daemon(d, 'id = "a"\nsource = { kind = "stdin", rate_hz = 9, leads = [1] }')],
    ),
    "run, host is a number": (
        2,
        lambda d: ["run", _daemon(d, 'id = "a"\nsource = { kind = "tcp", host = 3, port = 9, rate_hz = 9 }')],
    ),
    "run, no such recording": (3, lambda d: ["run", _daemon(d, from_file("a", d / "nothing.npz", 1))]),
    "run, no such model": (4, lambda d: ["run", _daemon(d, from_file("a", _record(d), 1), 'model = "x.onnx"\n')]),
    "run, model without contract": (
        4,
        lambda d: ["run", _daemon(d, from_file("a", _record(d), 1), f'model = "{_no_contract(d)}"\n')],
    ),
    "config, no file": (2, lambda _: ["config", "check"]),
    "config, no such file": (2, lambda d: ["config", "check", d / "nothing.toml"]),
    "config, folder": (2, lambda d: ["config", "check", d]),
    "config, control characters": (2, lambda d: ["config", "check", _toml(d, 'node = "a\\u001b[31m"\n')]),
    "inspect, no such model": (4, lambda d: ["inspect", d / "nothing.onnx"]),
    "inspect, text": (4, lambda d: ["inspect", _text(d)]),
    "inspect, folder": (4, lambda d: ["inspect", d]),
    "inspect, no contract": (4, lambda d: ["inspect", _no_contract(d)]),
    "alerts, store in no folder": (5, lambda d: ["alerts", "--store", _text(d) / "alerts.db"]),
    "alerts, impossible port": (2, lambda d: ["alerts", "--store", d / "a.db", "--port", "99999"]),
    "alerts, password without a name": (
        2,
        lambda d: ["alerts", "--store", d / "a.db", "--password-file", _text(d)],
    ),
    "demo, speed 0": (2, lambda d: ["demo", "-o", d / "demo", "--speed", "0"]),
    "demo, speed nan": (2, lambda d: ["demo", "-o", d / "demo", "--speed", "nan"]),
    "demo, broker without a port": (2, lambda d: ["demo", "-o", d / "demo", "--broker", "here"]),
    "demo, output is a file": (2, lambda d: ["demo", "-o", _text(d)]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_is_said_in_a_line_and_a_code(case: str, tmp_path: Path) -> None:
    code, arguments = HOSTILE[case]
    done = holdover(*arguments(tmp_path))
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.strip()]
    assert 1 <= len(said) <= 2, done.stderr
    assert said[-1].startswith("holdover: ")
    assert done.returncode == code, done.stderr


def test_a_reader_that_goes_away_is_no_failure(tmp_path: Path) -> None:
    record = a_recording(tmp_path / "208.npz")
    command = f"{sys.executable} -m holdover replay {record} --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
