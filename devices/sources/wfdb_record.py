"""Recordings in PhysioNet's WFDB format: a header, and one or more files of samples."""

from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.cell import samples
from holdover.devices.sources.recording import Recording, block_of, bounds, checked_rate, distinct, existing, pick
from holdover.devices.sources.units import normal
from holdover.runtime.chunk import Source
from holdover.runtime.errors import SourceError

BITS = {"8": 8, "16": 16, "24": 24, "32": 32, "61": 16, "80": 8, "160": 16, "212": 12}
"""Bits that a sample takes in the file, by format (WFDB header specification, header(5)); others are not checked."""


def open(
    path: str | Path,
    *,
    lead: str | None = None,
    start: float | str | None = None,
    stop: float | str | None = None,
    allow_truncated: bool = False,
    block_s: float = 10.0,
) -> Source:
    """Open a WFDB record, with or without its extension.

    Parameters
    ----------
    lead
        Name of the channel ("MLII" is not always the first); None for all. Where two have one name, the second is
        called "ECG#2".
    start, stop
        Seconds, "120s", "[hh:]mm:ss", or "s<samples>". Places stay those of the record, as its annotations have them.
    allow_truncated
        Play what is there of a file that is shorter than its header says.

    Raises
    ------
    SourceError
        If the header or a file of samples is missing, is not one, is empty or too short, or the lead is not there.
    """
    base = _base(Path(path).expanduser())
    header = _header(base)
    rate = checked_rate(header.fs, str(base))
    names = distinct([str(name or "") for name in header.sig_name])
    which = pick(lead, names, str(base))
    length = _length(base, header, allow_truncated)
    first, last = bounds(start, stop, rate, length, str(base))
    return Recording(
        name=base.name,
        rate_hz=rate,
        channels=tuple(names[i] for i in which),
        units=tuple(normal(header.units[i] or "mV") for i in which),
        epoch=_epoch(header),
        length=last,
        read=lambda a, b: _read(base, which, a, b),
        block=block_of(block_s, rate, len(which), str(base)),
        start=first,
    )


def _base(path: Path) -> Path:
    if not path.with_name(path.name + ".hea").is_file() and path.suffix:
        path = path.with_suffix("")
    existing(path.with_name(path.name + ".hea"), "a WFDB header")
    return path


def _header(base: Path) -> Any:
    import wfdb

    try:
        header = wfdb.rdheader(str(base))
    except Exception as error:  # the parser answers a file that is no header with errors of many kinds
        raise SourceError(f"{base}.hea is not a WFDB header ({type(error).__name__}: {error})") from None
    if isinstance(header, wfdb.MultiRecord):
        parts = [name for name in header.seg_name if name != "~"]
        raise SourceError(f"{base} is a record of {header.n_seg} segments; open one by itself, such as {parts[-1]}")
    if not header.n_sig or not header.sig_name or len(header.sig_name) != header.n_sig:
        found = len(header.sig_name or [])
        raise SourceError(f"{base}.hea promises {header.n_sig} signals and describes {found}; expected at least one")
    return header


def _length(base: Path, header: Any, allow_truncated: bool) -> int:
    there = min((_held(base, header, name) for name in dict.fromkeys(header.file_name)), key=lambda n: (n is None, n))
    promised = header.sig_len
    if not promised:
        known = "" if there is None else f" ({there} are there)"
        raise SourceError(f"{base}.hea does not say how many samples there are; add it to its first line{known}")
    if there is None or there >= promised:
        return int(promised)
    if not allow_truncated:
        raise SourceError(
            f"{base}: the header promises {promised} samples, {there} are there; fetch the file again, "
            f"or play what is there with allow_truncated = true"
        )
    return there


def _held(base: Path, header: Any, file_name: str) -> int | None:
    """How many samples a file of the record holds of each of its signals; None if its format does not let on."""
    path = existing(base.with_name(str(file_name)), f"the samples of record {base.name}")
    signals = [i for i, name in enumerate(header.file_name) if name == file_name]
    bits = [BITS.get(str(header.fmt[i])) for i in signals]
    if None in bits:
        return None
    frame = sum((bit or 0) * int(header.samps_per_frame[i] or 1) for i, bit in zip(signals, bits, strict=True))
    held = path.stat().st_size - int(header.byte_offset[signals[0]] or 0)
    return max(0, held) * 8 // frame


def _read(base: Path, which: list[int], a: int, b: int) -> NDArray[np.float32]:
    import wfdb

    try:
        record = wfdb.rdrecord(str(base), sampfrom=a, sampto=b, channels=which, return_res=32)
        x = samples(np.asarray(record.p_signal))
    except Exception as error:  # whatever the parser meets in a damaged file
        raise SourceError(f"{base}: samples {a} to {b} cannot be read ({type(error).__name__}: {error})") from None
    if len(x) != b - a:
        raise SourceError(f"{base}: {len(x)} samples at {a}, expected {b - a}; the file changed or is damaged")
    return x


def _epoch(header: Any) -> float | None:
    if header.base_date is None or header.base_time is None:
        return None
    return float(header.base_datetime.replace(tzinfo=UTC).timestamp())
