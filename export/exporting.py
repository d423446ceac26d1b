"""From an original to a proven streaming file: read, weave, prove, describe."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import onnx

from holdover.export.contract_io import attach
from holdover.export.describe import Statement, describe
from holdover.export.fact import Running
from holdover.export.float64 import run_float64
from holdover.export.front_end import around, settled
from holdover.export.front_end_steps import Processing
from holdover.export.loom import Weave
from holdover.export.measure import Array, Tensors, blocks
from holdover.export.original import Original, refuse_infinite
from holdover.export.proof import Proof, engine_of, is_bitwise, longest_of, noise, one_call, prove, with_proof
from holdover.export.refusal import RefusedError
from holdover.export.streaming import Port, Woven, weave
from holdover.export.stretch import FAR, QUICK_S, far_off
from holdover.export.tally import gaps
from holdover.export.taps import tapped_original
from holdover.export.whole import Whole, clean, layouts, session
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ModelError, UsageError

Progress = Callable[[str], None]
"""Told what is done next."""

MAX_RECOMPUTED = 20_000
"""Samples of the longest window whose recomputation is timed."""


@dataclass(frozen=True)
class Options:
    """How to export.

    Attributes
    ----------
    statement : Statement
        What the author says of the model.
    hop : int
        Samples of which every block takes a multiple; the graph may need more.
    window : int or None
        Frames that unbounded attention is cut to.
    lookahead_s : float
        Seconds that the backward half of a bidirectional layer sees; 0 refuses it.
    time_axis : int or None
        Of the inputs, where the graph does not tell.
    signal : array or None
        (samples, channels) of a recording to prove it on.
    described : str
        What that is.
    tap : bool
        Whether the gates of recurrent layers are outputs too.
    processing : Processing
        What is written into the graph before the inputs and behind the outputs.
    """

    statement: Statement
    hop: int = 1
    window: int | None = None
    lookahead_s: float = 0.0
    time_axis: int | None = None
    signal: Array | None = None
    described: str = "white noise of unit variance"
    tap: bool = False
    processing: Processing = field(default_factory=Processing)


@dataclass(frozen=True)
class Exported:
    """A proven streaming model.

    Attributes
    ----------
    model : onnx.ModelProto
        With its contract.
    whole : onnx.ModelProto
        The prepared whole-sequence graph, for quantization.
    proof : Proof
    cost : Cost
    notes : tuple of str
        What the reader should know.
    """

    model: onnx.ModelProto
    whole: onnx.ModelProto
    contract: Contract
    proof: Proof
    cost: "Cost"
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Cost:
    """What a step costs beside recomputing a window, microseconds, median.

    Attributes
    ----------
    step : float
        One hop.
    blocks : mapping of int to float
        A sample, by hops in a block.
    window : int
        Samples recomputed.
    recompute : float
        The whole-sequence original over the window.
    """

    step: float
    a_sample: dict[int, float]
    window: int
    recompute: float


def export(original: Original, options: Options, progress: Progress = lambda _: None) -> Exported:
    """Make a whole-sequence model streaming and prove it.

    Raises
    ------
    RefusedError
        It cannot be streamed exactly; every reason is named.
    ModelError
        The graph cannot be read, or the proof failed.
    UsageError
        Something is missing or does not fit.
    """
    if options.tap:
        original, options = _tapped(original, options)
    progress("reading the graph")
    proto = clean(original.model)
    refuse_infinite(proto)
    if original.sidecar is not None:
        from holdover.export import explicit  # it imports this module

        if options.processing.document():
            raise UsageError("preprocessing is written around a whole-sequence graph; this model's states are inputs: "
                             "export the model without them, or preprocess in it")  # fmt: skip
        return explicit.export(original, options, progress)
    bare = Whole(proto, layouts(proto, original.time_axes, options.time_axis))
    whole = around(bare, options.processing, options.statement.rate_hz)
    progress("making it streaming")
    lookahead = round(options.lookahead_s * options.statement.rate_hz)
    how = Weave(hop=options.hop, window=options.window, lookahead=lookahead)
    woven, form = _choose(whole, how, options.statement, progress)
    _against_framework(original, bare)
    document = describe(woven, options.statement)
    if form:
        document |= {"chunk_invariant": "bitwise"}
    if not Contract.of(document).exact_end:
        document |= {"end": "cut"}
    document |= options.processing.document()
    document["provenance"] |= {"source": f"sha256:{original.sha256}", "source_kind": original.kind}
    if woven.approximations:
        document |= {"approximations": list(woven.approximations), "window": how.window, "lookahead": how.lookahead}
    progress("proving it against the original")
    reference, precise = references(whole, woven)
    approximate = bool(woven.approximations)

    def proven() -> tuple[bytes, Proof]:
        data = _file(woven.model, document)
        against = itself(data) if approximate else reference
        return data, prove(data, against, None if approximate else precise, options.signal, options.described)

    data, proof = proven()
    if form and not proof.bitwise:  # one cut in many gave other bits: blocks of one size will not
        document |= {"chunk_invariant": "grid"}
        data, proof = proven()
    if approximate:
        document["approximation_error"] = _approximation(data, reference, options)
    if not (proof.refusals or approximate) and proof.exponent <= 0:
        engine = engine_of(data)
        proof = replace(proof, refusals=tuple(far_off(engine, reference, longest_of(engine.contract))))
    if proof.refusals:
        raise ModelError("the streaming graph does not do what the original does:\n  " + "\n  ".join(proof.refusals))
    proof = settled(proof, data, options.processing)
    progress("measuring what a step costs")
    cost = measure_cost(data, whole, proof)
    document = with_proof(document, proof)
    model = onnx.load_from_string(_file(woven.model, document))
    contract = attach(model, document)
    notes = (*original.notes, *options.processing.notes(), *woven.approximations)
    return Exported(model, whole.with_shapes(), contract, proof, cost, notes)


def verify(
    data: bytes, contract: Contract, original: Original, time_axis: int | None, signal: Array | None, described: str
) -> Proof:
    """Hold a streaming file against its original once more; raises as `export`."""
    if contract.document.get("provenance", {}).get("taps"):
        original = tapped_original(original)[0]
    if original.sidecar is not None:
        from holdover.export import explicit  # it imports this module

        return explicit.verify(data, contract, original, time_axis, signal, described)
    proto = clean(original.model)
    said = contract.document
    whole = Whole(proto, layouts(proto, original.time_axes, time_axis))
    whole = around(whole, Processing.of(said), contract.signal.rate_hz)
    window, lookahead = said.get("window"), said.get("lookahead", 0)
    woven = _woven(whole, Weave(hop=contract.hop, window=window, lookahead=lookahead))
    reference, precise = (itself(data), None) if woven.approximations else references(whole, woven)
    if [p.name for p in woven.ports] != [o.name for o in contract.outputs]:
        raise ModelError(
            f"the original has the outputs {', '.join(p.name for p in woven.ports)}, the model "
            f"{', '.join(o.name for o in contract.outputs)}: it was exported from another one"
        )
    return settled(prove(data, reference, precise, signal, described), data, Processing.of(said))


def _tapped(original: Original, options: Options) -> tuple[Original, Options]:
    """Gates as outputs; the file as it came is what the graph is still held against."""
    answer = original.answer or _answer_of(original.model)
    with_gates, meanings = tapped_original(original)
    said = options.statement
    said = replace(said, meanings=meanings | dict(said.meanings), provenance={**said.provenance, "taps": "gates"})
    return replace(with_gates, answer=answer), replace(options, statement=said)


def _against_framework(original: Original, whole: Whole) -> None:
    """Exporters err without a word, and cleaning might: the graph must give what the framework or the file gives."""
    answer = original.answer or _answer_of(original.model)
    for length in _stretches(whole):
        x = noise(1, length, whole.channels, length)
        found = whole.run(x)
        for name, value in answer(whole.feeds(x)).items():
            scale = max(1.0, float(np.abs(value).max(initial=0, where=np.isfinite(value))))
            gap = float(gaps(found[name], value).max()) if found[name].shape == value.shape else np.inf
            if gap > 1e-4 * scale:
                raise ModelError(f"the prepared graph differs from its own framework by {gap:.1e} in {name} at "
                                 f"{length} samples: the framework's exporter is wrong")  # fmt: skip


def _stretches(whole: Whole) -> Iterator[int]:
    """The lengths at which it was watched, then ever longer ones, as long as a run is quick."""
    yield from whole.lengths
    length, took = whole.lengths[1], 0.0
    while length < FAR and took < QUICK_S:
        length *= 4
        began = time.perf_counter()
        yield length
        took = time.perf_counter() - began


def _answer_of(model: onnx.ModelProto) -> Callable[[Tensors], Tensors]:
    """The file as it came, at the lengths that it takes."""
    run = session(model)
    names = [o.name for o in model.graph.output]

    def answer(inputs: Tensors) -> Tensors:
        try:
            return dict(zip(names, run.run(names, dict(inputs)), strict=True))
        except Exception:  # onnxruntime's own types: a shape that was frozen, and has been freed
            return {}

    return answer


def _choose(whole: Whole, how: Weave, said: Statement, progress: Progress) -> tuple[Woven, bool]:
    """The form whose bits do not depend on the block, if there is one; and whether there is."""
    plain = _woven(whole, how)
    samples = plain.first_chunk_min + 96 * plain.hop
    if is_bitwise(_file(plain.model, describe(plain, said)), samples):
        return plain, True
    if not any(n.op_type in ("Conv", "RNN") for n in plain.model.graph.node):
        return plain, False
    progress("writing it so that its bits do not depend on the block")
    other = _woven(whole, replace(how, as_matmul=True))
    bitwise = is_bitwise(_file(other.model, describe(other, said)), samples)
    return (other, True) if bitwise else (plain, False)


def _woven(whole: Whole, how: Weave) -> Woven:
    woven = weave(whole, how)
    if not isinstance(woven, Woven):
        raise RefusedError(woven)
    return woven


def _file(model: onnx.ModelProto, document: dict[str, Any]) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    attach(copy, document)
    data: bytes = copy.SerializeToString(deterministic=True)
    return data


def references(whole: Whole, woven: Woven) -> tuple[Any, Any]:
    """The original in single and in double precision, its outputs laid out as those of the streaming graph."""

    def laid(run: Callable[[Array], Tensors]) -> Callable[[Array], Tensors]:
        return lambda x: lay_out(run(x), woven.ports, len(x))

    def single(x: Array) -> Tensors:
        return whole.run(x) if whole.batch_free or len(x) == 1 else _one_by_one(whole, x)

    quantized = any(n.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for n in whole.proto.graph.node)
    precise = None if quantized else laid(lambda x: run_float64(whole.proto, whole.feeds(x)))
    return laid(single), precise


def _one_by_one(whole: Whole, x: Array) -> Tensors:
    runs = [whole.run(x[i : i + 1]) for i in range(len(x))]
    return {n: np.stack([r[n] for r in runs]) for n in runs[0]}


def lay_out(found: Tensors, ports: Sequence[Port], batch: int) -> dict[str, Array]:
    """Outputs of the original as (batch, frames, width)."""
    laid = {}
    for port, value in zip(ports, found.values(), strict=True):
        if isinstance(port.fact, Running):
            laid[port.name] = np.asarray(value).reshape(batch, 1, port.width)
            continue
        axis = port.fact.axis + (value.ndim > port.rank)
        rest = [i for i in range(value.ndim) if i != axis]
        first = [0] if value.ndim > port.rank else [i for i in rest if i == port.batch]
        perm = [*first, axis, *(i for i in rest if i not in first)]
        laid[port.name] = value.transpose(perm).reshape(batch, value.shape[axis], port.width)
    return laid


def itself(data: bytes) -> Callable[[Array], Tensors]:
    """An approximation is held against itself in one whole call."""
    engine = engine_of(data)
    c = engine.contract

    def run(x: Array) -> Tensors:
        n = x.shape[1] if c.exact_end else x.shape[1] // c.hop * c.hop
        found = blocks(engine, x[:, :n], one_call(engine, n), last=True)
        return {o.name: found[o.name] for o in c.outputs}

    return run


def _approximation(data: bytes, reference: Callable[[Array], Tensors], options: Options) -> dict[str, float]:
    """How far an approximation is from the original, mean and largest, by output."""
    streamed = itself(data)
    c = engine_of(data).contract
    x = noise(1, c.first_chunk_min + 256 * c.hop, len(c.signal.channels), 13)
    if options.signal is not None:
        x = np.asarray(options.signal[: x.shape[1]], np.float32)[None]
    x = x[:, : x.shape[1] // c.hop * c.hop]
    found, wanted = streamed(x), reference(x)
    errors: dict[str, float] = {}
    for name, value in wanted.items():
        gap = np.abs(found[name] - value[:, : found[name].shape[1]])
        errors |= {f"{name}.mean": float(f"{gap.mean():.2e}"), f"{name}.max": float(f"{gap.max():.2e}")}
    return errors


class Runs(Protocol):
    """What a recompute takes: a whole-sequence graph, or a loop over a graph with explicit states."""

    @property
    def channels(self) -> int:
        """Numbers a sample."""
        ...

    def run(self, x: Array) -> Tensors:
        """Outputs by name from x, (batch, samples, channels)."""
        ...


def measure_cost(data: bytes, whole: Runs, proof: Proof) -> Cost:
    """Time a step, larger blocks, and the original over the window that a recompute would need."""
    c = engine_of(data).contract
    memory = max((proof.memory[o.name] if proof.memory[o.name] > 0 else proof.settle[o.name] for o in c.outputs),
                 default=0)  # fmt: skip
    window = min(max(memory, c.first_chunk_min, 64 * c.hop), max(MAX_RECOMPUTED, c.first_chunk_min))
    x = noise(1, window, whole.channels, 1)
    recompute = _median(lambda: whole.run(x), 30)
    sizes = [k for k in (1, 8, 64) if k == 1 or c.bitwise]
    a_sample = {k: _step_us(data, k) / (k * c.hop) for k in sizes}
    return Cost(a_sample[1] * c.hop, a_sample, window, recompute)


def _step_us(data: bytes, hops: int = 1) -> float:
    engine = engine_of(data)
    c = engine.contract
    lane = engine.lane()
    first = -(-c.first_chunk_min // c.hop) * c.hop
    x = noise(1, max(first, hops * c.hop), len(c.signal.channels), 2)[0]
    lane.push(x[:first])
    block = x[: hops * c.hop]
    for _ in range(300):
        lane.push(block)
    return _median(lambda: lane.push(block), 200)


def _median(work: Callable[[], Any], times: int) -> float:
    took = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1e6
