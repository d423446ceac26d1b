"""What an export found out, in lines for a terminal."""

from collections.abc import Iterator
from typing import Any

from holdover.export.exporting import Cost, Exported
from holdover.export.measure import SUDDEN
from holdover.export.proof import Proof
from holdover.runtime.contract import Contract


def lines(done: Exported) -> Iterator[str]:
    """The report of an export."""
    c = done.contract
    yield f"{c.name} {c.model_version}: streams with its memory carried"
    yield from _shape(c)
    yield from proof_lines(done.proof, c)
    yield from _cost(done.cost, c)
    for note in done.notes:
        yield f"  note       {note}"


def _shape(c: Contract) -> Iterator[str]:
    rate_hz = c.signal.rate_hz
    leads = ", ".join(f"{s.name} ({s.unit})" for s in c.signal.channels)
    yield f"  signal     {leads} at {rate_hz:g} Hz"
    yield f"  block      a multiple of {_samples(c.hop, rate_hz)}; the first takes {c.first_chunk_min} or more"
    carried = ", ".join(f"{s.name} {'x'.join(str(n) for n in s.steady_shape)}" for s in c.states) or "nothing"
    yield f"  carries    {carried}"
    for o in c.outputs:
        pace = f"every {_samples(o.samples_per_frame, rate_hz)}, {_samples(o.delay, rate_hz)} late"
        over = "of all so far, " if o.kind == "running" else ""
        settle = _samples(o.settle, rate_hz)
        yield f"  output     {o.name}: {o.width} {o.meaning}, {over}{pace}, settled {settle} after a reset"


def proof_lines(proof: Proof, c: Contract) -> Iterator[str]:
    """What was compared, and how it came out."""
    yield f"  proof      {proof.frames} frames compared on {proof.signal}; largest difference {proof.max_error:.1e}"
    yield f"             (rounding explains up to {proof.tolerance:.1e})"
    for check, error in proof.checks.items():
        yield f"             {check:<32} {error:.1e}"
    if proof.bitwise:
        yield "             the same bits for every cut of the signal into blocks"
    else:
        yield f"             bits depend on the block, so blocks are cut every {_samples(c.grid, c.signal.rate_hz)}"
    for o in c.outputs:
        if o.kind == "frames":
            back = proof.memory[o.name]
            past = "all of the past" if back < 0 else f"{_samples(back, c.signal.rate_hz)} back"
            yield f"             {o.name} was seen to depend on {past}, {proof.lookahead[o.name]} samples ahead"
    if proof.exponent > 0:
        yield f"  warning    small differences of the state grow by {proof.exponent:+.2f} a block: two runs drift"
        yield "             apart, compare decisions, not numbers"
    elif proof.exponent > SUDDEN:
        yield f"  stability  small differences of the state shrink, exponent {proof.exponent:.3f} a block"
    for name, settle in proof.settle.items():
        if settle < 0:
            yield f"  warning    {name} did not settle within the test signal: it keeps all of its past"


def _cost(cost: Cost, c: Contract) -> Iterator[str]:
    window = _samples(cost.window, c.signal.rate_hz)
    yield (f"  cost       {cost.step:.1f} us a block of {c.hop}; recomputing {window} takes {cost.recompute:.0f} us, "
           f"{cost.recompute / cost.step:.1f} times that")  # fmt: skip
    if len(cost.a_sample) > 1:
        yield "             " + ", ".join(
            f"{k} blocks at once: {us:.2f} us a sample" for k, us in cost.a_sample.items()
        )
    if advice := _advice(cost, c):
        yield f"  advice     {advice}"


def _advice(cost: Cost, c: Contract) -> str | None:
    busy = cost.step * 1e-6 * c.signal.rate_hz / c.hop
    if cost.step > cost.recompute:
        return f"recomputing the window is cheaper at blocks of {c.hop}: take larger blocks with --hop {8 * c.hop}"
    if busy > 0.05:
        return f"one stream takes {busy:.0%} of a core: larger blocks with --hop {8 * c.hop} cost less and wait longer"
    return None


def _samples(n: int, rate_hz: float) -> str:
    seconds = n / rate_hz
    time = f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    return f"{n} samples ({time})" if n != 1 else f"1 sample ({time})"


def document(done: Exported) -> dict[str, Any]:
    """The report as JSON types."""
    cost = {"step_us": done.cost.step, "us_a_sample": done.cost.a_sample, "window": done.cost.window,
            "recompute_us": done.cost.recompute}  # fmt: skip
    return {"contract": dict(done.contract.document), "cost": cost, "notes": list(done.notes)}
