"""Recordings in NumPy's own files, .npz and .npy; nothing but NumPy is needed to read them."""

import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.cell import samples
from holdover.devices.sources.recording import (
    Recording,
    block_of,
    bounds,
    checked_number,
    checked_rate,
    distinct,
    existing,
    pick,
)
from holdover.devices.sources.units import normal
from holdover.runtime.chunk import Source
from holdover.runtime.errors import SourceError

SIGNALS = ("ecg", "x", "signal")
"""Names under which an .npz file may keep its samples; a file with one array needs no name."""

FACTS = frozenset({"fs", "rate_hz", "leads", "channels", "unit", "units", "epoch", "gain"})
MAX_BYTES = 4 << 30

_BROKEN = (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def open(
    path: str | Path,
    *,
    rate_hz: float | None = None,
    lead: str | None = None,
    leads: Sequence[str] | None = None,
    unit: str | None = None,
    gain: float | None = None,
    epoch: float | None = None,
    start: float | str | None = None,
    stop: float | str | None = None,
    block_s: float = 10.0,
) -> Source:
    """Open an .npz or .npy file; options go before what the file says.

    The samples are the array `ecg`, `x` or `signal`, or the only array: (samples,) or (samples, channels), floats, or
    integers with a `gain` (unit for each count). The file may also hold `fs` or `rate_hz`, `leads` or `channels`,
    `unit` or `units` (default mV), `gain`, and `epoch` (Unix time of sample 0).

    Raises
    ------
    SourceError
        If the file is not such a file, is truncated, or the rate or gain that it needs is nowhere stated.
    """
    path = existing(path, "an .npz or .npy file")
    arrays = _load(path)
    x = _signal(arrays, path)
    rate = checked_rate(_rate(rate_hz, arrays, path), str(path))
    names = _names(leads, arrays, x.shape[1], path)
    which = pick(lead, names, str(path))
    scale = _gain(gain, arrays, x.dtype, path)
    when = arrays.get("epoch") if epoch is None else epoch
    first, last = bounds(start, stop, rate, len(x), str(path))

    def read(a: int, b: int) -> NDArray[np.float32]:
        part = x[a:b, which]
        part = part if scale is None else part * scale
        return samples(np.asarray(part))

    return Recording(
        name=path.stem,
        rate_hz=rate,
        channels=tuple(names[i] for i in which),
        units=tuple(_units(unit, arrays, x.shape[1], path)[i] for i in which),
        epoch=None if when is None else checked_number(_scalar(when), "epoch", str(path)),
        length=last,
        read=read,
        block=block_of(block_s, rate, len(which), str(path)),
        start=first,
    )


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                return {"x": np.load(path, mmap_mode="r", allow_pickle=False)}
        return _load_zip(path)
    except _BROKEN as error:
        raise SourceError(
            f"{path} is truncated or not a NumPy file ({error}); write it again with numpy.savez"
        ) from None


def _load_zip(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays that are needed: the signal, and what is said about it."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        names = [_signal_name(members, path), *(name for name in members if name in FACTS)]
        for name in names:
            _check_claim(archive, members[name], path)
    size = sum(members[name].file_size for name in names)
    if size > MAX_BYTES:
        raise SourceError(f"{path}: its arrays take {_gib(size)} GiB; save the signal as .npy, which is not loaded")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in names}


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f}"


def _check_claim(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse a header that claims more than its member holds, before NumPy makes room for it."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    claimed = dtype.itemsize
    for n in shape:
        claimed *= n
    if dtype.hasobject:
        raise SourceError(f"{path}: array {member.filename} holds Python objects; expected numbers")
    if claimed > member.file_size:
        raise SourceError(f"{path}: array {member.filename} claims {claimed} bytes, {member.file_size} are there")


def _signal_name(names: Collection[str], path: Path) -> str:
    found = [name for name in SIGNALS if name in names] or [name for name in names if name not in FACTS]
    if len(found) != 1:
        raise SourceError(f"{path} holds the arrays {', '.join(names) or 'none'}; expected one of {', '.join(SIGNALS)}")
    return found[0]


def _signal(arrays: Mapping[str, NDArray[Any]], path: Path) -> NDArray[Any]:
    name = _signal_name(arrays, path)
    x = arrays[name]
    if x.dtype.kind not in "fiu":
        raise SourceError(f"{path}: array {name!r} is of type {x.dtype}; expected floats, or integers with a gain")
    if x.ndim not in (1, 2) or 0 in x.shape:
        raise SourceError(f"{path}: array {name!r} has shape {x.shape}; expected (samples,) or (samples, channels)")
    x = x.reshape(len(x), -1)
    if x.shape[1] > 1024 or x.shape[1] > len(x):
        raise SourceError(
            f"{path}: shape {x.shape} means {x.shape[1]} channels; expected (samples, channels), transpose it"
        )
    return x


def _rate(option: float | None, arrays: Mapping[str, NDArray[Any]], path: Path) -> Any:
    for value in (option, arrays.get("fs"), arrays.get("rate_hz")):
        if value is not None:
            return _scalar(value)
    raise SourceError(f"{path} does not say its rate; give rate_hz (replay: --rate), or save it as `fs`")


def _names(option: Sequence[str] | None, arrays: Mapping[str, NDArray[Any]], n: int, path: Path) -> tuple[str, ...]:
    given: Any = next((v for v in (option, arrays.get("leads"), arrays.get("channels")) if v is not None), None)
    names = [f"ch{i + 1}" for i in range(n)] if given is None else [str(name) for name in np.atleast_1d(given)]
    if len(names) != n:
        raise SourceError(
            f"{path} has {n} channels and {len(names)} names ({', '.join(names[:8])}); expected {n} names"
        )
    return distinct(names)


def _units(option: str | None, arrays: Mapping[str, NDArray[Any]], n: int, path: Path) -> list[str]:
    given: Any = next((v for v in (option, arrays.get("unit"), arrays.get("units")) if v is not None), "mV")
    units = [normal(str(unit)) for unit in np.atleast_1d(given)]
    if len(units) not in (1, n):
        raise SourceError(f"{path} has {n} channels and {len(units)} units; expected one, or one for each")
    return units if len(units) == n else units * n


def _gain(option: float | None, arrays: Mapping[str, NDArray[Any]], dtype: np.dtype[Any], path: Path) -> float | None:
    value = arrays.get("gain") if option is None else option
    if value is None and dtype.kind in "iu":
        raise SourceError(f"{path} holds counts ({dtype}); give a gain, the unit for each count, such as gain = 0.005")
    number = None if value is None else checked_number(_scalar(value), "gain", str(path))
    if number == 0:
        raise SourceError(f"{path}: gain = 0 makes every sample 0; give the unit for each count, such as gain = 0.005")
    return number


def _scalar(value: Any) -> Any:
    array = np.asarray(value)
    return array.reshape(-1)[0].item() if array.size == 1 else value
