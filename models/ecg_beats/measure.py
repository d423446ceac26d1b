"""Score what `holdover replay` wrote for MIT-BIH records: the shipped file through the shipped command.

Not the EC57 comparison program: the recipe's simple matcher (nearest pairs, one to one, 150 ms, first five minutes
unscored). Run `holdover replay RECORDS -o OUT` first. DS2 is for judging only: log every look at it in CARD.md.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from data import CLASS, DS1, LABELS, OTHER, VALIDATION, Record
from score import Counts, count, rates

DS2 = (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234)
SETS = {"DS1": DS1, "DS2": DS2, "validation": VALIDATION}
KIND = {label: i for i, label in enumerate(LABELS)}


def measure(folder: Path, reference: Path, name: str) -> Counts:
    """Counts of one record: its `.blm` in `folder` against its `.atr` in `reference`; called Q counts as no class."""
    import wfdb

    truth = wfdb.rdann(str(reference / name), "atr")
    found = wfdb.rdann(str(folder / name), "blm")
    beats = [(at, CLASS[symbol]) for at, symbol in zip(truth.sample, truth.symbol, strict=True) if symbol in CLASS]
    calls = [
        (at, KIND.get(symbol, OTHER)) for at, symbol in zip(found.sample, found.symbol, strict=True) if symbol in "NSVQ"
    ]
    at, kind = (np.array(column) for column in zip(*beats, strict=True))
    record = Record(name, np.empty((2, 0), np.float32), at, kind, np.empty((0, 2), np.int64))
    return count(record, np.array([at for at, _ in calls]) / truth.fs, np.array([kind for _, kind in calls]))


def main() -> int:
    """Print gross rates, and those without record 232, as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `holdover replay -o` wrote")
    parser.add_argument("--set", choices=list(SETS), default="validation", help="default: %(default)s")
    parser.add_argument("--data", type=Path, default=os.environ.get("HOLDOVER_DATA"), help="default: HOLDOVER_DATA")
    args = parser.parse_args()
    if args.data is None or not (args.data / "mitdb").is_dir():
        parser.error(f"no folder mitdb in {args.data}: give --data, or set HOLDOVER_DATA")
    names = [str(n) for n in SETS[args.set]]
    if missing := [n for n in names if not (args.folder / f"{n}.blm").is_file()]:
        parser.error(f"{args.folder} lacks {', '.join(f'{n}.blm' for n in missing)}: replay these records first")
    counts = {name: measure(args.folder, args.data / "mitdb", name) for name in names}
    table: dict[str, Any] = {"set": args.set, "gross": rates(list(counts.values()))}
    table["without_232"] = rates([c for name, c in counts.items() if name != "232"])
    print(json.dumps({**table, "counts": counts}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
