"""A model tried out: that it loads, gives finite numbers, gives them twice, and gives what its maker says it gives.

This runs files that nobody vouches for, so it runs in a process of its own (`holdover.apps.model.gate_child`).
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from holdover.apps.model.manifest import Golden, GoldenOutput, golden_of, trial_signal
from holdover.runtime.alert import Scene
from holdover.runtime.chunk import Chunk
from holdover.runtime.engine import Lane, Outputs, State, first_block, initial_state
from holdover.runtime.engines.ort import OrtEngine
from holdover.runtime.errors import ContractError, HoldoverError
from holdover.runtime.model_gate import EXPORT, Refusal, Refused
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.watch import Watch, model_id

Array = NDArray[np.float32]

TRIAL_S = 10.0
MAX_TRIAL_SAMPLES = 60_000
MIN_BLOCKS = 24
GOLDEN_SHARE = 0.01
"""A golden number may be missed by this share of its output's spread: machines round differently, most in 8 bits."""
GOLDEN_LEAST = 1e-5


class Order(msgspec.Struct, frozen=True):
    """What the trial is asked: a file, what it should give (or None), and whether to hand back what it gave."""

    data: bytes
    sha256: str
    golden: Golden | None = None
    hand_back: bool = False
    memory_mb: int = 1024
    cpu_s: int = 30


class Report(msgspec.Struct, frozen=True):
    """What came of it: checks that held, and the one that did not with what was found and what to do, or ""."""

    checks: tuple[str, ...] = ()
    failed: str = ""
    found: str = ""
    do: str = ""
    cpu_s: float = 0.0
    share_of_time: float = 0.0
    golden: Golden | None = None

    @property
    def refusal(self) -> Refusal | None:
        """The check that did not hold, or None."""
        return Refusal(self.failed, self.found, self.do) if self.failed else None


@dataclass(slots=True)
class _Subject:
    order: Order
    engine: OrtEngine = field(init=False)
    x: Array = field(init=False)
    whole: Outputs = field(init=False)
    state: State = field(init=False)
    share_of_time: float = 0.0


def trial(order: Order) -> Report:
    """Try a file; whatever it does short of taking the process down is a report."""
    began, passed, subject = time.process_time(), list[str](), _Subject(order)
    for name, check in TRIALS.items():
        try:
            check(subject)
        except Refused as refused:
            return Report(tuple(passed), name, refused.found, refused.do, time.process_time() - began)
        except MemoryError:
            return Report(tuple(passed), "memory", _much(order), "make the model smaller", time.process_time() - began)
        except Exception as error:  # a hostile file may bring about any: all are the file's
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return Report(tuple(passed), name, found, EXPORT, time.process_time() - began)
        passed.append(name)
    given = _given(subject) if order.hand_back else None
    share = subject.share_of_time
    del subject
    gc.collect()
    return Report(tuple(passed), cpu_s=time.process_time() - began, share_of_time=share, golden=given)


def _load(s: _Subject) -> None:
    try:
        s.engine = OrtEngine(s.order.data, s.order.sha256)
    except ContractError as error:
        raise Refused(str(error), EXPORT) from error
    except HoldoverError as error:
        raise _told(error, s.order) from error


def _run(s: _Subject) -> None:
    s.x = trial_signal(samples_of(s.engine), len(s.engine.contract.signal.channels))
    lane = s.engine.lane()
    began = time.process_time()
    try:
        s.whole = lane.push(s.x)
    except HoldoverError as error:
        raise _told(error, s.order) from error
    s.share_of_time = (time.process_time() - began) * s.engine.contract.signal.rate_hz / len(s.x)
    if s.share_of_time > 1:
        raise Refused(f"a second of signal takes {s.share_of_time:.1f} s of computing here", "make the model smaller")
    s.state = lane.snapshot()
    c = s.engine.contract
    for output in c.outputs:
        ahead = max(-output.first_at, 0)  # a layer that pads widely speaks of places before the first sample
        found, most = s.whole[output.name], (len(s.x) + ahead) // output.samples_per_frame
        if found.ndim != 2 or found.dtype != np.float32 or len(found) > most:
            raise Refused(
                f"output {output.name!r} is {found.dtype}{found.shape}, expected float32 of at most ({most}, width)",
                EXPORT,
            )
        if output.labels and found.shape[1] != len(output.labels):
            raise Refused(
                f"output {output.name!r} has {found.shape[1]} columns and {len(output.labels)} labels", EXPORT
            )


def _finite(s: _Subject) -> None:
    for name, found in [*s.whole.items(), *s.state.items()]:
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise Refused(
                f"{name!r} has numbers that are not finite, for an ordinary signal", "train or export it again"
            )


def _repeat(s: _Subject) -> None:
    whole = s.engine.lane()
    _same(whole.push(s.x), s.whole, "a second time")
    for seed in (1, 2):
        lane = s.engine.lane()
        cuts = _cuts(s.engine, len(s.x), seed)
        parts = []
        for number, (a, b) in enumerate(pairwise(cuts)):
            lane = _carried(s.engine, lane) if number == len(cuts) // 2 else lane
            parts.append(lane.push(s.x[a:b]))
        _same({n: np.concatenate([p[n] for p in parts]) for n in s.whole}, s.whole, "cut into blocks")
        _same(lane.snapshot(), s.state, "cut into blocks")


def _carried(engine: OrtEngine, lane: Lane) -> Lane:
    """The lane as a restart would find it."""
    other = engine.lane()
    other.restore(unpack(pack(lane.snapshot())))
    return other


def _same(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], when: str) -> None:
    for name, value in expected.items():
        if found[name].shape != value.shape or found[name].tobytes() != value.tobytes():
            raise Refused(f"{name!r} is another for the same signal {when}", "say a grid in its contract, or " + EXPORT)


def _golden(s: _Subject) -> None:
    inside = s.engine.contract.document.get("verification")
    stated = inside.get("golden") if isinstance(inside, dict) else None
    if stated is not None:
        _compare(s, golden_of(stated), "its contract")
    if s.order.golden is not None:
        _compare(s, s.order.golden, "its manifest")


def _compare(s: _Subject, golden: Golden, who: str) -> None:
    c = s.engine.contract
    quantum = c.hop if c.bitwise else c.grid
    if not first_block(c, initial_state(c)) <= golden.samples <= MAX_TRIAL_SAMPLES or golden.samples % quantum:
        raise Refused(f"{who} tells of {golden.samples} samples, which cannot be fed", "write the manifest again")
    found = s.engine.lane().push(trial_signal(golden.samples, len(c.signal.channels)))
    if set(found) != set(golden.outputs):
        raise Refused(f"{who} tells of {sorted(golden.outputs)[:8]}, the model gives {sorted(found)}", "write it again")
    for name, told in golden.outputs.items():
        _near(found[name], told.values(), f"{name!r}, against {who},")


def _near(found: Array, told: Array, what: str) -> None:
    if found.shape != told.shape:
        raise Refused(
            f"{what} has the shape {found.shape}, expected {told.shape}", "fetch the model and manifest again"
        )
    if not told.size:
        return
    allowed = max(GOLDEN_SHARE * float(told.max() - told.min()), GOLDEN_LEAST)
    worst = float(np.abs(found.astype(np.float64) - told).max())
    if not worst <= allowed:
        raise Refused(
            f"{what} is off by {worst:.3g}, of at most {allowed:.3g}",
            "the file is not what its maker tried, or this onnxruntime computes it wrong: try another version",
        )


def _extremes(s: _Subject) -> None:
    """Signals that no body gives; what comes out is no matter, that something comes out is."""
    for x in (np.zeros_like(s.x), -s.x, 1000 * s.x, np.where(np.arange(len(s.x)) % 2, 1e6, -1e6)[:, np.newaxis] + s.x):
        with np.errstate(all="ignore"):
            s.engine.lane().push(np.asarray(x, np.float32))


def _watch(s: _Subject) -> None:
    """The loop that a daemon runs, over samples that it must resample."""
    c = s.engine.contract
    rate_hz = 2 * c.signal.rate_hz
    scene = Scene(stream="trial", lead="I", rate_hz=rate_hz, epoch=None, model=model_id(s.engine))
    watch = Watch(s.engine, scene)
    x = trial_signal(min(len(s.x), MAX_TRIAL_SAMPLES // 2) * 2, len(c.signal.channels))
    third = len(x) // 3
    said = watch.push(Chunk(0, x[:third])).alerts
    memory = pack(watch.snapshot())
    watch = Watch(s.engine, scene)
    watch.restore(unpack(memory))
    said += watch.push(Chunk(third, x[third:])).alerts
    said += watch.finish().alerts
    for alert in said:
        alert.body_json()


TRIALS: dict[str, Callable[[_Subject], None]] = {
    "load": _load,
    "run": _run,
    "finite": _finite,
    "repeat": _repeat,
    "golden": _golden,
    "extremes": _extremes,
    "watch": _watch,
}
"""By name, in order."""


def samples_of(engine: OrtEngine) -> int:
    """How many samples a trial takes: `TRIAL_S`, at least `MIN_BLOCKS` blocks after the first, whole blocks."""
    c = engine.contract
    quantum = c.hop if c.bitwise else c.grid
    first = first_block(c, initial_state(c))
    if first + quantum > MAX_TRIAL_SAMPLES:
        raise Refused(
            f"its first block and the next are {first + quantum} samples, of at most {MAX_TRIAL_SAMPLES}", EXPORT
        )
    wanted = min(max(TRIAL_S * c.signal.rate_hz, first + MIN_BLOCKS * quantum), MAX_TRIAL_SAMPLES)
    return first + max(int(wanted - first) // quantum, 1) * quantum


def _cuts(engine: OrtEngine, samples: int, seed: int) -> list[int]:
    """Places to cut, on whole blocks: single blocks first, then of random length."""
    c = engine.contract
    quantum, first = (c.hop if c.bitwise else c.grid), first_block(c, initial_state(c))
    free = np.arange(first + quantum, samples, quantum)
    chosen = np.random.default_rng(seed).choice(free, min(len(free), 16), replace=False) if len(free) else free
    return sorted({0, first, *map(int, chosen), *map(int, free[:4]), samples})


def _given(s: _Subject) -> Golden:
    """What this model gives here, short enough to be put into a manifest."""
    x = s.x[: min(len(s.x), samples_of(s.engine))]
    found = s.engine.lane().push(x)
    return Golden(len(x), {name: GoldenOutput.of(np.asarray(value, np.float32)) for name, value in found.items()})


def _told(error: HoldoverError, order: Order) -> Refused:
    """What onnxruntime says; that it has no memory is told apart by the message, for it has no error of its own."""
    words = " ".join(str(error).split())
    if any(sign in words for sign in ("bad_alloc", "bad allocation", "Failed to allocate", "std::length_error")):
        return Refused(_much(order) + f" ({words[:200]})", "make the model smaller")
    return Refused(words[:400], EXPORT)


def _much(order: Order) -> str:
    return f"it takes more than {order.memory_mb} MB, or asks for it"
