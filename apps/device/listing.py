"""`holdover devices list`: the kinds of source, what is plugged in, and what is missing to use it."""

import argparse
import textwrap
from typing import NamedTuple

from holdover.devices.sources import Found, find, kinds, needs, package

WIDTH = 80
INDENT = 14


class Kind(NamedTuple):
    """A kind of source: its package, what it found, and what has to be installed first, or ""."""

    name: str
    package: str
    found: list[Found]
    missing: str


def run(args: argparse.Namespace) -> int:
    """Print each kind and what there is of it; 0."""
    if args.json:
        import json

        listed = [_kind(name) for name in kinds()]
        print(json.dumps([{**kind._asdict(), "found": [f._asdict() for f in kind.found]} for kind in listed], indent=1))
        return 0
    plugged = 0
    for name in kinds():
        kind = _kind(name)  # some look around for seconds: each is told as soon as it is known
        plugged += len(kind.found)
        print("\n".join(_lines(kind)), flush=True)
    print(f"{len(kinds())} kinds of source; {plugged or 'no'} device{'' if plugged == 1 else 's'} found")
    return 0


def _kind(name: str) -> Kind:
    missing = needs(name)
    return Kind(name, package(name), [] if missing else find(name), missing)


def _lines(kind: Kind) -> list[str]:
    whose = "" if kind.package == "holdover" else f"by {kind.package}; "
    if kind.missing:
        return _folded(kind.name, f"{whose}{kind.missing}")
    if not kind.found:
        return _folded(kind.name, f"{whose}ready")
    return [line for f in kind.found for line in _folded(kind.name, f"{whose}{f.what}: {_command(kind.name, f)}")]


def _command(kind: str, found: Found) -> str:
    return " ".join(["holdover devices probe", kind, *(f"{key}={value}" for key, value in found.options.items())])


def _folded(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"{name:<{INDENT}}{text}", WIDTH, subsequent_indent=" " * INDENT, break_long_words=False, break_on_hyphens=False
    )
