"""The peers that `quantize.py` measures beside: onnxruntime's own `quantize_dynamic`, and LiteRT."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from quantize_nets import NETS, RATE_HZ

from holdover.export.contract_io import attach
from holdover.quantize.method import Parent
from holdover.quantize.methods.static_int8 import named

PEER = "peer: quantize_dynamic"
LITERT = "peer: LiteRT"
LITERT_NETS = ("LSTM 64", "LSTM 256", "LSTM 512")
LITERT_S = 1800.0


def peer(parent: Parent) -> bytes:
    """What `quantize_dynamic` makes of the streaming file, with the contract's word that it takes a hop at a time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "model.onnx"
        quantize_dynamic(named(parent.model), place, weight_type=QuantType.QInt8)
        model = onnx.load(place)
    onnx.helper.set_model_props(model, {})
    attach(model, dict(parent.contract.document) | {"chunk_invariant": "grid", "grid": parent.contract.hop})
    data: bytes = model.SerializeToString()
    return data


def litert(name: str, python: Path, signal: NDArray[np.float32]) -> dict[str, Any]:
    """What LiteRT makes of an LSTM net; ratios are to its own float model."""
    import torch

    torch.manual_seed(0)
    weights = {n: v.numpy() for n, v in NETS[name]().state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "net.npz"
        np.savez(place, signal=signal[: round(LITERT_S * RATE_HZ), 0], **weights)
        words = [str(python), str(Path(__file__).parent / "quantize_litert.py"), str(place)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    size, us = found["bytes"], found["step_us"]
    return {"model": name, "method": LITERT, "bytes": size["int8"], "smaller": round(size["float32"] / size["int8"], 2),
            "us_1": us["int8"], "x_1": round(us["int8"] / us["float32"], 2),
            "drift": {"hours": LITERT_S / 3600, "worst_hour": found["drift"]}}  # fmt: skip
