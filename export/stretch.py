"""One coarse comparison far beyond the lengths at which a graph was watched."""

import time

import numpy as np

from holdover.export.feeding import feed
from holdover.export.measure import Array, Reference
from holdover.export.proof import noise
from holdover.runtime.contract import OutputSpec
from holdover.runtime.engines.ort import OrtEngine

FAR = 20_000
"""Samples beyond which nothing is tried: two minutes of ECG at 160 Hz."""
QUICK_S = 0.03
"""A run that takes longer is not made four times as long; attention grows with the square."""
GROSS, RARE = 1e-2, 1e-2
"""By so much of the output's range, in more than so many of the frames: no rounding, and no threshold that one met."""


def far_off(engine: OrtEngine, reference: Reference, longest: int, seed: int = 17) -> list[str]:
    """Outputs that differ grossly on stretches of more samples than `longest`, a whole number of hops."""
    c = engine.contract
    length, took, most = longest, 0.0, FAR // c.hop * c.hop
    wrong: list[str] = []
    while not wrong and length < most and took < QUICK_S:
        length = min(4 * length, most)
        x = noise(1, length, len(c.signal.channels), seed)
        began = time.perf_counter()
        due = reference(x)
        took = time.perf_counter() - began
        said = feed(engine, x[0], [length])
        judged = [o for o in c.outputs if o.kind == "frames" or c.exact_end]
        wrong = [
            f"over {length} samples the output {o.name} is not that of the original, as it is over {longest}"
            for o in judged
            if _differ(_said(o, said[o.name]), _said(o, due[o.name][0]))
        ]
    return wrong


def _said(output: OutputSpec, values: Array) -> Array:
    """All frames; of an output over all of time the last."""
    return values[-1:] if output.kind == "running" else values


def _differ(a: Array, b: Array) -> bool:
    n = min(len(a), len(b))
    if n < 0.9 * max(len(a), len(b)):
        return True
    a, b = a[:n].astype(float).reshape(n, -1), b[:n].astype(float).reshape(n, -1)
    known = np.isfinite(a) & np.isfinite(b)
    reach = float((np.ptp(b[known]) if n > 1 else np.abs(b[known]).max()) if known.any() else 0.0)
    apart = (np.abs(np.where(known, a - b, 0)) > GROSS * max(reach, 1e-3)).any(axis=1)
    return bool(apart.mean() > RARE)
