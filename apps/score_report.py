"""How a scorecard is told: words or JSON on standard output, a page of HTML."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdover.evaluate.scorecard import Scorecard


def tell(card: "Scorecard", *, as_json: bool) -> None:
    """Write a scorecard to standard output, as JSON or in words."""
    from holdover.evaluate.scorecard_text import scorecard_text

    sys.stdout.write(json.dumps(card.as_json(), indent=1) + "\n" if as_json else scorecard_text(card))


def write_report(path: Path, card: "Scorecard") -> None:
    """Write a scorecard as one page of HTML.

    Raises
    ------
    UsageError
        The file cannot be written.
    """
    from holdover.apps.recording import whole
    from holdover.evaluate.report import report
    from holdover.runtime.errors import UsageError

    try:
        with whole(path) as part:
            part.write_text(report(card, ["holdover", *sys.argv[1:]]), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
