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
from holdover.models.ecg_beats.data import LABELS, MODEL_HZ
from holdover.models.ecg_beats.net import HIDDEN, LAST, normalise
from holdover.models.ecg_beats.score import THRESHOLD
from holdover.models.ecg_rhythm.data import RHYTHMS, SPLITS, Record, view
from holdover.models.ecg_rhythm.net import COLUMNS, DELAYS, HOP, SHAPE, SIDE, Memory, Net, weights
from holdover.runtime.contract import Contract
from holdover.runtime.engine import initial_state
from holdover.runtime.errors import ContractError

SOURCES = [
    "Moody GB, Mark RG. The impact of the MIT-BIH Arrhythmia Database. IEEE Eng in Med and Biol 20(3):45-50, 2001. "
    "doi:10.13026/C2F305",
    "Goldberger AL et al. PhysioBank, PhysioToolkit, and PhysioNet. Circulation 101(23):e215-e220, 2000.",
    "Moody GB, Muldrow WE, Mark RG. A noise stress test for arrhythmia detectors. Computers in Cardiology 11:381-384, "
    "1984.",
    "Greenwald SD. Improved detection and classification of arrhythmias in noise-corrupted electrocardiograms using "
    "contextual information. Thesis, Harvard-MIT Division of Health Sciences and Technology, 1990.",
    "Greenwald SD. Development and analysis of a ventricular fibrillation detector. Thesis, MIT, 1986.",
    "Clifford GD et al. AF classification from a short single lead ECG recording: the PhysioNet/Computing in "
    "Cardiology Challenge 2017. Computing in Cardiology 44, 2017. doi:10.22489/CinC.2017.065-469",
]
MEANINGS: dict[str, dict[str, Any]] = {
    "beat": {"meaning": "event_logit"},
    "offset": {"meaning": "offset"},
    "class": {"meaning": "class_logits", "labels": list(LABELS)},
    "rhythm": {"meaning": "rhythm_logits", "labels": list(RHYTHMS)},
    "quality": {"meaning": "quality"},
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
    document |= measured(model, net, records, document)
    contract = contract_io.attach(model, document)
    file = model.SerializeToString(deterministic=True)
    text = json.dumps(_results(net, facts, len(file), contract.document), indent=1, sort_keys=True) + "\n"
    contract_io.write_together([(folder / "model.onnx", file), (folder / "results.json", text.encode())])
    print(text, end="")


def _document(states: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> dict[str, Any]:
    frames = {"kind": "frames", "samples_per_frame": HOP, "settle": 0}
    places = {n: {"delay": delay, "first_at": LAST - delay} for n, delay in DELAYS.items()}
    outputs = [{"name": n, **frames, **m, **places[n]} for n, m in MEANINGS.items()]
    lead = {"input": "x", "axis": 1, "rate_hz": float(MODEL_HZ), "channels": [{"name": "MLII", "unit": "mV"}]}
    beats = {"kind": "beats", "threshold": THRESHOLD, "refractory_s": 0.2}
    return {
        "version": 1,
        "name": "ecg-rhythm",
        "model_version": "0.1.0",
        "family": "cnn-lstm",
        "signals": [lead],
        "hop": HOP,
        "first_chunk_min": HOP,
        "grid": HOP,
        "chunk_invariant": "grid",
        "eos_input": None,
        "states": list(states),
        "outputs": outputs,
        "front_end": [{"kind": "resample", "to_hz": float(MODEL_HZ)}],
        "detectors": [beats, *({"kind": kind} for kind in ("ventricular", "frequent", "rate", "rhythm", "asystole"))],
        "quantization": None,
        "verification": {},
        "provenance": provenance,
    }


def _provenance(net: Net, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "weights": contract_io.weights_hash(weights(net)),
        "trained_on": [
            *(f"{source} {' '.join(parts['train'])}" for source, parts in SPLITS.items()),
            "cinc2017, numbers that do not end in 0 or 5",
            "nstdb bw, ma (noise added)",
        ],
        "validation_records": {source: list(parts["validation"]) for source, parts in SPLITS.items()},
        "data_license": "ODC-By-1.0",
        "data_attribution": SOURCES,
        "license": "Apache-2.0",
        "recipe": "models/ecg_rhythm/train.py",
        "steps": facts["steps"],
        "seed": facts["seed"],
        "torch": torch.__version__.split("+")[0],
    }


def whole_sequence(net: Net, x: verify.Array) -> dict[str, verify.Array]:
    """The outputs for whole signals (batch, samples, 1), by scipy's recurrences and torch, without the graph."""
    z = torch.from_numpy(normalise(x[..., 0].astype(np.float64)))
    with torch.no_grad():
        y = net(z, Memory.zeros(len(x)))[0].numpy()
    return {name: y[..., columns] for name, columns in COLUMNS.items()}


def measured(model: onnx.ModelProto, net: Net, records: Sequence[Record], document: dict[str, Any]) -> dict[str, Any]:
    """The parts of the contract that are measured; raises `ContractError` on a refusal."""
    contract = Contract.of(document)
    x = np.stack([view(r)[: 600 * MODEL_HZ] for r in records])[..., None]
    proof = verify.prove(model, contract, x[:3, : 60 * MODEL_HZ], lambda x: whole_sequence(net, x))
    if proof.refusals:
        raise ContractError(f"the model is not exported: {'; '.join(proof.refusals)}")
    agreement = settle.Agreement()
    found = settle.settle(verify.stepper(model, contract), contract, x, agreement)
    sooner = settle.settle_label(verify.stepper(model, contract), contract, x, "V", agreement)
    outputs = [{**o, "settle": found[o["name"]]} for o in document["outputs"]]
    for o in outputs:
        if sooner.get(o["name"], o["settle"]) < o["settle"]:
            o["settle_labels"] = {"V": sooner[o["name"]]}
    settled = {"method": settle.METHOD, **asdict(agreement), "recordings": len(records), "data": "mitdb DS1"}
    verification = {**proof.document(), "onnxruntime": onnxruntime.__version__, "settle": settled}
    invariant = "bitwise" if proof.bitwise else "grid"
    return {"outputs": outputs, "chunk_invariant": invariant, "verification": verification}


def _results(net: Net, facts: Mapping[str, Any], size: int, document: Mapping[str, Any]) -> dict[str, Any]:
    """What results.json says."""
    return {
        **facts,
        "parameters": sum(p.numel() for p in net.parameters()) - 4 * (HIDDEN * SHAPE.lstm_layers + SIDE),
        "file_bytes": size,
        "weights": document["provenance"]["weights"],
        "state_floats": sum(v.size for v in initial_state(Contract.of(document)).values()),
        "delay_samples": {o["name"]: o["delay"] for o in document["outputs"]},
        "settle_samples": {o["name"]: o["settle"] for o in document["outputs"]},
        "settle_labels": {o["name"]: o["settle_labels"] for o in document["outputs"] if "settle_labels" in o},
        "verification": document["verification"],
        "torch": torch.__version__.split("+")[0],
    }
