"""Tampered model files through the gate: 10,000 of them, from seven sound models, by some thirty kinds of tampering.

A wrong acceptance is a file that is let through although the manifest held against it is another file's, or one that is
let through and then ends a process that serves models without limits (by a signal, an exception or by hanging). Which
files are made, and in which order, follows from the seed.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

from machine import keep, stated

from tests.model_fuzz import BUDGET, run
from tests.mutants import MUTATIONS, originals

SEED = 20261123


def main() -> int:
    """Run, keep the counts; 1 where there was a wrong acceptance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="files (default: %(default)s)")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = run(args.seed, args.count, Path(folder), tell=True)
    figures = {
        **stated(("holdover", "numpy", "onnxruntime", "onnx", "msgspec")),
        "seed": args.seed,
        "seconds": round(time.monotonic() - began, 1),
        "originals": list(originals()),
        "mutations": len(MUTATIONS),
        "limits": {"memory_mb": BUDGET.memory_mb, "cpu_s": BUDGET.cpu_s, "wall_s": BUDGET.wall_s},
        "files": tally.files,
        "accepted": tally.verdicts["accepted"],
        "refused_by_check": dict((tally.verdicts - Counter(accepted=tally.files)).most_common()),
        "by_mutation": {name: dict(found.most_common()) for name, found in sorted(tally.by_mutation.items())},
        "child_deaths": tally.child_deaths,
        "served_after_acceptance": tally.served,
        "wrong_acceptances": len(tally.wrong),
        "longest": {"seconds": round(tally.longest_s, 1), "file": tally.longest},
    }
    print(f"wrote {keep('fuzz-models', figures)}: {tally.files} files, {len(tally.wrong)} wrong acceptances")
    print("\n".join(tally.wrong))
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
