"""tract and OpenVINO on the graphs of the conformance suite, beside this runtime, in one run.

Each graph goes through each engine in a process of its own; what is streamed is held against the whole-sequence graph
in onnxruntime. Writes `results/peers.json` and the tables of `docs/peers.md`. Needs the extra `peers`; minutes.
"""

import argparse
import contextlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parents[1])]

from compare import TOLERANCE, Array, error  # noqa: E402 - beside this file
from engines import ENGINES, OWN, serve  # noqa: E402
from machine import keep, stated  # noqa: E402
from report import write  # noqa: E402

from holdover.export.describe import Statement  # noqa: E402
from holdover.export.exporting import Options, export  # noqa: E402
from holdover.export.original import Original  # noqa: E402
from holdover.export.proof import noise  # noqa: E402
from holdover.export.whole import Whole, clean, layouts  # noqa: E402
from tests.zoo_onnx import ZOO  # noqa: E402

HOPS, AFTER = 64, 64
"""Hops that are streamed; hops of signal after them, so that the end of the whole graph is not seen."""
ROUNDS, CALLS = 5, 40
PATIENCE_S = 20.0


class Peer:
    """An engine's process, started anew where it died or hung."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._start()

    def ask(self, what: str, given: Any) -> tuple[str, Any]:
        """("done", answer), ("refused", why) or ("died", how)."""
        with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
            self._pipe.send((what, given))
            if self._pipe.poll(PATIENCE_S):
                answer: tuple[str, Any] = self._pipe.recv()
                return answer
        self._process.join(1.0)
        code = self._process.exitcode
        self.stop()
        self._start()
        return "died", "it hung" if code is None else f"exit code {code}"

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, self.name), daemon=True)
        self._process.start()
        theirs.close()


def prepare(name: str, folder: Path) -> tuple[list[list[Array]], list[tuple[Array, int | None]]]:
    """Export a graph into a folder; the hops of every input, and each output of the whole graph with its time axis."""
    proto = ZOO[name].model()
    whole = Whole(clean(proto), layouts(clean(proto)))
    leads = tuple(f"lead{k}" for k in range(whole.channels))
    done = export(Original(proto, "onnx", "0" * 64), Options(Statement(name, 360.0, leads, "mV")))
    c = done.contract
    onnx.save(proto, folder / "whole.onnx")
    (folder / "stream.onnx").write_bytes(done.model.SerializeToString())
    states = [
        {"input": s.input, "output": s.output, "dtype": s.dtype, "init_shape": s.init_shape,
         "steady_shape": s.steady_shape, "fill": 0.0 if s.init == "zeros" else s.init}
        for s in c.states
    ]  # fmt: skip
    facts = {
        "hop": c.hop, "first": -(-c.first_chunk_min // c.hop) * c.hop,
        "dims": [y.dims for y in whole.layouts], "channels": [y.channels for y in whole.layouts],
        "states": states, "outputs": [o.name for o in c.outputs],
        "gives": [o.name for o in done.model.graph.output], "signal": c.signal.input, "end": c.eos_input,
        "last": HOPS if _ends(whole) else None,
    }  # fmt: skip
    (folder / "graph.json").write_text(json.dumps(facts))
    n = HOPS * c.hop
    x = noise(1, n + AFTER * c.hop, whole.channels, 3)
    hops = [list(whole.feeds(x[:, k * c.hop : (k + 1) * c.hop]).values()) for k in range(HOPS)]
    return hops, _wanted(whole, x, n)


def _ends(whole: Whole) -> bool:
    """Whether an output is over all time, so that it is the original's only after the end was told."""
    return None in _time_axes(whole)


def _time_axes(whole: Whole) -> list[int | None]:
    long, short = (whole.run(noise(1, n, whole.channels, 3)) for n in whole.lengths[::-1])
    return [next((k for k, (a, b) in enumerate(zip(y.shape, short[name].shape, strict=True)) if a != b), None)
            for name, y in long.items()]  # fmt: skip


def _wanted(whole: Whole, x: Array, n: int) -> list[tuple[Array, int | None]]:
    """Each output and its time axis, over all of x, or over the first n samples where the end is told after them."""
    found = whole.run(x[:, :n] if _ends(whole) else x)
    return list(zip(found.values(), _time_axes(whole), strict=True))


def judge(peer: Peer, folder: Path, hops: list[list[Array]], wanted: Sequence[tuple[Array, int | None]]) -> Any:
    """What becomes of one graph in one engine."""
    for what, given in (("prepare", str(folder)), ("stream", hops)):
        status, answer = peer.ask(what, given)
        if status != "done":
            return {"verdict": status, "why": str(answer)[:160]}
    worst = max(
        error([y[k] for y in answer], axis if peer.name in OWN else 1, w, axis) for k, (w, axis) in enumerate(wanted)
    )
    return {"verdict": "right" if worst <= TOLERANCE else "wrong", "error": worst if np.isfinite(worst) else None}


def timed(peers: Sequence[Peer], hop: list[Array]) -> dict[str, float]:
    """Median microseconds of a step, in turns."""
    found: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(ROUNDS):
        for peer in peers:
            status, answer = peer.ask("time", (hop, CALLS))
            found[peer.name] += answer[1:] if status == "done" else []
    return {name: round(float(np.median(times)), 1) for name, times in found.items() if times}


def graph_figures(name: str, peers: Sequence[Peer]) -> dict[str, Any]:
    """Verdicts of one graph, and what a step costs where they are right."""
    with tempfile.TemporaryDirectory() as folder:
        hops, wanted = prepare(name, Path(folder))
        verdicts = {peer.name: judge(peer, Path(folder), hops, wanted) for peer in peers}
    right = [peer for peer in peers if verdicts[peer.name]["verdict"] == "right"]
    for peer, us in timed(right, hops[-1]).items():
        verdicts[peer]["step_us"] = us
    print(f"{name:<28}" + "  ".join(f"{v['verdict']:<8}" for v in verdicts.values()), flush=True)
    return {"graph": name, "engines": verdicts}


def main() -> None:
    """Judge, write the figures and the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", nargs="+", choices=ZOO, default=list(ZOO), metavar="NAME")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    options = parser.parse_args()
    began = time.monotonic()
    peers = [Peer(name) for name in ENGINES]
    try:
        graphs = [graph_figures(name, peers) for name in options.graphs]
    finally:
        for peer in peers:
            peer.stop()
    result = {
        **stated(("numpy", "onnx", "onnxruntime", "openvino", "tract")),
        "threads": 1,
        "seconds": round(time.monotonic() - began),
        "tolerance": TOLERANCE,
        "graphs": graphs,
    }
    if not options.dry:
        keep("peers", result)
        write(result)


if __name__ == "__main__":
    main()
