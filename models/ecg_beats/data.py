"""The training recordings: leads by name, beats by class, filtered once, read at any place in time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import firwin, oaconvolve

from holdover.runtime.errors import SourceError

RATE_HZ = 360
MODEL_HZ = 120
DS1 = (101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209, 215, 220, 223, 230)
"""The training half of the usual inter-patient split; paced records are in neither half."""
VALIDATION = ("118", "119", "205", "223")
TRAIN = tuple(str(n) for n in DS1 if str(n) not in VALIDATION)
LABELS = ("N", "S", "V")
OTHER = 3
"""Fusion and unclassifiable: a beat without a class."""

# De Chazal, O'Dwyer, Reilly 2004, IEEE Trans Biomed Eng 51(7), table I: the AAMI classes; escape beats e and j are N.
SYMBOLS = {"NLRej": 0, "AaJS": 1, "VE": 2, "FfQ/": OTHER}
CLASS = {symbol: kind for symbols, kind in SYMBOLS.items() for symbol in symbols}


@dataclass(frozen=True)
class Record:
    """One recording, low-passed for 120 Hz but kept at 360 Hz, so that a stretched reading stays clean.

    Attributes
    ----------
    name : str
        Its number in the database.
    leads : array
        (2, samples), mV; MLII first.
    at : array
        (beats,), samples at 360 Hz of the annotated beats.
    kind : array
        (beats,), index into `LABELS`, or `OTHER`.
    flutter : array
        (episodes, 2), samples: ventricular flutter, where beats are not annotated one by one.
    """

    name: str
    leads: NDArray[np.float32]
    at: NDArray[np.int64]
    kind: NDArray[np.int64]
    flutter: NDArray[np.int64]


def load(folder: Path, names: Sequence[str]) -> list[Record]:
    """Read records of the MIT-BIH Arrhythmia Database.

    Raises
    ------
    SourceError
        The folder or a record is not there.
    """
    missing = [n for n in names if not all((folder / f"{n}.{e}").is_file() for e in ("hea", "dat", "atr"))]
    if missing:
        raise SourceError(
            f"{folder} lacks the records {' '.join(missing)} (.hea, .dat, .atr); get them with "
            "python -c \"import wfdb; wfdb.dl_database('mitdb', 'DATA/mitdb')\" and give --data DATA"
        )
    return [_record(folder / name) for name in names]


def noises(folder: Path) -> list[NDArray[np.float32]]:
    """Read baseline wander and muscle artefact of the noise stress test database; electrode motion is for testing only.

    Returns
    -------
    list of array
        (samples,), mV at 360 Hz, each of unit variance.

    Raises
    ------
    SourceError
        The folder or a record is not there.
    """
    return [lead / lead.std() for n in ("bw", "ma") for lead in _noise(folder, n)]


def artefacts(folder: Path) -> dict[str, NDArray[np.float32]]:
    """Signals without a heart, for testing: recorded noise, an open input, a flat line; (samples,) at 120 Hz, mV.

    Raises
    ------
    SourceError
        The folder or a record is not there.
    """
    signals: dict[str, NDArray[Any]] = {n: _noise(folder, n)[0, :: RATE_HZ // MODEL_HZ] for n in ("bw", "ma", "em")}
    rng = np.random.default_rng(0)
    for mv in (0.005, 0.1, 1.0):
        signals[f"white_{mv}_mv"] = mv * rng.standard_normal(600 * MODEL_HZ)
    signals["flat"] = np.zeros(600 * MODEL_HZ)
    return {name: x[: len(x) // 60 * 60].astype(np.float32) for name, x in signals.items()}


def view(record: Record, lead: int = 0) -> NDArray[np.float32]:
    """The lead at 120 Hz, (samples,), mV, samples a multiple of 60."""
    x = record.leads[lead, :: RATE_HZ // MODEL_HZ]
    return x[: len(x) // 60 * 60]


def _noise(folder: Path, name: str) -> NDArray[np.float32]:
    if not all((folder / f"{name}.{e}").is_file() for e in ("hea", "dat")):
        raise SourceError(
            f"{folder} lacks the record {name} (.hea, .dat); get it with "
            "python -c \"import wfdb; wfdb.dl_database('nstdb', 'DATA/nstdb')\" and give --data DATA"
        )
    return _leads(folder / name)[0]


def _record(path: Path) -> Record:
    import wfdb

    leads, names = _leads(path)
    order = [names.index("MLII"), 1 - names.index("MLII")]
    marks = wfdb.rdann(str(path), "atr")
    beats = [(s, CLASS[m]) for s, m in zip(marks.sample, marks.symbol, strict=True) if m in CLASS]
    at, kind = (np.array(v, np.int64) for v in zip(*beats, strict=True))
    edges = {m: [s for s, k in zip(marks.sample, marks.symbol, strict=True) if k == m] for m in "[]"}
    flutter = np.array(list(zip(edges["["], edges["]"], strict=True)), np.int64).reshape(-1, 2)
    return Record(path.name, np.ascontiguousarray(leads[order]), at, kind, flutter)


def _leads(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    """All leads, low-passed by the filter of `scipy.signal.resample_poly(x, 1, 3)`, in place."""
    import wfdb

    record = wfdb.rdrecord(str(path))
    x: NDArray[Any] = np.nan_to_num(record.p_signal.T)
    taps = firwin(61, MODEL_HZ / RATE_HZ, window=("kaiser", 5.0))
    return oaconvolve(x, taps[None], mode="same", axes=1).astype(np.float32), list(record.sig_name)
