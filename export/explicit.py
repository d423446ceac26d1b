"""Models whose states are inputs and outputs already: put into the streaming form, proven, or streamed anew.

Where a call takes any number of samples, the reference is the author's graph in one call from the initial states. Where
it takes a fixed block, the reference is a plain loop over the author's graph.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from holdover.export import exporting
from holdover.export.canonical import canonical
from holdover.export.contract_io import attach
from holdover.export.describe import describe
from holdover.export.exporting import Exported, Options, Progress
from holdover.export.fact import Running, Stream
from holdover.export.measure import Array, Reference
from holdover.export.original import Original
from holdover.export.proof import Proof, is_bitwise, noise, prove, with_proof
from holdover.export.refusal import Refusal, RefusedError
from holdover.export.signature import Carried, Signature, signature
from holdover.export.stateless import stateless
from holdover.export.stepped import Stepped, gaps
from holdover.export.streaming import Port, Woven
from holdover.export.suspects import suspects
from holdover.export.whole import Whole, clean
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ModelError, UsageError

APPROXIMATED_HOPS = 256
"""Blocks over which the error of a window is measured."""


class NotCarriedError(ModelError):
    """The states do not carry all that the graph remembers."""


@dataclass(frozen=True)
class Passed:
    """A graph with explicit states in the streaming form, and what it is held against.

    Attributes
    ----------
    woven : Woven
    reference, precise : Reference
        In single and in double precision; no double where a loop is the reference.
    whole : Whole or Stepped
        What a recompute costs.
    exact : Reference or None
        Without the window, where there is one.
    """

    woven: Woven
    reference: Reference
    precise: Reference | None
    whole: Whole | Stepped
    exact: Reference | None = None


def export(original: Original, options: Options, progress: Progress = lambda _: None) -> Exported:
    """Put a graph with explicit states into the streaming form and prove it.

    Where its states do not carry all that it remembers, they are dropped and the memory is made anew from the graph
    (`holdover.export.exporting.export`); the notes say so.

    Raises
    ------
    RefusedError
        A cache grows without bound, or results depend on the cut and the memory cannot be made anew either.
    ModelError
        The graph cannot be read or called, or the proof failed.
    UsageError
        Something is missing or does not fit.
    """
    progress("reading the graph")
    model, form = _read(original, options.time_axis)
    _check(form, model, options)
    progress("passing its states through")
    try:
        return _proven(original, model, passed(model, form, options.hop, options.window), options, progress)
    except NotCarriedError as why:
        progress("its states do not carry everything: making its memory anew")
        return _anew(original, model, form, options, progress, why)


def verify(
    data: bytes, contract: Contract, original: Original, time_axis: int | None, signal: Array | None, described: str
) -> Proof:
    """Hold a streaming file against its original once more; raises as `export`."""
    model, form = _read(original, time_axis)
    provenance = contract.document.get("provenance", {})
    if provenance.get("states") != "passed through":
        return exporting.verify(data, contract, _without(original, model, form, ()), time_axis, signal, described)
    found = passed(model, form, contract.hop, provenance.get("window"))
    if [p.name for p in found.woven.ports] != [o.name for o in contract.outputs]:
        raise ModelError(
            f"the original has the outputs {', '.join(form.outputs)}, the model "
            f"{', '.join(o.name for o in contract.outputs)}: it was exported from another one"
        )
    return prove(data, found.reference, found.precise, signal, described)


def _read(original: Original, time_axis: int | None) -> tuple[onnx.ModelProto, Signature]:
    if original.sidecar is None:
        raise UsageError("the model's states are not inputs; export it as a whole-sequence model")
    model = clean(original.model)
    return model, signature(model, original.sidecar, time_axis)


def _check(form: Signature, model: onnx.ModelProto, options: Options) -> None:
    if options.window is not None and options.window < 2:
        raise UsageError(f"--window {options.window}: a cache keeps the frames before its own; expected at least 2")
    if form.hop is not None and options.hop not in (1, form.hop):
        raise UsageError(
            f"--hop {options.hop}, and the states file says that a call takes {form.hop} samples; leave one out"
        )
    if options.lookahead_s:
        raise UsageError("--lookahead is for whole-sequence models; this one has its states as inputs")
    if form.unbounded and options.window is None:
        raise RefusedError(tuple(_grows(s, model) for s in form.unbounded))


def _grows(state: Carried, model: onnx.ModelProto) -> Refusal:
    op = next((n.op_type for n in model.graph.node if state.output in n.output), "output")
    return Refusal(
        state.output,
        op,
        f"the cache {state.input} gets longer with every call and is never cut: memory and time grow without bound; "
        "give --window N to keep the last N frames (an approximation, its error is measured)",
    )


def passed(model: onnx.ModelProto, form: Signature, hop: int, window: int | None) -> Passed:
    """The graph in the streaming form, and its references.

    Parameters
    ----------
    model : onnx.ModelProto
    form : Signature
    hop : int
        Samples of which a call takes a multiple, where the graph leaves it open.
    window : int or None
        Frames that states which grow without bound are cut to.

    Raises
    ------
    NotCarriedError
        The frames of a call are not those of its samples.
    ModelError
        The graph does not run.
    """
    if form.hop is None and not form.unbounded:
        return _any_length(model, form, hop)
    # Attention over a cache and a block sees more than the window in blocks of several frames.
    form = replace(form, hop=form.hop or hop)
    window = window if form.unbounded else None
    loop = Stepped(model, form, window)
    woven = canonical(model, form, loop.ports(), form.hop or 1, loop.batch_free, window)
    exact = _named(Stepped(model, form), woven) if window else None
    return Passed(woven, _named(loop, woven), None, loop, exact)


def _named(loop: Stepped, woven: Woven) -> Reference:
    """A loop whose outputs have the names of the streaming graph."""
    return lambda x: dict(zip([p.name for p in woven.ports], loop.run(x).values(), strict=True))


def _any_length(model: onnx.ModelProto, form: Signature, hop: int) -> Passed:
    try:
        whole = Whole(stateless(model, form), form.layouts)
    except ModelError as error:
        raise ModelError(f"{error}; where a call takes a fixed block, say so: hop in the states file") from error
    ports = [_port(whole, name) for name in form.outputs]
    hop = math.lcm(hop, *(p.fact.pace for p in ports if isinstance(p.fact, Stream)))
    woven = canonical(model, form, ports, hop, whole.batch_free)
    return Passed(woven, *exporting.references(whole, woven), whole)


def _port(whole: Whole, name: str) -> Port:
    """An output by what two lengths showed of it: frames in step with the samples, or one value over all of them."""
    dims = whole.dims(ir.Value(name=name))
    times = [axis for axis, d in enumerate(dims) if d.time]
    if len(times) > 1:
        raise ModelError(f"the output {name} has several axes that grow with the signal; leave it out (outputs in the "
                         "states file)")  # fmt: skip
    batch = next((axis for axis, d in enumerate(dims) if d.batch), None)
    if batch is None:
        batch = next((axis for axis, d in enumerate(dims) if d.size == 1 and axis not in times), None)
    width = int(np.prod([d.size for axis, d in enumerate(dims) if axis not in (batch, *times)], dtype=int))
    fact = _in_step(whole, name, times[0]) if times else Running()
    return Port(name, fact, width, len(dims), batch)


def _in_step(whole: Whole, name: str, axis: int) -> Stream:
    frames = [v.shape[axis] for v in whole.values(ir.Value(name=name))[:2]]
    pace = whole.lengths[0] // max(frames[0], 1)
    if any(n * pace != length for n, length in zip(frames, whole.lengths, strict=True)):
        raise NotCarriedError(
            f"the output {name} has {frames[0]} frames of {whole.lengths[0]} samples: some lie across the cut of calls"
        )
    return Stream(axis=axis, pace=pace, ahead=pace - 1)


def _proven(
    original: Original, model: onnx.ModelProto, found: Passed, options: Options, progress: Progress
) -> Exported:  # fmt: skip
    woven = found.woven
    document = _document(original, found, options)
    progress("proving it against the original")
    try:
        if isinstance(found.whole, Whole) and is_bitwise(_file(woven.model, document), woven.hop * 97):
            document["chunk_invariant"] = "bitwise"
        proof = prove(_file(woven.model, document), found.reference, found.precise, options.signal, options.described)
    except ModelError as error:
        raise NotCarriedError(f"it does not run in blocks: {error}") from error
    if proof.refusals:
        raise NotCarriedError("\n  ".join(proof.refusals))
    progress("measuring what a step costs")
    cost = exporting.measure_cost(_file(woven.model, document), found.whole, proof)
    document = with_proof(document, proof)
    done = onnx.load_from_string(_file(woven.model, document))
    whole = found.whole.proto if isinstance(found.whole, Whole) else model
    return Exported(done, whole, attach(done, document), proof, cost, (*original.notes, *woven.approximations))


def _document(original: Original, found: Passed, options: Options) -> dict[str, Any]:
    document = describe(found.woven, options.statement)
    if not Contract.of(document).exact_end:
        document |= {"end": "cut"}
    document["provenance"] |= {"source": f"sha256:{original.sha256}", "source_kind": original.kind,
                               "states": "passed through"}  # fmt: skip
    if found.exact is not None:
        document["provenance"] |= {"window": options.window}
        document["approximations"] = list(found.woven.approximations)
        document["approximation_error"] = _window_error(found, found.exact, options)
    return document


def _window_error(found: Passed, exact: Reference, options: Options) -> dict[str, float]:
    """How far the windowed loop is from the loop without a window."""
    hop = found.woven.hop
    x = noise(1, APPROXIMATED_HOPS * hop, found.whole.channels, 13)
    if options.signal is not None:
        x = np.asarray(options.signal[: x.shape[1]], np.float32)[None]
    return gaps(found.reference(x), exact(x))


def _file(model: onnx.ModelProto, document: dict[str, Any]) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    attach(copy, document)
    data: bytes = copy.SerializeToString(deterministic=True)
    return data


def _anew(
    original: Original, model: onnx.ModelProto, form: Signature, options: Options, progress: Progress,
    why: NotCarriedError,
) -> Exported:  # fmt: skip
    if form.hop is not None or form.unbounded:
        raise ModelError(f"the streaming graph does not do what the original does:\n  {why}") from why
    found = suspects(model, form)
    named = ", ".join(f"{r.op} '{r.node}'" for r in found) or "not found which"
    note = (f"the states {', '.join(s.input for s in form.states)} of the file do not carry all that it remembers "
            f"({named}): they were dropped, and the memory was made anew from the graph")  # fmt: skip
    try:
        return exporting.export(_without(original, model, form, (note,)), options, progress)
    except RefusedError as error:
        raise RefusedError((*found, *error.refusals)) from error
    except ModelError as error:
        reasons = "\n".join(f"  {r}" for r in found) or f"  {why}"
        raise ModelError(f"the states do not carry all that the model remembers:\n{reasons}\nand the memory cannot be "
                         f"made anew: {error}") from error  # fmt: skip


def _without(original: Original, model: onnx.ModelProto, form: Signature, notes: Sequence[str]) -> Original:
    axes = {y.name: y.time for y in form.layouts}
    kept = tuple(n for n in original.notes if n not in notes)
    return replace(original, model=stateless(model, form), sidecar=None, time_axes=axes, notes=(*kept, *notes))
