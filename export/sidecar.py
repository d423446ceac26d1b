"""Which inputs of an ONNX file are states, where its author made them inputs: by a short JSON file, or by name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import onnx

from holdover.runtime.errors import UsageError

SUFFIX = ".states.json"
MAX_BYTES = 1 << 20
_WHERE = "--states FILE, or model.states.json beside model.onnx"


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a call of the graph takes and gives; every key but `states` may be left out.

    Attributes
    ----------
    states : mapping of str to str
        Input to the output that is its successor.
    signal : str or tuple of str, optional
        The input that takes the samples, several where each lead has its own; default: the inputs left over.
    layout : tuple of int or str, optional
        Of the signal: "batch", "time" and numbers by axis, as in ["batch", "time", 3]; default: found from the file.
        Without "time" a call takes one sample.
    outputs : tuple of str
        To keep; default: all that are not states.
    constants : mapping of str to number or list
        Inputs that never change, such as {"sr": 16000}.
    hop : int, optional
        Samples of one call, where it takes a fixed number and gives one frame; default: it takes any number.
    context : int
        Samples before each block that the call takes too; only with `hop`. Before the first sample they are 0.
    shapes : mapping of str to tuple of int or "batch"
        Of states before the first sample, where the file leaves them open; 0 for a cache that begins empty.
    initial : mapping of str to float
        Number that fills a state before the first sample; default: 0.
    """

    states: dict[str, str]
    signal: str | tuple[str, ...] | None = None
    layout: tuple[int | str, ...] | None = None
    outputs: tuple[str, ...] = ()
    constants: dict[str, Any] = {}
    hop: Annotated[int, msgspec.Meta(ge=1)] | None = None
    context: Annotated[int, msgspec.Meta(ge=0)] = 0
    shapes: dict[str, tuple[int | str, ...]] = {}
    initial: dict[str, float] = {}

    @property
    def signals(self) -> tuple[str, ...]:
        """Names of the inputs that take samples; empty until `checked`."""
        return (self.signal,) if isinstance(self.signal, str) else self.signal or ()


def find(path: Path, given: str | Path | None) -> Path | None:
    """The sidecar of a model: the one that was given, else `model.states.json` if it is there."""
    beside = path.with_suffix(SUFFIX)
    return Path(given) if given is not None else beside if beside.is_file() else None


def load(path: Path) -> Sidecar:
    """Read a sidecar.

    Raises
    ------
    UsageError
        It cannot be read, is not JSON, or has a key or a value that is not known.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the states file {path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{path} is larger than {MAX_BYTES >> 20} MB; expected a few lines of JSON")
    try:
        return msgspec.json.decode(data, type=Sidecar)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        known = ", ".join(f.name for f in msgspec.structs.fields(Sidecar))
        raise UsageError(f"{path}: {error}; it is a JSON object of {known}") from error


def _consistent(sidecar: Sidecar) -> None:
    def need(ok: bool, what: str) -> None:
        if not ok:
            raise UsageError(f"in the states file {what}")

    need(bool(sidecar.states), 'states is empty; pair each input with its output, as in {"h0": "hn"}')
    need(not sidecar.context or sidecar.hop is not None, "context needs hop: the samples of one call")
    dims = sidecar.layout or ()
    need(all(n == "time" or _is_size(n, 1) for n in dims) and dims.count("time") <= 1 and dims.count("batch") <= 1,
         f"layout is {list(dims)}; expected batch, time and numbers, as in [\"batch\", \"time\", 3]")  # fmt: skip
    timeless = bool(dims) and "time" not in dims
    need(not timeless or (sidecar.hop == 1 and not sidecar.context), "a layout without time needs hop 1, no context")
    for name, shape in sidecar.shapes.items():
        need(all(_is_size(n, 0) for n in shape) and shape.count("batch") <= 1,
             f"the shape of {name} is {list(shape)}; expected numbers and one batch")  # fmt: skip
    for what in ("shapes", "initial"):
        extra = sorted(set(getattr(sidecar, what)) - set(sidecar.states))
        need(not extra, f"{what} names {', '.join(extra)}, which states does not")


def _is_size(n: int | str, least: int) -> bool:
    return n == "batch" or (isinstance(n, int) and n >= least)


def checked(sidecar: Sidecar, model: onnx.ModelProto) -> Sidecar:
    """Hold a sidecar against itself and a graph: names are there, each input has one part; fills in signal and outputs.

    Raises
    ------
    UsageError
        A name that the graph does not have, one that stands twice, an input left over, a pair that cannot be.
    """
    _consistent(sidecar)
    graph = model.graph
    inputs = {i.name: i for i in graph.input}
    outputs = {o.name: o for o in graph.output}
    successors = list(sidecar.states.values())
    taken = [*sidecar.states, *sidecar.constants, *sidecar.signals]
    _there("input", taken, inputs)
    _there("output", [*successors, *sidecar.outputs], outputs)
    for before, after in sidecar.states.items():
        if not _fits(inputs[before], outputs[after]):
            raise UsageError(f"the state {before} is {_shown(inputs[before])}, its successor {after} "
                             f"{_shown(outputs[after])}; a state and its successor are alike")  # fmt: skip
    rest = tuple(n for n in inputs if n not in taken)
    if rest and (sidecar.signals or len(rest) > 1):
        raise UsageError(f"the sidecar does not say what the inputs {', '.join(rest)} are: signal, states or constants")
    if not rest and not sidecar.signals:
        raise UsageError("every input is a state or a constant; which one is the signal?")
    kept = sidecar.outputs or tuple(n for n in outputs if n not in successors)
    if not kept:
        raise UsageError("every output is the successor of a state; a model needs an output of its own")
    return msgspec.structs.replace(sidecar, signal=sidecar.signals or rest, outputs=kept)


def _there(what: str, names: Sequence[str], found: Iterable[str]) -> None:
    if missing := [n for n in names if n not in found]:
        raise UsageError(f"the graph has no {what} {', '.join(missing)}; it has {', '.join(found)}")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise UsageError(f"the {what} {', '.join(twice)} has two parts in the sidecar; expected one")


_RENAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"past_key_values(.*)", (r"present\1", r"present_key_values\1")),
    (r"(.*)past(.*)", (r"\1present\2", r"\1new\2")),
    (r"(.*[._/])in", (r"\1out",)),
    (r"in([._/].*)", (r"out\1",)),
    (r"(.*?)_?0", (r"\1n", r"\1_n", r"\1N", r"\1_N", r"\1T", r"\1_T")),
    (r"prev(?:ious)?(.*)", (r"next\1", r"new\1")),
    (r"(.*)prev(?:ious)?", (r"\1next", r"\1new")),
    (r"initial(.*)", (r"final\1",)),
    (r"(.+)", (r"\1N", r"\1n", r"\1_N", r"\1_n", r"\1_out", r"\1.out", r"\1Out", r"\1_next", r"\1_new", r"next_\1",
               r"new_\1")),
)  # fmt: skip
"""A state and its successor: torch's h0 and hn, silero's state and stateN, optimum's past and present."""
_GROWING = re.compile("past|cache|key|value|kv", re.IGNORECASE)


def by_name(model: onnx.ModelProto) -> Sidecar | None:
    """Pair the states of a graph by name; None if it has none.

    Only what agrees in dtype and in every size that the file states is paired.

    Raises
    ------
    UsageError
        A state could have several successors, or inputs are left over whose part nobody told.
    """
    inputs = {i.name: i for i in model.graph.input}
    outputs = {o.name: o for o in model.graph.output}
    found = {n: fit for n, i in inputs.items() if (fit := _candidates(i, outputs))}
    if not found or len(found) == len(inputs):
        return None
    taken = [o for fit in found.values() for o in fit]
    for name, fit in found.items():
        if len(fit) > 1 or taken.count(fit[0]) > 1:
            raise UsageError(
                f"{name} and {', '.join(fit)} pair by their names, but not only with each other; pair them in a JSON "
                f"file: {_WHERE}"
            )
    rest = [n for n in inputs if n not in found]
    if len(rest) > 1:
        pairs = ", ".join(f"{name} with {fit[0]}" for name, fit in found.items())
        raise UsageError(
            f"{pairs} pair by their names, {', '.join(rest)} are left: which is the signal, and what are the others? "
            f"Say so in a JSON file: {_WHERE}"
        )
    return Sidecar(states={name: fit[0] for name, fit in found.items()})


def _candidates(info: onnx.ValueInfoProto, outputs: Mapping[str, onnx.ValueInfoProto]) -> list[str]:
    free = [d for d in _dims(info) or () if not isinstance(d, int)]
    if len(free) > (2 if _GROWING.search(info.name) else 1):
        return []
    matches = [(re.fullmatch(pattern, info.name), forms) for pattern, forms in _RENAMES]
    names = {match.expand(form) for match, forms in matches if match for form in forms}
    return [n for n, o in outputs.items() if n in names and n != info.name and _fits(info, o)]


def _fits(before: onnx.ValueInfoProto, after: onnx.ValueInfoProto) -> bool:
    """Whether two tensors may be a state and its successor, by dtype and shape as far as the file states them."""
    if before.type.tensor_type.elem_type != after.type.tensor_type.elem_type:
        return False
    a, b = _dims(before), _dims(after)
    if a is None or b is None:
        return True
    alike = (m == n or not (isinstance(m, int) and isinstance(n, int)) for m, n in zip(a, b, strict=False))
    return len(a) == len(b) and all(alike)


def _dims(info: onnx.ValueInfoProto) -> list[int | str | None] | None:
    """Sizes as the file states them, None for one that is open; None for no rank."""
    kind = info.type.tensor_type
    return [d.dim_value or d.dim_param or None for d in kind.shape.dim] if kind.HasField("shape") else None


def _shown(info: onnx.ValueInfoProto) -> str:
    kind = onnx.TensorProto.DataType.Name(info.type.tensor_type.elem_type).lower()
    return f"{kind}[{', '.join(str(d or '?') for d in _dims(info) or ())}]"
