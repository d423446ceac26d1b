"""Every family of models, from every source it can come from, streams as its original does."""

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from holdover.export.describe import Statement
from holdover.export.exporting import Exported, Options, export
from holdover.export.original import Original, SourceOptions
from holdover.export.sources.table import read
from holdover.export.whole import clean, layouts

KERAS = Path(__file__).parent / "fixtures" / "keras"
REFUSED = {"backwards", "bidirectional", "bidirectional_last", "conv_same_strided"}
"""Keras fixtures that cannot be streamed, and are refused (tests of the rules)."""
KERAS_MODELS = sorted(p.stem for p in KERAS.glob("*.npz") if p.stem not in REFUSED)
INT8 = ("conv_causal", "conv_same", "depthwise", "stack")
RAW = ("lstm", "gru", "gru_linear_before_reset", "rnn_tanh", "rnn_relu")

WORST: dict[str, float] = {}
"""Largest error by source and model, as the tests find them."""


def exported(original: Original, name: str) -> Exported:
    """Export with a lead for each channel, and note the error."""
    width = sum(layout.channels for layout in layouts(clean(original.model), original.time_axes))
    leads = tuple(f"lead{i}" for i in range(width))
    done = export(original, Options(Statement(name, 360.0, leads, "mV")))
    WORST[name] = done.proof.max_error
    assert done.proof.frames > 200
    assert done.contract.document["verification"]["max_error"] <= done.proof.tolerance
    return done


def zoo() -> Iterator[Any]:
    """The torch modules, where torch is there."""
    try:
        from tests.zoo_torch import STREAMABLE
    except ImportError:
        yield pytest.param(
            None, None, marks=pytest.mark.skip(reason="torch is not installed: pip install holdover[torch]")
        )
        return
    yield from (pytest.param(make, shape, id=name) for name, (make, shape) in STREAMABLE.items())


@pytest.mark.parametrize(("make", "shape"), list(zoo()))
def test_a_torch_module(make: Any, shape: Any, request: pytest.FixtureRequest) -> None:
    from holdover.export.sources.torch_export import export as read_module

    done = exported(read_module(make(), SourceOptions(input_shape=shape)), f"torch {request.node.callspec.id}")
    assert done.proof.max_error <= 1e-5


FROZEN = {
    "conv_same": "the old exporter computes its padding from the traced length",
    "encoder_window": "the old exporter freezes a Reshape",
    "encoder_norm_first": "the old exporter freezes a Reshape",
}
"""What torch's TorchScript exporter gets wrong."""


@pytest.mark.parametrize(("make", "shape"), list(zoo()))
def test_a_module_from_the_old_torch_exporter(make: Any, shape: Any, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    if name in FROZEN:
        pytest.skip(FROZEN[name])
    done = exported(Original(legacy(make(), shape), "onnx", "0" * 64), f"old torch exporter {name}")
    assert done.proof.max_error <= 1e-5


def legacy(module: Any, shape: tuple[int | str, ...]) -> onnx.ModelProto:
    """What torch's TorchScript exporter makes of a module."""
    import inspect

    import torch

    sizes = [{"batch": 2, "time": 50}.get(str(n), n) for n in shape]
    count = len([p for p in inspect.signature(module.forward).parameters.values() if p.default is p.empty])
    inputs = tuple(torch.randn(*sizes) for _ in range(count))
    axes = {f"x{i}": {k: n for k, n in enumerate(shape) if isinstance(n, str)} for i in range(count)}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, file, dynamo=False, opset_version=17, input_names=list(axes),
                          dynamic_axes=axes)  # fmt: skip
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize("name", KERAS_MODELS)
def test_a_keras_file(name: str) -> None:
    pytest.importorskip("h5py", reason="the extra `keras`: pip install holdover[keras]")
    done = exported(keras(name), f"keras {name}")
    assert done.proof.max_error <= 1e-5


def keras(name: str) -> Original:
    """A fixture as the reader gives it."""
    return read(str(KERAS / f"{name}.keras"), SourceOptions(width=2 if name == "permute" else 1))


@pytest.mark.parametrize("activations", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("name", INT8)
def test_a_quantized_graph_to_the_bit(name: str, activations: str, tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="the extra `keras`: pip install holdover[keras]")
    done = exported(Original(quantized(keras(name), activations, tmp_path), "onnx", "0" * 64), f"{activations} {name}")
    assert done.proof.max_error == 0
    assert done.contract.bitwise
    kinds = {s.dtype for s in done.contract.states}
    assert kinds & {"int8", "uint8"} or name == "stack", "history belongs on the integer side"


def quantized(original: Original, activations: str, folder: Path) -> onnx.ModelProto:
    """Static quantization of a graph by onnxruntime, calibrated on noise."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    model = clean(original.model)
    inputs = layouts(model, original.time_axes)
    onnx.save(model, folder / "float.onnx")
    rng = np.random.default_rng(0)
    signals = [{i.name: rng.normal(size=i.shape(1, 120)).astype(np.float32) for i in inputs} for _ in range(8)]

    class Noise(CalibrationDataReader):  # type: ignore[misc]
        left = iter(signals)

        def get_next(self) -> Any:
            return next(self.left, None)

    quantize_static(
        str(folder / "float.onnx"), str(folder / "int8.onnx"), Noise(), quant_format=QuantFormat.QDQ,
        activation_type=QuantType[activations], weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "MatMul", "Gemm", "Add", "MaxPool"],
    )  # fmt: skip
    return onnx.load(folder / "int8.onnx")


@pytest.mark.parametrize("name", RAW)
def test_raw_weights(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    gates = {"lstm": "fico", "gru": "zrh"}.get(name.split("_")[0], "h")
    weights = {f"W_{g}": rng.normal(size=(6, 8)) * 0.25 for g in gates} | {f"b_{g}": rng.normal(size=6) for g in gates}
    weights |= {"head.W": rng.normal(size=(3, 6)), "head.b": rng.normal(size=3)}
    if name.endswith("reset"):
        weights["linear_before_reset"] = np.asarray(1)
    path = tmp_path / "weights.npz"
    np.savez(path, **{k: np.asarray(v, np.float32) for k, v in weights.items()})
    options = SourceOptions(width=2, activation="relu" if name == "rnn_relu" else "tanh" if gates == "h" else None)
    assert exported(read(str(path), options), f"raw weights {name}").proof.max_error <= 1e-5


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_weights_by_torch_names(kind: str, tmp_path: Path) -> None:
    save_file = pytest.importorskip("safetensors.numpy").save_file
    rng, rows = np.random.default_rng(4), {"LSTM": 4, "GRU": 3}[kind]

    def layer(k: int, inputs: int) -> dict[str, Any]:
        shapes = {"weight_ih": (rows * 5, inputs), "weight_hh": (rows * 5, 5), "bias_ih": (rows * 5,),
                  "bias_hh": (rows * 5,)}  # fmt: skip
        return {f"rnn.{n}_l{k}": (rng.normal(size=s) * 0.3).astype(np.float32) for n, s in shapes.items()}

    head = {"fc.weight": rng.normal(size=(2, 5)).astype(np.float32), "fc.bias": np.zeros(2, np.float32)}
    path = tmp_path / "weights.safetensors"
    save_file(layer(0, 3) | layer(1, 5) | head, str(path))
    assert exported(read(str(path), SourceOptions(width=3)), f"safetensors {kind}").proof.max_error <= 1e-5


def test_the_matrix_is_whole(request: pytest.FixtureRequest) -> None:
    if len(request.session.items) < 50:
        pytest.skip("only a part of the matrix was run")
    pytest.importorskip("torch", reason="most of the matrix comes from torch")
    worst = max(WORST, key=lambda name: WORST[name])
    print(f"\n{len(WORST)} graphs streamed; worst error {WORST[worst]:.1e} ({worst})")
    assert len(WORST) >= 60
    assert WORST[worst] <= 1e-5
