"""Beat detectors of others and ours on the MIT-BIH Arrhythmia Database, all scored by `holdover score`.

Each detector gets the lead MLII by name (where a record has none, its first), writes its beats as WFDB annotations, and
is held against the cardiologists' by EC57's comparison: the first 5 minutes unscored, windows of 150 and of 50 ms.
Needs the database in a folder mitdb of HOLDOVER_DATA, and holdover[bench].
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import PACKAGES, keep, stated
from numpy.typing import NDArray

PACED = {"102", "104", "107", "217"}
DS2 = {
    *map(
        str,
        (100, 103, 105, 111, 113, 117, 121, 123, 200, 202, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232, 233, 234),
    )
}
SETS: dict[str, Callable[[str], bool]] = {
    "44 records": lambda name: name not in PACED,
    "DS2": lambda name: name in DS2,
    "paced": lambda name: name in PACED,
}
WINDOWS = {"150 ms": "0.15", "50 ms": "0.05"}
OURS = "holdover"


def main() -> int:
    """Detect, score, print the table of docs/score.md, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("HOLDOVER_DATA"), help="default: HOLDOVER_DATA")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="processes (default: %(default)s)")
    args = parser.parse_args()
    if args.data is None or not (args.data / "mitdb").is_dir():
        parser.error(f"no folder mitdb in {args.data}: give --data, or set HOLDOVER_DATA")
    reference = args.data / "mitdb"
    records = sorted(header.stem for header in reference.glob("*.hea"))
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder)
        _replay(reference, records, found / OURS, args.jobs)
        _detect(reference, records, found, args.jobs)
        rows = {name: _figures(found / name, records, reference) for name in (OURS, *DETECTORS)}
    print(table(rows))
    versions = stated((*PACKAGES, "wfdb", "sleepecg", "neurokit2", "scipy"))
    versions["command"] = "python benchmarks/detectors.py"
    print(f"kept in {keep('detectors', versions | {'records': len(records), 'detectors': rows})}", file=sys.stderr)
    return 0


def table(rows: dict[str, Any]) -> str:
    """The figures as a table in Markdown: Se, +P and F1 in per cent."""
    columns = [(part, window) for part in ("44 records", "DS2") for window in WINDOWS]
    lines = ["| | " + " | ".join(f"{part}, {window}" for part, window in columns) + " |", "|---" * 5 + "|"]
    for name, figures in rows.items():
        cells = ("{Se:.2f} / {+P:.2f} / {F1:.2f}".format(**figures[part][window]) for part, window in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _xqrs(x: NDArray[np.float64], rate_hz: float) -> Any:
    from wfdb.processing import xqrs_detect

    return xqrs_detect(x, rate_hz, verbose=False)


def _gqrs(x: NDArray[np.float64], rate_hz: float) -> Any:
    from wfdb.processing import gqrs_detect

    return gqrs_detect(d_sig=np.rint(200 * x).astype(np.int64), fs=rate_hz, adc_gain=200, adc_zero=0)


def _sleepecg(x: NDArray[np.float64], rate_hz: float) -> Any:
    import sleepecg

    return sleepecg.detect_heartbeats(x, rate_hz)


def _neurokit(x: NDArray[np.float64], rate_hz: float) -> Any:
    import neurokit2

    clean = neurokit2.ecg_clean(x, sampling_rate=int(rate_hz))
    return neurokit2.ecg_peaks(clean, sampling_rate=int(rate_hz))[1]["ECG_R_Peaks"]


DETECTORS = {"XQRS (wfdb)": _xqrs, "GQRS (wfdb)": _gqrs, "sleepecg": _sleepecg, "NeuroKit2": _neurokit}


def _replay(reference: Path, records: list[str], out: Path, jobs: int) -> None:
    by_lead: dict[str, list[Path]] = {}
    for record in records:
        by_lead.setdefault(_lead(str(reference / record))[0], []).append(reference / record)
    for lead, places in by_lead.items():
        _holdover("replay", *places, "-o", out, "-j", jobs, "--lead", lead)


def _lead(record: str) -> tuple[str, int]:
    """The name and the number of the lead that is judged."""
    import wfdb

    names = wfdb.rdheader(record).sig_name
    k = names.index("MLII") if "MLII" in names else 0
    return names[k], k


def _detect(reference: Path, records: list[str], out: Path, jobs: int) -> None:
    for name in DETECTORS:
        (out / name).mkdir()
    work = [(name, str(reference / record), str(out / name)) for record in records for name in DETECTORS]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for done, _ in enumerate(pool.imap_unordered(_one, work), 1):
            print(f"\r{done} of {len(work)}", end="", file=sys.stderr)
    print(file=sys.stderr)


def _one(work: tuple[str, str, str]) -> None:
    """Let one detector find the beats of one record, and write them."""
    import wfdb

    name, record, out = work
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = wfdb.rdrecord(record, channels=[_lead(record)[1]])
        at = np.unique(np.asarray(DETECTORS[name](read.p_signal[:, 0], read.fs), dtype=np.int64))
        wfdb.wrann(Path(record).name, "qrs", at, symbol=["N"] * len(at), fs=read.fs, write_dir=out)


def _figures(found: Path, records: list[str], reference: Path) -> dict[str, Any]:
    """QRS figures by set of records and window."""
    test = "blm" if found.name == OURS else "qrs"
    figures: dict[str, Any] = {}
    for part, within in SETS.items():
        chosen = found.parent / "chosen" / part / found.name
        chosen.mkdir(parents=True)
        for record in filter(within, records):
            (chosen / f"{record}.{test}").symlink_to(found / f"{record}.{test}")
        figures[part] = {name: _scored(chosen, reference, test, window) for name, window in WINDOWS.items()}
    return figures


def _scored(chosen: Path, reference: Path, test: str, window: str) -> dict[str, Any]:
    told = json.loads(_holdover("score", chosen, "--ref", reference, "--test", test, "-w", window, "--json"))
    figures = told["maps"]["bxb"]["figures"]
    known = {rate: figures[f"Q {rate}"]["gross"] for rate in ("Se", "+P", "F1")}
    return known | {
        "interval": {rate: figures[f"Q {rate}"]["interval"] for rate in known},
        "beats": figures["Q Se"]["whole"],
        "missed": figures["Q Se"]["whole"] - figures["Q Se"]["part"],
        "false": figures["Q +P"]["whole"] - figures["Q +P"]["part"],
    }


def _holdover(*args: Any) -> str:
    done = subprocess.run([sys.executable, "-m", "holdover", *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"holdover {args[0]} failed:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
