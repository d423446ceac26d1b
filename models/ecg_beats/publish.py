"""From trained weights to model.onnx with its contract, and results.json."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from holdover.export import contract_io, settle, verify
from holdover.export.cnn_lstm import build
from holdover.models.ecg_beats.data import LABELS, MODEL_HZ, TRAIN, VALIDATION, Record, view
from holdover.models.ecg_beats.net import BEAT_DELAY, CLASS_DELAY, HIDDEN, LAST, SHAPE, Memory, Net, normalise, weights
from holdover.models.ecg_beats.score import THRESHOLD
from holdover.runtime.contract import Contract
from holdover.runtime.engine import initial_state
from holdover.runtime.errors import ContractError

SOURCES = [
    "Moody GB, Mark RG. The impact of the MIT-BIH Arrhythmia Database. IEEE Eng in Med and Biol 20(3):45-50, 2001. "
    "doi:10.13026/C2F305",
    "Goldberger AL et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101(23):e215-e220, 2000.",
    "Moody GB, Muldrow WE, Mark RG. A noise stress test for arrhythmia detectors. Computers in Cardiology 11:381-384, "
    "1984.",
]
MEANINGS: dict[str, dict[str, Any]] = {
    "beat": {"meaning": "event_logit", "delay": BEAT_DELAY},
    "offset": {"meaning": "offset", "delay": BEAT_DELAY},
    "class": {"meaning": "class_logits", "delay": CLASS_DELAY, "labels": list(LABELS)},
}


def publish(net: Net, records: Sequence[Record], facts: Mapping[str, Any], folder: Path) -> None:
    """Export, prove, and write model.onnx and results.json into the folder; print the figures.

    Parameters
    ----------
    net : Net
        The weights to ship.
    records : sequence of Record
        Real signals for the proof.
    facts : mapping
        `steps`, `seed`, `train_seconds` and `validation` of the training.
    folder : Path
        Written to.

    Raises
    ------
    ContractError
        The graph does not keep what the contract says.
    """
    model, states = build(SHAPE, weights(net))
    document = _document(states, _provenance(net, facts))
    contract_io.attach(model, document)
    document |= _proof(model, net, records, document)
    contract = contract_io.attach(model, document)
    size = contract_io.save(model, folder / "model.onnx")
    results = _results(net, facts, size, contract.document)
    contract_io.write_whole(folder / "results.json", (json.dumps(results, indent=1, sort_keys=True) + "\n").encode())
    print(json.dumps(results, indent=1, sort_keys=True))


def _document(states: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> dict[str, Any]:
    hop = SHAPE.front_end.hop
    frames = {"kind": "frames", "samples_per_frame": hop, "settle": 0}
    outputs = [{"name": n, **frames, **m, "first_at": LAST - m["delay"]} for n, m in MEANINGS.items()]
    lead = {"input": "x", "axis": 1, "rate_hz": float(MODEL_HZ), "channels": [{"name": "MLII", "unit": "mV"}]}
    beats = {"kind": "beats", "threshold": THRESHOLD, "refractory_s": 0.2}
    return {
        "version": 1,
        "name": "ecg-beats",
        "model_version": "0.1.0",
        "family": "cnn-lstm",
        "signals": [lead],
        "hop": hop,
        "first_chunk_min": hop,
        "grid": hop,
        "chunk_invariant": "grid",
        "eos_input": None,
        "states": list(states),
        "outputs": outputs,
        "front_end": [{"kind": "resample", "to_hz": float(MODEL_HZ)}],
        "detectors": [beats, {"kind": "ventricular"}, {"kind": "frequent"}, {"kind": "rate"}, {"kind": "asystole"}],
        "quantization": None,
        "verification": {},
        "provenance": provenance,
    }


def _provenance(net: Net, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "weights": contract_io.weights_hash(weights(net)),
        "trained_on": ["mitdb DS1 without 118, 119, 205, 223", "nstdb bw, ma (noise added)"],
        "train_records": TRAIN,
        "validation_records": VALIDATION,
        "data_license": "ODC-By-1.0",
        "data_attribution": SOURCES,
        "license": "Apache-2.0",
        "recipe": "models/ecg_beats/train.py",
        "steps": facts["steps"],
        "seed": facts["seed"],
        "torch": torch.__version__.split("+")[0],
    }


def whole_sequence(net: Net, x: verify.Array) -> dict[str, verify.Array]:
    """The outputs for whole signals (batch, samples, 1), by scipy's recurrences and torch, without the graph."""
    z = torch.from_numpy(normalise(x[..., 0].astype(np.float64)))
    with torch.no_grad():
        y = net(z, Memory.zeros(len(x)))[0].numpy()
    edges = np.cumsum([width for _, width in SHAPE.heads])[:-1]
    return dict(zip(MEANINGS, np.split(y, edges, axis=2), strict=True))


def _proof(model: onnx.ModelProto, net: Net, records: Sequence[Record], document: dict[str, Any]) -> dict[str, Any]:
    """The parts of the contract that are measured; raises `ContractError` on a refusal."""
    contract = Contract.of(document)
    x = np.stack([view(r)[: 600 * MODEL_HZ] for r in records])[..., None]
    proof = verify.prove(model, contract, x[:3, : 60 * MODEL_HZ], lambda x: whole_sequence(net, x))
    if proof.refusals:
        raise ContractError(f"the model is not exported: {'; '.join(proof.refusals)}")
    agreement = settle.Agreement()
    found = settle.settle(verify.stepper(model, contract), contract, x, agreement)
    outputs = [{**o, "settle": found[o["name"]]} for o in document["outputs"]]
    measured = {"method": settle.METHOD, **asdict(agreement), "recordings": len(records), "data": "mitdb DS1"}
    verification = {**proof.document(), "onnxruntime": onnxruntime.__version__, "settle": measured}
    invariant = "bitwise" if proof.bitwise else "grid"
    return {"outputs": outputs, "chunk_invariant": invariant, "verification": verification}


def _results(net: Net, facts: Mapping[str, Any], size: int, document: Mapping[str, Any]) -> dict[str, Any]:
    """What results.json says."""
    return {
        **facts,
        "parameters": sum(p.numel() for p in net.parameters()) - 4 * HIDDEN * SHAPE.lstm_layers,
        "file_bytes": size,
        "weights": document["provenance"]["weights"],
        "state_floats": sum(v.size for v in initial_state(Contract.of(document)).values()),
        "delay_samples": {o["name"]: o["delay"] for o in document["outputs"]},
        "settle_samples": {o["name"]: o["settle"] for o in document["outputs"]},
        "verification": document["verification"],
        "torch": torch.__version__.split("+")[0],
    }
