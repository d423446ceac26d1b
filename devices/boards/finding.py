"""One thing that was looked at on a machine."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Grade = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """What was found, why it matters, and the command that mends it; `values` are the figures, for programs."""

    grade: Grade
    check: str
    what: str
    why: str = ""
    mend: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
