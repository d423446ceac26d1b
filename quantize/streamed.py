"""Quantized graphs as proven streaming files, with the words of their parent's contract."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.export.contract_io import attach
from holdover.export.describe import Statement
from holdover.export.exporting import Exported, Options, export, itself
from holdover.export.measure import Tensors
from holdover.export.original import Original
from holdover.export.proof import engine_of, expected_frames, feed, prove
from holdover.quantize.grid import pack
from holdover.quantize.method import Made
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ModelError

Array = NDArray[np.float32]

STRUCTURE = ("states", "hop", "first_chunk_min", "grid", "chunk_invariant", "eos_input", "approximations",
             "approximation_error", "verification")  # fmt: skip
"""Keys of a contract that follow from the graph."""
PROOF_S = 60.0


def stream(whole: onnx.ModelProto, said: Contract, signal: Array) -> Exported:
    """Make a graph streaming and prove it, as `holdover export` does.

    Parameters
    ----------
    whole : onnx.ModelProto
        The whole-sequence graph.
    said : Contract
        What its parent says of itself.
    signal : array
        (samples, channels) of a recording to prove it on.

    Raises
    ------
    RefusedError
        It cannot be streamed exactly.
    ModelError
        The proof failed.
    """
    document, channels = said.document, said.signal.channels
    statement = Statement(said.name, said.signal.rate_hz, tuple(s.name for s in channels), channels[0].unit)
    lookahead_s = document.get("lookahead", 0) / said.signal.rate_hz
    options = Options(statement, said.hop, document.get("window"), lookahead_s, None, _piece(signal, said),
                      "a recording")  # fmt: skip
    sha256 = hashlib.sha256(whole.SerializeToString(deterministic=True)).hexdigest()
    return export(Original(whole, "onnx", sha256), options)


def parent_words(model: onnx.ModelProto, said: Contract, found: Contract) -> onnx.ModelProto:
    """A copy of a model with its parent's contract, apart from what follows from the graph.

    Raises
    ------
    ModelError
        The outputs are not the parent's.
    """
    names = [o.name for o in said.outputs]
    if names != [o.name for o in found.outputs]:
        raise ModelError(f"the graph gives {', '.join(o.name for o in found.outputs)}, its contract names "
                         f"{', '.join(names)}: it is not the graph that the contract was made for")  # fmt: skip
    structure = {k: found.document[k] for k in STRUCTURE if k in found.document}
    kept = {k: v for k, v in said.document.items() if k not in STRUCTURE}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    attach(copy, kept | structure)
    return copy


def streamed(whole: onnx.ModelProto, said: Contract, signal: Array, notes: tuple[str, ...] = ()) -> Made:
    """A quantized whole-sequence graph as a packed streaming file; raises as `stream`."""
    done = stream(whole, said, signal)
    model = parent_words(done.model, said, done.contract)
    small = pack(model)
    _same(model, small, _piece(signal, said))
    return Made(small, done.proof, "the whole-sequence graph quantized alike", notes)


def proven(model: onnx.ModelProto, document: dict[str, Any], signal: Array, notes: tuple[str, ...] = ()) -> Made:
    """A quantized streaming graph, packed and held against itself.

    Raises
    ------
    ModelError
        How samples arrive changes what it says.
    """
    onnx.helper.set_model_props(model, {})
    attach(model, document)
    small = pack(model)
    data = small.SerializeToString(deterministic=True)
    contract = engine_of(data).contract
    proof = prove(data, _in_one_piece(data), None, _piece(signal, contract), "a recording")
    if proof.refusals:
        raise ModelError("how samples arrive changes what it says:\n  " + "\n  ".join(proof.refusals))
    attach(small, document | {"verification": proof.document()})
    return Made(small, proof, "itself, fed in one piece", notes)


def _piece(signal: Array, said: Contract) -> Array:
    return signal[: round(PROOF_S * said.signal.rate_hz)]


def _in_one_piece(data: bytes) -> Callable[[Array], Tensors]:
    """A model run by a `Stream`, which cuts the blocks."""
    engine = engine_of(data)
    c = engine.contract

    def run(x: Array) -> Tensors:
        said = [feed(engine, one, [len(one)]) for one in x]
        due = {o.name: None if c.exact_end else expected_frames(o, x.shape[1]) for o in c.outputs}
        return {o.name: np.stack([one[o.name][: due[o.name]] for one in said]) for o in c.outputs}

    return run


def _same(a: onnx.ModelProto, b: onnx.ModelProto, signal: Array) -> None:
    """Packing may not change a bit: the proof of one is that of the other."""
    runs = [itself(model.SerializeToString(deterministic=True))(signal[None]) for model in (a, b)]
    if any(runs[0][n].tobytes() != runs[1][n].tobytes() for n in runs[0]):
        raise ModelError("onnxruntime computes otherwise with packed weights; this is a fault of holdover: report it")
