"""What must hold of a model file's bytes before anything loads them: nothing here runs the model, or needs onnx.

The checks are a table; the first that does not hold gives a `Refusal`. What only a run can show (that it loads, ends,
gives numbers, gives them twice) is tried afterwards, in a process of its own: `holdover.apps.model.gate`.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from holdover.runtime.contract import KEY, Contract
from holdover.runtime.engine import MAX_MODEL_MB
from holdover.runtime.errors import ContractError, ModelError
from holdover.runtime.model_operators import IR_VERSIONS, OPERATORS, OPSETS, RECURRENT
from holdover.runtime.onnx_outline import TYPES, Node, Outline, Tensor
from holdover.runtime.protobuf import Malformed

MAX_NODES = 20_000
MAX_NESTED = 3
MAX_RANK = 8
MAX_HIDDEN = 16_384
MAX_TEXT = 128
MAX_STATE_MB = 64
MAX_BLOCK_MB = 64
MAX_CONTRACT_KB = 1024
MAX_SAMPLES = 10_000_000
MAX_CHANNELS = 1024
RATES_HZ = (0.001, 1e6)

EXPORT = "export the model again with 'holdover export'"
DAMAGED = "fetch the file again, or " + EXPORT


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a file is not taken: the check that failed, what was found, and what to do."""

    check: str
    found: str
    do: str

    def __str__(self) -> str:
        return f"{self.check}: {self.found}; {self.do}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a file: the checks that it passed, in order, and the refusal that ended them, or None."""

    sha256: str
    checks: tuple[str, ...] = ()
    refusal: Refusal | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether nothing speaks against it."""
        return self.refusal is None

    def demand(self, where: str) -> None:
        """Raise `ModelError` for a refusal."""
        if self.refusal:
            raise ModelError(f"{where} is refused: {self.refusal}")


class Refused(Exception):
    """A check that does not hold, on its way to the verdict."""

    def __init__(self, found: str, do: str) -> None:
        super().__init__(found)
        self.found, self.do = found, do


def examine(data: bytes, sha256: str | None = None) -> Verdict:
    """Hold a file's bytes against all that can be said without running them.

    Parameters
    ----------
    data
        The file, of any origin.
    sha256
        What its manifest says; None where there is none.

    Examples
    --------
    >>> str(examine(b"this is no model").refusal)
    "structure: it is not an ONNX file, or a damaged one (wire type 4); fetch the file again, or export the model \
again with 'holdover export'"
    """
    found, passed = hashlib.sha256(data).hexdigest(), list[str]()
    facts: dict[str, Any] = {"bytes": len(data)}
    subject = _Subject(data, found, sha256)
    for name, check in CHECKS.items():
        if check is _hash and sha256 is None:
            continue
        try:
            check(subject)
        except Refused as refused:
            return Verdict(found, tuple(passed), Refusal(name, refused.found, refused.do), facts)
        passed.append(name)
    facts |= {"nodes": len(subject.outline.nodes), "name": subject.contract.name}
    return Verdict(found, tuple(passed), None, facts | {"model_version": subject.contract.model_version})


@dataclass(slots=True)
class _Subject:
    """A file while it is examined; a check leaves what the next ones need."""

    data: bytes
    sha256: str
    promised: str | None
    outline: Outline = field(init=False)
    contract: Contract = field(init=False)


def _size(s: _Subject) -> None:
    if not s.data:
        raise Refused("the file is empty", DAMAGED)
    if len(s.data) > MAX_MODEL_MB << 20:
        raise Refused(f"{len(s.data) >> 20} MB, of at most {MAX_MODEL_MB}", "make the model smaller")


def _hash(s: _Subject) -> None:
    if s.promised is not None and s.promised.lower() != s.sha256:
        raise Refused(
            f"its SHA-256 is {s.sha256[:16]}..., the manifest says {s.promised[:16]}...",
            "fetch both again, from whom you trust",
        )


def _structure(s: _Subject) -> None:
    try:
        s.outline = Outline.read(s.data)
    except Malformed as error:
        raise Refused(f"it is not an ONNX file, or a damaged one ({error})", DAMAGED) from error
    o = s.outline
    if not o.nodes or not o.graphs:
        raise Refused("it has no graph, or one without nodes", DAMAGED)
    if len(o.nodes) > MAX_NODES:
        raise Refused(f"{len(o.nodes)} nodes, of at most {MAX_NODES}", "make the model smaller")
    deep = max(o.nodes, key=lambda n: n.depth)
    if deep.depth > MAX_NESTED:
        raise Refused(f"graphs nested {deep.depth} deep, of at most {MAX_NESTED} ({deep.where})", EXPORT)


def _versions(s: _Subject) -> None:
    o = s.outline
    if o.ir_version not in IR_VERSIONS:
        raise Refused(f"IR version {o.ir_version}, expected {IR_VERSIONS[0]} to {IR_VERSIONS[-1]}", EXPORT)
    for domain, version in o.opsets:
        if domain not in OPSETS:
            raise Refused(
                f"operators of the domain {domain[:MAX_TEXT]!r}, of at most {', '.join(filter(None, OPSETS))}", EXPORT
            )
        if version not in OPSETS[domain]:
            known = OPSETS[domain]
            raise Refused(f"opset {version} of {domain or 'ai.onnx'}, expected {known[0]} to {known[-1]}", EXPORT)
    domains = [domain or "ai.onnx" for domain, _ in o.opsets]
    if len(domains) != len(set(domains)) or "ai.onnx" not in domains:
        raise Refused(f"opsets of {domains}, expected one of ai.onnx, none twice", EXPORT)


def _operators(s: _Subject) -> None:
    for node in s.outline.nodes:
        if node.domain not in OPERATORS or node.op_type not in OPERATORS[node.domain]:
            name = f"{node.domain}.{node.op_type}".lstrip(".")[:MAX_TEXT]
            do = "read it back into a Scan: " + EXPORT if node.op_type == "Loop" else EXPORT
            raise Refused(f"the operator {name!r}, which is not on the list of those that are taken", do)


def _tensors(s: _Subject) -> None:
    for tensor in s.outline.tensors():
        _tensor(tensor)
    for value in s.outline.values:
        if value.data_type not in (0, *TYPES):
            raise Refused(f"{value.name[:MAX_TEXT]!r} of element type {value.data_type}", EXPORT)
        known = [n for n in value.dims if n is not None]
        if len(value.dims) > MAX_RANK or any(n < 0 for n in known) or 4 * math.prod(known) > MAX_BLOCK_MB << 20:
            raise Refused(f"{value.name[:MAX_TEXT]!r} of shape {str(value.dims)[:MAX_TEXT]}", EXPORT)
    for node in s.outline.nodes:
        _attributes(node, {t.name: t for t in s.outline.initializers})


def _tensor(tensor: Tensor) -> None:
    name = tensor.name[:MAX_TEXT]
    if tensor.external:
        raise Refused(f"the weights {name!r} are in another file", "save the model with its weights inside")
    if tensor.data_type not in TYPES:
        raise Refused(f"the weights {name!r} are of element type {tensor.data_type}", EXPORT)
    if len(tensor.dims) > MAX_RANK or any(n < 0 for n in tensor.dims):
        raise Refused(f"the weights {name!r} have the shape {str(tensor.dims)[:MAX_TEXT]}", DAMAGED)
    if not tensor.is_whole:
        raise Refused(f"the weights {name!r} declare {tensor.size} bytes, and do not hold them", DAMAGED)


def _attributes(node: Node, weights: dict[str, Tensor]) -> None:
    given = [weights.get(name) for name in node.inputs]
    if node.op_type in RECURRENT:
        _hidden(node, given)
    shape = given[:2][-1] if node.op_type in ("Expand", "Reshape", "Tile") and len(given) > 1 else None
    shape = given[0] if node.op_type == "ConstantOfShape" and given else shape
    if shape and shape.values is not None and _too_large(shape.values):
        raise Refused(f"{node.where} makes a tensor of shape {shape.values}", EXPORT)


def _hidden(node: Node, given: list[Tensor | None]) -> None:
    hidden = node.ints.get("hidden_size")
    if hidden is None or not 1 <= hidden <= MAX_HIDDEN:
        raise Refused(f"hidden_size of {node.where} is {hidden}, expected 1 to {MAX_HIDDEN}", EXPORT)
    r = given[2] if len(given) > 2 else None
    if r and (len(r.dims) != 3 or r.dims[2] != hidden):
        raise Refused(f"hidden_size of {node.where} is {hidden}, its recurrent weights are {r.dims}", EXPORT)


def _too_large(shape: tuple[int, ...]) -> bool:
    return 4 * math.prod(max(n, 1) for n in shape) > MAX_BLOCK_MB << 20


def _contract(s: _Subject) -> None:
    texts = [value for key, value in s.outline.metadata if key == KEY]
    if len(texts) != 1:
        raise Refused(f"{len(texts)} contracts in its metadata, expected one under {KEY!r}", EXPORT)
    if len(texts[0]) > MAX_CONTRACT_KB << 10:
        raise Refused(f"a contract of {len(texts[0]) >> 10} kB, of at most {MAX_CONTRACT_KB}", EXPORT)
    try:
        s.contract = Contract.parse(texts[0])
        s.contract.check_graph([v.name for v in s.outline.inputs], [v.name for v in s.outline.outputs])
    except (ContractError, RecursionError) as error:
        raise Refused(str(error)[:400] or "its contract is nested too deep", EXPORT) from error


def _bounds(s: _Subject) -> None:
    for what, number, least, most in bounds(s.contract):
        found = _float(number)
        if not least <= found <= most:
            raise Refused(f"the contract's {what} is {found:g}, expected {least:g} to {most:g}", EXPORT)
    names = [s.contract.name, s.contract.model_version, *(label for o in s.contract.outputs for label in o.labels)]
    names += [text for signal in s.contract.signals for c in signal.channels for text in (c.name, c.unit)]
    for name in names:
        if len(name) > MAX_TEXT or not (name.isprintable() or not name):
            raise Refused(f"the contract calls something {name[:MAX_TEXT]!r}", "use short printable names")


def bounds(c: Contract) -> list[tuple[str, float, float, float]]:
    """What a contract's numbers come to: what it is, the number, and the least and the most that is taken.

    Lengths are in samples, memory is in MiB.
    """
    found: list[tuple[str, float, float, float]] = [
        ("hop", c.hop, 1, MAX_SAMPLES), ("grid", c.grid, 1, MAX_SAMPLES),
        ("first chunk", c.first_chunk_min, 1, MAX_SAMPLES), ("number of signals", len(c.signals), 1, 1),
        ("states", len(c.states), 0, 1024), ("outputs", len(c.outputs), 1, 64),
        ("detectors", len(c.detectors), 0, 64), ("state", _state_mb(c), 0, MAX_STATE_MB),
    ]  # fmt: skip
    for s in c.signals:
        block_mb = 4 * len(s.channels) * _float(c.grid + c.first_chunk_min + c.hop) / 2**20
        found += [("rate_hz", s.rate_hz, *RATES_HZ), ("channels", len(s.channels), 1, MAX_CHANNELS)]
        found += [("axis of time", s.axis, 1, 1), ("block", block_mb, 0, MAX_BLOCK_MB)]
    for o in c.outputs:
        found += [("delay", o.delay, 0, MAX_SAMPLES), ("settle", o.settle, 0, MAX_SAMPLES)]
        found += [("first_at", o.first_at, -MAX_SAMPLES, MAX_SAMPLES), ("width", o.width, 0, MAX_HIDDEN)]
        found += [("labels", len(o.labels), 0, 1024), ("horizon", o.horizon, 0, MAX_SAMPLES)]
    return found + [("steady_after", s.steady_after, 0, MAX_SAMPLES) for s in c.states]


def _state_mb(c: Contract) -> float:
    """MiB that one stream's state takes, at the start or once it is steady."""
    return sum(
        math.prod(1.0 if n == "batch" else _float(int(n)) for n in shape) * np.dtype(s.dtype).itemsize / 2**20
        for s in c.states
        for shape in (s.init_shape, s.steady_shape)
    )


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


CHECKS: dict[str, Callable[[_Subject], None]] = {
    "size": _size,
    "hash": _hash,
    "structure": _structure,
    "versions": _versions,
    "operators": _operators,
    "tensors": _tensors,
    "contract": _contract,
    "bounds": _bounds,
}
"""By name, in order; each needs what those before it found."""
