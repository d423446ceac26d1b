"""What a call of a graph with explicit states takes and gives: axes, sizes, and which states grow, as watched."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.export.sidecar import Sidecar
from holdover.export.whole import Layout, layouts, session
from holdover.runtime.errors import ModelError, UsageError

Array = NDArray[Any]

MOST = 1 << 26
"""Numbers in a state or a block: 256 MB of float32."""
MUCH = 4096
"""Frames of a cache from which it is said to grow without bound."""
WATCHED = 96
"""Samples of the call that is watched, where any number will do."""


@dataclass(frozen=True)
class Carried:
    """A state of the author's graph.

    Attributes
    ----------
    input, output : str
    shape : tuple of int or "batch"
        Before the first sample.
    dtype : np.dtype
    fill : float
        What fills it before the first sample.
    grows : int or None
        The axis that gets longer from call to call.
    bounded : bool
        Whether it stops growing.
    """

    input: str
    output: str
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]
    fill: float = 0.0
    grows: int | None = None
    bounded: bool = True

    @property
    def name(self) -> str:
        """The input's, without what says that it is one."""
        return self.input.removesuffix("_in").removesuffix(".in")

    def initial(self, batch: int, frames: int | None = None) -> Array:
        """The state before the first sample; with so many frames on the axis that grows."""
        shape = [batch if n == "batch" else int(n) for n in self.shape]
        if frames is not None and self.grows is not None:
            shape[self.grows] = frames
        return np.full(shape, self.fill, self.dtype)


@dataclass(frozen=True)
class Signature:
    """A call of the author's graph.

    Attributes
    ----------
    layouts : tuple of Layout
        The signal inputs; one without "time" takes one sample.
    states : tuple of Carried
    constants : mapping of str to array
    outputs : tuple of str
    hop : int or None
        Samples of one call; None: any number.
    context : int
        Samples before the block that a call takes too.
    """

    layouts: tuple[Layout, ...]
    states: tuple[Carried, ...]
    constants: Mapping[str, Array]
    outputs: tuple[str, ...]
    hop: int | None
    context: int

    @property
    def channels(self) -> int:
        """Numbers a sample, over all inputs."""
        return sum(y.channels for y in self.layouts)

    @property
    def unbounded(self) -> tuple[Carried, ...]:
        """The states that grow for ever."""
        return tuple(s for s in self.states if not s.bounded)

    def feeds(self, block: Array, states: Mapping[str, Array]) -> dict[str, Array]:
        """Graph inputs from a block, (batch, samples, channels), and states by input."""
        starts = np.cumsum([0, *(y.channels for y in self.layouts)])
        pairs = zip(self.layouts, starts, strict=False)
        return {y.name: laid(y, block[..., a : a + y.channels]) for y, a in pairs} | dict(self.constants) | dict(states)

    def initial(self, batch: int = 1) -> dict[str, Array]:
        """States before the first sample, by input."""
        return {s.input: s.initial(batch) for s in self.states}


def laid(layout: Layout, x: Array) -> Array:
    """An input from x, (batch, samples, channels of this input), also where a call takes one sample and has no time."""
    if "time" in layout.dims:
        return layout.of(x)
    timed = Layout(layout.name, ("time", *layout.dims))
    sample: Array = timed.of(x)[0]
    return sample


def signature(model: onnx.ModelProto, sidecar: Sidecar, time_axis: int | None = None) -> Signature:
    """Find out how a graph is called, and try it.

    Parameters
    ----------
    model : onnx.ModelProto
        Cleaned; changed in place: batch and time are made free in its inputs.
    sidecar : Sidecar
        Checked against it.
    time_axis : int, optional
        Of the signal, where the file does not tell.

    Raises
    ------
    UsageError
        An axis or a size that cannot be told; the message names the key of the sidecar that would.
    ModelError
        A call fails, or a state comes out unlike it went in.
    """
    infos = {i.name: i for i in model.graph.input}
    signals = _layouts([infos[n] for n in sidecar.signals], sidecar, time_axis)
    if sum(y.channels for y in signals) * ((sidecar.hop or 0) + sidecar.context) > MOST:
        raise UsageError(f"hop {sidecar.hop} and context {sidecar.context} make a call of more than {MOST} numbers")
    constants = {n: _constant(infos[n], value) for n, value in sidecar.constants.items()}
    states = tuple(_carried(infos[a], b, sidecar) for a, b in sidecar.states.items())
    form = Signature(signals, states, constants, sidecar.outputs, sidecar.hop, sidecar.context)
    return replace(form, states=_watched(model, form))


def _layouts(infos: Sequence[onnx.ValueInfoProto], sidecar: Sidecar, time_axis: int | None) -> tuple[Layout, ...]:
    if sidecar.layout:
        return tuple(_stated(i, sidecar.layout) for i in infos)
    stepwise = sidecar.hop == 1 and not sidecar.context and time_axis is None
    if stepwise and all(_open(i) in ([], [0]) and _block_axis(i, 1) is None for i in infos):
        return tuple(_stepwise(i) for i in infos)
    if sidecar.hop is None and time_axis is None and (fixed := next((i for i in infos if not _open(i)), None)):
        raise UsageError(
            f"the file says that a call takes {fixed.name} {_dims(fixed)}: give the samples of one call as hop in the "
            "states file, or --time-axis N if the graph takes any number"
        )
    size = (sidecar.hop or 0) + sidecar.context
    known = {i.name: axis for i in infos if size and (axis := _block_axis(i, size)) is not None}
    signal = onnx.ModelProto()
    signal.graph.input.extend(infos)
    try:
        found = layouts(signal, known, time_axis)
    except UsageError as error:
        raise UsageError(f"{error}; or say it in the states file: layout, and hop where a call takes a fixed number of "
                         "samples") from error  # fmt: skip
    for info, freed in zip(infos, signal.graph.input, strict=True):
        info.CopyFrom(freed)
    return found


def _dims(info: onnx.ValueInfoProto) -> list[int | str | None]:
    if not info.type.tensor_type.HasField("shape"):
        raise ModelError(f"the input {info.name} has no rank; export the model with input shapes")
    return [d.dim_value or d.dim_param or None for d in info.type.tensor_type.shape.dim]


def _open(info: onnx.ValueInfoProto) -> list[int]:
    return [axis for axis, n in enumerate(_dims(info)) if not isinstance(n, int)]


def _block_axis(info: onnx.ValueInfoProto, size: int) -> int | None:
    """The only axis, the first apart, that has the size of a block; of two axes neither is time for being 1 long."""
    dims = _dims(info)
    fits = [axis for axis, n in enumerate(dims) if n == size and axis]
    return fits[0] if len(fits) == 1 and (size > 1 or len(dims) > 2) else None


def _stated(info: onnx.ValueInfoProto, dims: tuple[int | str, ...]) -> Layout:
    found = _dims(info)
    clash = [(a, b) for a, b in zip(found, dims, strict=False) if isinstance(a, int) and isinstance(b, int) and a != b]
    if len(found) != len(dims) or clash:
        raise UsageError(f"layout says {list(dims)}, the input {info.name} is {found}; give one entry for each axis")
    _set(info, dims)
    return Layout(info.name, dims)


def _stepwise(info: onnx.ValueInfoProto) -> Layout:
    """One sample a call, without a time axis: the open axis, or a first one of size 1, is the batch."""
    dims, free = _dims(info), _open(info)
    batch = free[0] if free else 0 if len(dims) > 1 and dims[0] == 1 else None
    named = tuple("batch" if axis == batch else n for axis, n in enumerate(dims))
    _set(info, named)
    return Layout(info.name, named)  # type: ignore[arg-type] # open axes are the batch


def _set(info: onnx.ValueInfoProto, dims: Sequence[int | str | None]) -> None:
    for d, n in zip(info.type.tensor_type.shape.dim, dims, strict=True):
        d.Clear()
        if isinstance(n, str):
            d.dim_param = n
        elif n is not None:
            d.dim_value = n


def _constant(info: onnx.ValueInfoProto, value: Any) -> Array:
    kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
    sizes = [n for n in _dims(info) if isinstance(n, int)]
    try:
        made = np.asarray(value, kind)
        return made.reshape(sizes) if len(sizes) == len(_dims(info)) else made
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"the constant {info.name} is {value!r}; expected {kind.name}{_dims(info)}") from error


def _carried(info: onnx.ValueInfoProto, output: str, sidecar: Sidecar) -> Carried:
    """A state with its shape before the first sample: as stated, else the open axes are the batch and a cache's."""
    dims, free = _dims(info), _open(info)
    named = [axis for axis in free if "batch" in str(dims[axis]).lower()]
    batch = next(iter(named or free), None)
    shape = sidecar.shapes.get(info.name)
    if shape is None and len(free) > 2:
        raise UsageError(f"the state {info.name} is {dims}: give its shape before the first sample in shapes of the "
                         'states file, as in {"' + info.name + '": [1, "batch", 64]}')  # fmt: skip
    if shape is None:
        shape = tuple("batch" if axis == batch else n if isinstance(n, int) else 0 for axis, n in enumerate(dims))
    if len(shape) != len(dims):
        raise UsageError(f"shapes gives {info.name} {len(shape)} axes, the graph {len(dims)}")
    if math.prod(n for n in shape if isinstance(n, int)) > MOST:
        raise UsageError(f"the state {info.name} is {list(shape)}, more than {MOST} numbers: not for small devices")
    kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
    _set(info, ["batch" if n == "batch" else old for n, old in zip(shape, dims, strict=True)])
    return Carried(info.name, output, shape, kind, _fill(info.name, kind, sidecar.initial.get(info.name, 0.0)))


def _fill(name: str, kind: np.dtype[Any], value: float) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        kept = float(np.asarray(value).astype(kind))
    if not math.isclose(kept, value, rel_tol=1e-2):
        raise UsageError(f"initial fills the state {name} with {value}, which {kind.name} cannot hold")
    return value


def _watched(model: onnx.ModelProto, form: Signature) -> tuple[Carried, ...]:
    """The states with what two calls showed: which axis grows, and whether for ever."""
    run = session(model)
    names = [s.output for s in form.states]
    block = np.zeros((1, (form.hop or WATCHED) + form.context, form.channels), np.float32)

    feeds = form.feeds(block, form.initial())
    try:
        first = run.run(names, feeds)
    except Exception as error:  # onnxruntime's own types
        raise ModelError(
            f"a call of the graph fails: it was given { ({n: v.shape for n, v in feeds.items()}) }; mind hop, context, "
            f"layout and shapes of the states file. onnxruntime says: {' '.join(str(error).split())[:300]}"
        ) from error
    states = tuple(_growth(s, value) for s, value in zip(form.states, first, strict=True))
    if all(s.grows is None for s in states):
        return states
    try:
        long = run.run(names, form.feeds(block, {s.input: s.initial(1, MUCH) for s in states}))
    except Exception:  # onnxruntime's own types: the graph cannot be called for so long, and nothing keeps it from that
        return tuple(replace(s, bounded=s.grows is None) for s in states)
    return tuple(replace(s, bounded=s.grows is None or value.shape[s.grows] <= MUCH)
                 for s, value in zip(states, long, strict=True))  # fmt: skip


def _growth(state: Carried, after: Array) -> Carried:
    before = state.initial(1)
    same_rank = after.ndim == before.ndim
    changed = [axis for axis in range(before.ndim) if same_rank and after.shape[axis] != before.shape[axis]]
    if not same_rank or len(changed) > 1 or after.dtype != before.dtype:
        raise ModelError(f"the state {state.input} goes in as {before.dtype}{before.shape} and comes out of "
                         f"{state.output} as {after.dtype}{after.shape}: they are no pair, or its shape before the "
                         "first sample is another (shapes in the states file)")  # fmt: skip
    return replace(state, grows=changed[0] if changed else None)
