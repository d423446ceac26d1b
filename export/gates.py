"""Gate orders of the frameworks, and recurrent layers as ONNX nodes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.errors import UsageError

Array = NDArray[Any]

ONNX_ORDER = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}
"""How the ONNX operators stack their gates; `c` is the LSTM's candidate, `h` the candidate of GRU and RNN."""

ORDERS = {
    "LSTM": {"onnx": "iofc", "torch": "ifco", "keras": "ifco", "tensorflow1": "icfo"},
    "GRU": {"onnx": "zrh", "torch": "rzh", "keras": "zrh"},
    "RNN": {"onnx": "h", "torch": "h", "keras": "h"},
}
"""Gate order by operator and framework (torch calls the candidates g and n)."""


@dataclass(frozen=True)
class Gate:
    """One gate: pre-activation W x + R h + bw + br.

    Attributes
    ----------
    w, r : array
        (hidden, inputs) and (hidden, hidden).
    bw, br : array
        (hidden,): the bias of the input and of the recurrence; they differ in effect only in a GRU's candidate.
    """

    w: Array
    r: Array
    bw: Array
    br: Array


def split(order: str, w: Array, r: Array, bw: Array | None = None, br: Array | None = None) -> dict[str, Gate]:
    """Gates by letter, from arrays stacked along the first axis.

    Parameters
    ----------
    order : str
        One letter a gate, in the order of the stack.
    w, r : array
        (gates * hidden, inputs) and (gates * hidden, hidden).
    bw, br : array, optional
        (gates * hidden,); zeros if None.

    Raises
    ------
    UsageError
        The shapes do not fit one another.
    """
    hidden, n = r.shape[1], len(order)
    zero = np.zeros(n * hidden, w.dtype)
    bw, br = (zero if b is None else b for b in (bw, br))
    for name, a, shape in (("W", w, (n * hidden, w.shape[1])), ("R", r, (n * hidden, hidden)), ("b", bw, (n * hidden,)),
                           ("b of the recurrence", br, (n * hidden,))):  # fmt: skip
        if a.shape != shape:
            raise UsageError(f"{name} has shape {a.shape}, expected {shape} for gates {order} of {hidden} units")
    parts = (np.split(a, n) for a in (w, r, bw, br))
    return {letter: Gate(*arrays) for letter, *arrays in zip(order, *parts, strict=True)}


def stack(op: str, gates: Mapping[str, Gate]) -> tuple[Array, Array, Array]:
    """W (1, gates * hidden, inputs), R (1, gates * hidden, hidden) and B (1, 2 * gates * hidden) as ONNX wants them.

    Raises
    ------
    UsageError
        A gate is missing.
    """
    order = ONNX_ORDER[op]
    if set(gates) != set(order):
        raise UsageError(f"{op} needs the gates {', '.join(order)}; found {', '.join(gates)}")
    w, r, bw, br = (np.concatenate([getattr(gates[g], part) for g in order]) for part in ("w", "r", "bw", "br"))
    return w[None], r[None], np.concatenate([bw, br])[None]
