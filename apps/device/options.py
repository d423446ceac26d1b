"""A source as it is given on the command line: its kind, and its options as in a configuration."""

import argparse
import tomllib
from collections.abc import Sequence
from typing import Any

from holdover.runtime.errors import ConfigError, UsageError


def source_of(args: argparse.Namespace) -> dict[str, Any]:
    """The table of the source that is meant, `kind` among its keys.

    Raises
    ------
    UsageError
        None is named, or one twice, or an option is not key=value.
    ConfigError
        The configuration cannot be read, or has no such stream.
    """
    if bool(args.source) == bool(args.config):
        raise UsageError("name a source, KIND key=value ..., or --config FILE with --stream ID, not both")
    if args.config:
        return dict(_stream(args.config, args.stream).source)
    kind, *options = args.source
    if "=" in kind:
        raise UsageError(f"{kind!r} stands where the kind of the source should: KIND key=value ...")
    return {"kind": kind, **table(options)}


def table(words: Sequence[str]) -> dict[str, Any]:
    """key=value words as a table; a value is what TOML reads it as, else a text.

    Examples
    --------
    >>> table(["port=/dev/ttyUSB0", "rate_hz=250", "listen=true", "leads=I,II"])
    {'port': '/dev/ttyUSB0', 'rate_hz': 250, 'listen': True, 'leads': 'I,II'}
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{word!r} is not key=value, as in rate_hz=250")
        if key in found:
            raise UsageError(f"{key} is given twice")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text


def _stream(file: str, name: str | None) -> Any:
    from holdover.apps.config import read_config

    streams = read_config(file).streams
    ids = ", ".join(stream.id for stream in streams)
    if name is None and len(streams) > 1:
        raise ConfigError(f"{file} has several streams ({ids}): name one with --stream")
    chosen = [stream for stream in streams if name in (None, stream.id)]
    if not chosen:
        raise ConfigError(f"{file} has no stream {name!r}; it has {ids}")
    return chosen[0]
