"""Alerts through anything: seeded schedules of faults against the real daemon, broker and subscriber.

`make chaos` runs a thousand and writes benchmarks/results/chaos.json; a schedule that fails prints its seed, and
`python tests/chaos.py --seed SEED` plays it again.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from holdover.apps.broker import Broker, start_broker
from holdover.runtime.errors import BrokerError
from tests import chaos_proxy
from tests.brokers import Subscriber, wait_until
from tests.chaos_proxy import CALM, Proxy
from tests.processes import Daemon, a_recording, bare, configure, from_file, position, replayed, rows, signal_mv

SECONDS = 100
SPEED = 40.0
STREAMS = ("bed-1", "bed-2")
PATIENCE_S = 90.0
"""For so long a daemon may get no further; how fast it is, is the machine's business."""
RESTARTS = 3
CLOCK_OF_ITS_OWN = """
import time
_true = time.time
def _told():
    with open({path!r}) as file:
        return _true() + float(file.read() or 0)
time.time = _told
"""
"""A sitecustomize.py that shifts a process's wall clock by what a file says; the monotonic clock goes on."""


class Fault(NamedTuple):
    """What happens, at which side, when, and for how long, in seconds from the daemon's start."""

    kind: str
    at: float
    for_s: float

    def __str__(self) -> str:
        return f"{self.kind} at {self.at:.2f} s for {self.for_s:.2f} s"


NETWORK = tuple(f"{side}:{fault}" for side in ("daemon", "subscriber") for fault in chaos_proxy.FAULTS)
PROCESSES = ("kill_daemon", "kill_broker", "kill_subscriber", "freeze_broker", "stop_broker", "stop_daemon")
DISK = ("full_disk", "corrupt_ledger")
CLOCK = ("clock_jump",)
KINDS = (*NETWORK, *PROCESSES, *DISK, *CLOCK)


class Outcome(NamedTuple):
    """What a schedule came to."""

    seed: int
    faults: list[Fault]
    alerts: int
    lost: int
    doubled: int
    out_of_order: int
    error: str
    seconds: float

    @property
    def fine(self) -> bool:
        """Whether all alerts came, each stored once, in order."""
        return not (self.lost or self.doubled or self.out_of_order or self.error)


def schedule(seed: int, kinds: tuple[str, ...] = KINDS) -> list[Fault]:
    """One to four faults of these kinds; as many seeds in a row as there are kinds have each of them."""
    dice = random.Random(seed)
    kinds = (kinds[seed % len(kinds)], *dice.choices(kinds, k=dice.randrange(4)))
    return sorted(
        (Fault(kind, round(dice.uniform(0.1, 3.2), 3), round(dice.uniform(0.05, 1.5), 3)) for kind in kinds),
        key=lambda fault: fault.at,
    )


class Scene:
    """The processes of one schedule, in a folder of their own, and what happens to them."""

    def __init__(self, folder: Path, record: Path, seed: int, faults: list[Fault]) -> None:
        self.folder, self.random = folder, random.Random(seed)
        self.kinds = {fault.kind for fault in faults}
        self.store = _made(folder / "broker")
        self.disk = _made(folder / "disk")
        if "full_disk" in self.kinds:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(self.disk)], check=True)
        self.clock = _made(folder / "clock") / "shift_s"
        self.clock.write_text("0")
        (self.clock.parent / "sitecustomize.py").write_text(CLOCK_OF_ITS_OWN.format(path=str(self.clock)))
        self.broker: Broker = _broker(self.store)
        self.proxies = {side: Proxy(self.broker.port, seed + i) for i, side in enumerate(("daemon", "subscriber"))}
        self.down: Counter[str] = Counter()
        self.active: dict[str, list[str]] = defaultdict(list)
        streams = [from_file(stream, record, SPEED) for stream in STREAMS]
        mqtt = "keepalive_s = 2\nwill_delay_s = 1\nconfirm = true"
        self.config = configure(folder, self.proxies["daemon"].port, *streams, mqtt=mqtt, ledger="checkpoint_s = 0.5")
        self.config.write_text(self.config.read_text().replace('"ledger.db"', f'"{self.disk}/ledger.db"'))
        self.subscriber = self._subscribe().listening()
        self.daemon = self._watch()

    def begin(self, fault: str) -> None:
        """Let a fault happen."""
        side, _, network = fault.partition(":")
        if network:
            self.active[side].append(network)
            self.proxies[side].be(network)
        elif fault in ("kill_daemon", "stop_daemon", "corrupt_ledger"):
            self._lay_down("daemon", fault)
        elif fault in ("kill_broker", "stop_broker"):
            self._lay_down("broker", fault)
        elif fault == "kill_subscriber":
            self._lay_down("subscriber", fault)
        elif fault == "freeze_broker":
            self.broker.process.send_signal(signal.SIGSTOP)
        elif fault == "full_disk":
            self._fill()
        else:
            self.clock.write_text(self.random.choice(("7200", "-7200", "3456000")))

    def end(self, fault: str) -> None:
        """Let it be over."""
        side, _, network = fault.partition(":")
        if network:
            self.active[side].remove(network)
            self.proxies[side].be(self.active[side][-1] if self.active[side] else CALM)
        elif fault == "freeze_broker":
            self.broker.process.send_signal(signal.SIGCONT)
        elif fault == "full_disk":
            (self.disk / "ballast").unlink(missing_ok=True)
        elif fault == "clock_jump":
            self.clock.write_text("0")
        else:
            self._stand_up(fault)

    def outcome(self, expected: dict[str, list[str]]) -> dict[str, Any]:
        """Wait for what is still to come; then hold what the subscriber stored against what had to be said."""
        for _ in range(RESTARTS):  # as the service manager would: it may have found a full disk at its start
            if not self._end_of_the_daemon():
                break
            self.daemon = self._watch()
        else:
            raise AssertionError(f"the daemon ended with {self.daemon.process.returncode}:\n{self.daemon.talk()}")
        wanted = sum(map(len, expected.values()))
        with suppress(AssertionError):
            wait_until(lambda: len(self._stored()) >= wanted, "all have come", 30)
        time.sleep(0.2)
        self.subscriber.stop()
        stored = self._stored()
        lost = doubled = out_of_order = 0
        for stream, bodies in expected.items():
            got = bare((json.loads(payload) for name, payload in stored if name == stream))
            lost += len(set(bodies) - set(got))
            doubled += len(got) - len(set(got))
            if strangers := set(got) - set(bodies):
                raise AssertionError(f"{len(strangers)} alerts that nobody should have said, as {min(strangers)}")
            if "corrupt_ledger" not in self.kinds:
                out_of_order += sum(a != b for a, b in zip(got, [b for b in bodies if b in set(got)], strict=False))
        return {"alerts": wanted, "lost": lost, "doubled": doubled, "out_of_order": out_of_order}

    def close(self) -> None:
        """End all that runs."""
        for process in (self.daemon, self.subscriber):
            with suppress(Exception):
                process.__exit__()
        with suppress(ProcessLookupError):
            self.broker.process.send_signal(signal.SIGCONT)
        self.broker.kill()
        for proxy in self.proxies.values():
            proxy.close()
        if "full_disk" in self.kinds:
            subprocess.run(["umount", "-l", str(self.disk)], check=True)

    def _end_of_the_daemon(self) -> int:
        """Wait for it, as long as it gets further; its exit status."""
        ledger, found = self.disk / "ledger.db", list[int]()
        until = time.monotonic() + PATIENCE_S
        while self.daemon.is_up():
            with suppress(sqlite3.Error):  # it may be damaged, until the daemon has found that
                now = [position(ledger, stream) for stream in STREAMS] + [state for *_, state in rows(ledger)]
                until = until if now == found else time.monotonic() + PATIENCE_S
                found = now
            assert time.monotonic() < until, f"it gets no further:\n{self.daemon.talk()}"
            time.sleep(0.5)
        return self.daemon.end()

    def _lay_down(self, what: str, fault: str) -> None:
        self.down[what] += 1
        if self.down[what] > 1:
            return
        if what == "broker":
            self.broker.kill() if fault == "kill_broker" else self.broker.stop()
        elif what == "subscriber":
            self.subscriber.__exit__()
        elif fault == "stop_daemon":
            self.daemon.stop()
        else:
            self.daemon.kill()
        if fault == "corrupt_ledger":
            self._corrupt()

    def _stand_up(self, fault: str) -> None:
        what = {"corrupt_ledger": "daemon"}.get(fault, fault.partition("_")[2])
        self.down[what] -= 1
        if self.down[what]:
            return
        if what == "broker":
            self.broker = start_broker(self.broker.port, folder=self.store)
        elif what == "subscriber":
            self.subscriber = self._subscribe()
        else:
            self.daemon = self._watch()

    def _watch(self) -> Daemon:
        path = os.pathsep.join([str(self.clock.parent), os.environ.get("PYTHONPATH", "")])
        return Daemon(self.config, env=os.environ | ({"PYTHONPATH": path} if "clock_jump" in self.kinds else {}))

    def _subscribe(self) -> Subscriber:
        return Subscriber(Broker("", self.proxies["subscriber"].port, self.broker.process, self.folder, True),
                          self.folder, "--confirm")  # fmt: skip

    def _fill(self) -> None:
        with suppress(OSError), (self.disk / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def _corrupt(self) -> None:
        for name in ("ledger.db", "ledger.db-wal"):
            path = self.disk / name
            if path.exists() and path.stat().st_size:
                with path.open("r+b") as file:
                    for _ in range(self.random.randrange(1, 6)):
                        file.seek(self.random.randrange(path.stat().st_size))
                        file.write(self.random.randbytes(64))

    def _stored(self) -> list[tuple[str, bytes]]:
        path = self.folder / "alerts.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(path, timeout=10)) as db:
            try:
                return db.execute("SELECT stream, payload FROM alert ORDER BY id").fetchall()
            except sqlite3.OperationalError:
                return []


def _broker(store: Path) -> Broker:
    """One that has its port: another schedule may take the one that was free a moment ago."""
    for _ in range(3):
        with suppress(BrokerError):
            return start_broker(folder=store)
    return start_broker(folder=store)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def possible() -> tuple[str, ...]:
    """The kinds of fault that this user can do: mounting a small disk is root's."""
    return tuple(kind for kind in KINDS if kind != "full_disk" or os.geteuid() == 0)


def play(seed: int, record: Path, expected: dict[str, list[str]], kinds: tuple[str, ...] = KINDS) -> Outcome:
    """Play one schedule, in a temporary folder."""
    began, faults = time.monotonic(), schedule(seed, kinds)
    found: dict[str, Any] = {"alerts": 0, "lost": 0, "doubled": 0, "out_of_order": 0}
    error = ""
    with tempfile.TemporaryDirectory(prefix="holdover-chaos-", ignore_cleanup_errors=True) as folder:
        try:
            scene = Scene(Path(folder), record, seed, faults)
            try:
                _unfold(scene, faults)
                found = scene.outcome(expected)
            finally:
                scene.close()
        except (Exception, AssertionError):  # whatever went wrong is the schedule's result
            error = traceback.format_exc()
    return Outcome(seed, faults, error=error, seconds=time.monotonic() - began, **found)


def _unfold(scene: Scene, faults: list[Fault]) -> None:
    events = [(fault.at, scene.begin, fault.kind) for fault in faults]
    events += [(fault.at + fault.for_s, scene.end, fault.kind) for fault in faults]
    began = time.monotonic()
    for at, happen, kind in sorted(events, key=lambda event: event[0]):
        time.sleep(max(began + at - time.monotonic(), 0))
        happen(kind)


def a_record(folder: Path) -> tuple[Path, dict[str, list[str]]]:
    """The recording that the daemons play, and what it must come to."""
    record = a_recording(folder / "208.npz", signal_mv()[: 360 * SECONDS])
    return record, {stream: replayed(record, stream) for stream in STREAMS}


def campaign(seeds: Sequence[int], record: Path, expected: dict[str, list[str]], jobs: int) -> Iterator[Outcome]:
    """Play schedules, some at a time; a kind of fault that this machine cannot do is replaced."""
    kinds = possible()
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda seed: play(seed, record, expected, kinds), seeds)


def main() -> int:
    """Play a campaign; exit status 1 if any schedule failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first (default: 0)")
    parser.add_argument("--seed", type=int, help="play one schedule, and tell all about it")
    parser.add_argument("--jobs", type=int, default=6, help="at a time; they mostly wait (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the table there")
    args = parser.parse_args()
    seeds = [args.seed] if args.seed is not None else range(args.first, args.first + args.schedules)
    with tempfile.TemporaryDirectory(prefix="holdover-chaos-") as folder:
        record, expected = a_record(Path(folder))
        outcomes = []
        for outcome in campaign(seeds, record, expected, args.jobs):
            outcomes.append(outcome)
            _tell(outcome, len(outcomes), len(seeds), args.seed is not None)
            table = tabulate(outcomes)
            if args.json:  # each time, so that what a long campaign has found outlives it
                Path(args.json).write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps({key: value for key, value in table.items() if key != "by fault"}))
    return int(not all(outcome.fine for outcome in outcomes))


def _tell(outcome: Outcome, done: int, total: int, all_of_it: bool) -> None:
    if all_of_it or not outcome.fine:
        print(f"seed {outcome.seed}: {'; '.join(map(str, outcome.faults))}", file=sys.stderr)
        print(f"  {outcome._replace(faults=[], error='')}\n{outcome.error}", file=sys.stderr)
    if done % 10 == 0 or done == total:
        print(f"{done} of {total} schedules", file=sys.stderr)


def tabulate(outcomes: list[Outcome]) -> dict[str, Any]:
    """The campaign as data: totals, and by kind of fault how many schedules had it and what they lost."""

    def total(name: str, some: list[Outcome]) -> int:
        return sum(getattr(outcome, name) for outcome in some)

    def counts(some: list[Outcome]) -> dict[str, int]:
        names = ("alerts", "lost", "doubled", "out_of_order")
        return {"schedules": len(some), **{name: total(name, some) for name in names},
                "failed": sum(not outcome.fine for outcome in some)}  # fmt: skip

    kinds = sorted({fault.kind for outcome in outcomes for fault in outcome.faults})
    return {
        **counts(outcomes),
        "first seed": min(outcome.seed for outcome in outcomes),
        "failed seeds": [outcome.seed for outcome in outcomes if not outcome.fine],
        "seconds": round(sum(outcome.seconds for outcome in outcomes)),
        "by fault": {kind: counts([o for o in outcomes if any(f.kind == kind for f in o.faults)]) for kind in kinds},
    }


if __name__ == "__main__":
    sys.exit(main())
