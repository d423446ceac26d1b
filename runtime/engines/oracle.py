"""The readable oracle: RNN, LSTM and GRU in NumPy by their textbook equations, all else by ONNX's own reference.

Slow and independent of ONNX Runtime; for tests and for reading, never on the device.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.external_data_helper import uses_external_data
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from holdover.runtime.contract import KEY, Contract
from holdover.runtime.engine import Array, Lane, Outputs, PlainLane, State, feeds
from holdover.runtime.errors import ContractError, ModelError

Tensor = NDArray[Any]


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def rnn_step(x: Tensor, h: Tensor, w: Tensor, r: Tensor, b: Tensor, f: Callable[[Tensor], Tensor] = np.tanh) -> Tensor:
    """h_t = f(W x_t + R h_{t-1} + b) (Elman 1990).

    Parameters
    ----------
    x, h
        (batch, inputs) and (batch, hidden).
    w, r, b
        (hidden, inputs), (hidden, hidden), (hidden,).
    """
    return f(x @ w.T + h @ r.T + b)


def lstm_step(
    x: Tensor, h: Tensor, c: Tensor, w: dict[str, Tensor], r: dict[str, Tensor], b: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """One step of the long short-term memory (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    f_t = s(W_f x + R_f h + b_f), i_t and o_t likewise, c~_t = tanh(W_c x + R_c h + b_c),
    C_t = f_t * C_{t-1} + i_t * c~_t, h_t = o_t * tanh(C_t).

    Parameters
    ----------
    x, h, c
        (batch, inputs), (batch, hidden), (batch, hidden).
    w, r, b
        By gate "i", "o", "f", "c": (hidden, inputs), (hidden, hidden), (hidden,).

    Returns
    -------
    h_t, C_t, gates
        The gates by name, "c" being the candidate c~_t.
    """
    pre = {gate: x @ w[gate].T + h @ r[gate].T + b[gate] for gate in "iofc"}
    gates = {gate: np.tanh(value) if gate == "c" else sigmoid(value) for gate, value in pre.items()}
    cell = gates["f"] * c + gates["i"] * gates["c"]
    return gates["o"] * np.tanh(cell), cell, gates


def gru_step(
    x: Tensor,
    h: Tensor,
    w: dict[str, Tensor],
    r: dict[str, Tensor],
    b: dict[str, tuple[Tensor, Tensor]],
    linear_before_reset: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of the gated recurrent unit (Cho et al. 2014), in the form of the ONNX operator.

    z and r as in the paper; h~ = tanh(W_h x + R_h (r * h) + b), or with `linear_before_reset`
    tanh(W_h x + b_w + r * (R_h h + b_r)); h_t = (1 - z) * h~ + z * h_{t-1}.

    Parameters
    ----------
    x, h
        (batch, inputs) and (batch, hidden).
    w, r, b
        By gate "z", "r", "h"; a bias is the pair (of the input, of the recurrence).
    """
    z = sigmoid(x @ w["z"].T + h @ r["z"].T + sum(b["z"]))
    reset = sigmoid(x @ w["r"].T + h @ r["r"].T + sum(b["r"]))
    inner = reset * (h @ r["h"].T + b["h"][1]) if linear_before_reset else (reset * h) @ r["h"].T + b["h"][1]
    candidate = np.tanh(x @ w["h"].T + b["h"][0] + inner)
    return (1 - z) * candidate + z * h, {"z": z, "r": reset, "h": candidate}


class OracleEngine:
    """A model run by the oracle, node by node."""

    def __init__(self, data: bytes, sha256: str, where: str = "the model") -> None:
        self.sha256 = sha256
        try:
            model = onnx.load_from_string(data)
        except Exception as error:  # protobuf's decode error is no public name
            raise ModelError(f"{where} is not an ONNX file ({error})") from error
        texts = [p.value for p in model.metadata_props if p.key == KEY]
        if not texts:
            raise ContractError(f"{where} carries no contract (metadata key {KEY!r}); export it with its contract")
        self.contract = Contract.parse(texts[0])
        self._names = [o.name for o in model.graph.output]
        self.contract.check_graph([i.name for i in model.graph.input], self._names)
        if elsewhere := sorted(t.name for t in model.graph.initializer if uses_external_data(t)):
            raise ModelError(f"{where} keeps weights in another file ({elsewhere[0]}); save it with its weights inside")
        self._run = ReferenceEvaluator(model, new_ops=[LSTM, GRU, RNN])

    def step(self, x: Array, state: State, last: bool = False) -> tuple[Outputs, State]:
        """See `Engine.step`."""
        c = self.contract
        values = dict(zip(self._names, self._run.run(None, feeds(c, x, state, last)), strict=True))
        return {o.name: values[o.name] for o in c.outputs}, {s.name: values[s.output] for s in c.states}

    def lane(self) -> Lane:
        """See `Engine.lane`."""
        return PlainLane(self)


def _gates(stacked: Tensor, names: str) -> dict[str, Tensor]:
    """ONNX stacks the gates along the first axis, in the operator's own order."""
    return dict(zip(names, np.split(stacked, len(names)), strict=True))


def _forward(direction: str | None) -> None:
    if direction not in (None, "forward"):
        raise ModelError(
            f"a recurrent node runs {direction}: its first output needs the last sample; only forward runs"
        )


def _plain(x: Tensor, lens: Any, peepholes: Any, more: dict[str, Any], usual: list[str] | None) -> None:
    """Refuse what the textbook step leaves out."""
    names = list(more.get("activations") or usual or [])
    unlike = usual is not None and names[: len(usual)] != usual
    ragged = lens is not None and bool((lens != x.shape[0]).any())
    if unlike or ragged or peepholes is not None or any(more.get(k) for k in ("clip", "layout", "input_forget")):
        raise ModelError("a recurrent node has activations, a clip, a layout, peepholes or lengths beyond the oracle")


class LSTM(OpRun):  # type: ignore[misc]
    """The ONNX operator LSTM, layout 0, forward, without peepholes."""

    op_domain = ""

    def _run(self, x: Tensor, w: Tensor, r: Tensor, b: Any = None, _lens: Any = None, h: Any = None, c: Any = None,
             _p: Any = None, hidden_size: int = 0, direction: str | None = None,
             **more: Any) -> tuple[Tensor, ...]:  # fmt: skip
        _forward(direction)
        _plain(x, _lens, _p, more, ["Sigmoid", "Tanh", "Tanh"])
        zero = np.zeros((x.shape[1], hidden_size), x.dtype)
        h, c = (zero if v is None else v[0] for v in (h, c))
        bias = np.zeros(8 * hidden_size, x.dtype) if b is None else b[0]
        wg, rg = _gates(w[0], "iofc"), _gates(r[0], "iofc")
        bg = _gates(bias[: 4 * hidden_size] + bias[4 * hidden_size :], "iofc")
        ys = []
        for xt in x:
            h, c, _gate = lstm_step(xt, h, c, wg, rg, bg)
            ys.append(h)
        return np.stack(ys)[:, np.newaxis], h[np.newaxis], c[np.newaxis]


class GRU(OpRun):  # type: ignore[misc]
    """The ONNX operator GRU, layout 0, forward."""

    op_domain = ""

    def _run(self, x: Tensor, w: Tensor, r: Tensor, b: Any = None, _lens: Any = None, h: Any = None,
             hidden_size: int = 0, direction: str | None = None, linear_before_reset: int | None = 0,
             **more: Any) -> tuple[Tensor, ...]:  # fmt: skip
        _forward(direction)
        _plain(x, _lens, None, more, ["Sigmoid", "Tanh"])
        h = np.zeros((x.shape[1], hidden_size), x.dtype) if h is None else h[0]
        bias = np.zeros(6 * hidden_size, x.dtype) if b is None else b[0]
        wb, rb = _gates(bias[: 3 * hidden_size], "zrh"), _gates(bias[3 * hidden_size :], "zrh")
        pairs = {gate: (wb[gate], rb[gate]) for gate in "zrh"}
        ys = []
        for xt in x:
            h, _gate = gru_step(xt, h, _gates(w[0], "zrh"), _gates(r[0], "zrh"), pairs, bool(linear_before_reset))
            ys.append(h)
        return np.stack(ys)[:, np.newaxis], h[np.newaxis]


class RNN(OpRun):  # type: ignore[misc]
    """The ONNX operator RNN, layout 0, forward, with Tanh, Relu, Sigmoid or Affine."""

    op_domain = ""

    def _run(self, x: Tensor, w: Tensor, r: Tensor, b: Any = None, _lens: Any = None, h: Any = None,
             hidden_size: int = 0, direction: str | None = None, activations: Any = None,
             activation_alpha: Any = None, activation_beta: Any = None, **more: Any) -> tuple[Tensor, ...]:  # fmt: skip
        _forward(direction)
        _plain(x, _lens, None, more, None)
        h = np.zeros((x.shape[1], hidden_size), x.dtype) if h is None else h[0]
        bias = np.zeros(2 * hidden_size, x.dtype) if b is None else b[0]
        f = _activation((activations or ["Tanh"])[0], activation_alpha, activation_beta)
        ys = []
        for xt in x:
            h = rnn_step(xt, h, w[0], r[0], bias[:hidden_size] + bias[hidden_size:], f)
            ys.append(h)
        return np.stack(ys)[:, np.newaxis], h[np.newaxis]


def _activation(name: str, alpha: Any, beta: Any) -> Callable[[Tensor], Tensor]:
    a, b = (alpha or [1.0])[0], (beta or [0.0])[0]
    table: dict[str, Callable[[Tensor], Tensor]] = {
        "Tanh": np.tanh,
        "Relu": lambda v: np.maximum(v, 0),
        "Sigmoid": sigmoid,
        "Affine": lambda v: (a * v + b).astype(v.dtype),
    }
    if name not in table:
        raise ModelError(f"the oracle has no activation {name}; it has {', '.join(table)}")
    return table[name]
