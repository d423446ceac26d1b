"""The net in torch: from features to the trust in each anchor, a step of its own, and how far the forecast may miss."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from holdover.models.forecast.features import ANCHORS, SPREAD_LIMIT, WIDTH

HIDDEN = 32


class Net(nn.Module):  # type: ignore[misc]  # torch is not followed
    """One GRU layer and one linear head of ANCHORS + 2 columns."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(WIDTH, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, ANCHORS + 2)
        with torch.no_grad():
            self.head.weight *= 0.3
            self.head.bias.zero_()

    def forward(
        self,
        features: Tensor,
        below: Tensor,
        skill: Tensor,
        size: Tensor,
        memory: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Forecast the next sample after each.

        Parameters
        ----------
        features, below, skill, size : Tensor
            Of `features.View`.
        memory : Tensor
            (1, series, HIDDEN), zeros or from the call before.

        Returns
        -------
        Tensor
            (series, time): how far the forecast lies above the value, in the unit of `below` and `size`.
        Tensor
            (series, time): logarithm of the error that is expected of it, over `size`.
        Tensor
            The memory for the next call.
        """
        y, memory = self.gru(features, memory)
        y = self.head(y)
        trust = torch.softmax(y[..., :ANCHORS] + torch.log(skill), -1)
        up = y[..., ANCHORS] * size - (trust * below).sum(-1)
        return up, y[..., ANCHORS + 1].clamp(-SPREAD_LIMIT, SPREAD_LIMIT), memory


def weights(net: Net) -> dict[str, NDArray[np.float32]]:
    """The net's weights by the names and in the shapes that `graph.build` takes."""
    found = {k: v.detach().numpy().astype(np.float32) for k, v in net.state_dict().items()}
    biases = (_onnx_gates(found[f"gru.bias_{part}_l0"]) for part in ("ih", "hh"))
    return {
        "gru.input": _onnx_gates(found["gru.weight_ih_l0"]),
        "gru.recurrent": _onnx_gates(found["gru.weight_hh_l0"]),
        "gru.bias": np.concatenate(list(biases)),
        "head.weight": found["head.weight"].T.copy(),
        "head.bias": found["head.bias"],
    }


def _onnx_gates(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reset, update, candidate, as torch has them, to the order of the ONNX operator: update, reset, candidate."""
    reset, update, candidate = np.split(weight, 3)
    return np.concatenate([update, reset, candidate])
