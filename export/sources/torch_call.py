"""What a PyTorch module takes and gives, found by trying."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.export.original import Tensors
from holdover.export.sources.torch_quiet import line
from holdover.runtime.errors import ModelError, UsageError

Array = NDArray[Any]
Dims = tuple[int | str, ...]

LENGTHS = ((24, 36), (240, 360), (2400, 3600))
"""Samples of the examples; the first pair that the module takes. Multiples of 12, for modules that fold time."""

TOLERANCE = 1e-4
"""Largest difference between two ways to compute an output, relative to the output's largest value."""


@dataclass(frozen=True)
class Call:
    """A module as a function of arrays by name.

    Attributes
    ----------
    module : torch.nn.Module
        In eval mode, float32, on the CPU.
    names : tuple of str
        Inputs, as the parameters of `forward` are named.
    optional : tuple of str
        Parameters of `forward` that are left at their defaults.
    """

    module: Any
    names: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: Any) -> "Call":
        """The inputs that `forward` needs, by its signature; its first if it needs none.

        Raises
        ------
        ModelError
            It needs some by keyword, or names none.
        """
        parameters = inspect.signature(module.forward).parameters.values()
        places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        if keywords:
            raise ModelError(f"forward needs {', '.join(keywords)} by keyword; expected tensors by place only")
        if not places:
            raise ModelError(
                "forward takes *args or nothing; expected parameters with names, as a module inside may have"
            )
        needed = [p.name for p in places if p.default is p.empty] or [places[0].name]
        return cls(module, tuple(needed), tuple(p.name for p in places if p.name not in needed))

    def __call__(self, inputs: Tensors) -> dict[str, Array]:
        """Outputs by name, from inputs by name."""
        import torch

        given = [torch.from_numpy(np.ascontiguousarray(inputs[n], np.float32)) for n in self.names]
        return {name: tensor.numpy() for name, tensor in self.tensors(given).items()}

    def tensors(self, given: Sequence[Any]) -> dict[str, Any]:
        """Outputs by name, from inputs by place: "y", "y0" and "y1" of a tuple, keys of a dictionary."""
        import torch

        with _one_thread(), torch.no_grad():
            found = dict(_named(self.module(*given), "y"))
        return {f"{name}_out" if name in self.names else name: tensor for name, tensor in found.items()}


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Threads of torch wait for one another, 0.1 s and more a call of a small recurrent layer where cores are busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _named(result: Any, name: str, top: bool = True) -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(result, torch.Tensor):
        yield name, result
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from _named(value, str(key) if top else f"{name}.{key}", False)
    elif isinstance(result, tuple | list):
        for place, value in enumerate(result):
            yield from _named(value, f"{name}{place}" if top else f"{name}.{place}", False)
    else:
        raise ModelError(
            f"forward gives a {type(result).__name__}; expected tensors, in tuples or dictionaries or alone"
        )


@dataclass(frozen=True)
class Example:
    """Input that a module takes.

    Attributes
    ----------
    dims : tuple of int or str
        Shape of each tensor, "batch" and "time" in their places.
    count : int
        Tensors.
    batch : int
        Largest batch that was tried.
    lengths : tuple of int
        Samples, two lengths that the module takes.
    """

    dims: Dims
    count: int
    batch: int
    lengths: tuple[int, int]

    def tensors(self, batch: int, time: int) -> list[Any]:
        """Normal noise, the same in each run; the seed is the length."""
        import torch

        size = [{"batch": batch, "time": time}[d] if isinstance(d, str) else d for d in self.dims]
        generator = torch.Generator().manual_seed(time)
        return [torch.randn(size, generator=generator) for _ in range(self.count)]


def find(call: Call, width: int, shape: Dims | None) -> Example:
    """Input that a module takes at two lengths of time, and at two sizes of the batch if it can.

    Parameters
    ----------
    call : Call
        The module.
    width : int
        Channels, of a module with one input; one channel each of a module with several.
    shape : tuple of int or str, optional
        Of each input; the usual ones are tried if None.

    Raises
    ------
    UsageError
        The shape is none, or the module does not take it.
    ModelError
        The module gives something that is no tensor.
    """
    count = len(call.names)
    shapes = [_valid(shape)] if shape else _usual(width if count == 1 else 1)
    reasons: dict[Dims, str] = {}
    for batch in (2, 1):
        for dims in shapes:
            for lengths in LENGTHS:
                example = Example(dims, count, batch, lengths)
                reason = _refusal(call, example)
                if reason is None:
                    return example
                reasons.setdefault(dims, reason)
    said = "; ".join(f"{text(dims)}: {reason}" for dims, reason in reasons.items())
    remedy = "give another --input-shape" if shape else "say --input-shape, with batch and time in their places"
    raise UsageError(
        f"the module takes no such input at two lengths of time: {said}. Either {remedy}, or the module is made for "
        "one length, and then there is no stream of it"
    )


def _usual(width: int) -> list[Dims]:
    return [("batch", "time", width), ("batch", width, "time"), ("batch", "time"), ("time", "batch", width)]


def _valid(shape: Dims) -> Dims:
    words = sorted(d for d in shape if isinstance(d, str))
    if words not in (["batch", "time"], ["time"]) or any(isinstance(d, int) and d < 1 for d in shape):
        raise UsageError(
            f"input shape {text(shape)}; expected time once, batch at most once, and numbers from 1 up, "
            "such as (batch, time, 3)"
        )
    return shape


def text(dims: Dims) -> str:
    """A shape in words.

    Examples
    --------
    >>> text(("batch", 1, "time"))
    '(batch, 1, time)'
    """
    return f"({', '.join(map(str, dims))})"


def _refusal(call: Call, example: Example) -> str | None:
    """Why the module does not take the example, if it does not."""
    try:
        whole, other = (call.tensors(example.tensors(example.batch, time)) for time in example.lengths)
        if not whole:
            return "forward gives no tensor"
        if not all(t.isfinite().all() for t in (*whole.values(), *other.values())):
            return "the result is not finite"
        return _mixes(call, example, whole) if example.batch > 1 and "batch" in example.dims else None
    except ModelError:
        raise
    except Exception as error:  # a wrong shape is any error that torch or the module raises
        return line(error)


def _mixes(call: Call, example: Example, whole: Mapping[str, Any]) -> str | None:
    """Whether what was taken for the batch is none: its last entry alone must give what it gives among the others.

    A recurrent layer that wants (time, batch, channels) takes (batch, time, channels) without a word.
    """
    last, axis = example.batch - 1, example.dims.index("batch")
    alone = call.tensors([t.narrow(axis, last, 1) for t in example.tensors(example.batch, example.lengths[0])])
    for name, a in alone.items():
        if a.dim() != whole[name].dim():
            return f"{name} has another number of axes when the batch is 1"
        sizes = zip(whole[name].shape, a.shape, strict=True)
        axes = [i for i, pair in enumerate(sizes) if pair == (example.batch, 1)]
        if len(axes) != 1:
            return f"{name} has no axis for the batch"
        if gap(a.numpy(), whole[name].narrow(axes[0], last, 1).numpy()) > TOLERANCE:
            return "the entries of the batch depend on one another"
    return None


def three_lengths(call: Call, example: Example) -> list[int]:
    """The two lengths of an example, and a longer one: odd if the module takes that."""
    short, long = example.lengths
    for third in (2 * long + 1, short + long):
        with contextlib.suppress(Exception):  # a module may refuse a length in any way
            call.tensors(example.tensors(example.batch, third))
            return [short, long, third]
    return [short, long]


def output_dims(call: Call, example: Example, batch: int) -> dict[str, Dims]:
    """Axes of each output: "batch", a number where it stays the same for other inputs, else a name of its own.

    Parameters
    ----------
    batch : int
        Size of the batch of the second of two examples; the first has 1.
    """
    runs = [call.tensors(example.tensors(b, t)) for b, t in zip((1, batch), example.lengths, strict=True)]
    pairs = {name: list(zip(first.shape, runs[1][name].shape, strict=True)) for name, first in runs[0].items()}

    def axis(name: str, i: int, pair: tuple[int, int]) -> int | str:
        return pair[0] if pair[0] == pair[1] else "batch" if pair == (1, batch) else f"{name}_{i}"

    return {name: tuple(axis(name, i, pair) for i, pair in enumerate(sizes)) for name, sizes in pairs.items()}


def gap(expected: Array, found: Array) -> float:
    """Largest difference between two arrays, relative to the largest value of the first (at least 0.001)."""
    if not expected.size:
        return 0.0
    a, b = expected.astype(np.float64), found.astype(np.float64)
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-3))
