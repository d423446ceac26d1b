"""Thirty years of anomaly detection without anybody looking: false alerts, against how many were asked for.

Five kinds of streams, one sample in five minutes, six years each; none has an anomaly, but for the level shifts of the
last runs. Each goes through `Watch` with the shipped forecaster, as a daemon runs it, once for each rate asked for.
"""

import argparse
import multiprocessing
import sys
import time
from typing import Any

import numpy as np
from anomaly_streams import DAY, STREAMS, YEAR
from machine import PACKAGES, keep, stated

ASKED = {"a day": 1.0, "a week": 1 / 7, "a month": 12 / 365}
SEED = 9
CHUNK = 10 * DAY
SHIFTS = 12
"""Level shifts in a year, of half the range of the stream."""


def main() -> int:
    """Run all, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=float, default=6.0, help="of each kind (default: %(default)s)")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--model", default="forecast", help="a shipped model or a file (default: %(default)s)")
    args = parser.parse_args()
    tasks = [(kind, asked, args.years, args.model, False) for asked in ASKED for kind in STREAMS]
    tasks += [(kind, "a month", 1.0, args.model, True) for kind in STREAMS]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        rows = []
        for row in pool.imap(run, tasks):
            rows.append(row)
            print(line(row), flush=True)
    totals = [total(asked, [r for r in rows if r["asked"] == asked and not r["shifts"]]) for asked in ASKED]
    for row in totals:
        print(f"{row['asked']:>8}  all {row['years']:g} years: {row['alerts']} alerts, {row['ratio']:.2f} of asked")
    figures = stated(PACKAGES) | {"years": args.years * len(STREAMS), "seed": SEED, "totals": totals, "rows": rows}
    print(f"kept in {keep('unattended', figures)}", file=sys.stderr)
    return 0


def run(task: tuple[str, str, float, str, bool]) -> dict[str, Any]:
    """One stream through one watch."""
    from holdover.apps.model.shipped import find_model
    from holdover.runtime.alert import Scene
    from holdover.runtime.chunk import Chunk
    from holdover.runtime.detect.limits import Limits, SensorLimits
    from holdover.runtime.engine import load
    from holdover.runtime.watch import Watch, model_id

    kind, asked, years, model, shifted = task
    n = round(years * YEAR)
    x = STREAMS[kind](np.random.default_rng([SEED, list(STREAMS).index(kind)]), n)
    places = shift(x) if shifted else []
    engine = load(find_model(model))
    scene = Scene(stream=kind, lead="value", rate_hz=1 / 300, epoch=0.0, model=model_id(engine))
    watch = Watch(engine, scene, Limits(sensor=SensorLimits(false_alerts_per_day=ASKED[asked])))
    began = time.process_time()
    signal = x.astype(np.float32)[:, np.newaxis]
    said = [a.phase for i in range(0, n, CHUNK) for a in watch.push(Chunk(i, signal[i : i + CHUNK])).alerts]
    said += [a.phase for a in watch.finish().alerts]
    took_s = time.process_time() - began
    starts = [p.onset for p in said if p.label == "anomaly" and p.phase == "start"]
    lasted = [p.end - p.onset for p in said if p.label == "anomaly" and p.phase == "end" and p.end is not None]
    return {
        "kind": kind,
        "asked": asked,
        "years": years,
        "alerts": len(starts),
        "expected": round(ASKED[asked] * n / DAY, 1),
        "ratio": round(len(starts) / (ASKED[asked] * n / DAY), 3),
        "regime_changes": sum(p.label == "regime_change" and p.phase == "start" for p in said),
        "longest_alert_samples": max(lasted, default=0),
        "samples_per_s": round(n / took_s),
        "shifts": len(places),
        "shifts_found": sum(any(at <= start < at + DAY for start in starts) for at in places),
    }


def shift(x: np.ndarray[Any, np.dtype[np.float64]]) -> list[int]:
    """Move the level for good, up or down, once a month; return where."""
    size = 0.5 * float(np.ptp(x[: 30 * DAY]))
    places = [round((i + 0.5) * len(x) / SHIFTS) for i in range(SHIFTS)]
    for i, at in enumerate(places):
        x[at:] += size * (1 if i % 2 == 0 else -1)
    return places


def total(asked: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All kinds together."""
    alerts, expected = sum(row["alerts"] for row in rows), sum(row["expected"] for row in rows)
    years = sum(row["years"] for row in rows)
    return {"asked": asked, "years": years, "alerts": alerts, "ratio": round(alerts / expected, 3)}


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    found = f"; {row['shifts_found']} of {row['shifts']} shifts said" if row["shifts"] else ""
    return (
        f"{row['asked']:>8}  {row['kind']:<10} {row['alerts']:>6} alerts, {row['ratio']:.2f} of asked, "
        f"{row['regime_changes']} regime changes, longest {row['longest_alert_samples']} samples, "
        f"{row['samples_per_s']:,} samples/s{found}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
