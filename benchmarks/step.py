"""The cost of a step: `Stream.push` beside bare ONNX Runtime and PyTorch, in one process, in turns, on one thread."""

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from machine import RESULTS, stated
from numpy.typing import NDArray

from holdover.apps.model.shipped import find_model
from holdover.runtime.chunk import Chunk
from holdover.runtime.contract import KEY, Contract
from holdover.runtime.engine import Engine, initial_state, load
from holdover.runtime.stream import Stream

MODEL = find_model()
HOPS = (1, 8, 64, 512)
TURN = 10
BARE, DICTS, OWN, RESAMPLED, TORCH = (
    "bare IO binding",
    "session.run, dicts",
    "Stream.push",
    "Stream.push, 360 Hz",
    "PyTorch eager",
)
PEERS = (BARE, DICTS, OWN, RESAMPLED, TORCH)
TARGETS = {
    "Stream.push over bare IO binding at one hop": (OWN, BARE, 1.3),
    "Stream.push over session.run with dictionaries at one hop": (OWN, DICTS, 1.0),
}

Array = NDArray[np.float32]
Call = Callable[[], Any]


def wave(samples: int) -> Array:
    """A made-up lead, (samples, 1), mV."""
    rng = np.random.default_rng(0)
    return (0.3 * rng.normal(size=(samples, 1)) + np.sin(np.arange(samples)[:, None] / 20)).astype(np.float32)


def session() -> ort.InferenceSession:
    """The model in ONNX Runtime, tuned for small calls: one thread, no spinning, no arena."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])


def with_dictionaries(x: Array) -> Call:
    """`session.run`, the state carried from its result to its next feeds."""
    run = session()
    contract = Contract.parse(run.get_modelmeta().custom_metadata_map[KEY])
    carried = [s.input for s in contract.states]
    names = [o.name for o in contract.outputs] + [s.output for s in contract.states]
    heads = len(contract.outputs)
    feeds: dict[str, Any] = {s.input: v for s, v in zip(contract.states, initial_state(contract).values(), strict=True)}
    batch = x[np.newaxis]

    def call() -> list[Any]:
        feeds["x"] = batch
        values: list[Any] = run.run(names, feeds)
        feeds.update(zip(carried, values[heads:], strict=True))
        return values[:heads]

    return call


def with_binding(x: Array) -> Call:
    """Every buffer bound once, two sets of state that take turns; the outputs are left where they are."""
    run = session()
    contract = Contract.parse(run.get_modelmeta().custom_metadata_map[KEY])
    sets = [initial_state(contract), initial_state(contract)]
    place = np.zeros((1, *x.shape), np.float32)
    shapes = run.run(None, {"x": place, **{s.input: sets[0][s.name] for s in contract.states}})
    found = dict(zip([o.name for o in run.get_outputs()], shapes, strict=True))
    heads = {o.name: np.empty_like(found[o.name]) for o in contract.outputs}

    def direction(before: dict[str, Any], after: dict[str, Any]) -> Any:
        binding = run.io_binding()
        for name, v in {"x": place, **{s.input: before[s.name] for s in contract.states}}.items():
            binding.bind_input(name, "cpu", 0, v.dtype, v.shape, v.ctypes.data)
        for name, v in {**heads, **{s.output: after[s.name] for s in contract.states}}.items():
            binding.bind_output(name, "cpu", 0, v.dtype, v.shape, v.ctypes.data)
        return binding

    bindings, turn = [direction(sets[0], sets[1]), direction(sets[1], sets[0])], 0
    step, heads_in_order = run.run_with_iobinding, list(heads.values())

    def call(_alive: Any = sets) -> list[Any]:  # the bindings hold addresses only
        nonlocal turn
        place[0] = x
        step(bindings[turn])
        turn ^= 1
        return heads_in_order

    return call


def with_stream(engine: Engine, x: Array, rate_hz: float) -> Call:
    """What the daemon does with a chunk: resample if need be, step, say which samples the frames are about."""
    stream, at = Stream(engine, rate_hz), 0

    def call() -> list[Any]:
        nonlocal at
        frames = stream.push(Chunk(at, x))
        at += len(x)
        return list(frames.values.values())

    return call


def with_torch(z: Array) -> Call | None:
    """The shipped weights in the net they were trained in, without the front end; None if torch is missing."""
    try:
        import torch
    except ImportError:
        return None
    from holdover.models.ecg_rhythm.net import COLUMNS, Memory, trained

    torch.set_num_threads(1)
    net, _ = trained(MODEL)
    memory, batch = Memory.zeros(1), torch.from_numpy(z)

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not followed
    def call() -> list[Any]:
        nonlocal memory
        y, memory = net(batch, memory)
        return [y[..., columns].numpy() for columns in COLUMNS.values()]

    run: Call = call
    return run


def normalised(x: Array) -> Array:
    """What the front end makes of x, (1, samples), for the peer that has none."""
    from holdover.models.ecg_beats.net import normalise

    return normalise(x[np.newaxis, :, 0].astype(np.float64))


def calls(engine: Engine, hops: int) -> dict[str, Call]:
    """Each peer over blocks of so many hops."""
    samples = hops * engine.contract.hop
    x = wave(samples)
    peers: dict[str, Call | None] = {
        BARE: with_binding(x),
        DICTS: with_dictionaries(x),
        OWN: with_stream(engine, x, 120.0),
        RESAMPLED: with_stream(engine, wave(3 * samples), 360.0),
        TORCH: _torch_peer(x),
    }
    return {name: call for name, call in peers.items() if call is not None}


def _torch_peer(x: Array) -> Call | None:
    try:
        return with_torch(normalised(x))
    except ImportError:
        return None


def check(engine: Engine) -> None:
    """Hold the peers against one another: what is timed must be the same computation."""
    peers = calls(engine, 64)
    wanted = peers[OWN]()
    for name, bound in ((BARE, 0.0), (DICTS, 0.0), (TORCH, 1e-3)):
        if name in peers:
            gap = max(
                float(np.abs(np.reshape(a, b.shape) - b).max()) for a, b in zip(peers[name](), wanted, strict=True)
            )
            if gap > bound:
                raise SystemExit(f"{name} differs from {OWN} by {gap:.1e}; the peers do not compute the same")


def measure(peers: dict[str, Call], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Microseconds of each call, by peer; the peers take turns of `TURN` calls, the first of a turn is not counted."""
    names = list(peers)
    took: dict[str, list[int]] = {name: [] for name in names}
    for turn in range(-2, max(rounds // TURN, 5)):
        for k in range(len(names)):
            name = names[(k + turn) % len(names)]
            call = peers[name]
            call()
            for _ in range(TURN):
                start = time.perf_counter_ns()
                call()
                if turn >= 0:
                    took[name].append(time.perf_counter_ns() - start)
    return {name: np.array(values) / 1000 for name, values in took.items()}


def figures(engine: Engine, rounds: int) -> list[dict[str, Any]]:
    """Median, 99th percentile and ratio to the bare peer, for every block size and peer."""
    rows = []
    for hops in HOPS:
        took = measure(calls(engine, hops), max(rounds // hops, 100))
        bare = float(np.median(took[BARE]))
        for name, values in took.items():
            median, p99 = float(np.median(values)), float(np.percentile(values, 99))
            row = {"hops": hops, "peer": name, "calls": len(values), "median_us": round(median, 2)}
            rows.append(
                row | {"p99_us": round(p99, 2), "us_a_hop": round(median / hops, 3), "x": round(median / bare, 3)}
            )
    return rows


def targets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The two ratios that are aimed at, and whether they were reached."""
    median = {row["peer"]: row["median_us"] for row in rows if row["hops"] == 1}
    return [
        {
            "what": what,
            "at_most": most,
            "found": round(median[a] / median[b], 3),
            "reached": median[a] <= most * median[b],
        }
        for what, (a, b, most) in TARGETS.items()
    ]


def show(result: dict[str, Any]) -> None:
    """The table, in 80 columns."""
    print(f"{result['model']}: one call, median us (p99 us); below, times the bare call")
    print(f"{'hops of ' + str(result['hop']) + ' samples':<20}" + "".join(f"{hops:>15}" for hops in HOPS))
    cells = {(row["peer"], row["hops"]): row for row in result["figures"]}
    for name in PEERS:
        if (name, 1) in cells:
            row = [cells[name, hops] for hops in HOPS]
            print(f"{name:<20}" + "".join(f"{_pair(r):>15}" for r in row))
            print(f"{'':<20}" + "".join(f"{r['x']:>14.2f}x" for r in row))
        else:
            print(f"{name:<20}  skipped: torch is not installed (pip install 'holdover[train]')")
    for t in result["targets"]:
        print(f"{t['what']}: {t['found']:.2f}, aim {t['at_most']}, {'reached' if t['reached'] else 'MISSED'}")


def _pair(row: dict[str, Any]) -> str:
    digits = 1 if row["median_us"] < 1000 else 0
    return f"{row['median_us']:.{digits}f} ({row['p99_us']:.0f})"


def main() -> None:
    """Measure, show, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20_000, help="calls of each peer at one hop; fewer at more hops")
    parser.add_argument("--json", type=Path, default=RESULTS / "step.json", help="where the figures go")
    options = parser.parse_args()
    engine = load(MODEL)
    check(engine)
    rows = figures(engine, options.rounds)
    result = {
        **stated(("numpy", "onnxruntime", *(["torch"] if find_spec("torch") else []))),
        "rounds": options.rounds,
        "model": f"{engine.contract.name} {engine.contract.model_version}",
        "model_sha256": engine.sha256,
        "hop": engine.contract.hop,
        "threads": 1,
        "targets": targets(rows),
        "figures": rows,
    }
    show(result)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
