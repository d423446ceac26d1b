"""The gates of a streaming model as an engine, for whoever looks at them; the model's file stays as it is."""

from typing import Any

import numpy as np
import onnx

from holdover.export.taps import Tap, tapped
from holdover.export.whole import session
from holdover.runtime.contract import Contract
from holdover.runtime.engine import Array, Lane, Outputs, PlainLane, State, feeds, first_block, initial_state
from holdover.runtime.errors import UsageError


class GateEngine:
    """A streaming model whose outputs are its gates, (batch, frames, units).

    Frame k of the contract's outputs is about the samples with which it was computed, not about those that a delay of
    the model lets it speak of: a gate moves when the signal that moves it has arrived.

    Parameters
    ----------
    model : onnx.ModelProto
        A streaming model.
    contract : Contract
        Its own.
    sha256 : str
        Of its file.

    Attributes
    ----------
    taps : tuple of Tap
        The layers and their outputs.

    Raises
    ------
    UsageError
        As `tapped`; or a layer does not take a whole number of frames in a block.
    """

    def __init__(self, model: onnx.ModelProto, contract: Contract, sha256: str = "") -> None:
        with_gates, self.taps = tapped(model)
        self.sha256 = sha256
        self._run = session(with_gates)
        self._gates = [o for tap in self.taps for o in tap.outputs.values()]
        self.contract = contract
        self.contract = Contract.of(dict(contract.document) | {"outputs": self._described()})

    def step(self, x: Array, state: State, last: bool = False) -> tuple[Outputs, State]:
        """See `Engine.step`."""
        c = self.contract
        names = [*self._gates, *(s.output for s in c.states)]
        given = feeds(c, np.ascontiguousarray(x, np.float32), state, last)
        found = dict(zip(names, self._run.run(names, given), strict=True))
        return {g: found[g].swapaxes(0, 1) for g in self._gates}, {s.name: found[s.output] for s in c.states}

    def lane(self) -> Lane:
        """See `Engine.lane`."""
        return PlainLane(self)

    def _described(self) -> list[dict[str, Any]]:
        """What a contract says of the gates, as two blocks of silence tell it."""
        c = self.contract
        state: State = initial_state(c)
        first = first_block(c, state)
        found = []
        for samples in (first, c.grid):
            gates, state = self.step(np.zeros((1, samples, len(c.signal.channels)), np.float32), state)
            found.append(gates)
        return [self._output(tap, o, first, *(g[o] for g in found)) for tap in self.taps for o in tap.outputs.values()]

    def _output(self, tap: Tap, name: str, first: int, early: Array, late: Array) -> dict[str, Any]:
        grid, frames = self.contract.grid, late.shape[1]
        if not frames or grid % frames:
            raise UsageError(f"the gates of '{tap.layer}' cannot be looked at in a stream: the layer takes {frames} "
                             f"frames in {grid} samples, expected one in a whole number of samples")  # fmt: skip
        pace = grid // frames
        return {"name": name, "kind": "frames", "meaning": "gates", "samples_per_frame": pace,
                "first_at": first - early.shape[1] * pace, "width": late.shape[2]}  # fmt: skip
