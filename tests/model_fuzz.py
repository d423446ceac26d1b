"""Tampered model files through the gate, and what it lets through served: counts, deaths, wrong acceptances."""

import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from holdover.apps.model.gate import Budget, Gate
from holdover.runtime.model_gate import examine
from tests.mutants import mutants, originals
from tests.serving import Server

BUDGET = Budget(memory_mb=512, cpu_s=4, wall_s=15)


@dataclass
class Tally:
    """What came of a run.

    Attributes
    ----------
    wrong
        Wrong acceptances: files let through although the original's manifest was held against them and they are not the
        original, and files let through without one that then ended the process that serves, or made it hang.
    """

    files: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    by_mutation: dict[str, Counter[str]] = field(default_factory=dict)
    child_deaths: int = 0
    served: int = 0
    wrong: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    longest: str = ""


def run(seed: int, count: int, folder: Path, tell: bool = False) -> Tally:
    """Judge `count` files; the seed and the number in a line of `wrong` make that file again."""
    import hashlib

    tally, server = Tally(), Server()
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in originals().items()}
    with Gate(BUDGET) as gate:
        for number, (original, mutation, data) in enumerate(islice(mutants(seed), count)):
            began = time.monotonic()
            what = f"seed {seed} number {number}: {mutation} of {original}"
            if examine(data, hashes[original]).accepted:
                tally.wrong.append(f"{what}: accepted against the manifest of another file")
            verdict = gate.judge(data)
            outcome = verdict.refusal.check if verdict.refusal else "accepted"
            tally.files += 1
            tally.verdicts[outcome] += 1
            tally.by_mutation.setdefault(mutation, Counter())[outcome] += 1
            if verdict.accepted:
                path = folder / f"{number}.onnx"
                path.write_bytes(data)
                tally.served += 1
                if not server.serve(path):
                    tally.wrong.append(f"{what}: accepted, and the serving process ended: {server.said}")
                path.unlink()
            took = time.monotonic() - began
            if took > tally.longest_s:
                tally.longest_s, tally.longest = took, what
            if tell and number % 500 == 499:
                print(number + 1, dict(tally.verdicts), f"deaths {gate.deaths}, wrong {len(tally.wrong)}", flush=True)
        tally.child_deaths = gate.deaths
    server.close()
    return tally
