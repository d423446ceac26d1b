"""One signal's memory: resampler, carried state, samples short of a hop."""

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np

from holdover.runtime.chunk import Chunk
from holdover.runtime.contract import Contract, OutputSpec
from holdover.runtime.engine import Array, Engine, Outputs
from holdover.runtime.errors import SourceError
from holdover.runtime.frames import Frames
from holdover.runtime.resample import Resampler
from holdover.runtime.snapshot import Memory


def expected_frames(o: OutputSpec, samples: int) -> int:
    """Frames of an output that the contract promises for so many samples of the model, the end apart.

    Examples
    --------
    >>> expected_frames(OutputSpec("y", "frames", "score", samples_per_frame=3, delay=4), 10)
    2
    """
    return max((samples - 1 - o.first_at - o.delay) // o.samples_per_frame + 1, 0)


def ends_cut(contract: Contract) -> bool:
    """Whether a stream ends with the last frame whose delay has passed, as the whole-sequence original does."""
    return contract.document.get("end") == "cut"


class Stream:
    """A model run over one signal, its memory carried from chunk to chunk.

    Parameters
    ----------
    engine
        The model.
    rate_hz
        Rate of the source; it is resampled to the model's, unless that takes any.

    Notes
    -----
    Chunks hold finite samples that follow one another without a hole: `holdover.runtime.quality` sees to that, and
    calls `finish` before one.
    """

    def __init__(self, engine: Engine, rate_hz: float) -> None:
        self.contract = c = engine.contract
        self._engine = engine
        self._channels = len(c.signal.channels)
        rates = (1.0, 1.0) if c.signal.any_rate else (rate_hz, c.signal.rate_hz)
        self._resampler = Resampler(*rates, self._channels)
        self.ratio = Fraction(self._resampler.down, self._resampler.up)
        self._quantum = c.hop if c.bitwise else c.grid
        self._first_min = -(-c.first_chunk_min // self._quantum) * self._quantum
        self._none: Array = np.empty((0, self._channels), np.float32)
        self._paces = [(o.name, o.first_at, o.samples_per_frame) for o in c.outputs]
        self._empty = {o.name: np.empty((0, o.width or max(len(o.labels), 1)), np.float32) for o in c.outputs}
        self.reset()

    @property
    def delay(self) -> int:
        """Source samples from a sample until the slowest output has spoken of it: resampler, model, and one hop."""
        c = self.contract
        return self._resampler.delay + math.ceil((c.max_delay + c.hop) * self.ratio)

    def reset(self) -> None:
        """Forget all: the next chunk begins a new memory."""
        self._lane = self._engine.lane()
        self._resampler.reset()
        self._pending = self._none
        self._last = self._none
        self._origin: int | None = None
        self._next = 0
        self._taken = 0
        self._before: Memory | None = None
        self._first: Mapping[str, int] = {o.name: 0 for o in self.contract.outputs}

    def push(self, chunk: Chunk) -> Frames:
        """Take samples of any number, even none, and return what the model can now say.

        Raises
        ------
        SourceError
            The chunk has another number of channels than the model, or does not follow the one before.
        """
        x, at = chunk.x, chunk.at
        if x.ndim != 2 or x.shape[1] != self._channels:
            raise SourceError(f"the chunk has shape {x.shape}, the model takes (samples, {self._channels})")
        if not len(x):
            return self._frames(None, self._none)
        if self._origin is None:
            self._origin = self._next = at
        if at != self._next:
            raise SourceError(f"the chunk begins at sample {at}, expected {self._next}: fill or finish first")
        self._next = at + len(x)
        self._last = x[-1:].copy()  # the caller may use its array again
        return self._step(self._resampler.push(x))

    def finish(self) -> Frames:
        """Say what is left, and forget all.

        Where the graph can be told of the end, what is left is what the whole-sequence original says of it. Else it is
        said as if the signal stayed at its last value: all of it, or, where the contract says that the end is cut, only
        frames whose samples have all come, since the original has no others.
        """
        if self._origin is None:
            return self._frames(None, self._none)
        if self.contract.exact_end:
            return self._end()
        c = self.contract
        tail = math.ceil((c.max_delay + c.first_chunk_min + 2 * self._quantum) * self.ratio) + self._resampler.delay + 1
        said = self._step(self._resampler.push(np.repeat(self._last, tail, axis=0)))
        keep = {o.name: self._kept(o, said) for o in c.outputs}
        values = {name: value[: keep[name]] for name, value in said.values.items()}
        heard = said.heard[: max(self._samples() - said.heard_first, 0)]
        frames = replace(said, values=values, until=self._next, heard=heard)
        self.reset()
        return frames

    def _kept(self, o: OutputSpec, said: Frames) -> int:
        """How many frames of an end that was made up are said."""
        if ends_cut(self.contract):
            return max(expected_frames(o, self._samples()) - said.first[o.name], 0)
        return int(np.searchsorted(said.at(o), self._next))

    def _samples(self) -> int:
        """Samples of the model for those of the source."""
        return math.ceil((self._next - (self._origin or 0)) / self.ratio)

    def _step(self, heard: Array) -> Frames:
        x = np.concatenate([self._pending, heard]) if len(self._pending) else heard
        n = len(x) - len(x) % self._quantum
        if not n or (not self._taken and n < self._first_min):
            self._pending = x.copy()
            return self._frames(None, heard)
        self._pending = self._none if n == len(x) else x[n:].copy()
        return self._frames(self._push(x[:n]), heard)

    def _push(self, x: Array) -> Outputs:
        """Push whole blocks; where the end will be spoken of, the last block is kept with the state before it."""
        first, self._taken = not self._taken, self._taken + len(x)
        if not self.contract.exact_end:
            return self._lane.push(x)
        cut = len(x) - self._quantum
        if first and cut < self._first_min:
            cut = 0
        early = self._lane.push(x[:cut]) if cut else None
        self._before = {"lane": self._lane.snapshot(), "x": x[cut:].copy()}
        late = self._lane.push(x[cut:])
        self._before["said"] = {name: len(value) for name, value in late.items()}
        self._before["so_far"] = {o.name: late[o.name] for o in self.contract.outputs if o.kind == "running"}
        return late if early is None else {n: np.concatenate([early[n], late[n]]) for n in late}

    def _end(self) -> Frames:
        """The last block again, with what came after it, this time as the last."""
        rest = self._resampler.push(np.repeat(self._last, self._resampler.delay + 1, axis=0))
        rest = rest[: max(self._samples() - self._taken - len(self._pending), 0)]
        parts = [self._step(rest)] if len(rest) else []
        if self._before is not None:
            x = np.concatenate([self._before["x"], self._pending])
            outputs, _ = self._engine.step(x[np.newaxis], self._before["lane"], last=True)
            said, so_far = self._before["said"], self._before["so_far"]
            # A value over all time changes with padding at the end too, after which no sample came.
            changed = {n for n, v in so_far.items() if len(self._pending) or not np.array_equal(v, outputs[n][0])}
            ends = {n: v[0] if n in changed else v[0, said[n] :] for n, v in outputs.items()}
            parts.append(self._frames(ends, self._none))
        joined = {o.name: np.concatenate([self._empty[o.name], *(p.values[o.name] for p in parts)])
                  for o in self.contract.outputs}  # fmt: skip
        first = parts[0].first if parts else self._first
        frames = replace(self._frames(None, rest), values=joined, first=first, until=self._next)
        self.reset()
        return frames

    def _frames(self, outputs: Outputs | None, heard: Array) -> Frames:
        """What was said, and the samples `heard`, which have been counted as taken or pending."""
        first = self._first
        if outputs is not None:
            self._first = {name: k + len(outputs[name]) for name, k in first.items()}
        heard_first = self._taken + len(self._pending) - len(heard)
        return Frames(
            self._empty if outputs is None else outputs, first, self._origin or 0, self.ratio, self._until(), heard,
            heard_first,
        )  # fmt: skip

    def _until(self) -> int:
        if self._origin is None:
            return self._next
        said = min([first_at + self._first[name] * pace for name, first_at, pace in self._paces])
        return min(self._origin + max(said * self.ratio.numerator // self.ratio.denominator, 0), self._next)

    def snapshot(self) -> Memory:
        """Everything that is carried."""
        return {
            "lane": self._lane.snapshot(),
            "resampler": self._resampler.snapshot(),
            "pending": self._pending,
            "last": self._last,
            "origin": self._origin,
            "next": self._next,
            "taken": self._taken,
            "first": dict(self._first),
            "before": self._before,
        }

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave; `ModelError` if it is another model's."""
        self._lane.restore(memory["lane"])
        self._resampler.restore(memory["resampler"])
        self._pending, self._last = memory["pending"], memory["last"]
        self._origin, self._next, self._taken = memory["origin"], memory["next"], memory["taken"]
        self._first = dict(memory["first"])
        self._before = memory.get("before")
