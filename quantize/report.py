"""What a quantization found out, in lines for a terminal."""

import textwrap
from collections.abc import Iterator

from holdover.quantize.drift import Drift
from holdover.quantize.quantizing import NOT_SLOWER, Chosen, Tried

WIDTH, INDENT = 80, 11


def lines(chosen: Chosen) -> Iterator[str]:
    """The report: what was chosen, and how every method came out."""
    before = len(chosen.parent.data)
    c = chosen.parent.contract
    if chosen.best is None:
        yield from _item("", f"{c.name} {c.model_version} stays float32 ({before / 1024:.1f} kB): no method passes the "
                         f"gate, is smaller, and costs at most {NOT_SLOWER:g} times a step of the parent")  # fmt: skip
    else:
        after = len(chosen.best.data)
        yield from _item("", f"{c.name} {c.model_version} as {chosen.best.method}: {before / 1024:.1f} kB to "
                         f"{after / 1024:.1f} kB, {before / after:.2f} times smaller")  # fmt: skip
    for tried in chosen.tried:
        yield from _tried(tried, before)


def _tried(tried: Tried, before: int) -> Iterator[str]:
    yield ""
    if tried.refused:
        yield from _item(tried.method, "")
        yield from _item("refused", tried.refused)
        return
    assert tried.made is not None
    yield f"{tried.method}: {'passes the gate' if tried.passes else 'does not pass the gate'}"
    yield from _item("size", f"{len(tried.data) / 1024:.1f} kB, {before / len(tried.data):.2f} times smaller")
    yield from _item("step", f"{tried.step_us:.1f} us a hop, the parent {tried.parent_step_us:.1f} us: "
                     f"{tried.slower:.2f} times")  # fmt: skip
    proof = tried.made.proof
    yield from _item("proof", f"{proof.frames} frames against {tried.made.against}: largest difference "
                     f"{proof.max_error:.1e}")  # fmt: skip
    yield from _item("isolation", _isolation(tried))
    for name, p in tried.telling.items():
        yield from _item("parity", f"{name} {p.value:+.4f}, least {p.there:+.4f} on {p.worst}")
    for sentence in tried.failures:
        yield from _item("gate", sentence)
    for note in tried.made.notes:
        yield from _item("note", note)


def _isolation(tried: Tried) -> str:
    found = tried.isolation
    if found is None or found.holds:
        return "nothing leaks from a loud or NaN neighbour, nor from later in a block" if (
            found is None or found.loud is not None
        ) else "nothing leaks from later in a block; it takes one stream a call"  # fmt: skip
    return f"an artefact later in a block changes what was before it by {found.later:.1e}"


def _item(label: str, text: str) -> list[str]:
    first = f"{label:<{INDENT - 1}} " if label else ""
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=" " * (INDENT if label else 0),
                         break_on_hyphens=False) or [first.rstrip()]  # fmt: skip


def drift_lines(drift: Drift) -> Iterator[str]:
    """How far the two drift apart, output by output."""
    yield ""
    yield f"beside the parent over {drift.hours:.1f} h of signal, differences over the parent's spread:"
    yield f"{'output':<{INDENT}}{'first 10th':>12}{'last 10th':>12}{'own state':>12}{'forced':>12}{'recovery':>12}"
    for name in drift.first:
        back = drift.burst.recovery_s[name]
        recovery = "over 60 s" if back < 0 else f"{back:.0f} s"
        numbers = (drift.first[name], drift.last[name], drift.free[name], drift.forced[name])
        yield f"{name:<{INDENT}.{INDENT}}" + "".join(f"{n:>12.1e}" for n in numbers) + f"{recovery:>12}"
    if drift.states:
        worst = max(drift.states, key=lambda n: drift.states[n])
        yield from _item("state", f"largest difference {drift.states[worst]:.1e}, in {worst}")
    for name, share in drift.labels.items():
        yield from _item("labels", f"{share:.3%} of the frames of {name}")
