"""Which nodes remember what no state carries: those whose output, and not input, changes with the cut of the signal."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.export.refusal import Refusal
from holdover.export.signature import Signature
from holdover.export.whole import session

Array = NDArray[Any]

SAMPLES = 96
"""Of the signal that is given once whole and once in two halves; even, and divisible by the usual strides."""
MOST = 3
REASON = (
    "what it gives depends on where the signal is cut into calls, and no state carries what it needs from the call "
    "before: give it a cache that is a state too, or say the samples of one call (hop in the states file)"
)


def suspects(model: onnx.ModelProto, form: Signature) -> tuple[Refusal, ...]:
    """The first nodes, at most three, whose output depends on the cut though their inputs do not.

    Parameters
    ----------
    model : onnx.ModelProto
        Inputs as `signature` set them.
    form : Signature
        Without a hop.

    Returns
    -------
    tuple of Refusal
        Empty where none can be told apart.
    """
    try:
        whole, halves = _watched(model, form)
    except Exception:  # onnxruntime's own types: the second half alone may be too short, or shapes may not fit
        return ()
    follows = _followers(model, form)
    agree = {n: _agrees(value, halves[0][n], halves[1][n]) for n, value in whole.items() if n in follows}
    found = []
    for node in model.graph.node:
        told = [n for n in node.output if agree.get(n) is False]
        if told and not any(agree.get(n) is False for n in node.input):
            found.append(Refusal(node.name or told[0], node.op_type, REASON))
    return tuple(found[:MOST])


def _watched(
    model: onnx.ModelProto, form: Signature
) -> tuple[dict[str, Array], tuple[dict[str, Array], dict[str, Array]]]:
    """Every tensor of a call with the whole signal, and of two calls with a half each."""
    names = [o for n in model.graph.node for o in n.output if o]
    open_ended = onnx.ModelProto()
    open_ended.CopyFrom(model)
    del open_ended.graph.output[:]
    open_ended.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    run = session(open_ended, optimize=False)
    x = np.random.default_rng(9).normal(size=(1, SAMPLES, form.channels)).astype(np.float32)

    def call(block: Array, states: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, run.run(names, form.feeds(block, states)), strict=True))

    whole, first = call(x, form.initial()), call(x[:, : SAMPLES // 2], form.initial())
    carried = {s.input: first[s.output] for s in form.states}
    return whole, (first, call(x[:, SAMPLES // 2 :], carried))


def _followers(model: onnx.ModelProto, form: Signature) -> set[str]:
    """Tensors that follow the signal; what follows states alone differs between calls, and may."""
    found = {y.name for y in form.layouts}
    for node in model.graph.node:
        if found.intersection(node.input):
            found.update(node.output)
    return found


def _agrees(whole: Array, first: Array, second: Array) -> bool | None:
    """Whether two halves are the whole; None where that cannot be said."""
    if not isinstance(whole, np.ndarray) or whole.dtype.kind != "f":
        return None
    if whole.shape == second.shape:
        # Time was used up, or a cache holds it all.
        return _close(whole, second)
    axes = [i for i, (a, b) in enumerate(zip(whole.shape, second.shape, strict=False)) if a != b]
    if len(axes) != 1 or whole.ndim != second.ndim or first.ndim != second.ndim:
        return None
    first, second, whole = (np.moveaxis(v, axes[0], 0) for v in (first, second, whole))
    # The samples that a cache holds come at the end of the first half and at the start of the second.
    twice = len(first) + len(second) - len(whole)
    if twice < 0 or first.shape[1:] != whole.shape[1:]:
        return False
    held = _close(first[len(first) - twice :], second[:twice])
    return held and _close(whole, np.concatenate([first, second[twice:]]))


def _close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True))
