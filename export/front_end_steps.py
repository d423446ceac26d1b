"""Steps of preprocessing: what each kind takes, how the command line says it, and what cannot be."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from holdover.export import front_end_sections as sections
from holdover.export.front_end_graph import FrontGraph, fir, gained, running, shifted, standardised
from holdover.export.front_end_sections import Array, Step, check_sections
from holdover.export.front_end_taps import check_taps, taps_of
from holdover.export.measure import SETTLED
from holdover.runtime.errors import ModelError, UsageError

MOST = 1e30
"""Beyond it single precision overflows soon."""


@dataclass(frozen=True)
class Number:
    """A number of a step: where it must lie, given the rate, and what that is in words."""

    key: str
    fits: Callable[[float, float], bool]
    expected: str
    default: float | None = None
    read: type[int] | type[float] = float


@dataclass(frozen=True)
class Kind:
    """A kind of step: its numbers as they stand on the command line, and either its sections or its nodes.

    Attributes
    ----------
    numbers : tuple of Number
    sections : callable or None
        Second-order sections at a rate; filters that follow one another become one cascade.
    nodes : callable or None
        Writes its nodes and gives their result.
    fading : callable or None
        Samples until what was fed before has faded; of sections it follows from the poles.
    """

    numbers: tuple[Number, ...] = ()
    sections: Callable[[Step, float], Array] | None = None
    nodes: Callable[[FrontGraph, str, Step, float], str] | None = None
    fading: Callable[[Step, float], int] | None = None


@dataclass(frozen=True)
class Processing:
    """What is written into the graph around a model.

    Attributes
    ----------
    before : tuple of Step
        Before its inputs, in their order.
    after : mapping of str to tuple of Step
        Behind an output, by its name.
    """

    before: tuple[Step, ...] = ()
    after: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)

    @staticmethod
    def of(document: Mapping[str, Any]) -> "Processing":
        """As a contract has it; raises ModelError where that is something else."""
        before, after = document.get("preprocessing", []), document.get("postprocessing", {})
        if not isinstance(before, list) or not isinstance(after, dict) or not all(
                isinstance(steps, list) for steps in after.values()):  # fmt: skip
            raise ModelError("preprocessing and postprocessing in the contract are not lists of steps: export it again")
        return Processing(tuple(before), {name: tuple(steps) for name, steps in after.items()})

    def document(self) -> dict[str, Any]:
        """Keys of the contract; none where there is nothing."""
        after = {name: [dict(s) for s in steps] for name, steps in self.after.items()}
        return ({"preprocessing": [dict(s) for s in self.before]} if self.before else {}) | (
            {"postprocessing": after} if after else {})  # fmt: skip

    def notes(self) -> list[str]:
        """In words."""
        places = [("before the model", self.before), *((f"behind {name}", steps) for name, steps in self.after.items())]
        return [f"in the file, {place}: {'; '.join(map(shown, steps))}" for place, steps in places if steps]


def parse(given: Sequence[tuple[str, str | None]], rate_hz: float) -> Processing:
    """Steps in the order of the command line; those that follow `after` stand behind the output it names.

    Parameters
    ----------
    given : sequence of (str, str or None)
        Option without its dashes, and what stands after it.
    rate_hz : float
        Of the signal.

    Raises
    ------
    UsageError
        Numbers that are none, or lie where they cannot; a filter that single precision cannot hold. Steps behind an
        output are checked once its rate is known.

    Examples
    --------
    >>> parse([("highpass", "0.5,4"), ("gain", "2")], 360.0).before
    ({'kind': 'highpass', 'corner_hz': 0.5, 'order': 4}, {'kind': 'gain', 'factor': 2.0})
    """
    before: list[Step] = []
    after: dict[str, list[Step]] = {}
    steps = before
    for option, text in given:
        if option == "after":
            steps = after.setdefault(text or "", [])
        else:
            steps.append(_step(option, text or ""))
    if empty := [name for name, kept in after.items() if not kept]:
        raise UsageError(f"--after {empty[0]}: nothing follows it; expected --gain, --lowpass or another step")
    check(before, rate_hz)
    return Processing(tuple(before), {name: tuple(kept) for name, kept in after.items()})


def _step(option: str, text: str) -> Step:
    if option == "fir":
        return {"kind": option, "taps": taps_of(text)}
    kind, words = option, [w.strip() for w in text.split(",")] if text else []
    if option == "normalise":
        kind = "running" if words[:1] == ["running"] else "standardise"
        words = words[kind == "running" :]
    numbers = KINDS[kind].numbers
    least = sum(n.default is None for n in numbers)
    if not least <= len(words) <= len(numbers):
        raise UsageError(f"--{option} {text!r}: expected {FORMS[option]}")
    try:
        read = [n.read(w) for n, w in zip(numbers, words, strict=False)]
    except ValueError as error:
        raise UsageError(f"--{option} {text!r}: expected {FORMS[option]}") from error
    values = [*read, *(n.default for n in numbers[len(read) :])]
    return {"kind": kind, **{n.key: v for n, v in zip(numbers, values, strict=True)}}


def shown(step: Step) -> str:
    """A step in words.

    Examples
    --------
    >>> shown({"kind": "highpass", "corner_hz": 0.5, "order": 2})
    'highpass (corner_hz 0.5, order 2)'
    """
    numbers = ", ".join(f"{n.key} {step[n.key]:g}" for n in KINDS[step["kind"]].numbers)
    if step["kind"] == "fir":
        numbers = f"{len(step['taps'])} taps"
    return f"{step['kind']} ({numbers})" if numbers else str(step["kind"])


def check(steps: Sequence[Step], rate_hz: float) -> None:
    """Refuse steps that cannot be.

    Raises
    ------
    UsageError
        An unknown kind, a number that is missing or lies where it cannot, a filter that single precision cannot hold.
    """
    for step in steps:
        name = step.get("kind") if isinstance(step, Mapping) else None
        kind = KINDS.get(name) if isinstance(name, str) else None
        if kind is None:
            raise UsageError(f"there is no preprocessing {step!r:.80}; expected one of {', '.join(KINDS)}")
        for number in kind.numbers:
            _check_number(step, number, rate_hz)
        if name == "fir":
            check_taps(step.get("taps"))
        elif kind.sections is not None:
            check_sections(kind.sections(step, rate_hz), shown(step))


def _check_number(step: Step, number: Number, rate_hz: float) -> None:
    value = step.get(number.key)
    plain = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST
    if not plain or not number.fits(float(value), rate_hz):  # type: ignore[arg-type]
        found = f"{value:g}" if isinstance(value, float) else repr(value)[:40]
        expected = number.expected.format(half=f"{rate_hz / 2:g}", period=f"{1 / rate_hz:g}")
        raise UsageError(f"{step['kind']}: {number.key} is {found}; expected {expected}")


def fading(step: Step, rate_hz: float) -> int:
    """Samples until what was fed before has faded to `SETTLED` of itself."""
    kind = KINDS[step["kind"]]
    if kind.sections is not None:
        return sections.fading(kind.sections(step, rate_hz), SETTLED)
    return kind.fading(step, rate_hz) if kind.fading is not None else 0


def _any(_value: float, _rate_hz: float) -> bool:
    return True


def _above(value: float, _rate_hz: float) -> bool:
    return value >= 1 / MOST


def _below_half(value: float, rate_hz: float) -> bool:
    return 0 < value < rate_hz / 2


def _taps_before(step: Step, _rate_hz: float) -> int:
    return len(step["taps"]) - 1


def _statistics(step: Step, rate_hz: float) -> int:
    return math.ceil(-math.log(SETTLED) * float(step["tau_s"]) * rate_hz)


_HZ = "a frequency in Hz above 0 and below {half}, half the rate"
_CORNER = (
    Number("corner_hz", _below_half, _HZ),
    Number("order", lambda v, _: v in range(1, 9), "a whole number from 1 to 8", 2, int),
)
_NOTCH = (
    Number("at_hz", _below_half, _HZ),
    Number("quality", lambda v, _: 0.5 <= v <= 200, "0.5 to 200", 30.0),
)
_FIXED = (
    Number("mean", _any, f"a number, at most {MOST:g}"),
    Number("std", _above, f"a number above 0, at most {MOST:g}"),
)
_FADING = (
    Number("tau_s", lambda v, rate: 1 / rate < v <= 86400, "seconds above {period}, a sample, to 86400, a day", 10.0),
    Number("floor", _above, f"a number above 0, at most {MOST:g}, in the signal's unit", 0.01),
)
_FACTOR = Number("factor", lambda v, _: abs(v) >= 1 / MOST, f"a number other than 0, at most {MOST:g}")
KINDS: Mapping[str, Kind] = {
    "gain": Kind((_FACTOR,), nodes=gained),
    "offset": Kind((Number("add", _any, f"a number, at most {MOST:g}"),), nodes=shifted),
    "difference": Kind(sections=sections.difference),
    "highpass": Kind(_CORNER, sections=sections.butter),
    "lowpass": Kind(_CORNER, sections=sections.butter),
    "notch": Kind(_NOTCH, sections=sections.notch),
    "fir": Kind(nodes=fir, fading=_taps_before),
    "standardise": Kind(_FIXED, nodes=standardised),
    "running": Kind(_FADING, nodes=running, fading=_statistics),
}
"""Kind by name."""

FORMS: Mapping[str, str] = {
    "gain": "G, one number",
    "offset": "O, one number",
    "difference": "nothing after it",
    "highpass": "HZ[,ORDER], numbers; ORDER is a whole number",
    "lowpass": "HZ[,ORDER], numbers; ORDER is a whole number",
    "notch": "HZ[,Q], numbers",
    "normalise": "running[,TAU_S[,FLOOR]] or MEAN,STD, all but the word numbers",
}
"""What stands after an option, by its name."""
