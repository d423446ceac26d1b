"""Runs models in the emulated machine, where there are onnxruntime and NumPy only; called by `tests/arm64/run.py`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Tensors = dict[str, NDArray[Any]]


def run(model: Path, x: NDArray[np.float32], state: Tensors, size: int) -> Tensors:
    """Outputs over x, (1, samples, channels), in blocks of so many samples; `state` is by input names."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    after = {o: o.removesuffix(".out") + ".in" for o in names if o.endswith(".out")}
    parts: dict[str, list[NDArray[Any]]] = {n: [] for n in names if n not in after}
    for start in range(0, x.shape[1], size):
        said = dict(zip(names, session.run(names, {"x": x[:, start : start + size], **state}), strict=True))
        state = state | {after[n]: said[n] for n in after if after[n] in state}
        for name, found in parts.items():
            found.append(said[name])
    return {n: np.concatenate(found, axis=1) for n, found in parts.items()}


def main(folder: Path) -> None:
    """Every model of a folder, in blocks of each size that its inputs name."""
    for model in sorted(folder.glob("*.onnx")):
        with np.load(model.with_suffix(".npz")) as given:
            state = {n.removeprefix("state:"): given[n] for n in given.files if n.startswith("state:")}
            found = {int(n): run(model, given["x"], state, int(n)) for n in given["sizes"]}
        np.savez(model.with_suffix(".out.npz"), **{f"{n}:{k}": v for n, by in found.items() for k, v in by.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
