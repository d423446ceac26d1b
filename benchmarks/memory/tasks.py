"""The tasks: a bit to be said again after so many steps, and two marked numbers to be added."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

LAGS = {10: 500, 30: 500, 100: 500, 300: 300, 1000: 200}
"""Steps that a bit must be kept, and training steps at most: fewer where each takes long."""
ADDING, ADDING_TRAINING = 100, 1500
TOLERANCE = 0.04
"""Of a sum that counts as right (Hochreiter & Schmidhuber 1997, section 5.4)."""

Batch = tuple[torch.Tensor, torch.Tensor]
"""(batch, time, 2) and what the last output must be, (batch,)."""


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes
    ----------
    name : str
    steps : int
        Of a sequence.
    training : int
        Steps of training, at most.
    chance : float
        Accuracy of one that remembers nothing.
    batch : callable
        Makes so many sequences.
    loss : callable
        Of the last output and what it must be.
    right : callable
        Which of them count.
    """

    name: str
    steps: int
    training: int
    chance: float
    batch: Callable[[int, torch.Generator], Batch]
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    right: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def recall(lag: int) -> Task:
    """The first sample is a bit, marked by a 1 beside it; then noise; after `lag` steps it is asked for."""

    def batch(size: int, rng: torch.Generator) -> Batch:
        bit = torch.randint(0, 2, (size,), generator=rng).float()
        x = torch.stack([0.3 * torch.randn(size, lag + 1, generator=rng), torch.zeros(size, lag + 1)], -1)
        x[:, 0, 0], x[:, 0, 1], x[:, -1, 1] = 2 * bit - 1, 1, -1
        return x, bit

    return Task(f"recall {lag}", lag + 1, LAGS[lag], 0.5, batch, F.binary_cross_entropy_with_logits,
                lambda y, bit: (y > 0) == (bit > 0.5))  # fmt: skip


def adding(steps: int = ADDING) -> Task:
    """Numbers from 0 to 1, two of them marked, one in each half: their sum is the last output."""

    def batch(size: int, rng: torch.Generator) -> Batch:
        x = torch.stack([torch.rand(size, steps, generator=rng), torch.zeros(size, steps)], -1)
        rows, half = torch.arange(size), steps // 2
        places = torch.stack([torch.randint(0, half, (size,), generator=rng),
                              torch.randint(half, steps, (size,), generator=rng)])  # fmt: skip
        x[rows, places, 1] = 1
        return x, x[rows, places, 0].sum(0)

    # Of the sum of two uniform numbers, 0.04 about its mean holds 0.04 * 2 - 0.04 ** 2.
    return Task(f"adding {steps}", steps, ADDING_TRAINING, 2 * TOLERANCE - TOLERANCE**2, batch, F.mse_loss,
                lambda y, total: (y - total).abs() < TOLERANCE)  # fmt: skip


TASKS = (*map(recall, LAGS), adding())
