"""How long a model's past matters: the time after a reset until its decisions are those of a stream that had none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.export.verify import Array, Step, Tensors, run
from holdover.runtime.contract import Contract, OutputSpec
from holdover.runtime.engine import initial_state
from holdover.runtime.errors import UsageError

METHOD = (
    "streams with their full past against the same stretches from the initial state and from another recording's "
    "state; samples after the reset from which on, in every second, enough of the frames with an event agree: "
    "event_share of them on the event, within one frame; share of them on the offset, within half a frame, "
    "and on classes and rhythms by their label"
)


_Differs = Callable[[OutputSpec, Array, Array], Array]
"""Where two runs of an output decide otherwise, (recordings, frames)."""


@dataclass(frozen=True)
class Agreement:
    """What counts as settled.

    Attributes
    ----------
    event_share : float
        Of the frames with an event, those that must agree on it; stricter, as all else rests on the events.
    share : float
        Of the frames with an event, those that must agree on the other outputs.
    threshold : float
        Probability from which on a frame has an event.
    block_s : float
        Seconds from one reset to the next.
    """

    event_share: float = 0.995
    share: float = 0.99
    threshold: float = 0.5
    block_s: float = 30.0


def settle(step: Step, contract: Contract, x: Array, agreement: Agreement | None = None) -> dict[str, int]:
    """Samples after a reset until each output decides as with its full past.

    Parameters
    ----------
    step : Step
        The model.
    contract : Contract
        With an output that means `event_logit`; its frames with an event are those that count.
    x : array
        (recordings, samples, channels), at least two recordings and two blocks.
    agreement : Agreement, optional
        What counts as settled.

    Returns
    -------
    dict of str to int
        Samples, by output, counted to the arrival of the first frame that is settled.

    Raises
    ------
    UsageError
        The model has no events.
    """
    agreement, event = agreement or Agreement(), _event(contract)
    tallies = _tally(step, contract, x, agreement, _differs)
    window = round(contract.signal.rate_hz)
    shares = {o.name: agreement.event_share if o is event else agreement.share for o in contract.outputs}
    return {o.name: _last(tallies[o.name], o, window // o.samples_per_frame, shares[o.name]) for o in contract.outputs}


def settle_label(
    step: Step, contract: Contract, x: Array, label: str, agreement: Agreement | None = None
) -> dict[str, int]:
    """Samples after a reset until each output that has the label decides as with its full past whether it is that.

    Parameters, returns and errors as those of `settle`.
    """
    agreement = agreement or Agreement()

    def differs(o: OutputSpec, a: Array, b: Array) -> Array:
        if label not in o.labels:
            return np.zeros(a.shape[:2], bool)
        at = o.labels.index(label)
        return np.asarray((a.argmax(axis=2) == at) != (b.argmax(axis=2) == at))

    tallies, window = _tally(step, contract, x, agreement, differs), round(contract.signal.rate_hz)
    having = [o for o in contract.outputs if label in o.labels]
    return {o.name: _last(tallies[o.name], o, window // o.samples_per_frame, agreement.share) for o in having}


def _tally(step: Step, contract: Contract, x: Array, agreement: Agreement, differs: _Differs) -> dict[str, Array]:
    """How many frames differ, and how many count, by output and frame after the reset, (2, frames)."""
    block = int(agreement.block_s * contract.signal.rate_hz) // contract.hop * contract.hop
    tallies = {o.name: np.zeros((2, block // o.samples_per_frame)) for o in contract.outputs}
    state: Tensors = initial_state(contract, len(x))
    for start in range(0, x.shape[1] - block + 1, block):
        stretch = x[:, start : start + block]
        full = run(step, contract, stretch, [block], state)
        for past in (initial_state(contract, len(x)), _exchanged(contract, state)) if start else ():
            _compare(contract, agreement, differs, full, run(step, contract, stretch, [block], past), tallies)
        state = {s.name: full[f"state:{s.name}"] for s in contract.states}
    return tallies


def _event(contract: Contract) -> OutputSpec:
    event = contract.by_meaning("event_logit")
    if event is None:
        raise UsageError("settling is measured at a model's events; this one has no output that means event_logit")
    return event


def _exchanged(contract: Contract, state: Tensors) -> dict[str, NDArray[Any]]:
    """Each stream takes its neighbour's past."""
    return {s.name: np.roll(state[s.name], 1, axis=list(s.steady_shape).index("batch")) for s in contract.states}


def _compare(
    contract: Contract,
    agreement: Agreement,
    differ: _Differs,
    full: Tensors,
    other: Tensors,
    tallies: Mapping[str, Array],
) -> None:
    event = _event(contract)
    here, there = (_events(outputs[event.name], agreement.threshold) for outputs in (full, other))
    for o in contract.outputs:
        shift = (event.first_at - o.first_at) // o.samples_per_frame
        counts = np.roll(here | there if o is event else here & there, shift, axis=1)
        counts[:, :shift] = False
        differs = _missed(here, there) if o is event else differ(o, full[o.name], other[o.name])
        tallies[o.name][0] += (differs & counts).sum(axis=0)
        tallies[o.name][1] += counts.sum(axis=0)


def _events(logit: Array, threshold: float) -> Array:
    return np.asarray(logit[..., 0] > np.log(threshold / (1 - threshold)))


def _missed(a: Array, b: Array) -> Array:
    """Frames with an event in one, and none in the other there or beside it."""
    return np.asarray((a & ~_widened(b)) | (b & ~_widened(a)))


def _widened(events: Array) -> Array:
    padded = np.pad(events, ((0, 0), (1, 1)))
    return np.asarray(padded[:, :-2] | events | padded[:, 2:])


def _differs(o: OutputSpec, a: Array, b: Array) -> Array:
    if o.labels:
        return np.asarray(a.argmax(axis=2) != b.argmax(axis=2))
    return np.asarray(np.abs(a - b).max(axis=2) > o.samples_per_frame / 2)


def _last(tally: Array, o: OutputSpec, window: int, share: float) -> int:
    """Samples to the end of the last window in which too many frames differ."""
    differ, count = (np.convolve(t, np.ones(window), "valid") for t in tally)
    bad = np.flatnonzero(differ > (1 - share) * count)
    return int(bad[-1] + 1) * o.samples_per_frame if len(bad) else 0
