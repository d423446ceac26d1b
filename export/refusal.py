"""Why a model cannot be made streaming: the node, its operator, and the reason in its author's words."""

import textwrap
from dataclasses import dataclass

from holdover.runtime.errors import ModelError


@dataclass(frozen=True)
class Refusal:
    """One node that cannot be streamed exactly.

    Attributes
    ----------
    node : str
        Its name, or that of its first output.
    op : str
        Its operator.
    reason : str
        What it needs that a stream does not have, and what to do about it.
    """

    node: str
    op: str
    reason: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.op} '{self.node}': {self.reason}"


class NotStreamable(Exception):
    """A rule gives up on its node; the walk turns it into a `Refusal`."""


class RefusedError(ModelError):
    """The model cannot be made streaming, with every node that stands in the way."""

    def __init__(self, refusals: tuple[Refusal, ...]) -> None:
        self.refusals = refusals
        listed = "\n".join(textwrap.fill(str(r), 79, initial_indent="  ", subsequent_indent="    ") for r in refusals)
        super().__init__(f"this model cannot be streamed exactly:\n{listed}")
