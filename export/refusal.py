"""Why a model cannot be made streaming: the node, its operator, and the reason in its author's words."""

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
        super().__init__("this model cannot be streamed exactly:\n" + "\n".join(f"  {r}" for r in refusals))
