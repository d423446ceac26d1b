"""Recordings in the European Data Format, EDF and EDF+."""

import warnings
from collections.abc import Sequence
from datetime import UTC, date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources.cell import samples
from holdover.devices.sources.recording import Recording, block_of, bounds, checked_rate, distinct, existing, pick
from holdover.devices.sources.units import normal
from holdover.runtime.chunk import Source
from holdover.runtime.errors import SourceError

NO_DATE = date(1985, 1, 1)
"""What a file says that does not know its date (EDF+ specification, 2.1.3.3)."""


def open(
    path: str | Path,
    *,
    lead: str | None = None,
    start: float | str | None = None,
    stop: float | str | None = None,
    allow_truncated: bool = False,
    block_s: float = 10.0,
) -> Source:
    """Open an EDF file; `lead` is a channel's label, None for all if they have one rate.

    Raises
    ------
    SourceError
        If the file is not EDF, is interrupted (EDF+D) or truncated, or the channel is not there.
    """
    path = existing(path, "an EDF file")
    edf = _load(path, allow_truncated)
    names = distinct([signal.label for signal in edf.signals])
    which = pick(lead, names, str(path))
    signals = [edf.signals[i] for i in which]
    rate = _rate(signals, path)
    length = edf.num_data_records * signals[0].samples_per_data_record
    first, last = bounds(start, stop, rate, length, str(path))
    return Recording(
        name=path.stem,
        rate_hz=rate,
        channels=tuple(names[i] for i in which),
        units=tuple(normal(signal.physical_dimension) for signal in signals),
        epoch=_epoch(edf),
        length=last,
        read=lambda a, b: _read(signals, rate, a, b),
        block=block_of(block_s, rate, len(which), str(path)),
        start=first,
    )


def _load(path: Path, allow_truncated: bool) -> Any:
    import edfio

    promised = _promised(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a count of records that differs is judged below, in our words
            edf = edfio.read_edf(path)
            signals, held = edf.signals, edf.num_data_records
            interrupted = edf.reserved.startswith("EDF+D") and not edf.is_continuous
            flat = [s.label for s in signals if s.physical_min == s.physical_max or s.digital_min == s.digital_max]
    except Exception as error:  # the parser answers a file that is no EDF with errors of many kinds
        raise SourceError(f"{path} is not an EDF file ({type(error).__name__}: {error})") from None
    if not signals or flat:
        raise SourceError(
            f"{path}: {'no range for ' + ', '.join(flat) if flat else 'no signals'}; expected samples in units"
        )
    if interrupted:
        raise SourceError(f"{path} is an interrupted recording (EDF+D), which is not read; split it into whole pieces")
    if held < promised and not allow_truncated:
        raise SourceError(
            f"{path}: the header promises {promised} data records, {held} are there; fetch the file again, "
            f"or play what is there with allow_truncated = true"
        )
    return edf


def _promised(path: Path) -> int:
    with path.open("rb") as file:
        head = file.read(256)
    try:
        return int(head[236:244])
    except ValueError:
        raise SourceError(f"{path} is not an EDF file: its header does not say how many data records it has") from None


def _rate(signals: Sequence[Any], path: Path) -> float:
    rates = {signal.label: float(signal.sampling_frequency) for signal in signals}
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{label} {rate:g} Hz" for label, rate in rates.items())
        raise SourceError(f"{path}: its channels differ in rate ({listed}); choose one with lead")
    return checked_rate(next(iter(rates.values())), str(path))


def _read(signals: Sequence[Any], rate_hz: float, a: int, b: int) -> NDArray[np.float32]:
    columns = [signal.get_data_slice(a / rate_hz, b / rate_hz) for signal in signals]
    return samples(np.stack(columns, axis=1))


def _epoch(edf: Any) -> float | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the two date fields may differ; the EDF+ one counts
            when = edf.startdatetime
    except Exception:  # anonymised, or not a date: the recording does not say
        return None
    return None if when.date() == NO_DATE else float(when.replace(tzinfo=UTC).timestamp())
