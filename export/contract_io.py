"""The contract in an ONNX file's metadata: put there, read back, saved whole or not at all."""

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.runtime.contract import KEY, Contract
from holdover.runtime.errors import ContractError, ModelError


def attach(model: onnx.ModelProto, document: Mapping[str, Any]) -> Contract:
    """Put a contract into a model, in place of one that is there.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place.
    document : mapping
        The contract, as JSON types.

    Returns
    -------
    Contract
        As a runtime will read it.

    Raises
    ------
    ContractError
        The contract is incomplete, or does not fit the graph.
    """
    contract = Contract.parse(Contract.of(dict(document)).text())
    contract.check_graph([i.name for i in model.graph.input], [o.name for o in model.graph.output])
    kept = {p.key: p.value for p in model.metadata_props if p.key != KEY}
    onnx.helper.set_model_props(model, {**kept, KEY: contract.text()})
    return contract


def read(model: onnx.ModelProto) -> Contract:
    """The contract of a model.

    Raises
    ------
    ContractError
        There is none, or it does not fit the graph.
    """
    texts = [p.value for p in model.metadata_props if p.key == KEY]
    if not texts:
        raise ContractError(f"the model has no {KEY} in its metadata; export it with holdover.export")
    contract = Contract.parse(texts[0])
    contract.check_graph([i.name for i in model.graph.input], [o.name for o in model.graph.output])
    return contract


def load(path: str | Path) -> tuple[onnx.ModelProto, Contract]:
    """Read a model file and its contract.

    Raises
    ------
    ModelError
        The file is not there or is no ONNX model, or its contract does not hold (`ContractError`).
    """
    try:
        model = onnx.load(str(path))
    except Exception as error:  # onnx raises protobuf's own errors, which it does not export
        raise ModelError(f"{path} cannot be read as an ONNX model ({error})") from error
    return model, read(model)


def save(model: onnx.ModelProto, path: str | Path) -> int:
    """Write a model beside its place, then put it there in one move.

    Parameters
    ----------
    model : onnx.ModelProto
        With a contract.
    path : str or Path
        Replaced if it is there.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    ContractError
        The model carries no contract that fits.
    """
    read(model)
    data: bytes = model.SerializeToString(deterministic=True)
    write_whole(path, data)
    return len(data)


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file so that a reader finds the old one or the new one, never a part."""
    write_together([(path, data)])


def write_together(files: Sequence[tuple[str | Path, bytes]]) -> None:
    """Write files so that a reader finds the old ones or the new ones; nothing is put in place before all are written.

    Raises
    ------
    OSError
        One of them cannot be written.
    """
    parts: list[tuple[Path, Path]] = []
    try:
        for path, data in files:
            _write_beside(Path(path), data, parts)
        for part, path in parts:
            os.replace(part, path)
    except BaseException:
        for part, _ in parts:
            part.unlink(missing_ok=True)
        raise


def _write_beside(path: Path, data: bytes, parts: list[tuple[Path, Path]]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        parts.append((Path(file.name), path))
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        os.chmod(file.name, 0o644)


def weights_hash(weights: Mapping[str, NDArray[Any]]) -> str:
    """What `provenance.weights` says: SHA-256 of the names, shapes and float32 bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name}{value.shape}".encode() + np.ascontiguousarray(value).astype("<f4").tobytes())
    return f"sha256:{digest.hexdigest()}"
