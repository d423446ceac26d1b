"""What an export found out, in lines for a terminal."""

import textwrap
from collections.abc import Iterator
from typing import Any

from holdover.export.exporting import Cost, Exported
from holdover.export.measure import SUDDEN
from holdover.export.proof import Proof
from holdover.runtime.contract import Contract, OutputSpec

WIDTH, INDENT = 80, 11


def lines(done: Exported) -> Iterator[str]:
    """The report of an export."""
    c = done.contract
    approximate = c.document.get("approximations")
    yield f"{c.name} {c.model_version} streams, its memory carried" + (", approximately" if approximate else "")
    yield from _shape(c)
    yield from proof_lines(done.proof, c, "itself in one call" if approximate else "the original")
    for what in approximate or ():
        yield from _item("inexact", what)
    for output, error in c.document.get("approximation_error", {}).items():
        yield from _item("", f"{output} difference from the original {error:.1e}")
    yield from _cost(done.cost, c)
    for note in done.notes:
        if note not in (approximate or ()):
            yield from _item("note", note)


def _item(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=label.ljust(INDENT), subsequent_indent=" " * INDENT,
                         break_on_hyphens=False)  # fmt: skip


def _shape(c: Contract) -> Iterator[str]:
    rate_hz = c.signal.rate_hz
    leads = ", ".join(s.name for s in c.signal.channels)
    yield from _item("signal", f"{leads} in {c.signal.channels[0].unit} at {rate_hz:g} Hz")
    first = f"; the first holds {c.first_chunk_min} or more" if c.first_chunk_min > c.hop else ""
    yield from _item("blocks", f"multiples of {samples(c.hop, rate_hz)}{first}")
    carried = ", ".join(f"{s.name} ({' x '.join(map(str, s.steady_shape))})" for s in c.states)
    yield from _item("carries", carried or "nothing")
    for o in c.outputs:
        yield from _item("output", _output(o, rate_hz))


def _output(o: OutputSpec, rate_hz: float) -> str:
    labels = f" ({', '.join(o.labels)})" if o.labels else ""
    what = f"{o.name}: {o.meaning}{labels}, {o.width} wide, every {samples(o.samples_per_frame, rate_hz)}"
    over = ", over all so far" if o.kind == "running" else ""
    late = f", {samples(o.delay, rate_hz)} late" if o.delay else ", at once"
    return f"{what}{over}{late}; settled {samples(o.settle, rate_hz)} after a reset"


def proof_lines(proof: Proof, c: Contract, against: str) -> Iterator[str]:
    """What was compared, and how it came out."""
    rate_hz = c.signal.rate_hz
    yield from _item("proof", f"{proof.frames} frames against {against}, on {proof.signal}: largest difference "
                     f"{proof.max_error:.1e}; {_explained(proof)}")  # fmt: skip
    for check, error in proof.checks.items():
        yield f"{'':{INDENT}}{check + ' ':.<34} {error:.1e}"
    same = "the same bits for every cut of the signal into blocks"
    grid = f"bits depend on the block: blocks are cut every {samples(c.grid, rate_hz)}"
    yield from _item("", same if proof.bitwise else grid)
    for o in (o for o in c.outputs if o.kind == "frames"):
        back = proof.memory[o.name]
        past = "all of the past" if back < 0 else f"{samples(back, rate_hz)} back"
        yield from _item("", f"{o.name} depends on {past} and {samples(proof.lookahead[o.name], rate_hz)} ahead")
    if proof.exponent > 0:
        yield from _item("warning", f"small differences of the state grow ({proof.exponent:+.2f} a block, natural "
                         "log): two runs drift apart, compare decisions, not numbers")  # fmt: skip
    elif SUDDEN < proof.exponent < -0.005:
        yield from _item("", f"small differences of the state die out ({proof.exponent:.2f} a block, natural log)")
    for name, columns in proof.still.items():
        which = f"column{'' if len(columns) == 1 else 's'} {', '.join(map(str, columns))}"
        yield from _item("warning", f"{name}, {which} (the first is 0) said the same all along, so that nothing was "
                         "proven of it; unless that is meant, give a signal on which it moves with "
                         "--test-input")  # fmt: skip
    for name, settle in proof.settle.items():
        if settle < 0:
            yield from _item("warning", f"{name} did not settle within the test signal: it keeps all of its past")


def _explained(proof: Proof) -> str:
    """How much of it rounding explains, each output on its own scale."""
    up_to = ", ".join(f"{tolerance:.1e} ({name})" for name, tolerance in proof.tolerances.items())
    return f"{proof.excess:.2g} of what rounding explains, up to {up_to}"


def _cost(cost: Cost, c: Contract) -> Iterator[str]:
    window = samples(cost.window, c.signal.rate_hz)
    times = f"{cost.recompute / cost.step:.1f} times that"
    yield from _item("cost", f"{cost.step:.1f} us a block of {c.hop}; recomputing {window} takes {cost.recompute:.0f} "
                     f"us, {times}")  # fmt: skip
    if len(cost.a_sample) > 1:
        yield from _item("", "us a sample: " + ", ".join(f"{us:.2f} by {k * c.hop}" for k, us in cost.a_sample.items()))
    if advice := _advice(cost, c):
        yield from _item("advice", advice)


def _advice(cost: Cost, c: Contract) -> str | None:
    busy = cost.step * 1e-6 * c.signal.rate_hz / c.hop
    if cost.step > cost.recompute:
        return f"recomputing the window is cheaper at blocks of {c.hop}: take larger ones, --hop {8 * c.hop}"
    if busy > 0.05:
        return f"one stream takes {busy:.0%} of a core: with larger blocks, --hop {8 * c.hop}, less, but later"
    return None


def samples(n: int, rate_hz: float) -> str:
    """A number of samples, and how long they are."""
    seconds = n / rate_hz
    time = f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    return f"{n} sample{'' if n == 1 else 's'}" + (f" ({time})" if n else "")


def document(done: Exported) -> dict[str, Any]:
    """The report as JSON types."""
    cost = {"step_us": done.cost.step, "us_a_sample": done.cost.a_sample, "window": done.cost.window,
            "recompute_us": done.cost.recompute}  # fmt: skip
    return {"contract": dict(done.contract.document), "cost": cost, "notes": list(done.notes)}
