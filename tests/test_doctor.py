"""`holdover doctor` finds what is wrong with a machine, says what mends it, and leaves nothing behind."""

import argparse
import json
import os
import re
import socket
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from holdover.apps import doctor
from holdover.runtime.errors import ConfigError

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
CHECKS = [
    "board", "python", "cpu", "cores", "governor", "heat", "memory", "storage", "clock", "onnxruntime", "model", "disk",
    "commit", "broker", "extra",
]  # fmt: skip


@pytest.fixture(autouse=True)
def state_folder(monkeypatch, tmp_path):
    """A place for the ledger, so that nothing of the user's is looked at."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def closed_port():
    """A port of this machine on which nothing listens."""
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture
def open_port():
    """A port of this machine that accepts connections."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def arguments(*words):
    """What the command line would make of these words."""
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def report(capsys, *words):
    """The exit code, and the findings by the name of the check."""
    code = doctor.run(arguments(*words, "--json"))
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is (code == 0)
    return code, {finding["check"]: finding for finding in said["findings"]}


def test_this_machine_is_examined_in_full_and_leaves_no_trace(capsys, state_folder, open_port):
    _, found = report(capsys, "--host", "127.0.0.1", "--port", open_port)
    assert list(found) == CHECKS
    assert found["model"]["values"]["real_time_factor"] > 1
    assert found["commit"]["values"]["commit_ms"] > 0
    assert found["commit"]["values"]["checkpoints_mb_day"] > 1
    assert not list(state_folder.rglob("*"))


def test_every_line_fits_into_80_columns_and_begins_with_its_grade(capsys, closed_port):
    doctor.run(arguments("--host", "127.0.0.1", "--port", closed_port))
    *lines, last = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line.startswith(("ok   ", "note ", "bad  ", "     ")) for line in lines)
    assert re.match(r"\d+ checks, ", last)


def test_whatever_is_not_ok_says_why_it_matters_and_what_mends_it(capsys, closed_port):
    _, found = report(capsys, "--port", closed_port)
    assert all(f["why"] and f["mend"] for f in found.values() if f["grade"] != "ok")


def test_a_broker_that_was_asked_for_and_is_not_there_is_bad(capsys, closed_port):
    code, found = report(capsys, "--host", "127.0.0.1", "--port", closed_port)
    assert code == 1
    assert found["broker"]["grade"] == "bad"
    assert f"127.0.0.1:{closed_port} not reached" in found["broker"]["what"]


def test_a_broker_that_nobody_asked_for_may_be_missing(closed_port):
    assert doctor.broker(doctor.Setup("127.0.0.1", closed_port)).grade == "note"


def test_a_broker_that_accepts_is_ok(open_port):
    assert doctor.broker(doctor.Setup("127.0.0.1", open_port, must_reach=True)).grade == "ok"


def test_a_host_name_that_cannot_be_is_a_finding_and_no_crash():
    assert doctor.broker(doctor.Setup("a..b", 1883, must_reach=True)).grade == "bad"


def test_the_configuration_says_which_broker_and_where_the_ledger_is(capsys, tmp_path, closed_port):
    (tmp_path / "disk").mkdir()
    config = tmp_path / "h.toml"
    stream = '[[streams]]\nid = "a"\nsource = { kind = "stdin" }\n'
    ledger = '[ledger]\npath = "disk/l.db"\ncheckpoint_s = 3\n'
    config.write_text(f'{stream}{ledger}[mqtt]\nhost = "127.0.0.1"\nport = {closed_port}\n')
    code, found = report(capsys, "--config", config)
    assert (code, found["broker"]["grade"]) == (1, "bad")
    assert found["disk"]["values"]["folder"] == str(tmp_path / "disk")
    assert "(each 3 s)" in found["commit"]["what"]


@pytest.mark.parametrize("words", [("--port", 70000), ("--port", 0), ("--port", -1)])
def test_a_port_that_cannot_be_is_refused(words):
    with pytest.raises(ConfigError, match="port"):
        doctor.run(arguments(*words))


def test_a_configuration_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        doctor.run(arguments("--config", tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("version", "machine", "grade"),
    [
        ("1.32.0", "x86_64", "ok"),
        ("1.30.0", "aarch64", "ok"),
        ("1.29.9", "x86_64", "bad"),
        ("1.21.0", "aarch64", "bad"),
        ("2.0", "x86_64", "ok"),
        (None, "x86_64", "bad"),
    ],
)
def test_an_old_or_missing_onnxruntime_is_bad(version, machine, grade):
    assert doctor.runtime_library(version, machine).grade == grade


def test_the_onnxruntime_that_kills_a_raspberry_pi_4_is_named_as_such():
    assert "illegal instruction" in doctor.runtime_library("1.21.0", "aarch64").why


def test_a_model_that_cannot_keep_up_is_bad():
    measured = {"model": "m", "load_ms": 9.0, "hop_us": 50_000.0, "memory_bytes": 9}
    costs_us = (30.0, 20_000.0, 60_000.0)
    assert [doctor.step_cost({**measured, "step_us": us}).grade for us in costs_us] == ["ok", "note", "bad"]


def test_a_model_that_kills_its_process_is_a_finding_and_no_crash(monkeypatch):
    monkeypatch.setattr(doctor, "CHILD", "import os; os.kill(os.getpid(), 4)")
    found, _ = doctor.shipped_model()
    assert found.grade == "bad"
    assert "signal 4" in found.what


def test_a_model_that_hangs_is_a_finding_after_a_while(monkeypatch):
    monkeypatch.setattr(doctor, "CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "CHILD_S", 0.5)
    assert doctor.shipped_model()[0].grade == "bad"


def test_a_folder_that_cannot_be_written_is_noted():
    *_, last = doctor.disk(Path("/proc/holdover"))
    assert (last.check, last.grade) == ("commit", "note")
    assert "mkdir -p /proc/holdover" in last.mend


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no file system in memory at /dev/shm")
def test_a_ledger_in_memory_is_noted():
    *_, last = doctor.disk(Path("/dev/shm"))
    assert last.grade == "note"
    assert "lost on a restart" in last.why


def test_the_extras_are_those_of_the_package():
    wanted = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    for name, modules in doctor.EXTRAS.items():
        named = {re.split(r"[<>=\[]", need)[0] for need in wanted[name]} - {"holdover"}
        assert set(modules) == named


def test_an_extra_that_is_missing_is_noted_with_the_command_that_installs_it():
    found = doctor.extra("demo", ("json", "no_such_module"))
    assert (found.grade, found.mend) == ("note", "pip install 'holdover[demo]'")
    assert "no_such_module" in found.what
    assert "json" not in found.what
