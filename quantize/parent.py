"""The file that is quantized: a streaming model, or the whole-sequence graph that one was made from."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.export.contract_io import read as read_contract
from holdover.export.sources.onnx_file import parse
from holdover.quantize.method import Parent
from holdover.quantize.streamed import parent_words, stream
from holdover.runtime.contract import KEY, Contract
from holdover.runtime.engine import read_model
from holdover.runtime.errors import ContractError, UsageError

DRAFT = f"{KEY}.draft"
QUANTIZED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv",
    "QLinearMatMul", "DynamicQuantizeLSTM", "MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """A file as it was read.

    Attributes
    ----------
    data : bytes
    sha256 : str
    model : onnx.ModelProto
    contract : Contract
        Its own, or the draft of a whole-sequence graph.
    is_whole : bool
        Whether it is a whole-sequence graph.
    """

    data: bytes
    sha256: str
    model: onnx.ModelProto
    contract: Contract
    is_whole: bool


def read(path: str | Path) -> Given:
    """Read what is to be quantized.

    Raises
    ------
    ModelError
        It is no ONNX file, or its contract does not hold (`ContractError`).
    UsageError
        It is quantized already.
    """
    path = Path(path)
    data, sha256 = read_model(path)
    model = parse(data, path)
    texts = {p.key: p.value for p in model.metadata_props}
    if KEY not in texts and DRAFT not in texts:
        raise ContractError(f"{path} has no contract: rate, leads and outputs are not known. Make it streaming first: "
                            f"holdover export {path} -o FILE --rate HZ --leads A,B --keep-whole WHOLE.onnx, then "
                            "quantize WHOLE.onnx")  # fmt: skip
    contract = read_contract(model) if KEY in texts else Contract.parse(texts[DRAFT])
    taken = sorted(QUANTIZED.intersection(_operators(model.graph)))
    if taken or contract.document.get("quantization"):
        how = (contract.document.get("quantization") or {}).get("method") or ", ".join(taken)
        raise UsageError(f"{path} is quantized already ({how}); start from the float model it was made of")
    return Given(data, sha256, model, contract, KEY not in texts)


def _operators(graph: onnx.GraphProto) -> Iterator[str]:
    """Of the graph and of the bodies of its loops."""
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _operators(attribute.g)


def parent_of(given: Given, signal: NDArray[np.float32]) -> Parent:
    """The float parent as a streaming file; a whole-sequence graph is made streaming, and proven, again.

    Parameters
    ----------
    signal : array
        (samples, channels) of a recording.

    Raises
    ------
    ModelError
        It cannot be made streaming.
    """
    if not given.is_whole:
        return Parent(given.data, given.sha256, given.contract)
    done = stream(given.model, given.contract, signal)
    model = parent_words(done.model, given.contract, done.contract)
    data = model.SerializeToString(deterministic=True)
    return Parent(data, given.sha256, read_contract(model), given.model)
