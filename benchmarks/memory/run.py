"""How far back the families of nets remember, what of the gradient arrives there, and what a streamed step costs.

Trains each family on each task, exports it, times it in our own runtime, and writes `results/memory.json`, the tables
and the plot of `docs/memory.md`. Needs the extra `torch`; some minutes on two cores.
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from machine import keep, stated  # noqa: E402 - beside this folder
from nets import FAMILIES, HEADS, WIDTH, WINDOW  # noqa: E402
from report import write  # noqa: E402
from tasks import TASKS, Task  # noqa: E402

from holdover.export.describe import Statement  # noqa: E402
from holdover.export.exporting import Options, export  # noqa: E402
from holdover.export.original import SourceOptions  # noqa: E402
from holdover.export.sources.torch_export import export as read_module  # noqa: E402
from holdover.runtime.engine import initial_state  # noqa: E402

BATCH, RATE = 32, 1e-2
CHECK = 25
LEAST = float(torch.finfo(torch.float32).tiny)
"""A slope that is smaller is none to training in float32."""
TESTED = 512
ENOUGH = 0.99
RATE_HZ = 100.0
"""Of the exported nets: a name for a sample, on which nothing measured depends."""


def gradient(net: nn.Module, task: Task, seed: int) -> float:
    """How much of the last output's slope reaches the first sample: its norm there over that at the last sample.

    In float64, as what is left after hundreds of steps is less than float32 can tell from nothing.
    """
    x = task.batch(16, torch.Generator().manual_seed(seed))[0].double().requires_grad_()
    copy.deepcopy(net).double()(x)[:, -1].sum().backward()
    assert x.grad is not None
    first, last = (float(x.grad[:, k].norm()) for k in (0, -1))
    return first / last if last else 0.0


def accuracy(net: nn.Module, task: Task) -> float:
    """Share of sequences, none of them trained on, whose last output is right."""
    x, wanted = task.batch(TESTED, torch.Generator().manual_seed(99))
    with torch.no_grad():
        y = torch.cat([net(part)[:, -1, 0] for part in x.split(64)])
    return float(task.right(y, wanted).float().mean())


def train(make: Callable[[], nn.Module], task: Task, seed: int) -> dict[str, Any]:
    """Train a net until it is right or the training is over; not at all where no slope reaches the first sample."""
    torch.manual_seed(seed)
    net, rng = make(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    before, done, right = gradient(net, task, seed), 0, accuracy(net, task)
    while before > LEAST and done < task.training and right < ENOUGH:
        for _ in range(CHECK):
            x, wanted = task.batch(BATCH, rng)
            optimizer.zero_grad()
            task.loss(net(x)[:, -1, 0], wanted).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        done, right = done + CHECK, accuracy(net, task)
    return {"accuracy": right, "steps": done, "gradient_before": before, "gradient_after": gradient(net, task, seed)}


def streamed(name: str, make: Callable[[], nn.Module]) -> dict[str, Any]:
    """Cost and state of the net as it is exported and run by our own runtime."""
    torch.manual_seed(0)
    net = make().eval()
    original = read_module(net, SourceOptions(input_shape=("batch", "time", 2)))
    done = export(original, Options(Statement(name, RATE_HZ, ("a", "b"), "1")))
    state = {s.name: s for s in done.contract.states}
    sizes = [
        v.nbytes if s.is_steady else _steady(s) for n, v in initial_state(done.contract).items() if (s := state[n])
    ]
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "state_bytes": sum(sizes),
        "step_us": round(done.cost.step, 2),
        "recompute_us": round(done.cost.recompute, 1),
        "window": done.cost.window,
        "bitwise": done.contract.bitwise,
        "max_error": done.proof.max_error,
    }


def _steady(state: Any) -> int:
    size = 4
    for n in state.steady_shape:
        size *= 1 if n == "batch" else n
    return size


def family(name: str, tasks: Sequence[Task], seeds: int) -> dict[str, Any]:
    """All figures of a family."""
    figures: dict[str, Any] = {"family": name, **streamed(name, FAMILIES[name]), "tasks": []}
    for task in tasks:
        began = time.monotonic()
        runs = [train(FAMILIES[name], task, seed) for seed in range(seeds)]
        figures["tasks"].append({"task": task.name, "chance": task.chance, "training": task.training, "runs": runs})
        best = " ".join(f"{r['accuracy']:.2f}" for r in runs)
        print(f"{name:<22}{task.name:<13}{best:<12}{time.monotonic() - began:6.1f} s", flush=True)
    return figures


def main() -> None:
    """Measure, write the figures, the tables and the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="nets of each family and task (default: %(default)s)")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began, figures = time.monotonic(), []
    for name in options.families:
        figures.append(family(name, TASKS, options.seeds))
        if not options.dry:
            keep("memory", _result(figures, options.seeds, time.monotonic() - began))
    if not options.dry:
        write(_result(figures, options.seeds, time.monotonic() - began))


def _result(figures: list[dict[str, Any]], seeds: int, seconds: float) -> dict[str, Any]:
    return {
        **stated(("numpy", "onnxruntime", "torch")),
        "threads": 1,
        "seconds": round(seconds),
        "width": WIDTH, "heads": HEADS, "window": WINDOW, "batch": BATCH, "learning_rate": RATE,
        "seeds": seeds, "tested": TESTED,
        "families": figures,
    }  # fmt: skip


if __name__ == "__main__":
    main()
