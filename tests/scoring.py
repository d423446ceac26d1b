"""What the tests of `holdover score` share: real recordings, small annotation files, and the command itself."""

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from holdover.apps.cli import main

PAIR = ("-a", "atr", "tst")
HEADER = "100 1 360 3600\n100.dat 16 200\n"


def data(folder: str) -> Path:
    """A folder of real recordings, or a skip."""
    if not os.environ.get("HOLDOVER_DATA"):
        pytest.skip("HOLDOVER_DATA does not name the folder of real recordings")
    place = Path(os.environ["HOLDOVER_DATA"]) / folder
    if not place.is_dir():
        pytest.skip(f"HOLDOVER_DATA has no folder {folder}")
    return place


class Said(NamedTuple):
    """How a command ended, and what it said."""

    status: int
    out: str
    err: str


def score(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Said:
    """Run `holdover score` in this process."""
    status = main(["score", *map(str, argv)])
    return Said(status, *capsys.readouterr())


def beat(code: int, gap: int) -> int:
    """An annotation as a word of the WFDB format."""
    return code << 10 | gap


def write_annotations(path: Path, *words: int) -> None:
    """Write words of the WFDB annotation format, and the word that ends a file."""
    path.write_bytes(b"".join(word.to_bytes(2, "little") for word in (*words, 0)))


def small_record(folder: Path) -> str:
    """A record of ten seconds with two reference beats and two test beats, N and V."""
    (folder / "100.hea").write_text(HEADER)
    write_annotations(folder / "100.atr", beat(1, 100), beat(1, 300))
    write_annotations(folder / "100.tst", beat(1, 102), beat(5, 300))
    return str(folder / "100")
