"""What carrying the memory is worth, what a step costs, and what 8-bit weights change: on the validation records."""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from holdover.models.ecg_beats.data import MODEL_HZ
from holdover.models.ecg_beats.net import normalise
from holdover.models.ecg_beats.score import decode
from holdover.models.ecg_rhythm.data import Record, load, noises, view
from holdover.models.ecg_rhythm.figures import write_figures
from holdover.models.ecg_rhythm.net import COLUMNS, DELAYS, HOP, Memory, Net, trained
from holdover.models.ecg_rhythm.score import Run, judge, runner, summary
from holdover.models.ecg_rhythm.train import data_folder
from holdover.runtime.engine import Engine
from holdover.runtime.engine import load as load_model

RESETS_S = (300, 60, 10, 2)
CONTEXT_S, HOPS_S = 10, (10, 2)
FILES = {"float": "model.onnx", "int8": "model-int8.onnx"}
NEAR_S = 0.05
"""Two models' beats are the same beat within this."""
STEPS = 500

Array = NDArray[Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what was found as JSON; 0 if it went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder with model.onnx, and model-int8.onnx if made")
    parser.add_argument("--data", help="folder with mitdb/, svdb/, vfdb/, nstdb/, cinc2017/ (default: HOLDOVER_DATA)")
    parser.add_argument("-o", "--output", type=Path, help="file for the figures (default: RUN/ablations.json)")
    options = parser.parse_args(arguments)
    output = options.output or options.run / "ablations.json"
    torch.set_num_threads(1)
    return write_figures(output, lambda: ablate(options.run, data_folder(options.data)))


def ablate(run: Path, data: Path) -> dict[str, Any]:
    """All figures of a seed's folder.

    Raises
    ------
    HoldoverError
        A recording or the model is missing or damaged.
    """
    net, _ = trained(run / FILES["float"])
    engines = {
        name: load_model(run / file) for name, file in FILES.items() if name == "float" or (run / file).is_file()
    }
    records, noise = load(data, "validation"), noises(data / "nstdb")
    memory = {}
    for name, way in ways(net).items():
        memory[name] = judge(way, records, noise)
        print(f"{name}: {summary(memory[name])}", flush=True)
    found = {name: judge(served(engine), records, noise) for name, engine in engines.items()}
    files = {name: _told(found[name]) | cost(run / FILES[name], engine) for name, engine in engines.items()}
    if "int8" in engines:
        files["int8"]["same labels"] = same_labels(served(engines["float"]), served(engines["int8"]), records)
    return {
        "memory": {name: _told(each) for name, each in memory.items()},
        "delays": {o: DELAYS[o] / MODEL_HZ for o in DELAYS if o.startswith("class")},
        "files": files,
        "processor": _processor(),
    }


def ways(net: Net) -> dict[str, Run]:
    """The net with its memory carried, forgotten every so often, and worked out anew for each window."""
    return {
        "carried": runner(net),
        **{f"reset every {s} s": resetting(net, s) for s in RESETS_S},
        **{f"windows, hop {s} s after {CONTEXT_S} s": sliding(net, CONTEXT_S, s) for s in HOPS_S},
    }


def resetting(net: Net, every_s: int) -> Run:
    """The net, its memory forgotten every so often; filter and gain go on."""
    block = every_s * MODEL_HZ

    def run(x: Array) -> Array:
        z = normalise(x)
        y = _outputs(net, np.pad(z, (0, -len(z) % block)).reshape(-1, block))
        return y.reshape(-1, y.shape[2])[: len(z) // HOP]

    return run


def sliding(net: Net, context_s: int, hop_s: int) -> Run:
    """The net over each hop and the context before it, from no memory; what it says of the hop is kept."""
    context, hop = context_s * MODEL_HZ, hop_s * MODEL_HZ

    def run(x: Array) -> Array:
        z = np.pad(normalise(x), (0, -len(x) % hop))
        starts = np.arange(0, len(z), hop)
        short, full = starts[starts < context], starts[starts >= context]
        parts = [_outputs(net, z[None, : at + hop])[:, -(hop // HOP) :] for at in short]
        if len(full):
            windows = z[full[:, None] + np.arange(-context, hop)]
            parts.append(_outputs(net, windows)[:, -(hop // HOP) :])
        y = np.concatenate(parts)
        return y.reshape(-1, y.shape[2])[: len(x) // HOP]

    return run


def served(engine: Engine) -> Run:
    """A model file over whole recordings, as the runtime runs it."""

    def run(x: Array) -> Array:
        outputs = engine.lane().push(x[:, None])
        return np.concatenate([outputs[name] for name in COLUMNS], 1)

    return run


def cost(path: Path, engine: Engine) -> dict[str, Any]:
    """Bytes of a model's file, ms to load it (median of 5), and us of a step of one hop (median of `STEPS`)."""
    loads = [_seconds(partial(load_model, path)) for _ in range(5)]
    lane, rng = engine.lane(), np.random.default_rng(0)
    hops = rng.normal(0, 0.3, (STEPS + 40, HOP, 1)).astype(np.float32)
    steps = [_seconds(partial(lane.push, x)) for x in hops][40:]
    return {
        "file_bytes": path.stat().st_size,
        "load_ms": round(1e3 * statistics.median(loads), 1),
        "step_us": round(1e6 * statistics.median(steps), 1),
    }


def same_labels(one: Run, other: Run, records: Sequence[Record]) -> float:
    """Per cent of beats of either model that the other finds too and calls the same."""
    same = every = 0
    for record in records:
        x = view(record)
        (at, kind), (there, theirs) = decode(one(x)), decode(other(x))
        near = np.abs(at[:, None] - there) < NEAR_S if len(at) * len(there) else np.zeros((len(at), len(there)), bool)
        hit = int((near & (kind[:, None] == theirs)).any(1).sum())
        same, every = same + hit, every + len(at) + len(there) - int(near.any(1).sum())
    return round(100 * same / max(every, 1), 3)


def _outputs(net: Net, z: Array) -> Array:
    with torch.no_grad():
        y: Array = net(torch.from_numpy(z), Memory.zeros(len(z)))[0].numpy()
    return y


def _told(found: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in found.items() if k != "counts"}


def _seconds(do: Callable[[], object]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main())
