"""What a configuration may say, and how it is told that it may not."""

import json
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdover.apps import config as module
from holdover.apps import daemon
from holdover.apps.config import Config, LedgerOptions, StreamOptions, read_config
from holdover.runtime.detect.limits import Limits
from holdover.runtime.errors import ConfigError
from holdover.runtime.mqtt_options import MqttOptions
from tests.processes import holdover

STREAM = '[[streams]]\nid = "bed-3"\nsource = { kind = "tcp", port = 9000, rate_hz = 250 }\n'
OTHER = '[[streams]]\nid = "bed-4"\nsource = { kind = "stdin", rate_hz = 250 }\n'


def read(folder: Path, text: str) -> Config:
    (folder / "holdover.toml").write_text(text)
    return read_config(folder / "holdover.toml")


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder / "holdover.toml") in message
    return message


@pytest.mark.parametrize(
    ("text", "where", "nearest"),
    [
        ('nod = "pi"\n' + STREAM, "nod", "node"),
        ('[mqt]\nhost = "a"\n' + STREAM, "mqt", "mqtt"),
        ('[mqtt]\nhots = "a"\n' + STREAM, "mqtt.hots", "host"),
        ("[ledger]\ncheckpoint = 3\n" + STREAM, "ledger.checkpoint", "checkpoint_s"),
        ("[limits]\ntachycardia = 130\n" + STREAM, "limits.tachycardia", "tachycardia_bpm"),
        (STREAM + OTHER + 'leed = "II"\n', "streams[1].leed", "lead"),
        (STREAM + OTHER + "limits = { asystole = 3 }\n", "streams[1].limits.asystole", "asystole_s"),
    ],
)
def test_an_unknown_key_is_named_with_its_place_and_the_nearest_known_one(
    text: str, where: str, nearest: str, tmp_path: Path
) -> None:
    message = refused(tmp_path, text)
    assert repr(where) in message
    assert f"did you mean {nearest!r}?" in message


def test_a_key_like_no_other_is_answered_with_all_there_are(tmp_path: Path) -> None:
    message = refused(tmp_path, "[ledger]\nxyzzy = 3\n" + STREAM)
    assert all(key in message for key in LedgerOptions.__struct_fields__)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("node = 3\n" + STREAM, "node"),
        ('[mqtt]\nport = "1883"\n' + STREAM, "mqtt.port"),
        ("[ledger]\nmax_mb = 0\n" + STREAM, "ledger.max_mb"),
        ("[limits]\nasystole_s = 1\n" + STREAM, "limits.asystole_s"),
        ('[limits]\nasystole_s = "four"\n' + STREAM, "limits.asystole_s"),
        (STREAM + OTHER + "speed = 0\n", "speed"),
        (STREAM + OTHER + "limits = { asystole_s = 100 }\n", "bed-4"),
        (STREAM + 'limits = { rail = "high" }\n', "rail"),
        ("streams = 3\n", "streams"),
        ("streams = []\n", "streams"),
        ("", "streams"),
        ('[[streams]]\nid = "a"\n', "source"),
        ('[[streams]]\nid = "a"\nsource = "tcp"\n', "source"),
        ('[[streams]]\nid = "a"\nsource = {}\n', "kind"),
        ("mqtt = 3\n" + STREAM, "mqtt"),
        ("[streams]\nid = 3\n", "streams"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_its_place(text: str, where: str, tmp_path: Path) -> None:
    assert where in refused(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[limits]\nbradycardia_bpm = 119\n", ("bradycardia_bpm 119", "tachycardia_bpm 120", "hysteresis")),
        ("[limits]\nvt_beats = 3\nrun_beats = 4\n", ("vt_beats 3", "run_beats 4")),
        ("[mqtt]\nport = 70000\n", ("70000", "65535")),
        ('[mqtt]\nbase = "a/#"\n', ("base", "#")),
        ('[mqtt]\npassword_file = "/nowhere/at/all"\n', ("password_file", "/nowhere/at/all")),
        ('node = "bed 3"\n', ("bed 3", "letters")),
    ],
)
def test_what_contradicts_itself_is_refused_in_words(text: str, words: tuple[str, ...], tmp_path: Path) -> None:
    message = refused(tmp_path, text + STREAM)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("name", ["", "bed 3", "bed/3", "bed+", "#", "a" * 65, "bett-ä"])
def test_an_id_that_cannot_stand_in_a_topic_is_refused(name: str, tmp_path: Path) -> None:
    assert repr(name) in refused(tmp_path, STREAM.replace("bed-3", name))


def test_two_streams_of_one_id_are_refused(tmp_path: Path) -> None:
    assert "two streams have the id 'bed-3'" in refused(tmp_path, STREAM + STREAM)


def test_limits_of_a_stream_change_those_of_all(tmp_path: Path) -> None:
    text = "[limits]\ntachycardia_bpm = 150\nasystole_s = 5\n" + STREAM + OTHER + "limits = { asystole_s = 6 }\n"
    config = read(tmp_path, text)
    first, second = map(config.limits_of, config.streams)
    assert first == Limits(tachycardia_bpm=150, asystole_s=5)
    assert second == Limits(tachycardia_bpm=150, asystole_s=6)


def test_the_ledger_lies_beside_the_configuration(tmp_path: Path) -> None:
    assert read(tmp_path, STREAM).ledger.path == str(tmp_path / "holdover.db")
    assert read(tmp_path, '[ledger]\npath = "/var/a.db"\n' + STREAM).ledger.path == "/var/a.db"


@pytest.mark.parametrize("epilog", [module.EPILOG, daemon.EPILOG])
def test_the_examples_in_the_help_are_fine(epilog: str, tmp_path: Path) -> None:
    lines = [line for line in epilog.splitlines() if line.startswith("  ")]
    config = read(tmp_path, "\n".join(lines))
    assert config.streams[0].id == "bed-3"


def test_the_schema_knows_every_key_and_its_default() -> None:
    done = holdover("config", "schema")
    assert done.returncode == 0, done.stderr
    schema = json.loads(done.stdout)
    for struct in (Config, LedgerOptions, StreamOptions, MqttOptions, Limits):
        table = schema["$defs"][struct.__name__]
        assert set(table["properties"]) == set(struct.__struct_fields__)
        assert table["additionalProperties"] is False
    _every_reference_is_there(schema, schema)
    defaults = schema["$defs"]["Limits"]["properties"]
    assert {key: defaults[key]["default"] for key in defaults} == msgspec.to_builtins(Limits())


def _every_reference_is_there(part: Any, schema: dict[str, Any]) -> None:
    if isinstance(part, dict):
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        for value in part.values():
            _every_reference_is_there(value, schema)
    elif isinstance(part, list):
        for value in part:
            _every_reference_is_there(value, schema)


def test_check_says_what_it_found(tmp_path: Path) -> None:
    path = tmp_path / "holdover.toml"
    path.write_text('node = "pi"\n' + STREAM + OTHER)
    done = holdover("config", "check", path)
    assert (done.returncode, done.stdout) == (0, f"{path}: fine; node pi, 2 stream(s), broker localhost:1883\n")
    assert tomllib.loads(path.read_text())["node"] == "pi"


@pytest.mark.parametrize("text", [b"node = \n", b"\xff\xfe", b"[[streams]\n", b"a = 1\na = 2\n"])
def test_what_is_no_toml_is_refused(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "holdover.toml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match="is not TOML"):
        read_config(path)


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        ('kind = "tpc", port = 1, rate_hz = 250', "tcp"),
        ('kind = "tcp", prot = 1, rate_hz = 250', "did you mean 'port'"),
        ('kind = "npz", path = "x.npz", leed = "II"', "did you mean 'lead'"),
    ],
)
def test_check_names_a_source_that_cannot_be(source: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "holdover.toml"
    path.write_text(f'[[streams]]\nid = "bed"\nsource = {{ {source} }}\n')
    done = holdover("config", "check", path)
    assert done.returncode == 2
    assert hint in done.stderr
    assert "bed" in done.stderr


def test_only_one_stream_reads_standard_input(tmp_path: Path) -> None:
    path = tmp_path / "holdover.toml"
    stream = '[[streams]]\nid = "{}"\nsource = {{ kind = "stdin", rate_hz = 250 }}\n'
    path.write_text(stream.format("a") + stream.format("b"))
    with pytest.raises(ConfigError, match="only one can"):
        read_config(path)
