"""Teach ecg-rhythm a user's own annotated records; what it became is written unless it judges held-out ones worse."""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from math import cos, pi
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from scipy.signal import firwin, oaconvolve, resample_poly
from torch import Tensor, nn
from torch.nn import functional

from holdover.apps.doubts import SIZE_MV
from holdover.apps.feed import open_recording
from holdover.devices.sources import kind_of, records_in
from holdover.evaluate.annotations import read_annotations
from holdover.export import contract_io, verify
from holdover.export.cnn_lstm import build
from holdover.models.ecg_beats.data import MODEL_HZ, OTHER, RATE_HZ
from holdover.models.ecg_beats.net import normalise
from holdover.models.ecg_beats.score import UNSCORED_S, Counts, count, decode
from holdover.models.ecg_rhythm import data, publish, streams
from holdover.models.ecg_rhythm.data import UNKNOWN, Record, load, noises, view
from holdover.models.ecg_rhythm.disturb import disturb
from holdover.models.ecg_rhythm.net import COLUMNS, HOP, SHAPE, Memory, Net, trained, weights
from holdover.models.ecg_rhythm.score import runner
from holdover.models.ecg_rhythm.train import EVERY_PRINT, SHARES, SLOTS, Training, data_folder, losses_of
from holdover.runtime.contract import Contract
from holdover.runtime.errors import ContractError, HoldoverError, ModelError, SourceError, UsageError

HERE = Path(__file__).parent
ANNOTATOR = "atr"
RATE = 3e-4
WARM_UP = 20
LEAST_S = 60.0
LONGEST_S = 150.0
"""What a segment may take of a record."""
EDGE = 5 * RATE_HZ
"""Samples that are kept before the first beat and after the last."""
PAUSE_S = 10.0
"""A longer time without a beat is taken for one that nobody annotated."""
BESIDE = round(0.3 * RATE_HZ)
"""Samples from a beat within which there is no other."""
SETTLED_S = 10.0
"""From here on a held-out record is judged."""
NEW_CONTEXT_S = 3.0
"""After a seam a beat is not asked for its class: it depends on what came before."""
BEAT = 0.3
"""Wanted probability of a beat from which on a frame has an offset."""
EVERY_FIFTH = 5

Array = NDArray[Any]


class Public(NamedTuple):
    """What the recipe learns from and is judged by; empty where the user has none of it."""

    records: Sequence[Record] = ()
    validation: Sequence[Record] = ()
    noise: Sequence[Array] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as asked; 0 if a model was written."""
    options = _options().parse_args(arguments)
    torch.set_num_threads(1)
    try:
        run(options)
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error}; make room or name another --out", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    return 0


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
    results = json.dumps(facts | {"weights": f"sha256:{publish.weights_hash(net)}"}, indent=1, sort_keys=True) + "\n"
    file = options.out / "model.onnx"
    contract_io.write_together(
        [(file, model.SerializeToString(deterministic=True)), (options.out / "results.json", results.encode())]
    )
    _say(f"{file} is written: holdover replay --model {file} RECORD")


def _check(options: argparse.Namespace) -> None:
    if options.steps < 1:
        raise UsageError(f"--steps {options.steps} teaches nothing; give 1 or more")
    if options.out.exists() and not options.out.is_dir():
        raise UsageError(f"--out {options.out} is a file; name a folder")
    if (options.out / "model.onnx").resolve() == options.model.resolve():
        raise UsageError(f"--out {options.out} would replace the model that is taught; name another folder")


def read(options: argparse.Namespace, contract: Contract) -> list[Record]:
    """The user's records, all of them, or an error that names each that cannot be learned from.

    Raises
    ------
    SourceError
        No folder, or records that lack annotations, beats, a lead, a unit, or length.
    """
    found, wrong = [], []
    for path in records_in(options.records):
        try:
            found.append(_record(path.with_suffix(""), path, contract, options))
        except (SourceError, UsageError) as error:
            wrong.append(f"{path.stem}: {error}")
    if wrong:
        said = "\n  ".join(wrong)
        raise SourceError(
            f"{len(wrong)} of {len(found) + len(wrong)} records cannot be learned from; mend them, or move them out "
            f"of {options.records}\n  {said}"
        )
    return found


def _record(base: Path, path: Path, contract: Contract, options: argparse.Namespace) -> Record:
    x, rate_hz = _signal(path, contract, options)
    annotations = read_annotations(str(base), ANNOTATOR, rate_hz, round(len(x) / RATE_HZ * rate_hz))
    marks = data.marks_of(base, rate_hz)
    beats = [(s, data.CLASS[m]) for s, m, _ in marks if m in data.CLASS and s < len(x)]
    if not beats:
        symbols = "".join(data.CLASS)
        raise SourceError(f"none of its {len(annotations)} annotations is a beat ({symbols}); annotate its beats")
    at, kind = (np.array(v, np.int64) for v in zip(*beats, strict=True))
    at = at + data.early_by(x, at[kind == 0])
    start, stop = max(at[0] - EDGE, 0), min(at[-1] + EDGE, len(x))
    if stop - start < LEAST_S * RATE_HZ:
        raise SourceError(f"annotated over {(at[-1] - at[0]) / RATE_HZ:.0f} s; expected {LEAST_S:.0f} s or more")
    marks = [(s - start, symbol, aux) for s, symbol, aux in marks]
    return _part(base.name, x[start:stop], marks, at - start, kind)


def _part(name: str, x: Array, marks: Sequence[tuple[int, str, str]], at: Array, kind: Array) -> Record:
    said = data.stretches(marks, len(x))
    noise, tachycardia = ([(a, b) for a, b, each in said if each == word] for word in ("NOISE", "VT"))
    unknown = np.concatenate([_flutter(marks), _silent(at, len(x))])
    spans = (data.spans(noise, 2), data.spans(tachycardia, 2))
    return Record(name, "own", x[None], at, kind, data.rhythms(said), unknown, *spans)


def _signal(path: Path, contract: Contract, options: argparse.Namespace) -> tuple[NDArray[np.float32], float]:
    """The lead in mV, low-passed at 360 Hz as `Record` has it; and the rate that it was recorded at."""
    stated = {k: v for k, v in (("unit", options.unit), ("rate_hz", options.rate)) if v is not None}
    feed = open_recording(path, contract, options.lead, **stated if kind_of(path) in ("csv", "npz") else {})
    chunks = list(feed.chunks())
    x = np.full(max((c.end for c in chunks), default=0), np.nan)
    for chunk in chunks:
        x[chunk.at : chunk.end] = chunk.x[:, 0]
    rate_hz = feed.source.rate_hz
    _check_signal(x, rate_hz, feed.leads[0])
    there = np.isfinite(x)
    x = np.interp(np.arange(len(x)), np.flatnonzero(there), x[there])
    ratio = Fraction(RATE_HZ) / Fraction(rate_hz).limit_denominator(1000)
    if ratio != 1:
        x = resample_poly(x, ratio.numerator, ratio.denominator)
    taps = firwin(61, MODEL_HZ / RATE_HZ, window=("kaiser", 5.0))
    return oaconvolve(x, taps, mode="same").astype(np.float32), rate_hz


def _check_signal(x: Array, rate_hz: float, lead: str) -> None:
    if len(x) < LEAST_S * rate_hz:
        raise SourceError(f"{len(x) / rate_hz:.0f} s long; expected {LEAST_S:.0f} s or more")
    there = x[np.isfinite(x)]
    if len(there) < LEAST_S * rate_hz:
        raise SourceError(f"only {len(there) / rate_hz:.0f} s of {lead} are there, the rest is missing")
    low, high = np.percentile(there, (0.5, 99.5))
    least, most = SIZE_MV
    if not least <= high - low <= most:
        raise SourceError(
            f"{lead} is {high - low:.3g} mV peak to peak, as no ECG is ({least:g} to {most:g} mV); correct its unit"
        )


def _flutter(marks: Sequence[tuple[int, str, str]]) -> NDArray[np.int64]:
    edges = [symbol for _, symbol, _ in marks if symbol in "[]"]
    if edges != ["[", "]"] * (len(edges) // 2):
        raise SourceError("its marks of flutter, [ and ], do not come in pairs; add the one that is missing")
    return data.fluttering(marks)


def _silent(at: Array, end: int) -> NDArray[np.int64]:
    """Stretches (stretches, 2) in which nobody annotated: before the first beat, after the last, and long pauses."""
    low, high = np.array([0, *(at + BESIDE)]), np.array([*(at - BESIDE), end])
    long = np.diff(at, prepend=-np.inf, append=np.inf) > PAUSE_S * RATE_HZ
    return np.stack([low, high], 1)[long & (low < high)]


def split(records: Sequence[Record], validation: Sequence[str] | None) -> tuple[list[Record], list[Record]]:
    """Records to learn from, and those held out: the ones named, else every fifth, at least the last.

    Raises
    ------
    UsageError
        Fewer than two records, a name that none has, or none left to learn from.
    """
    if len(records) < 2:
        raise UsageError(
            f"there is {len(records)} record; two or more are needed, as one must be held out to judge what was learned"
        )
    names = [r.name for r in records]
    if unknown := sorted(set(validation or ()) - set(names)):
        raise UsageError(f"--validation {' '.join(unknown)}: no such record; there are {' '.join(names)}")
    held = set(validation or names[EVERY_FIFTH - 1 :: EVERY_FIFTH] or names[-1:])
    if held == set(names):
        raise UsageError("--validation names all records; leave some to learn from")
    return [r for r in records if r.name not in held], [r for r in records if r.name in held]


def _public(given: str | None) -> Public:
    if not (given or os.environ.get("HOLDOVER_DATA")):
        _say(
            "without --data nothing holds it to what it knows of other patients; the table cannot show what it forgets"
        )
        return Public()
    folder = data_folder(given)
    _say(f"half of what it sees comes from {folder}, so that it keeps what it knows; reading")
    return Public(load(folder, "train"), load(folder, "validation"), noises(folder / "nstdb"))


class OwnStreams(streams.Streams):
    """Segments of a user's records, all with beats, perhaps none S or V; beside them those of other streams.

    Parameters
    ----------
    records, noise, slots, rng
        As those of `Streams`.
    others : Streams, optional
        Give the slots that come after one's own.
    """

    def __init__(
        self,
        records: Sequence[Record],
        noise: Sequence[Array],
        slots: int,
        rng: np.random.Generator,
        others: streams.Streams | None = None,
    ) -> None:
        self._others = others
        super().__init__([_long(r) for r in records], noise, slots, rng)

    def step(self) -> tuple[Array, streams.Targets, Array]:
        """As `Streams.step`, of all slots."""
        if self._others is None:
            return super().step()
        (z, mine, alive), (other_z, theirs, other_alive) = super().step(), self._others.step()
        names = [f.name for f in fields(streams.Targets)]
        both = streams.Targets(*(np.concatenate([getattr(mine, n), getattr(theirs, n)]) for n in names))
        return np.concatenate([z, other_z]), both, np.concatenate([alive, other_alive])

    def _weighted(self, kind: int) -> Array:
        total = np.array([(r.kind == kind).sum() for r in self._beats], float)
        return np.asarray(np.sqrt(np.minimum(total, 200)))

    def _place(self, length: float) -> tuple[Record, float]:
        """As `Streams._place`, of the classes that there are."""
        rng, there = self._rng, [k for k, share in self._centres.items() if share.any()]
        if not there or rng.random() < 0.5:
            record = self._beats[int(rng.integers(len(self._beats)))]
            at = rng.uniform(0, record.leads.shape[1])
        else:
            kind = int(rng.choice(there))
            share = self._centres[kind] / self._centres[kind].sum()
            record = self._beats[int(rng.choice(len(self._beats), p=share))]
            at = float(rng.choice(record.at[record.kind == kind])) - rng.uniform(0.1, 0.9) * length
        return record, float(np.clip(at, 0, record.leads.shape[1] - length - 2))

    def _draw(self) -> tuple[Array, streams.Targets]:
        stretch = self._annotated()
        x, quality, dead = disturb(stretch.x, self._noise, self._rng)
        return normalise(x), streams._targets(stretch, np.where(stretch.noisy, 1, quality), dead)


def _long(record: Record) -> Record:
    """The record, again and again where it is shorter than a segment may be; what spans a seam is not asked for."""
    n = record.leads.shape[1]
    times = -(-round(LONGEST_S * RATE_HZ) // n)
    if times == 1:
        return record
    starts = np.arange(times) * n
    at = (starts[:, None] + record.at).ravel()
    kind = np.tile(np.where(record.at < NEW_CONTEXT_S * RATE_HZ, OTHER, record.kind), times)
    kind[: len(record.kind)] = record.kind
    seams = np.stack([starts[1:] - RATE_HZ // 2, starts[1:] + RATE_HZ // 2], 1)
    return replace(
        record,
        leads=np.tile(record.leads, times),
        at=at,
        kind=kind,
        rhythm=np.concatenate([record.rhythm + np.array([s, s, 0]) for s in starts]),
        unknown=np.concatenate([seams, *(record.unknown + s for s in starts)]),
        bad=np.concatenate([record.bad + s for s in starts]),
        ventricular=np.concatenate([record.ventricular + s for s in starts]),
    )


def tuned(parent: Net, records: Sequence[Record], public: Public, steps: int, seed: int) -> Net:
    """The net after so many steps on the records, and on as many segments of the public ones if there are any.

    Raises
    ------
    ModelError
        Training did not stay finite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    others = streams.Streams(public.records, public.noise, SLOTS // 2, rng) if public.records else None
    own = OwnStreams(records, public.noise, SLOTS - SLOTS // 2 if others else SLOTS, rng, others)
    net, average = Net(), Net().eval()
    for each in (net, average):
        each.load_state_dict(parent.state_dict())
    tuning = Tuning(net, average, torch.optim.Adam(net.parameters()), own, steps, False, parent=parent)
    return tuning.through()


@dataclass
class Tuning(Training):
    """Training at a low rate, in which the parent teaches what the annotations do not say: rhythm, and a beat's offset.

    Li Z, Hoiem D. Learning without forgetting. IEEE Trans Pattern Anal Mach Intell 40(12), 2018.
    """

    parent: Net = field(kw_only=True)
    past: Memory = field(init=False)

    def through(self) -> Net:
        """Take all steps, with a line every so often; the moving average."""
        memory, begun = Memory.zeros(SLOTS), time.monotonic()
        self.past, losses = Memory.zeros(SLOTS), []
        while self.step < self.steps:
            memory, loss = self._one(memory)
            losses.append(loss)
            self.seconds = time.monotonic() - begun
            if self.step % EVERY_PRINT == 0 or self.step == self.steps:
                self._tell(np.mean(losses, 0))
                losses = []
        if not all(bool(p.isfinite().all()) for p in self.average.parameters()):
            raise ModelError("training left the finite numbers; look at the records, or give fewer --steps")
        return self.average

    def _one(self, memory: Memory) -> tuple[Memory, list[float]]:
        z, targets, alive = self.streams.step()
        x, goes_on = torch.from_numpy(z), torch.from_numpy(alive)
        wanted = {f.name: torch.from_numpy(np.ascontiguousarray(getattr(targets, f.name))) for f in fields(targets)}
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (self.step + 1) / WARM_UP) * 0.5 * (1 + cos(pi * self.step / self.steps))
        with torch.no_grad():
            known, self.past = self.parent(x, self.past.keep(goes_on))
        y, memory = self.net(x, memory.keep(goes_on))
        losses = losses_of(y, wanted)
        loss = torch.stack([SHARES[name] * each for name, each in losses.items()]).sum()
        self.optimizer.zero_grad(set_to_none=True)
        (loss + _forgotten(y, known, wanted)).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return memory, [float(each.detach()) for each in losses.values()]


def _forgotten(y: Tensor, known: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
    """How far rhythm and offset are from what the parent says, where the annotations do not say them."""
    rhythm, offset = wanted["rhythm"] == UNKNOWN, (wanted["offset_weight"] == 0) & (wanted["beat"] > BEAT)
    said, told = (each[..., COLUMNS["rhythm"]][rhythm] for each in (y, known))
    turned = functional.cross_entropy(said, torch.softmax(told, 1), reduction="sum") / rhythm.sum().clamp(min=1)
    moved = functional.smooth_l1_loss(y[..., 1][offset] / HOP, known[..., 1][offset] / HOP, reduction="sum")
    return SHARES["rhythm"] * turned + SHARES["offset"] * moved / offset.sum().clamp(min=1)


def judged(net: Net, records: Sequence[Record], after_s: float) -> Counts:
    """Beats found, missed and invented, and their classes, over the records from a time on where they are annotated."""
    run, shift = runner(net), UNSCORED_S - after_s
    total: dict[str, int] = {}
    for record in records:
        at, kind = decode(run(view(record)))
        known = _annotated(record, at)
        counts = count(record.at / RATE_HZ + shift, record.kind, at[known] + shift, kind[known])
        total = {k: total.get(k, 0) + v for k, v in counts.items()}
    return total


def _annotated(record: Record, at_s: Array) -> NDArray[np.bool_]:
    """Which places lie where beats are annotated one by one."""
    at, (low, high) = at_s[:, None] * RATE_HZ, record.unknown.T
    return np.asarray(~((at >= low) & (at < high)).any(1))


def _judged(net: Net, held_out: Sequence[Record], public: Public) -> dict[str, Counts]:
    found = {"held out": judged(net, held_out, SETTLED_S)}
    beats = [r for r in public.validation if len(r.at)]
    return found | ({"public": judged(net, beats, UNSCORED_S)} if beats else {})


def mistakes(counts: Counts) -> int:
    """Beats missed or invented, and calls of S or V missed or wrong; fewer is better."""
    return sum(v for k, v in counts.items() if not k.endswith("_hit"))


def table(whose: str, before: Counts, after: Counts) -> list[str]:
    """Lines with Se and +P before and after, and the mistakes."""
    lines = [f"{whose:<14}    beats   before Se     +P    after Se     +P"]
    for key, name in (("qrs", "QRS"), ("V", "V"), ("S", "S")):
        real = before[f"{key}_hit"] + before[f"{key}_miss"]
        lines.append(f"  {name:<12} {real:>8,}   {_shares(before, key):>16}   {_shares(after, key):>16}")
    return [*lines, f"  {'mistakes':<12} {'':>8}   {mistakes(before):>16,}   {mistakes(after):>16,}"]


def _shares(counts: Counts, key: str) -> str:
    hit, miss, false = (counts[f"{key}_{what}"] for what in ("hit", "miss", "false"))
    return "".join(f"{100 * hit / all_:7.2f}" if all_ else "      -" for all_ in (hit + miss, hit + false))


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
    document |= publish._proof(model, net, records, document) if records else _proof(model, net, taught, document)
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
        "weights": f"sha256:{publish.weights_hash(net)}",
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


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m holdover.models.ecg_rhythm.finetune", description=__doc__)
    add = parser.add_argument
    add("--records", type=Path, required=True, metavar="FOLDER", help="recordings, each with its NAME.atr")
    add("--out", type=Path, required=True, metavar="FOLDER", help="for model.onnx and results.json")
    add("--model", type=Path, default=HERE / "model.onnx", metavar="FILE", help="to begin with (default: ecg-rhythm)")
    add("--name", help="of the new model (default: the old one's, and -finetuned)")
    add("--lead", metavar="NAMES", help="as for holdover replay: one, or several by preference")
    add("--unit", help="of CSV and NPZ files that do not say it")
    add("--rate", type=float, metavar="HZ", help="of CSV and NPZ files that do not say it")
    add("--data", metavar="FOLDER", help="with the public databases (default: HOLDOVER_DATA, or none)")
    add("--validation", nargs="+", metavar="NAME", help="records to hold out (default: every fifth)")
    add("--steps", type=int, default=400, metavar="N", help="training steps (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of all chance (default: %(default)s)")
    add("--even-if-worse", action="store_true", help="write it though the held-out records got worse")
    return parser


if __name__ == "__main__":
    sys.exit(main())
