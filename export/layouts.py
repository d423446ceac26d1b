"""How the inputs of a graph hold the signal: which axis is time, which the batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.runtime.errors import ModelError, UsageError

Array = NDArray[Any]

_SOURCE = {"batch": 0, "time": 1}


@dataclass(frozen=True)
class Layout:
    """How a graph input holds the signal.

    Attributes
    ----------
    name : str
    dims : tuple of int or str
        "batch", "time" or a number, by axis.
    """

    name: str
    dims: tuple[int | str, ...]

    @property
    def time(self) -> int:
        """The time axis."""
        return self.dims.index("time")

    @property
    def channels(self) -> int:
        """Numbers a sample."""
        return int(np.prod([n for n in self.dims if isinstance(n, int)], dtype=int))

    def shape(self, batch: int, time: int) -> tuple[int, ...]:
        """Of an array with so many streams and samples."""
        sizes = {"batch": batch, "time": time}
        return tuple(n if isinstance(n, int) else sizes[n] for n in self.dims)

    def of(self, x: Array) -> Array:
        """This input from x, (batch, samples, channels of this input).

        Examples
        --------
        >>> Layout("x", ("batch", 2, "time")).of(np.zeros((1, 5, 2))).shape
        (1, 2, 5)
        """
        x = x.reshape(*x.shape[:2], *(n for n in self.dims if isinstance(n, int)))
        number = iter(range(2, x.ndim))
        axes = [_SOURCE[n] if isinstance(n, str) else next(number) for n in self.dims]
        if "batch" not in self.dims:
            x, axes = x[0], [axis - 1 for axis in axes]
        return np.ascontiguousarray(x.transpose(axes), np.float32)


def layouts(
    model: onnx.ModelProto, known: Mapping[str, int] | None = None, time_axis: int | None = None
) -> tuple[Layout, ...]:
    """Which axis of each float input is time, and which is the batch; makes both free in the graph.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place: the input shapes.
    known : mapping of str to int
        Time axis by input, where the source told.
    time_axis : int, optional
        What the user said, for all inputs.

    Raises
    ------
    UsageError
        It cannot be told; the message asks for `--time-axis`.
    """
    found = []
    for i in model.graph.input:
        shape = i.type.tensor_type.shape
        if not i.type.tensor_type.HasField("shape"):
            raise ModelError(f"the input {i.name} has no rank; export the model with input shapes")
        if i.type.tensor_type.elem_type not in (onnx.TensorProto.FLOAT,):
            raise ModelError(f"the input {i.name} is {_type(i)}; a signal is float32: scale it in the model")
        dims = [d.dim_value or d.dim_param or None for d in shape.dim]
        axis = time_axis if time_axis is not None else (known or {}).get(i.name)
        layout = _layout(i.name, dims, axis)
        found.append(layout)
        for d, n in zip(shape.dim, layout.dims, strict=True):
            d.Clear()
            if isinstance(n, str):
                d.dim_param = n
            else:
                d.dim_value = n
    return tuple(found)


def _type(info: onnx.ValueInfoProto) -> str:
    return str(onnx.TensorProto.DataType.Name(info.type.tensor_type.elem_type)).lower()


def _layout(name: str, dims: Sequence[int | str | None], axis: int | None) -> Layout:
    shown = "[" + ", ".join(str(d or "?") for d in dims) + "]"
    if axis is None:
        axis = _time_axis(name, dims, shown)
    if not -len(dims) <= axis < len(dims):
        raise UsageError(f"the input {name} {shown} has {len(dims)} axes, there is no axis {axis}; mind --time-axis")
    axis %= len(dims)
    free = [i for i, d in enumerate(dims) if i != axis and not isinstance(d, int)]
    ones = [i for i, d in enumerate(dims) if i != axis and d == 1]
    batch = free[0] if free else next((i for i in ones if i == 0), None if len(dims) < 3 else next(iter(ones), None))
    if len(free) > 1:
        raise UsageError(f"the input {name} {shown} has free axes besides time and batch; fix the number of channels")
    return Layout(name, tuple("time" if i == axis else "batch" if i == batch else d for i, d in enumerate(dims)))  # type: ignore[misc]


_TIME_NAMES = ("time", "seq", "sample", "length", "len", "step", "frames", "t")
_BATCH_NAMES = ("batch", "n", "b", "bs")


def _time_axis(name: str, dims: Sequence[int | str | None], shown: str) -> int:
    free = [i for i, d in enumerate(dims) if not isinstance(d, int)]
    named = [i for i in free if str(dims[i] or "").lower() in _TIME_NAMES
             or any(len(w) > 2 and w in str(dims[i] or "").lower() for w in _TIME_NAMES)]  # fmt: skip
    if len(named) == 1:
        return named[0]
    rest = [i for i in free if str(dims[i] or "").lower().rstrip("_size") not in _BATCH_NAMES
            and "batch" not in str(dims[i] or "").lower()]  # fmt: skip
    if len(rest) == 1 and (len(free) == 2 or isinstance(dims[0], int)):
        return rest[0]
    if len(free) == 2 and free[0] == 0:
        return free[1]
    raise UsageError(f"which axis of the input {name} {shown} is time? Give --time-axis N (the first axis is 0)")
