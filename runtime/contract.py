"""What a model promises: one JSON document in the model file's metadata."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from holdover.runtime.errors import ContractError

KEY = "holdover.contract"
VERSION = 1

ANY_UNIT = "any"
"""The unit of a channel that takes the source's, whatever it is."""

Meaning = Literal[
    "event_logit",
    "class_logits",
    "rhythm_logits",
    "offset",
    "score",
    "forecast",
    "spread",
    "reconstruction",
    "quality",
    "gates",
]
"""What an output says. A forecast: what the signal will be `horizon` samples later; a reconstruction: what it is; a
spread: how far either, of the same frame, may miss, in the signal's unit; a score: high is bad."""


class Channel(msgspec.Struct, frozen=True):
    """One lead or sensor channel, by name and unit; `ANY_UNIT` takes the source's."""

    name: str
    unit: str


class Signal(msgspec.Struct, frozen=True):
    """A model input: its time axis, rate and channels.

    A model of `any_rate` takes the samples of a source as they come, one after the other; its `rate_hz` is nominal.
    """

    input: str
    axis: int
    rate_hz: float
    channels: tuple[Channel, ...]
    any_rate: bool = False


class StateSpec(msgspec.Struct, frozen=True):
    """A carried tensor: the input that takes it, the output that gives its successor.

    `init` is "zeros" or the number that fills the tensor at the start. A dimension "batch" is the number of
    streams in a call. From `steady_after` model samples on the shape is `steady_shape`.
    """

    name: str
    input: str
    output: str
    init_shape: tuple[int | str, ...]
    steady_shape: tuple[int | str, ...]
    dtype: Literal["float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool"] = "float32"
    init: Literal["zeros"] | float = "zeros"
    steady_after: int = 0

    @property
    def is_steady(self) -> bool:
        """Whether the shape never changes, so that buffers can be bound from the first step."""
        return self.init_shape == self.steady_shape


class OutputSpec(msgspec.Struct, frozen=True):
    """An output: frame k is about model sample `first_at + k * samples_per_frame`.

    It is emitted once sample that + `delay` has arrived. `settle` is how many samples after a reset the output
    can be trusted; `settle_labels` has those of its labels that can be trusted sooner. `width` is its last axis, 0
    where the model does not say. A "running" output speaks of all samples so far, once a hop. `horizon` is how many
    samples ahead a forecast speaks of.
    """

    name: str
    kind: Literal["frames", "running"]
    meaning: Meaning
    samples_per_frame: int
    first_at: int = 0
    delay: int = 0
    settle: int = 0
    settle_labels: dict[str, int] = {}
    labels: tuple[str, ...] = ()
    horizon: int = 0
    width: int = 0


class _Document(msgspec.Struct, frozen=True):
    version: int
    name: str
    model_version: str
    signals: tuple[Signal, ...]
    hop: int
    first_chunk_min: int
    grid: int
    chunk_invariant: Literal["bitwise", "grid"]
    states: tuple[StateSpec, ...]
    outputs: tuple[OutputSpec, ...]
    detectors: tuple[dict[str, Any], ...] = ()
    eos_input: str | None = None


@dataclass(frozen=True)
class Contract:
    """A model's promise: signals, hop, states, outputs, detectors; unknown keys are kept in `document`.

    Examples
    --------
    >>> c = Contract.parse('{"version": 2}')
    Traceback (most recent call last):
    holdover.runtime.errors.ContractError: contract version 2 is unknown here; this holdover reads version 1: \
update holdover or export the model again
    """

    document: Mapping[str, Any]
    _: _Document = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Contract":
        """Read the canonical JSON text.

        Raises
        ------
        ContractError
            Not JSON, an unknown version, a key that is missing or of the wrong type, or numbers that contradict.
        """
        try:
            document = msgspec.json.decode(text.encode())
        except msgspec.DecodeError as error:
            raise ContractError(f"the model's contract is not JSON ({error}); export the model again") from error
        return cls.of(document)

    @classmethod
    def of(cls, document: Any) -> "Contract":
        """Check a decoded document and wrap it; raises `ContractError` as `parse` does."""
        if not isinstance(document, dict):
            raise ContractError(f"the contract is a JSON {type(document).__name__}, expected an object")
        if document.get("version") != VERSION:
            raise ContractError(
                f"contract version {document.get('version')!r} is unknown here; this holdover reads version {VERSION}: "
                "update holdover or export the model again"
            )
        try:
            typed = msgspec.convert(document, _Document)
        except msgspec.ValidationError as error:
            raise ContractError(f"the model's contract is incomplete: {error}; export the model again") from error
        _check_numbers(typed)
        return cls(document, typed)

    def text(self) -> str:
        """Canonical JSON: sorted keys, no spaces."""
        return msgspec.json.encode(self.document, order="sorted").decode()

    def check_graph(self, inputs: Iterable[str], outputs: Iterable[str]) -> None:
        """Hold the contract against the graph's names: nothing missing, nothing left over.

        Raises
        ------
        ContractError
            A state that does not pair, or an input or output that the contract does not know.
        """
        end = [self.eos_input] if self.eos_input else []
        _same("input", [s.input for s in self.signals] + [s.input for s in self.states] + end, inputs)
        _same("output", [o.name for o in self.outputs] + [s.output for s in self.states], outputs)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._.name

    @property
    def model_version(self) -> str:
        """The model's own version."""
        return self._.model_version

    @property
    def signals(self) -> tuple[Signal, ...]:
        """The inputs that carry signals."""
        return self._.signals

    @property
    def signal(self) -> Signal:
        """The only signal; `ContractError` if the model has several."""
        if len(self._.signals) != 1:
            raise ContractError(f"the model has {len(self._.signals)} signal inputs; this runtime feeds one")
        return self._.signals[0]

    @property
    def hop(self) -> int:
        """Model samples that a step takes at least; every step takes a multiple."""
        return self._.hop

    @property
    def first_chunk_min(self) -> int:
        """Model samples that the first step after a reset takes at least."""
        return self._.first_chunk_min

    @property
    def grid(self) -> int:
        """Model samples a step where results depend on the block's size."""
        return self._.grid

    @property
    def bitwise(self) -> bool:
        """Whether results are the same bits for every block size."""
        return self._.chunk_invariant == "bitwise"

    @property
    def eos_input(self) -> str | None:
        """The input that takes 1 in the call that ends the signal, 0 before; None if the graph does not ask."""
        return self._.eos_input

    @property
    def exact_end(self) -> bool:
        """Whether the last call may end anywhere, and then speaks of the end itself."""
        return self.eos_input is not None or any(o.kind == "running" for o in self.outputs)

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """The carried tensors."""
        return self._.states

    @property
    def outputs(self) -> tuple[OutputSpec, ...]:
        """The outputs, states not among them."""
        return self._.outputs

    @property
    def detectors(self) -> tuple[dict[str, Any], ...]:
        """The model's own choice of detectors, as tables with a `kind`."""
        return self._.detectors

    @property
    def max_delay(self) -> int:
        """The largest delay of an output, in model samples."""
        return max(o.delay for o in self.outputs)

    def by_meaning(self, meaning: Meaning) -> OutputSpec | None:
        """The first output of that meaning, or None."""
        return next((o for o in self.outputs if o.meaning == meaning), None)


def _check_numbers(c: _Document) -> None:
    def need(ok: bool, what: str) -> None:
        if not ok:
            raise ContractError(f"the model's contract contradicts itself: {what}; export the model again")

    need(bool(c.signals) and all(s.rate_hz > 0 and s.channels for s in c.signals), "a signal needs a rate and channels")
    need(bool(c.outputs), "it names no output")
    need(c.hop >= 1 and c.first_chunk_min >= 1 and c.grid >= 1, "hop, first_chunk_min and grid are at least 1")
    need(c.grid % c.hop == 0, f"grid {c.grid} is not a multiple of hop {c.hop}")
    for o in c.outputs:
        need(o.samples_per_frame >= 1, f"output {o.name} has {o.samples_per_frame} samples a frame")
        need(c.hop % o.samples_per_frame == 0, f"hop {c.hop} is not a whole number of frames of output {o.name}")
        once = o.kind == "frames" or c.hop == c.grid == o.samples_per_frame
        need(once, f"the running output {o.name} needs a hop, a grid and a pace that are one")
        need(o.delay >= 0 and o.settle >= 0, f"output {o.name} has a negative delay or settle")
        sooner = all(label in o.labels and 0 <= n <= o.settle for label, n in o.settle_labels.items())
        need(sooner, f"output {o.name} has settle_labels that are no labels of its, or settle later than all")
        said = o.meaning != "forecast" or o.horizon >= 1
        need(said, f"output {o.name} is a forecast and does not say of how many samples ahead (horizon, at least 1)")
    for state in c.states:
        need(len(state.init_shape) == len(state.steady_shape), f"state {state.name} changes its rank")
        sizes = {*state.init_shape, *state.steady_shape}
        need(
            all(n == "batch" or (isinstance(n, int) and n >= 0) for n in sizes),
            f"state {state.name} has a shape of {sizes}",
        )
    need(c.chunk_invariant == "grid" or all(o.kind == "frames" for o in c.outputs), "a running output needs a grid")
    for what, names in {
        "state": [s.name for s in c.states],
        "input": [s.input for s in c.states] + [s.input for s in c.signals],
        "output": [s.output for s in c.states] + [o.name for o in c.outputs],
    }.items():
        twice = sorted({n for n in names if names.count(n) > 1})
        need(not twice, f"{what} {', '.join(twice)} stands twice")


def _same(what: str, promised: Iterable[str], found: Iterable[str]) -> None:
    promised, found = set(promised), set(found)
    if missing := sorted(promised - found):
        raise ContractError(f"the contract names {what} {', '.join(missing)}, which the graph does not have")
    if extra := sorted(found - promised):
        raise ContractError(
            f"the graph has {what} {', '.join(extra)}, which the contract does not name: "
            "every state needs its input and its output in the contract"
        )
