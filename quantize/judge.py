"""The held-out records: what the parent decides on them, and how far a smaller model agrees."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.export.proof import engine_of, feed
from holdover.quantize.gate import Beats, Bound, Parity, Score, beat_parity, frame_parity
from holdover.runtime.errors import ModelError

Array = NDArray[np.float32]

DEFAULT = {"V.f1": -0.005, "S.f1": -0.01, "labels": 0.995, "beats": 0.995}
"""What is asked for where nothing is said, of what can be measured."""
NO_BEATS = {"labels": 0.995, "scores": 0.95}
"""The same of models that find no beats."""


class Judge:
    """Holds smaller models against their parent.

    Parameters
    ----------
    parent : bytes
        The float streaming model.
    held_out : mapping of str to array
        (samples, channels) by record, at the model's rate, not calibrated on.
    score : callable, optional
        What a model decides on them, by record; without it models are compared frame by frame.
    """

    def __init__(self, parent: bytes, held_out: Mapping[str, Array], score: Score | None = None) -> None:
        self.held_out = held_out
        self._score = score
        self._classes = [o.name for o in engine_of(parent).contract.outputs if o.meaning == "class_logits"]
        self._frames = self._run(parent)
        self._beats = score(engine_of(parent)) if score else None

    def parity(self, child: bytes) -> dict[str, Parity]:
        """Every measure of agreement.

        Raises
        ------
        ModelError
            The child says what is no number where its parent does not.
        """
        frames = self._run(child)
        if odd := [record for record in frames if not _finite(frames[record]) and _finite(self._frames[record])]:
            raise ModelError(f"it says what is no number on {', '.join(odd)}, where its parent says numbers")
        return self._agreement(frames, self._score(engine_of(child)) if self._score else None)

    @cached_property
    def measures(self) -> dict[str, Parity]:
        """What can be measured: the parent's agreement with itself."""
        return self._agreement(self._frames, self._beats)

    def _agreement(self, frames: Mapping[str, Any], beats: Mapping[str, Beats] | None) -> dict[str, Parity]:
        found = frame_parity(self._frames, frames, self._classes)
        return found | (beat_parity(self._beats, beats) if self._beats and beats else {})

    def _run(self, data: bytes) -> dict[str, dict[str, Any]]:
        engine = engine_of(data)
        return {record: feed(engine, x, [len(x)]) for record, x in self.held_out.items()}


def _finite(said: Mapping[str, Any]) -> bool:
    return all(np.isfinite(v).all() for v in said.values())


def default_gate(parity: Mapping[str, Parity]) -> tuple[Bound, ...]:
    """What is asked for where nothing is said."""
    asked = DEFAULT if "beats" in parity else NO_BEATS
    return tuple(Bound(name, least) for name, least in asked.items() if name in parity)
