"""What the streamed model gave beside what its original gave: frames by count, numbers by tolerance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from holdover.export.measure import Array, Tensors
from holdover.runtime.contract import Contract, OutputSpec
from holdover.runtime.stream import ends_cut, expected_frames


@dataclass
class Tally:
    """Differences as they are found.

    Attributes
    ----------
    tolerance : mapping of str to array
        Difference that rounding explains, by output, (streams, width).
    errors : dict of str to float
        Largest difference by way of feeding; infinite where one side is finite and the other is not.
    checks : dict of str to float
        The same over its tolerance; above 1 is wrong.
    beyond : dict of (str, str) to (float, str)
        By way of feeding and output, the largest of those above 1, and what is wrong in words.
    frames : int
        Compared.
    wrong : list of str
        Frames that are missing, or too many, and bits that differ.
    bitwise : bool
    """

    tolerance: Mapping[str, Array]
    errors: dict[str, float] = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)
    beyond: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)
    frames: int = 0
    wrong: list[str] = field(default_factory=list)
    bitwise: bool = True

    def add(
        self, check: str, contract: Contract, found: Tensors, wanted: Tensors, samples: int, stream: int = 0
    ) -> None:
        """Compare the outputs of one stream, (frames, width) by name, over so many samples."""
        for o in contract.outputs:
            a, b = found[o.name], wanted[o.name]
            if o.kind == "running":
                a = a[-1:]
            if reason := _miscounted(contract, o, a, b, samples):
                self.wrong.append(f"{check}: {o.name} gave {reason}")
                continue
            self.frames += len(b)
            self._compare(check, o.name, a[: len(b)], b, stream)

    def _compare(self, check: str, name: str, a: Array, b: Array, stream: int) -> None:
        gap = gaps(a, b)
        parts = gap / self.tolerance[name][stream]
        error, part = float(gap.max(initial=0)), float(parts.max(initial=0))
        self.errors[check] = max(self.errors.get(check, 0.0), error)
        self.checks[check] = max(self.checks.get(check, 0.0), part)
        if part > max(1.0, self.beyond.get((check, name), (0.0, ""))[0]):
            at = np.unravel_index(int(parts.argmax()), parts.shape)
            self.beyond[check, name] = (
                part,
                f"{check}: {name} {_differs(a[at], b[at], self.tolerance[name][stream][at[1]])}",
            )

    def reasons(self) -> list[str]:
        """Everything that is wrong, in words."""
        return [*self.wrong[:5], *(reason for _, reason in self.beyond.values())]


def _differs(found: float, wanted: float, tolerance: float) -> str:
    if not (np.isfinite(found) and np.isfinite(wanted)):
        return f"gave {found}, which differs from the original, {wanted}"
    gap = abs(float(found) - float(wanted))
    return f"differs from the original by {gap:.1e}, more than rounding explains ({tolerance:.1e})"


def gaps(a: Array, b: Array) -> Array:
    """Absolute differences of two arrays of one shape; infinite where a number that is not finite meets another."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    both = np.isfinite(a) & np.isfinite(b)
    return np.where(same, 0.0, np.abs(np.subtract(a, b, out=np.full(a.shape, np.inf), where=both)))


def _miscounted(contract: Contract, o: OutputSpec, a: Array, b: Array, samples: int) -> str | None:
    """What is wrong with the number of frames."""
    if o.kind == "running" or contract.exact_end:
        same = a.shape == b.shape
        return None if same else f"{len(a)} frames of {samples} samples, the original {len(b)}"
    due = expected_frames(o, samples)
    enough = len(a) == len(b) if ends_cut(contract) else len(a) >= len(b)
    if enough and len(b) == due:
        return None
    return f"{len(a)} frames for {samples} samples, the contract promises {due}, the original has {len(b)}"


def still(contract: Contract, runs: Sequence[Tensors]) -> dict[str, tuple[int, ...]]:
    """Columns that gave one number all along, or none that is finite, by output: nothing is proven of them.

    Parameters
    ----------
    runs : sequence of mapping
        The original over signals of several lengths, (frames, width) by name: a value over all of time moves with the
        length, or never.
    """
    found = {o.name: _still(np.concatenate([run[o.name] for run in runs])) for o in contract.outputs}
    return {name: columns for name, columns in found.items() if columns}


def _still(rows: Array) -> tuple[int, ...]:
    if len(rows) < 2:
        return ()
    columns = [column[np.isfinite(column)] for column in rows.T]
    return tuple(k for k, column in enumerate(columns) if not len(column) or column.min() == column.max())
