"""From a float model to a smaller one that still decides the same: make, stream, prove, isolate, judge, choose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.export.contract_io import attach
from holdover.export.contract_io import read as read_contract
from holdover.quantize.calibration import Calibration, concatenated
from holdover.quantize.cost import step_costs
from holdover.quantize.gate import Bound, Parity, check_measured, failed, would_pass
from holdover.quantize.isolation import Isolation, isolation
from holdover.quantize.judge import Judge, default_gate
from holdover.quantize.method import Made, Parent, Refused
from holdover.quantize.methods.dynamic_int8 import one_stream
from holdover.quantize.methods.table import AUTO, METHODS
from holdover.runtime.errors import ModelError

Progress = Callable[[str], None]
"""Told what is done next."""

NOT_SLOWER = 1.05
"""How much longer a step may take for `auto` to choose a model."""


@dataclass(frozen=True)
class Tried:
    """One method on one model, and how it came out.

    Attributes
    ----------
    method : str
    data : bytes
        The streaming file, its contract complete; empty where the method refused.
    refused : str
        Why the method cannot be used; empty where it can.
    made : Made or None
    parity : mapping of str to Parity
    failures : tuple of str
        What the gate says against it.
    isolation : Isolation or None
    step_us, parent_step_us : float
        A step of one hop, the two measured in turns.
    """

    method: str
    data: bytes = b""
    refused: str = ""
    made: Made | None = None
    parity: Mapping[str, Parity] = field(default_factory=dict)
    failures: tuple[str, ...] = ()
    isolation: Isolation | None = None
    step_us: float = 0.0
    parent_step_us: float = 0.0
    bounds: tuple[Bound, ...] = ()

    @property
    def passes(self) -> bool:
        """Whether it may be shipped."""
        return bool(self.data) and not self.failures

    @property
    def telling(self) -> dict[str, Parity]:
        """The parity without single alarms that are all the same."""
        return {n: p for n, p in self.parity.items() if not (n.startswith("alerts.") and p.value == p.there == 1)}

    @property
    def slower(self) -> float:
        """Times the parent's step."""
        return self.step_us / self.parent_step_us if self.parent_step_us else 1.0


@dataclass(frozen=True)
class Chosen:
    """What came of it: every method that was tried, and the one that is shipped; None: the float parent stands."""

    parent: Parent
    tried: tuple[Tried, ...]
    best: Tried | None

    @property
    def data(self) -> bytes:
        """The file to write."""
        return self.best.data if self.best else self.parent.data


def quantize(
    parent: Parent, calibration: Calibration, judge: Judge, method: str = "auto",
    bounds: Sequence[Bound] | None = None, progress: Progress = lambda _: None,
) -> Chosen:  # fmt: skip
    """Quantize a model and hold it to the gate.

    Parameters
    ----------
    parent : Parent
    calibration : Calibration
    judge : Judge
        Of the same parent, on other records.
    method : str
        One of `METHODS`, or "auto".
    bounds : sequence of Bound, optional
        The gate; `default_gate` where None.

    Raises
    ------
    ModelError
        The method asked for refuses, or its model does not pass the gate: which class on which record, and what would
        pass.
    UsageError
        The gate names what cannot be measured.
    """
    names = AUTO if method == "auto" else (method,)
    asked = tuple(bounds) if bounds is not None else default_gate(judge.measures)
    check_measured(asked, judge.measures)
    tried = []
    for name in names:
        progress(name)
        tried.append(_try(name, parent, calibration, judge, asked))
    if method == "auto":
        return Chosen(parent, tuple(tried), _best(tried, len(parent.data)))
    return Chosen(parent, tuple(tried), _only(tried[0]))


def _only(tried: Tried) -> Tried:
    if tried.refused:
        raise ModelError(f"{tried.method} cannot be used on this model: {tried.refused}")
    if tried.failures:
        raise ModelError(f"{tried.method} changes what is decided:\n  " + "\n  ".join(tried.failures) +
                         f"\nnothing was written. {_advice(tried)}try another method, or --method auto")  # fmt: skip
    return tried


def _advice(tried: Tried) -> str:
    """The gate that would pass, where one would."""
    leaks = tried.isolation is not None and tried.isolation.later
    loose = "" if leaks else would_pass(tried.bounds, tried.parity)
    return f'This would pass: --gate "{loose}"; or ' if loose else ""


def _best(tried: Sequence[Tried], before: int) -> Tried | None:
    """The smallest that passes and is not slower, if it is smaller than the parent."""
    fit = [t for t in tried if t.passes and t.slower <= NOT_SLOWER and len(t.data) < before]
    return min(fit, key=lambda t: len(t.data), default=None)


def _try(name: str, parent: Parent, calibration: Calibration, judge: Judge, asked: tuple[Bound, ...]) -> Tried:
    try:
        made = METHODS[name](parent, calibration)
        if isinstance(made, Refused):
            return Tried(name, refused=made.reason)
        model = made.model
        apart = isolated(model, concatenated(calibration.signals.values()))
        data = model.SerializeToString(deterministic=True)
        parity = judge.parity(data)
    except ModelError as error:  # the proof failed, or it says what is no number
        return Tried(name, refused=str(error))
    wrong = (*failed(asked, parity), *_leaks(apart))
    before, after = step_costs([parent.data, data])
    found = Tried(name, data, "", made, parity, wrong, apart, after, before, asked)
    return Tried(**{**vars(found), "data": _described(model, found, parent, calibration, judge)})


def _leaks(found: Isolation) -> tuple[str, ...]:
    """What no gate lets pass."""
    said = f"an artefact in the last sample of a block changes the frames before it by {found.later:.1e}"
    return (said,) if found.later else ()


def isolated(model: onnx.ModelProto, signal: NDArray[np.float32]) -> Isolation:
    """Try what leaks; a model that leaks between streams has its batch fixed at one, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        A streaming model with its contract.
    signal : array
        (samples, channels) of a recording.
    """
    found = isolation(model.SerializeToString(deterministic=True), signal)
    if found.loud or found.nan:
        one_stream(model)
        found = isolation(model.SerializeToString(deterministic=True), signal)
    return found


def _described(model: onnx.ModelProto, tried: Tried, parent: Parent, calibration: Calibration, judge: Judge) -> bytes:
    """The file with its contract's `quantization`; its own size is that without this entry."""
    document = dict(read_contract(model).document) | {
        "quantization": {
            "method": tried.method,
            "parent": f"sha256:{parent.sha256}",
            "ranges": calibration.ranges,
            "calibrated_on": list(calibration.signals),
            "held_out": list(judge.held_out),
            "gate": ",".join(map(str, tried.bounds)),
            "parity": {name: _short(p.value) for name, p in tried.parity.items()},
            "bytes": {"before": len(parent.data), "after": len(tried.data)},
            "step_us": {"before": _short(tried.parent_step_us), "after": _short(tried.step_us)},
            "isolation": tried.isolation.document() if tried.isolation else {},
        }
    }
    attach(model, document)
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _short(number: float) -> float:
    return float(f"{number:.4g}")


def document(chosen: Chosen) -> dict[str, Any]:
    """All of it as JSON types."""
    return {
        "method": chosen.best.method if chosen.best else "float32",
        "bytes": {"before": len(chosen.parent.data), "after": len(chosen.data)},
        "tried": {t.method: _tried_document(t) for t in chosen.tried},
    }


def _tried_document(tried: Tried) -> dict[str, Any]:
    if tried.refused:
        return {"refused": tried.refused}
    return {
        "bytes": len(tried.data),
        "step_us": {"before": tried.parent_step_us, "after": tried.step_us},
        "parity": {name: vars(p) for name, p in tried.parity.items()},
        "failures": list(tried.failures),
        "isolation": tried.isolation.document() if tried.isolation else {},
        "max_error": tried.made.proof.max_error if tried.made else None,
    }
