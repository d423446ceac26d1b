"""Memory as data: plain values and arrays, to bytes and back."""

from typing import Any

import msgspec
import numpy as np

Memory = dict[str, Any]
"""What `snapshot` returns and `restore` takes: None, bool, int, float, str, list, dict and NumPy arrays."""


def pack(memory: Memory) -> bytes:
    """Write a memory as MessagePack.

    Examples
    --------
    >>> unpack(pack({"h": np.zeros((1, 2), np.float32)}))
    {'h': array([[0., 0.]], dtype=float32)}
    """
    return msgspec.msgpack.encode(memory, enc_hook=_encode)


def unpack(data: bytes) -> Memory:
    """Read what `pack` wrote; arrays come back writable.

    Raises
    ------
    ValueError
        The bytes are not a memory.
    """
    memory = msgspec.msgpack.decode(data, ext_hook=_decode)
    if not isinstance(memory, dict):
        raise ValueError(f"a memory is a table, found {type(memory).__name__}")
    return memory


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        head = (value.dtype.str, value.shape)
        return msgspec.msgpack.Ext(1, msgspec.msgpack.encode((*head, value.tobytes())))
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be part of a memory")


def _decode(code: int, data: memoryview) -> Any:
    if code != 1:
        raise ValueError(f"unknown extension {code} in a memory")
    dtype, shape, raw = msgspec.msgpack.decode(bytes(data), type=tuple[str, tuple[int, ...], bytes])
    return np.frombuffer(raw, dtype).reshape(shape).copy()
