"""Proof that a streaming graph does what its contract says: however samples arrive, the same results."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from holdover.runtime.contract import Contract, OutputSpec
from holdover.runtime.engine import initial_state

Array = NDArray[Any]
Tensors = Mapping[str, Array]
Step = Callable[[Array, Tensors], tuple[Tensors, Tensors]]
"""x (batch, samples, channels) and the states by name, to the outputs and the next states by name."""
Reference = Callable[[Array], Tensors]
"""x (batch, samples, channels) to the outputs of the whole-sequence original."""


@dataclass(frozen=True)
class Proof:
    """What was measured, and what speaks against the model.

    Attributes
    ----------
    chunkings : int
        Random chunkings tried.
    bitwise : bool
        Whether every chunking, a restored state, interleaved streams and a batch gave the bits of one whole call.
    max_difference : float
        Largest difference between a chunking and the whole call; 0 where bitwise.
    max_error : float
        Largest difference from the whole-sequence original, over all outputs.
    lookahead : dict of str to int
        Samples beyond a frame's own arrival that it depends on, by output; anything above 0 breaks the contract.
    refusals : tuple of str
        Reasons not to ship; empty is good.
    """

    chunkings: int
    bitwise: bool
    max_difference: float
    max_error: float
    lookahead: dict[str, int] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The contract's `verification`."""
        return {
            "bitwise": self.bitwise,
            "chunkings": self.chunkings,
            "max_error": float(f"{self.max_error:.2e}"),
            "lookahead_measured": dict(self.lookahead),
        }


def stepper(model: onnx.ModelProto, contract: Contract) -> Step:
    """The graph as a pure function, in onnxruntime with one thread.

    Parameters
    ----------
    model : onnx.ModelProto
        With the inputs and outputs that the contract names.
    contract : Contract
        Its states pair by name.

    Returns
    -------
    Step
        Holds weights, never a stream.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = [o.name for o in contract.outputs] + [s.output for s in contract.states]

    def step(x: Array, state: Tensors) -> tuple[Tensors, Tensors]:
        carried = {s.input: state[s.name] for s in contract.states}
        found = dict(zip(wanted, session.run(wanted, {contract.signal.input: x, **carried}), strict=True))
        return {o.name: found[o.name] for o in contract.outputs}, {s.name: found[s.output] for s in contract.states}

    return step


def run(
    step: Step, contract: Contract, x: Array, sizes: Sequence[int], state: Tensors | None = None
) -> dict[str, Array]:
    """Step through x in chunks.

    Parameters
    ----------
    step : Step
        The model.
    x : array
        (batch, samples, channels).
    sizes : sequence of int
        Samples in each chunk; they sum to at most the samples of x.
    state : mapping, optional
        To start from; the contract's initial state if None.

    Returns
    -------
    dict of str to array
        Outputs joined over the chunks, and the final states as `state:<name>`.
    """
    state = initial_state(contract, len(x)) if state is None else state
    parts, start = [], 0
    for size in sizes:
        outputs, state = step(x[:, start : start + size], state)
        parts.append(outputs)
        start += size
    joined = {o.name: np.concatenate([p[o.name] for p in parts], axis=1) for o in contract.outputs}
    return joined | {f"state:{name}": value for name, value in state.items()}


def chunkings(samples: int, hop: int, count: int, seed: int = 0) -> Iterator[list[int]]:
    """Random ways to cut a signal: the first by single hops, the second whole, the others at every scale.

    Examples
    --------
    >>> list(chunkings(12, 6, 2))
    [[6, 6], [12]]
    """
    rng = np.random.default_rng(seed)
    hops = samples // hop
    for index in range(count):
        most = {0: 1, 1: hops}.get(index, int(np.exp(rng.uniform(0, np.log(hops + 1)))))
        left, sizes = hops, []
        while left:
            size = min(left, most if index < 2 else int(rng.integers(1, most + 1)))
            sizes.append(size * hop)
            left -= size
        yield sizes


def prove(
    model: onnx.ModelProto, contract: Contract, x: Array, reference: Reference, count: int = 64, seed: int = 0
) -> Proof:
    """Hold the graph against its whole-sequence original and against itself.

    Parameters
    ----------
    model : onnx.ModelProto
        The streaming graph.
    contract : Contract
        What it promises.
    x : array
        (batch, samples, channels), real signals, batch at least 3, samples a multiple of the hop.
    reference : Reference
        The original, told nothing of chunks or states.
    count : int
        Random chunkings to try.
    seed : int
        Of the chunkings and the probe.

    Returns
    -------
    Proof
        With a refusal for every promise that does not hold.
    """
    step = stepper(model, contract)
    difference = max(_differences(step, stepper(model, contract), contract, x, count, seed))
    error = max_error(step, contract, x, reference)
    ahead = lookahead(step, contract, x[:1], seed=seed)
    late = [f"output {n} depends on {k} samples after its own arrival" for n, k in ahead.items() if k > 0]
    wrong = [] if difference < 1e-5 else [f"results differ by {difference:.1e} between ways to cut the same signal"]
    return Proof(count, difference == 0, difference, error, ahead, (*late, *wrong))


def max_error(step: Step, contract: Contract, x: Array, reference: Reference) -> float:
    """Largest absolute difference between the graph and the original over all outputs; lower is better."""
    found, wanted = run(step, contract, x, [x.shape[1]]), reference(x)
    return max(float(np.abs(found[o.name] - wanted[o.name]).max()) for o in contract.outputs)


def _differences(step: Step, other: Step, contract: Contract, x: Array, count: int, seed: int) -> Iterator[float]:
    """Largest difference from the whole call of: chunkings alone and in a batch, restored and interleaved streams."""
    whole = run(step, contract, x, [x.shape[1]])
    singles = [run(step, contract, x[i : i + 1], [x.shape[1]]) for i in range(len(x))]
    for i, single in enumerate(singles):
        yield _apart(single, _lane(contract, whole, i))
    for index, sizes in enumerate(chunkings(x.shape[1], contract.hop, count, seed)):
        i, j = index % len(x), (index + 1) % len(x)
        yield _apart(run(step, contract, x[i : i + 1], sizes), singles[i])
        yield _apart(_restored(step, other, contract, x[i : i + 1], sizes), singles[i])
        if index % 8 == 0:
            yield _apart(run(step, contract, x, sizes), whole)
            mixed = _interleaved(step, contract, (x[i : i + 1], x[j : j + 1]), sizes)
            yield max(_apart(mixed[0], singles[i]), _apart(mixed[1], singles[j]))


def _apart(a: Tensors, b: Tensors) -> float:
    return max(0.0 if a[k].tobytes() == b[k].tobytes() else _gap(a[k], b[k]) for k in b)


def _gap(a: Array, b: Array) -> float:
    gap = float(np.abs(a - b).max()) if a.shape == b.shape else np.inf
    return gap if gap > 0 else np.inf


def _lane(contract: Contract, tensors: Tensors, index: int) -> Tensors:
    """One stream of a batch."""
    axes = {f"state:{s.name}": list(s.steady_shape).index("batch") for s in contract.states}
    return {k: np.take(v, [index], axis=axes.get(k, 0)) for k, v in tensors.items()}


def _restored(step: Step, other: Step, contract: Contract, x: Array, sizes: Sequence[int]) -> Tensors:
    """Half of the chunks, the state to bytes and back, the rest in another session."""
    half = len(sizes) // 2
    if half == 0:
        return run(other, contract, x, sizes)
    first = run(step, contract, x, sizes[:half])
    file = io.BytesIO()
    np.savez(file, *[first[f"state:{s.name}"] for s in contract.states])
    with np.load(io.BytesIO(file.getvalue())) as kept:
        state = {s.name: kept[f"arr_{i}"] for i, s in enumerate(contract.states)}
    second = run(other, contract, x[:, sum(sizes[:half]) :], sizes[half:], state)
    return second | {o.name: np.concatenate([first[o.name], second[o.name]], axis=1) for o in contract.outputs}


def _interleaved(step: Step, contract: Contract, xs: Sequence[Array], sizes: Sequence[int]) -> list[Tensors]:
    """Several streams through one session, a chunk of each in turn."""
    states: list[Tensors] = [initial_state(contract, len(x)) for x in xs]
    parts: list[list[Tensors]] = [[] for _ in xs]
    start = 0
    for size in sizes:
        for lane, x in enumerate(xs):
            outputs, states[lane] = step(x[:, start : start + size], states[lane])
            parts[lane].append(outputs)
        start += size
    joined = [{o.name: np.concatenate([q[o.name] for q in p], axis=1) for o in contract.outputs} for p in parts]
    return [j | {f"state:{n}": v for n, v in s.items()} for j, s in zip(joined, states, strict=True)]


def lookahead(step: Step, contract: Contract, x: Array, probes: int = 48, seed: int = 0) -> dict[str, int]:
    """How far beyond its own arrival a frame looks, by output.

    From a sample on, the signal is replaced by another; the earliest frame that changes must not have been emitted
    before that sample. A frame arrives with sample `first_at + k * samples_per_frame + delay`.

    Parameters
    ----------
    x : array
        (1, samples, channels), in one call.
    probes : int
        Samples to try.

    Returns
    -------
    dict of str to int
        Samples, 0 is what a causal graph gives.
    """
    rng = np.random.default_rng(seed)
    sizes = [x.shape[1]]
    before = run(step, contract, x, sizes)
    ahead = {o.name: 0 for o in contract.outputs}
    for start in rng.integers(1, x.shape[1], size=probes):
        other = x.copy()
        other[:, start:] += rng.normal(0, 1, other[:, start:].shape).astype(x.dtype)
        after = run(step, contract, other, sizes)
        for o in contract.outputs:
            ahead[o.name] = max(ahead[o.name], _ahead(o, before[o.name], after[o.name], int(start)))
    return ahead


def _ahead(o: OutputSpec, before: Array, after: Array, start: int) -> int:
    changed = np.flatnonzero((before != after).any(axis=(0, 2)))
    if not len(changed):
        return 0
    return start - (o.first_at + o.delay + int(changed[0]) * o.samples_per_frame)
