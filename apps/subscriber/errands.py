"""What hooks do for alerts: in order within a stream, tried again with growing pauses until done or given up."""

import math
import queue
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from holdover.apps.subscriber.inbox import Errand, Inbox

AT_ONCE = 8
TRIES = 10
"""Three minutes or so, and the time that the hook itself takes."""
BACKOFF_S = (1.0, 60.0)


class Runner(Protocol):
    """A hook."""

    def run(self, content: dict[str, Any]) -> str:
        """Do it and wait; "" or what went wrong, in words."""

    def close(self) -> None:
        """End what is running."""


class Lane(NamedTuple):
    """What is done one after the other: a hook's errands for one stream."""

    hook: str
    node: str
    stream: str


class _Queue:
    """The errands of a lane, and when the first may be tried."""

    def __init__(self) -> None:
        self.errands: deque[Errand] = deque()
        self.tries = 0
        self.due = 0.0
        self.is_running = False

    def take_first(self) -> Errand:
        """The first is done with, whatever came of it."""
        self.tries, self.due = 0, 0.0
        return self.errands.popleft()


class Errands:
    """Runs hooks in threads of their own; used by the thread that owns the inbox.

    What fails is tried again, and holds back what follows it in its own stream alone; after `tries` it is given up,
    which the store keeps, and what follows goes on.

    Parameters
    ----------
    hooks
        By name, as in the store: "exec", "webhook".
    say
        Takes a line of talk.
    tries
        In one run of this process; 0: without end.
    """

    def __init__(
        self, inbox: Inbox, hooks: Mapping[str, Runner], say: Callable[[str], None], tries: int = TRIES
    ) -> None:
        self._inbox, self._hooks, self._say = inbox, hooks, say
        self._most_tries = tries or math.inf
        self._lanes: dict[Lane, _Queue] = {}
        self._results: queue.SimpleQueue[tuple[Lane, str]] = queue.SimpleQueue()
        left = inbox.errands()
        self.add(left)
        for hook, count in Counter(errand.hook for errand in left if errand.hook not in hooks).items():
            say(f"{count} alerts of an earlier run still wait for --{hook}, which is not given now")

    def add(self, errands: Iterable[Errand]) -> None:
        """Take in what is to be done; what belongs to a hook that is not here waits in the store."""
        for errand in errands:
            if errand.hook in self._hooks:
                self._lanes.setdefault(Lane(*errand[:3]), _Queue()).errands.append(errand)

    @property
    def running(self) -> int:
        """How many hooks run now."""
        return sum(lane.is_running for lane in self._lanes.values())

    @property
    def untried(self) -> bool:
        """Whether something runs, or waits and has not failed."""
        return any(lane.is_running or not lane.tries for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        """How much is not done."""
        return sum(len(lane.errands) for lane in self._lanes.values())

    def turn(self) -> list[Errand]:
        """Take in what is done, and begin what is due; returns what was given up."""
        given_up = self._collect()
        now = time.monotonic()
        room = {hook: AT_ONCE - self._busy(hook) for hook in self._hooks} if self._lanes else {}
        for lane, line in self._lanes.items():
            if room[lane.hook] > 0 and not line.is_running and now >= line.due:
                room[lane.hook] -= 1
                self._begin(lane, line)
        return given_up

    def close(self, patience_s: float) -> None:
        """Wait for what runs, then end it; what is not done waits in the store."""
        self._await(patience_s)
        self._most_tries = math.inf  # what is ended here has not failed
        for hook in self._hooks.values():
            hook.close()
        self._await(1.0)

    def _await(self, patience_s: float) -> None:
        until = time.monotonic() + patience_s
        while self.running and time.monotonic() < until:
            time.sleep(0.01)
            self._collect()

    def _busy(self, hook: str) -> int:
        return sum(line.is_running for lane, line in self._lanes.items() if lane.hook == hook)

    def _begin(self, lane: Lane, line: _Queue) -> None:
        content = self._inbox.content(line.errands[0].alert)
        line.is_running = True
        threading.Thread(target=self._run, args=(lane, content), name=f"hook-{lane.hook}", daemon=True).start()

    def _run(self, lane: Lane, content: dict[str, Any]) -> None:
        try:
            failure = self._hooks[lane.hook].run(content)
        # Whatever a hook does, its lane must go on: the cause is told, and it is tried again.
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        self._results.put((lane, failure))

    def _collect(self) -> list[Errand]:
        done: list[Errand] = []
        given_up: list[Errand] = []
        while not self._results.empty():
            lane, failure = self._results.get()
            line = self._lanes.pop(lane)
            line.is_running = False
            line.tries += 1
            if not failure:
                done.append(line.take_first())
            elif line.tries < self._most_tries:
                self._put_off(lane, line, failure)
            else:
                given_up.append(self._give_up(lane, line, failure))
            # Put back last, so that lanes take turns.
            if line.errands:
                self._lanes[lane] = line
        self._inbox.finish(done)
        return given_up

    def _put_off(self, lane: Lane, line: _Queue, failure: str) -> None:
        pause_s = min(BACKOFF_S[0] * 2.0 ** min(line.tries - 1, 10), BACKOFF_S[1]) * random.uniform(0.5, 1.0)
        line.due = time.monotonic() + pause_s
        if line.tries & (line.tries - 1) == 0:
            behind = f", {len(line.errands) - 1} behind it" if len(line.errands) > 1 else ""
            self._say(f"{self._told(lane, line, failure)}; it is tried again{behind}")

    def _give_up(self, lane: Lane, line: _Queue, failure: str) -> Errand:
        self._say(f"{self._told(lane, line, failure)}; it is given up, and what follows it goes on")
        errand = line.take_first()
        self._inbox.give_up(errand, time.time(), failure)
        return errand

    def _told(self, lane: Lane, line: _Queue, failure: str) -> str:
        event_id = self._inbox.content(line.errands[0].alert)["event_id"]
        return f"--{lane.hook} failed {_times(line.tries)} for {event_id} of {lane.node}/{lane.stream}: {failure}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
