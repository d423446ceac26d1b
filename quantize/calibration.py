"""The recordings that ranges are taken from, held against what cannot be."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.contract import Contract
from holdover.runtime.errors import SourceError

Array = NDArray[np.float32]
Ranges = Literal["minmax", "percentile", "entropy"]

LEAST_S = 10.0
ODD = 30.0
"""A recording that spreads so many times more or less than another is in another unit."""
BODY_MV = (0.01, 50.0)
"""Spread of signals of the body in millivolts, generously: an ECG has 0.1 to 5."""
MILLIVOLTS = {"V": 1e3, "mV": 1.0, "uV": 1e-3, "µV": 1e-3}


@dataclass(frozen=True)
class Calibration:
    """Real recordings, rolled through the model from their beginning, so that it is in states that it really visits.

    Attributes
    ----------
    signals : mapping of str to array
        (samples, channels) by the name of the recording, at the model's rate and in its unit.
    ranges : str
        How a range follows from the values seen: "minmax", "percentile" (99.999 %) or "entropy".
    """

    signals: Mapping[str, Array]
    ranges: Ranges = "minmax"

    def batches(self, hop: int) -> list[Array]:
        """Each recording as a batch of one, whole hops: (1, samples, channels)."""
        return [x[None, : len(x) // hop * hop] for x in self.signals.values()]


def check(signals: Mapping[str, Array], contract: Contract) -> None:
    """Hold recordings against what cannot be a signal of this model.

    Parameters
    ----------
    signals : mapping of str to array
        (samples, channels), for calibration and for judging alike.

    Raises
    ------
    SourceError
        One is too short, all flat, or in another unit than the rest or than its unit can be.
    """
    if not signals:
        raise SourceError("there is no recording to calibrate on; name some with --calibrate")
    least = max(contract.first_chunk_min, round(LEAST_S * contract.signal.rate_hz))
    for name, x in signals.items():
        if len(x) < least:
            seconds = len(x) / contract.signal.rate_hz
            raise SourceError(f"{name} holds {seconds:.1f} s of finite samples; expected {LEAST_S:g} s or more to "
                              "take ranges from")  # fmt: skip
        if not spread(x).any():
            raise SourceError(f"{name} is flat from end to end: no range can be taken from it; leave it out")
    _check_units(signals, contract)


def spread(x: Array) -> NDArray[np.float64]:
    """From the 1st to the 99th percentile of each channel; all of the range where that is nothing."""
    low, high = np.percentile(x, [1, 99], axis=0)
    return np.asarray(np.where(high > low, high - low, np.ptp(x, axis=0)), np.float64)


def _check_units(signals: Mapping[str, Array], contract: Contract) -> None:
    spreads = {name: spread(x) for name, x in signals.items()}
    middle = np.median(np.stack(list(spreads.values())), axis=0)
    for channel, spec in enumerate(contract.signal.channels):
        for name, found in spreads.items():
            if not found[channel]:
                continue
            times = found[channel] / middle[channel] if middle[channel] else 1.0
            if not 1 / ODD <= times <= ODD:
                raise SourceError(_odd(name, spec.name, times, "the others"))
            low, high = (limit / MILLIVOLTS.get(spec.unit, 1.0) for limit in BODY_MV)
            if spec.unit in MILLIVOLTS and not low <= found[channel] <= high:
                raise SourceError(f"{name} spreads over {found[channel]:.3g} {spec.unit} in {spec.name}; expected "
                                  f"{low:g} to {high:g} {spec.unit} of a signal of the body: is it in another unit? "
                                  "State it in its header, or with --unit")  # fmt: skip


def _odd(name: str, channel: str, times: float, than: str) -> str:
    how = f"{times:.0f} times more" if times > 1 else f"{1 / times:.0f} times less"
    return (f"{name} spreads {how} than {than} in {channel}: it is in another unit; state it in its header, or with "
            "--unit")  # fmt: skip


def concatenated(signals: Iterable[Array]) -> Array:
    """Recordings end to end, (samples, channels)."""
    return np.concatenate(list(signals))
