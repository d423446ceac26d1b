"""A graph with explicit states, called block by block as its author would: the reference of a fixed block.

A loop, slow and obvious, with nothing of the runtime in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.export.fact import Stream
from holdover.export.signature import Signature
from holdover.export.streaming import Port
from holdover.export.whole import BATCH, session

Array = NDArray[Any]


@dataclass(frozen=True)
class _Place:
    """Where an output of a call has its batch, and how many numbers a stream."""

    batch: int | None
    rank: int
    width: int


class Stepped:
    """The loop.

    Parameters
    ----------
    model : onnx.ModelProto
        Cleaned, inputs as `signature` set them.
    form : Signature
        With a hop.
    window : int, optional
        Frames that a state which grows without bound is cut to, that of the call included.

    Attributes
    ----------
    batch_free : bool
        Whether a call takes several streams.
    channels : int
        Numbers a sample.
    """

    def __init__(self, model: onnx.ModelProto, form: Signature, window: int | None = None) -> None:
        self.form, self.channels, self._window = form, form.channels, window
        self._hop = form.hop or 1
        self._session = session(model)
        self._places: dict[str, _Place] = {}
        self._places, self.batch_free = self._look()

    def run(self, x: Array) -> dict[str, Array]:
        """Outputs by name, (batch, frames, width), of x, (batch, samples, channels); one frame a call."""
        if len(x) > 1 and not self.batch_free:
            runs = [self.run(x[i : i + 1]) for i in range(len(x))]
            return {n: np.concatenate([r[n] for r in runs]) for n in runs[0]}
        frames: dict[str, list[Array]] = {n: [] for n in self.form.outputs}
        for found in self.calls(x):
            for name, place in self._places.items():
                value = found[name] if place.batch is None else np.moveaxis(found[name], place.batch, 0)
                frames[name].append(value.reshape(len(x), 1, place.width).astype(np.float32))
        empty = {n: np.empty((len(x), 0, p.width), np.float32) for n, p in self._places.items()}
        return {n: np.concatenate([empty[n], *parts], axis=1) for n, parts in frames.items()}

    def calls(self, x: Array) -> list[dict[str, Array]]:
        """What every call gave, outputs and states; samples short of a block are left."""
        form, said = self.form, []
        states = form.initial(len(x))
        x = np.concatenate([np.zeros((len(x), form.context, x.shape[2]), np.float32), x], axis=1)
        names = [*form.outputs, *(s.output for s in form.states)]
        for start in range(0, x.shape[1] - form.context - self._hop + 1, self._hop):
            block = x[:, start : start + form.context + self._hop]
            found = dict(zip(names, self._session.run(names, form.feeds(block, states)), strict=True))
            states = {s.input: self._cut(found[s.output], None if s.bounded else s.grows) for s in form.states}
            said.append(found)
        return said

    def ports(self) -> tuple[Port, ...]:
        """The outputs: a frame for each block, there with its last sample."""
        fact = Stream(axis=0, pace=self._hop, ahead=self._hop - 1)
        return tuple(Port(n, fact, p.width, p.rank, p.batch) for n, p in self._places.items())

    def _cut(self, state: Array, axis: int | None) -> Array:
        if self._window is None or axis is None:
            return state
        kept = min(self._window - 1, state.shape[axis])
        return np.take(state, range(state.shape[axis] - kept, state.shape[axis]), axis)

    def _look(self) -> tuple[dict[str, _Place], bool]:
        """Call it twice with one stream and with several; do the several agree with the one?"""
        x = np.random.default_rng(7).normal(size=(BATCH, 2 * self._hop, self.channels)).astype(np.float32)
        one = self.calls(x[:1])[-1]
        alone = {n: _Place(None, one[n].ndim, one[n].size) for n in self.form.outputs}
        if not all("batch" in y.dims for y in self.form.layouts):
            return alone, False
        try:
            many = self.calls(x)[-1]
        except Exception:  # onnxruntime's own types: the graph holds a batch of one in its shapes
            return alone, False
        places = {n: replace(alone[n], batch=_batch_axis(one[n], many[n])) for n in self.form.outputs}
        separate = all(p.batch is not None for p in places.values())
        carried = all("batch" in s.shape for s in self.form.states)
        return (places, True) if separate and carried else (alone, False)


def _batch_axis(one: Array, many: Array) -> int | None:
    """The axis on which several streams lie whose first is the one."""
    sizes: Sequence[tuple[int, int]] = list(zip(one.shape, many.shape, strict=False))
    return next(
        (axis for axis, (a, b) in enumerate(sizes)
         if one.ndim == many.ndim and a == 1 and b == BATCH and np.allclose(many.take([0], axis), one, atol=1e-4)),
        None,
    )  # fmt: skip


def gaps(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> dict[str, float]:
    """Mean and largest difference by output, as `approximation_error` of a contract."""
    errors: dict[str, float] = {}
    for name, value in wanted.items():
        gap = np.abs(found[name] - value)
        errors |= {f"{name}.mean": float(f"{gap.mean():.2e}"), f"{name}.max": float(f"{gap.max():.2e}")}
    return errors
