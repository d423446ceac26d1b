"""`holdover config`: check a configuration, or print its JSON schema, or what is said over MQTT."""

import argparse
import difflib
import platform
import re
import sys
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from holdover.apps.model.options import ModelsOptions
from holdover.devices.boards.board import defaults
from holdover.runtime.detect.limits import Limits
from holdover.runtime.errors import ConfigError, SourceError
from holdover.runtime.mqtt_options import MqttOptions, check_name

EPILOG = """\
example of a configuration:
  node = "bedside"
  [mqtt]
  host = "localhost"
  [limits]
  tachycardia_bpm = 130
  [[streams]]
  id = "bed-3"
  lead = "II"
  source = { kind = "tcp", port = 9000, listen = true, rate_hz = 250 }"""


def _node() -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", platform.node())[:64] or "holdover"


class LedgerOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where alerts, checkpoints and live samples are kept.

    Attributes
    ----------
    path
        The SQLite file. Here as everywhere, a relative path is taken from the configuration's folder.
    max_mb, max_rows, max_age_h
        Bounds of that file, and of what waits in it for the broker. Beyond them updates are given up first, then low
        alarms, then medium ones, oldest first; the start and the end of a high alarm never. What was given up is told.
    checkpoint_s
        Seconds between checkpoints where nothing is to be said; an alert brings its own. Where nothing is said: what
        suits the board (`holdover doctor` tells), 30 on a PC, 60 or 120 where an SD card wears.
    journal_mb
        Bound of the ring of raw samples, for each live stream.
    """

    path: str = "holdover.db"
    max_mb: Annotated[float, Meta(ge=1, le=1e6)] = 256
    max_rows: Annotated[int, Meta(ge=10, le=10**8)] = 100_000
    max_age_h: Annotated[float, Meta(gt=0, le=1e6)] = 168
    checkpoint_s: Annotated[float, Meta(ge=0.1, le=3600)] = msgspec.field(
        default_factory=lambda: defaults().checkpoint_s
    )
    journal_mb: Annotated[float, Meta(ge=1, le=1e6)] = 64


class HomeAssistantOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether Home Assistant is told of this node and its streams, and under which topic it listens."""

    enabled: bool = False
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "homeassistant"


class MetricsOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where Prometheus may ask, on 127.0.0.1 alone: the port; None: nowhere."""

    port: Annotated[int, Meta(ge=1, le=65535)] | None = None


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One signal.

    Attributes
    ----------
    id
        Its name in topics and alerts: a pseudonym, never a person's name.
    source
        A table with `kind`, and the options of that kind; `holdover run --help` lists the kinds.
    lead
        The channel that the model reads; None: the one of the model's own name, or the only one.
    speed
        For a file: times real time.
    limits
        Changes to [limits] for this stream.
    """

    id: str
    source: dict[str, Any]
    lead: str | None = None
    speed: Annotated[float, Meta(gt=0, le=1e6)] = 1.0
    limits: dict[str, Any] = {}


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration of a daemon; `model` is a path or the name of a shipped model."""

    streams: Annotated[list[StreamOptions], Meta(min_length=1)]
    node: str = msgspec.field(default_factory=_node)
    model: str | None = None
    mqtt: MqttOptions = msgspec.field(default_factory=MqttOptions)
    ledger: LedgerOptions = msgspec.field(default_factory=LedgerOptions)
    limits: Limits = msgspec.field(default_factory=Limits)
    models: ModelsOptions = msgspec.field(default_factory=ModelsOptions)
    home_assistant: HomeAssistantOptions = msgspec.field(default_factory=HomeAssistantOptions)
    metrics: MetricsOptions = msgspec.field(default_factory=MetricsOptions)

    def limits_of(self, stream: StreamOptions) -> Limits:
        """The limits of one stream: those of all, with its own changes."""
        try:
            return msgspec.convert({**msgspec.to_builtins(self.limits), **stream.limits}, Limits)
        except msgspec.ValidationError as error:
            raise ConfigError(f"limits of stream {stream.id}: {_plain(str(error))}") from error


def read_config(path: str | Path) -> Config:
    """Read and check a TOML file.

    Raises
    ------
    ConfigError
        It cannot be read, is no TOML, has a key that is not known (the nearest known one is named), or a value that
        cannot be.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        _check_keys(document, Config, "")
        config = msgspec.convert(document, Config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_plain(str(error))}") from error
    try:
        _check_types(config)
        _anchor(config, path.parent)
        _check_values(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def _anchor(config: Config, folder: Path) -> None:
    """Take relative paths from the configuration's folder, wherever the daemon is started."""

    def at(path: str) -> str:
        return path if path.startswith("~") else str(folder / path)

    config.ledger.path = at(config.ledger.path)
    if config.model and (config.model.endswith(".onnx") or "/" in config.model):
        config.model = at(config.model)
    for name in ("store", "key"):
        if place := getattr(config.models, name):
            setattr(config.models, name, at(place))
    for name in ("password_file", "ca_file", "cert_file", "key_file"):
        if file := getattr(config.mqtt, name):
            setattr(config.mqtt, name, at(file))
    for stream in config.streams:
        if "path" in stream.source:
            stream.source["path"] = at(stream.source["path"])


def _check_types(config: Config) -> None:
    for stream in config.streams:
        for key in ("kind", "path", "host"):
            if not isinstance(value := stream.source.get(key, ""), str):
                raise ConfigError(f"{key} in the source of stream {stream.id} is {value!r}, expected a text")


def _check_values(config: Config) -> None:
    check_name("node", config.node)
    config.mqtt.check()
    ids = [stream.id for stream in config.streams]
    if sum(stream.source.get("kind") == "stdin" for stream in config.streams) > 1:
        raise ConfigError("two streams read standard input; only one can")
    for i, stream in enumerate(config.streams):
        check_name("the id of a stream", stream.id)
        if ids.count(stream.id) > 1:
            raise ConfigError(f"two streams have the id {stream.id!r}; each needs its own")
        if "kind" not in stream.source:
            raise ConfigError(f'the source of stream {stream.id} has no kind; expected e.g. kind = "tcp"')
        _check_keys(stream.limits, Limits, f"streams[{i}].limits.")
        config.limits_of(stream)


def _check_keys(table: Any, struct: Any, where: str) -> None:
    """Refuse a key that the struct does not have, naming the nearest that it has."""
    if not isinstance(table, dict):
        return
    known = {field.name: field.type for field in msgspec.structs.fields(struct)}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ConfigError(f"unknown key {where + key!r}; {hint}")
        inner = _struct_in(known[key])
        if inner is not None:
            for i, item in enumerate(value if isinstance(value, list) else [value]):
                _check_keys(item, inner, f"{where}{key}[{i}]." if isinstance(value, list) else f"{where}{key}.")


def _struct_in(kind: Any) -> Any:
    """The struct that a field's type holds, itself or as the items of a list; None if there is none."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for arg in typing.get_args(kind) if (found := _struct_in(arg)) is not None), None)


def _plain(message: str) -> str:
    """msgspec's message, its place in our words."""
    return re.sub(r" - at `\$\.?(.*)`", lambda m: f" (at {m[1]})" if m[1] else "", message)


def _check_sources(config: Config, file: str) -> None:
    """Hold each source's kind and options against what is installed, without opening it."""
    from holdover.devices.sources import check_options

    for stream in config.streams:
        options = dict(stream.source)
        try:
            check_options(options.pop("kind"), options)
        except SourceError as error:
            raise ConfigError(f"{file}: stream {stream.id}: {error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover config`."""
    parser.add_argument(
        "action", choices=("check", "schema", "asyncapi"),
        help="check FILE; or print the JSON schema of one, or the AsyncAPI document of all MQTT topics and messages",
    )  # fmt: skip
    parser.add_argument("file", nargs="?", metavar="FILE", help="the configuration, TOML")


def run(args: argparse.Namespace) -> int:
    """Check or print; raises `ConfigError`."""
    if args.action != "check":
        print_json(msgspec.json.schema(Config) if args.action == "schema" else _asyncapi())
        return 0
    if not args.file:
        raise ConfigError("holdover config check needs a file: holdover config check FILE")
    config = read_config(args.file)
    _check_sources(config, args.file)
    print(f"{args.file}: fine; node {config.node}, {len(config.streams)} stream(s), broker {config.mqtt.address}")
    return 0


def print_json(document: object) -> None:
    """On standard output, indented."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document)).decode() + "\n")


def _asyncapi() -> object:
    from holdover.apps.asyncapi import asyncapi

    return asyncapi()
