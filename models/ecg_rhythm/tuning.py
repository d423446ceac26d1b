"""Training that goes on from a net, on a user's records and, if there are any, as much on the public ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import cos, pi
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from holdover.models.ecg_beats.data import OTHER, RATE_HZ
from holdover.models.ecg_beats.net import normalise
from holdover.models.ecg_rhythm import streams
from holdover.models.ecg_rhythm.data import UNKNOWN, Record
from holdover.models.ecg_rhythm.disturb import disturb
from holdover.models.ecg_rhythm.net import COLUMNS, HOP, Memory, Net
from holdover.models.ecg_rhythm.train import SHARES, SLOTS, Training, losses_of, shared
from holdover.runtime.errors import ModelError

RATE = 3e-4
WARM_UP = 20
LONGEST_S = 150.0
"""What a segment may take of a record."""
NEW_CONTEXT_S = 3.0
"""After a seam a beat is not asked for its class: it depends on what came before."""
BEAT = 0.3
"""Wanted probability of a beat from which on a frame has an offset."""

Array = NDArray[Any]


class Public(NamedTuple):
    """What the recipe learns from and is judged by; empty where the user has none of it."""

    records: Sequence[Record] = ()
    validation: Sequence[Record] = ()
    noise: Sequence[Array] = ()


class OwnStreams(streams.Streams):
    """Segments of a user's records, all with beats, perhaps none S or V; beside them those of other streams.

    Parameters
    ----------
    records, noise, slots, rng
        As those of `Streams`.
    others : Streams, optional
        Give the slots that come after one's own.
    """

    def __init__(
        self,
        records: Sequence[Record],
        noise: Sequence[Array],
        slots: int,
        rng: np.random.Generator,
        others: streams.Streams | None = None,
    ) -> None:
        self._others = others
        super().__init__([_long(r) for r in records], noise, slots, rng)

    def step(self) -> tuple[Array, streams.Targets, Array]:
        """As `Streams.step`, of all slots."""
        if self._others is None:
            return super().step()
        (z, mine, alive), (other_z, theirs, other_alive) = super().step(), self._others.step()
        names = [f.name for f in fields(streams.Targets)]
        both = streams.Targets(*(np.concatenate([getattr(mine, n), getattr(theirs, n)]) for n in names))
        return np.concatenate([z, other_z]), both, np.concatenate([alive, other_alive])

    def _weighted(self, kind: int) -> Array:
        total = np.array([(r.kind == kind).sum() for r in self._beats], float)
        return np.asarray(np.sqrt(np.minimum(total, 200)))

    def _place(self, length: float) -> tuple[Record, float]:
        """As `Streams._place`, of the classes that there are."""
        rng, there = self._rng, [k for k, share in self._centres.items() if share.any()]
        if not there or rng.random() < 0.5:
            record = self._beats[int(rng.integers(len(self._beats)))]
            at = rng.uniform(0, record.leads.shape[1])
        else:
            kind = int(rng.choice(there))
            share = self._centres[kind] / self._centres[kind].sum()
            record = self._beats[int(rng.choice(len(self._beats), p=share))]
            at = float(rng.choice(record.at[record.kind == kind])) - rng.uniform(0.1, 0.9) * length
        return record, float(np.clip(at, 0, record.leads.shape[1] - length - 2))

    def _draw(self) -> tuple[Array, streams.Targets]:
        stretch = self._annotated()
        x, quality, dead = disturb(stretch.x, self._noise, self._rng)
        return normalise(x), streams.targets_of(stretch, np.where(stretch.noisy, 1, quality), dead)


def _long(record: Record) -> Record:
    """The record, again and again where it is shorter than a segment may be; what spans a seam is not asked for."""
    n = record.leads.shape[1]
    times = -(-round(LONGEST_S * RATE_HZ) // n)
    if times == 1:
        return record
    starts = np.arange(times) * n
    at = (starts[:, None] + record.at).ravel()
    kind = np.tile(np.where(record.at < NEW_CONTEXT_S * RATE_HZ, OTHER, record.kind), times)
    kind[: len(record.kind)] = record.kind
    seams = np.stack([starts[1:] - RATE_HZ // 2, starts[1:] + RATE_HZ // 2], 1)
    return replace(
        record,
        leads=np.tile(record.leads, times),
        at=at,
        kind=kind,
        rhythm=np.concatenate([record.rhythm + np.array([s, s, 0]) for s in starts]),
        unknown=np.concatenate([seams, *(record.unknown + s for s in starts)]),
        bad=np.concatenate([record.bad + s for s in starts]),
        ventricular=np.concatenate([record.ventricular + s for s in starts]),
    )


def tuned(parent: Net, records: Sequence[Record], public: Public, steps: int, seed: int) -> Net:
    """The net after so many steps on the records, and on as many segments of the public ones if there are any.

    Raises
    ------
    ModelError
        Training did not stay finite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    others = streams.Streams(public.records, public.noise, SLOTS // 2, rng) if public.records else None
    own = OwnStreams(records, public.noise, SLOTS - SLOTS // 2 if others else SLOTS, rng, others)
    net, average = Net(), Net().eval()
    for each in (net, average):
        each.load_state_dict(parent.state_dict())
    tuning = Tuning(net, average, torch.optim.Adam(net.parameters()), own, steps, False, parent=parent)
    return tuning.taught()


@dataclass
class Tuning(Training):
    """Training at a low rate, in which the parent teaches what the annotations do not say: rhythm, and a beat's offset.

    Li Z, Hoiem D. Learning without forgetting. IEEE Trans Pattern Anal Mach Intell 40(12), 2018.
    """

    parent: Net = field(kw_only=True)
    past: Memory = field(init=False)

    def taught(self) -> Net:
        """Take all steps, with a line every so often; the moving average."""
        self.past = Memory.zeros(SLOTS)
        self.through(Memory.zeros(SLOTS))
        if not all(bool(p.isfinite().all()) for p in self.average.parameters()):
            raise ModelError("training left the finite numbers; look at the records, or give fewer --steps")
        return self.average

    def _one(self, memory: Memory) -> tuple[Memory, list[float]]:
        z, targets, alive = self.streams.step()
        x, goes_on = torch.from_numpy(z), torch.from_numpy(alive)
        wanted = {f.name: torch.from_numpy(np.ascontiguousarray(getattr(targets, f.name))) for f in fields(targets)}
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (self.step + 1) / WARM_UP) * 0.5 * (1 + cos(pi * self.step / self.steps))
        with torch.no_grad():
            known, self.past = self.parent(x, self.past.keep(goes_on))
        y, memory = self.net(x, memory.keep(goes_on))
        losses = losses_of(y, wanted)
        self._descend(shared(losses) + _forgotten(y, known, wanted))
        return memory, [float(each.detach()) for each in losses.values()]


def _forgotten(y: Tensor, known: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
    """How far rhythm and offset are from what the parent says, where the annotations do not say them."""
    rhythm, offset = wanted["rhythm"] == UNKNOWN, (wanted["offset_weight"] == 0) & (wanted["beat"] > BEAT)
    said, told = (each[..., COLUMNS["rhythm"]][rhythm] for each in (y, known))
    turned = functional.cross_entropy(said, torch.softmax(told, 1), reduction="sum") / rhythm.sum().clamp(min=1)
    moved = functional.smooth_l1_loss(y[..., 1][offset] / HOP, known[..., 1][offset] / HOP, reduction="sum")
    return SHARES["rhythm"] * turned + SHARES["offset"] * moved / offset.sum().clamp(min=1)
