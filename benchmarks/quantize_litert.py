"""The peer LiteRT: a strided convolution, an LSTM and a head as one step, float and with 8-bit weights (dynamic range).

Run by an interpreter of its own that has tensorflow-cpu and ai-edge-litert: `quantize.py --litert PYTHON` hands it
weights by torch's names and a signal, and takes its figures from standard output.
"""

import json
import statistics
import sys
import time
from typing import Any

import numpy as np

ROUNDS = 3000


def converted(weights: dict[str, Any], small: bool) -> bytes:
    """A step from (frame, h, c) to (logits, h, c) as a LiteRT model."""
    import tensorflow as tf

    hidden = weights["rnn.weight_hh_l0"].shape[1]
    hop = weights["conv.weight"].shape[2]
    w = {name: tf.constant(value) for name, value in weights.items()}

    @tf.function(input_signature=[tf.TensorSpec((1, n), tf.float32) for n in (hop, hidden, hidden)])  # type: ignore[untyped-decorator]
    def step(x: Any, h: Any, c: Any) -> Any:
        y = tf.nn.relu(tf.matmul(x, w["conv.weight"][:, 0], transpose_b=True) + w["conv.bias"])
        bias = w["rnn.bias_ih_l0"] + w["rnn.bias_hh_l0"]
        inputs = tf.matmul(y, w["rnn.weight_ih_l0"], transpose_b=True)
        gates = inputs + tf.matmul(h, w["rnn.weight_hh_l0"], transpose_b=True) + bias
        i, f, g, o = tf.split(gates, 4, axis=1)
        c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        h = tf.sigmoid(o) * tf.tanh(c)
        return {"y": tf.matmul(h, w["head.weight"], transpose_b=True) + w["head.bias"], "h": h, "c": c}

    module = tf.Module()
    module.step = step
    converter = tf.lite.TFLiteConverter.from_concrete_functions([step.get_concrete_function()], module)
    if small:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    data: bytes = converter.convert()
    return data


def run(data: bytes, frames: Any, hidden: int) -> tuple[Any, float]:
    """Logits of all frames, and the median microseconds of a step by the documented calls."""
    from ai_edge_litert.interpreter import Interpreter

    step = Interpreter(model_content=data, num_threads=1).get_signature_runner()
    state = {n: np.zeros((1, hidden), np.float32) for n in "hc"}
    said, took = [], []
    for k, frame in enumerate(frames):
        start = time.perf_counter()
        found = step(x=frame[None], **state)
        if k < ROUNDS:
            took.append(time.perf_counter() - start)
        state = {n: found[n] for n in "hc"}
        said.append(found["y"][0])
    return np.array(said), statistics.median(took) * 1e6


def main() -> None:
    """Figures of one net as JSON."""
    with np.load(sys.argv[1]) as file:
        given = {name: file[name] for name in file.files}
    signal = given.pop("signal")
    hidden = given["rnn.weight_hh_l0"].shape[1]
    frames = signal[: len(signal) // 6 * 6].reshape(-1, 6).astype(np.float32)
    models = {name: converted(given, name != "float32") for name in ("float32", "int8")}
    runs = {name: run(data, frames, hidden) for name, data in models.items()}
    a, b = runs["float32"][0], runs["int8"][0]
    drift = float(np.sqrt(((a - b) ** 2).mean() / a.var(axis=0).mean()))
    steps = {name: round(us, 1) for name, (_, us) in runs.items()}
    print(json.dumps({"bytes": {n: len(d) for n, d in models.items()}, "step_us": steps, "drift": drift}))


if __name__ == "__main__":
    main()
