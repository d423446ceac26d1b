"""The course of fine-tuning: read, teach, judge, prove, and write, unless the held-out records got worse."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from holdover.export import contract_io, verify
from holdover.export.cnn_lstm import build
from holdover.models.ecg_beats.data import MODEL_HZ
from holdover.models.ecg_beats.score import UNSCORED_S, Counts
from holdover.models.ecg_rhythm import publish
from holdover.models.ecg_rhythm.before_after import SETTLED_S, judged, mistakes, table
from holdover.models.ecg_rhythm.data import Record, load, noises, view
from holdover.models.ecg_rhythm.net import SHAPE, Net, trained, weights
from holdover.models.ecg_rhythm.own_records import LEAST_S, read, split
from holdover.models.ecg_rhythm.train import check, data_folder
from holdover.models.ecg_rhythm.tuning import Public, tuned
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ContractError, HoldoverError, UsageError


def run(options: argparse.Namespace) -> None:
    """Read, teach, judge, and write OUT/model.onnx and OUT/results.json.

    Raises
    ------
    HoldoverError
        Records, a model or options that cannot be used; or the held-out records got worse.
    """
    parent, contract = trained(options.model)
    _check(options)
    taught, held_out = split(read(options, contract), options.validation)
    _say(f"{len(taught)} records teach: {_names(taught)}")
    _say(f"{len(held_out)} held out: {_names(held_out)}")
    public = _public(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    _say("judging the model as it is")
    before = _judged(parent, held_out, public)
    net = tuned(parent, taught, public, options.steps, options.seed)
    after = _judged(net, held_out, public)
    for whose, counts in after.items():
        _say(*table(whose, before[whose], counts))
    _refuse_worse(before["held out"], after["held out"], options.even_if_worse)
    facts = {"steps": options.steps, "seed": options.seed, "taught": [r.name for r in taught]}
    facts |= {"held_out": [r.name for r in held_out], "before": before, "after": after}
    model = exported(net, contract, options.name, facts, taught, public)
    results = json.dumps(facts | {"weights": contract_io.weights_hash(weights(net))}, indent=1, sort_keys=True) + "\n"
    file = options.out / "model.onnx"
    contract_io.write_together(
        [(file, model.SerializeToString(deterministic=True)), (options.out / "results.json", results.encode())]
    )
    _say(f"{file} is written: holdover replay --model {file} RECORD")


def _check(options: argparse.Namespace) -> None:
    check(options.steps, options.seed)
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file; name a folder")
    if (options.out / "model.onnx").resolve() == options.model.resolve():
        raise UsageError(f"--out {options.out} would replace the model that is taught; name another folder")


def _public(given: str | None) -> Public:
    if not (given or os.environ.get("HOLDOVER_DATA")):
        _say(
            "without --data nothing holds it to what it knows of other patients; the table cannot show what it forgets"
        )
        return Public()
    folder = data_folder(given)
    _say(f"half of what it sees comes from {folder}, so that it keeps what it knows; reading")
    return Public(load(folder, "train"), load(folder, "validation"), noises(folder / "nstdb"))


def _judged(net: Net, held_out: Sequence[Record], public: Public) -> dict[str, Counts]:
    found = {"held out": judged(net, held_out, SETTLED_S)}
    beats = [r for r in public.validation if len(r.at)]
    return found | ({"public": judged(net, beats, UNSCORED_S)} if beats else {})


def _refuse_worse(before: Counts, after: Counts, anyway: bool) -> None:
    if mistakes(after) <= mistakes(before):
        return
    said = f"the held-out records got worse: {mistakes(after):,} mistakes, {mistakes(before):,} before"
    if not anyway:
        raise HoldoverError(
            f"{said}; nothing is written. More records, --data or other --steps may help; --even-if-worse writes it"
        )
    _say(f"{said}; it is written all the same")


def exported(
    net: Net, contract: Contract, name: str | None, facts: Mapping[str, Any], taught: Sequence[Record], public: Public
) -> onnx.ModelProto:
    """The streaming graph, proven, with the parent's contract and where it comes from.

    The time to settle is measured on the public records as the recipe does, and the parent's where there are none.

    Raises
    ------
    ContractError
        The graph does not keep what the contract says.
    """
    model, states = build(SHAPE, weights(net))
    document = {**contract.document, "name": name or f"{contract.name}-finetuned", "states": states}
    document |= {"quantization": None, "provenance": _provenance(net, contract, facts)}
    records = [r for r in (*public.records, *public.validation) if r.source == "mitdb"]
    document |= publish.measured(model, net, records, document) if records else _proof(model, net, taught, document)
    contract_io.attach(model, document)
    proof = document["verification"]
    ahead = max(proof["lookahead_measured"].values())
    _say(f"proven: {document['chunk_invariant']} the same in {proof['chunkings']} ways to cut, look-ahead {ahead}")
    return model


def _provenance(net: Net, contract: Contract, facts: Mapping[str, Any]) -> dict[str, Any]:
    theirs = contract.document.get("provenance", {})
    parent = {"name": contract.name, "version": contract.model_version, "weights": theirs.get("weights", "not stated")}
    return {
        **theirs,
        "weights": contract_io.weights_hash(weights(net)),
        "parent": parent,
        "fine_tuned_on": facts["taught"],
        "fine_tuned_data_license": "not stated",
        "held_out": facts["held_out"],
        "recipe": "models/ecg_rhythm/finetune.py",
        "steps": facts["steps"],
        "seed": facts["seed"],
        "torch": torch.__version__.split("+")[0],
    }


def _proof(model: onnx.ModelProto, net: Net, records: Sequence[Record], document: Mapping[str, Any]) -> dict[str, Any]:
    """As that of `publish`, on half minutes of the user's records, and with the parent's times to settle."""
    x = np.concatenate([view(r)[: int(LEAST_S) * MODEL_HZ].reshape(2, -1) for r in records[:2]])
    contract = contract_io.attach(model, document)
    proof = verify.prove(model, contract, x[..., None], lambda x: publish.whole_sequence(net, x))
    if proof.refusals:
        raise ContractError(f"the model is not exported: {'; '.join(proof.refusals)}")
    settle = {"method": "not measured again: those of the parent"}
    verification = {**proof.document(), "onnxruntime": onnxruntime.__version__, "settle": settle}
    return {"chunk_invariant": "bitwise" if proof.bitwise else "grid", "verification": verification}


def _say(*lines: str) -> None:
    print("\n".join(lines), flush=True)


def _names(records: Sequence[Record]) -> str:
    return " ".join(r.name for r in records)
