"""Validation: beats and classes out of the net's outputs, matched one to one with the annotations; rhythm, noise."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax

from holdover.models.ecg_beats.data import MODEL_HZ, RATE_HZ
from holdover.models.ecg_beats.net import LAST, normalise
from holdover.models.ecg_beats.score import Counts, count, decode, rates
from holdover.models.ecg_rhythm.data import Record, view
from holdover.models.ecg_rhythm.disturb import heartless, height, motion
from holdover.models.ecg_rhythm.net import COLUMNS, DELAYS, HOP, Memory, Net

RHYTHM_AFTER_S = 8.0
WINDOW_S = 10
STRESS_DB = (12, 6)

Array = NDArray[Any]
Run = Callable[[Array], Array]
"""From (samples,), mV at 120 Hz, to (frames, columns)."""


def runner(net: Net, zeros: Callable[[int], Memory] = Memory.zeros) -> Run:
    """The net over whole recordings, its memory, which begins as `zeros` has it, carried from end to end."""

    def run(x: Array) -> Array:
        with torch.no_grad():
            y: Array = net(torch.from_numpy(normalise(x[None])), zeros(1))[0].numpy()[0]
        return y

    return run


def validate(net: Net, records: Sequence[Record], noise: Sequence[Array]) -> dict[str, Any]:
    """All that is judged on the validation recordings."""
    return judge(runner(net), records, noise)


def judge(run: Run, records: Sequence[Record], noise: Sequence[Array]) -> dict[str, Any]:
    """Beats on mitdb and svdb, rhythm on vfdb and handheld recordings, beats in noise and where there is no heart."""
    counts: dict[str, dict[str, Counts]] = {"mitdb": {}, "svdb": {}}
    shares = []
    for record in records:
        y = run(view(record))
        if record.source in counts:
            counts[record.source][record.name] = count(record.at / RATE_HZ, record.kind, *decode(y))
        if y.shape[1] == COLUMNS["quality"].stop:
            shares.append((record, y))
    found: dict[str, Any] = {source: rates(list(table.values())) for source, table in counts.items()}
    return found | {"counts": counts} | _rhythms(run, records, shares) | _stress(run, records, noise)


def summary(found: Mapping[str, Any]) -> str:
    """One line of what `judge` found."""
    keys = ("qrs_f1", "veb_f1", "sveb_f1")
    beats = [f"{s} {'/'.join(f'{found[s][k]:.1f}' for k in keys)}" for s in ("mitdb", "svdb")]
    return "  ".join([*beats, *(f"{k} {v}" for k, v in found.items() if k not in ("mitdb", "svdb", "counts"))])


def _rhythms(run: Run, records: Sequence[Record], shares: Sequence[tuple[Record, Array]]) -> dict[str, Any]:
    """F1 of A over handheld recordings, Se and Sp of VF by ten seconds; S called in A, of a hundred beats."""
    wrong = [decode(run(view(r)))[1] for r in records if r.label == "A"]
    found: dict[str, Any] = {"S in A": round(100 * float(np.mean(np.concatenate(wrong) == 1)), 2)}
    normal = [decode(run(view(r)))[1] for r in records if r.label == "N"]
    found["S, V in N"] = [round(100 * float(np.mean(np.concatenate(normal) == k)), 2) for k in (1, 2)]
    if not shares:
        return found
    called = [(r.label, float(afib(y))) for r, y in shares if r.label in ("N", "A", "O")]
    hit, false, miss = (sum((p > 0.5) == c and (label == "A") == t for label, p in called) for c, t in _CELLS)
    bad = {"~": [], "NAO": []}  # type: dict[str, list[float]]
    for r, y in shares:
        if r.label:
            bad["~" if r.label == "~" else "NAO"].append(float(expit(y[100:, COLUMNS["quality"]]).mean()))
    windows = np.concatenate([ventricular(r, y) for r, y in shares if r.source == "vfdb"])
    real, said = windows[:, 0] > 0.5, windows[:, 1] > 0.5
    vf = [round(100 * float(v), 1) for v in (said[real].mean(), 1 - said[~real].mean())]
    found |= {"A f1": round(2 * hit / (2 * hit + false + miss), 3), "VF se/sp": vf}
    return found | {"bad in ~, NAO": [round(float(np.mean(v)), 2) for v in bad.values()]}


_CELLS = ((True, True), (True, False), (False, True))


def afib(y: Array) -> float:
    """Share of a recording that is atrial fibrillation, its first seconds aside."""
    p = softmax(y[:, COLUMNS["rhythm"]], axis=1)[:, 1]
    skip = min(int(RHYTHM_AFTER_S * MODEL_HZ / HOP), len(p) // 2)
    return float(p[skip:].mean())


def ventricular(record: Record, y: Array) -> Array:
    """Of each ten seconds whose rhythm is known, the share that is VF, annotated and by the net, (windows, 2)."""
    p = softmax(y[:, COLUMNS["rhythm"]], axis=1)[DELAYS["rhythm"] // HOP :, 2]
    places = (np.arange(len(p)) * HOP + LAST) * (RATE_HZ // MODEL_HZ)
    truth = np.full(len(p), -1)
    for low, high, kind in record.rhythm:
        truth[(places >= low) & (places < high)] = kind
    n = len(p) // (WINDOW_S * MODEL_HZ // HOP)
    kinds, shares = (v[: n * WINDOW_S * MODEL_HZ // HOP].reshape(n, -1) for v in (truth, p))
    known = (kinds >= 0).all(1)
    return np.stack([(kinds[known] == 2).mean(1), (shares[known] > 0.5).mean(1)], 1)


def _stress(run: Run, records: Sequence[Record], noise: Sequence[Array]) -> dict[str, Any]:
    """QRS Se and +P in made motion and muscle noise, and beats a minute where there is no heart."""
    rng = np.random.default_rng(7)
    moved = motion(1900, rng)
    found: dict[str, Any] = {}
    for db in STRESS_DB:
        for name, track in (("motion", moved), ("ma", np.tile(noise[2], 2))):
            table = []
            for record in (r for r in records if r.name in ("118", "119", "823")):
                x = view(record)
                y = run(x + height(x) * 8**-0.5 * 10 ** (-db / 20) * track[: len(x)])
                table.append(count(record.at / RATE_HZ, record.kind, *decode(y)))
            r = rates(table)
            found[f"{name} {db} dB"] = f"{r['qrs_se']:.1f}/{r['qrs_ppv']:.1f}"
    dead = {"motion": moved * 0.5, "ma": noise[2], "bw": noise[0], "white 5 uV": 0.005 * rng.standard_normal(72000)}
    dead["mixed"] = np.concatenate([heartless(3600, [moved, *noise], rng) for _ in range(20)])
    found["per minute"] = {k: round(_per_minute(run, x[: len(x) // 60 * 60]), 1) for k, x in dead.items()}
    return found


def _per_minute(run: Run, x: Array) -> float:
    return len(decode(run(np.asarray(x, np.float32)))[0]) / (len(x) / MODEL_HZ / 60)
