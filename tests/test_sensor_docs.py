"""The pages of sensors: every configuration in them is one, every sensor has a page, and what a page names is there."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from holdover.devices.sources import SUFFIXES, check_options, kinds, package

PAGES = Path(__file__).parent.parent / "docs" / "sensors"
WITHOUT_A_PAGE = {*SUFFIXES.values(), "stdin", "tcp", "udp"}
"""Files, and links that are no sensor."""


def tables() -> list[tuple[str, dict[str, Any]]]:
    """The sources in the configurations of all pages."""
    lines = [
        (page.name, line)
        for page in sorted(PAGES.glob("*.md"))
        for line in re.findall(r"^source = .*$", page.read_text(), re.MULTILINE)
    ]
    return [(name, tomllib.loads(line)["source"]) for name, line in lines]


@pytest.mark.parametrize(("page", "source"), tables(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_configuration_has_the_options_of_its_kind(page: str, source: dict[str, Any]) -> None:
    options = dict(source)
    check_options(options.pop("kind"), options)
    assert page in (PAGES / "README.md").read_text()


def test_every_sensor_has_a_page() -> None:
    shown = {source["kind"] for _, source in tables()}
    assert {kind for kind in kinds() if package(kind) == "holdover"} - WITHOUT_A_PAGE <= shown


def test_every_command_in_a_page_has_options_of_its_kind() -> None:
    said = [
        text for page in PAGES.glob("*.md") for text in re.findall(r"devices probe ([a-z0-9]+.*)", page.read_text())
    ]
    assert len(said) >= 8
    for line in said:
        kind, *words = line.partition("#")[0].split()
        check_options(kind, dict(word.split("=", 1) for word in words))


def test_every_page_says_what_was_tried() -> None:
    for page in PAGES.glob("*.md"):
        assert page.name == "README.md" or "**Tried**" in page.read_text(), page.name


def test_links_lead_somewhere() -> None:
    for page in PAGES.glob("*.md"):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (PAGES / target).is_file(), f"{page.name}: {target}"
