"""What a service manager is told: ready, alive, stopping (sd_notify(3)); and whether the daemon lives."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from holdover.apps.post import Item, Post

READER_S = 5.0
"""A source hands something over every 0.5 s, if only an empty chunk; a reader that is silent for longer is stuck."""
FLOW_S = 15.0
"""Samples come, or their absence has become an alarm, within this time: the clock of a source waits 2 s."""


def notify(message: str) -> None:
    """Send "READY=1", "WATCHDOG=1", "STATUS=..." or "STOPPING=1" to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(message.encode(), address)
        except OSError:
            return


def watchdog_s() -> float | None:
    """How often systemd wants to hear that we live, half its limit, in seconds; None if it does not ask."""
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    return int(limit_us) / 2e6 if limit_us.isdigit() else None


class _Watched(NamedTuple):
    """A thread, and for how long it has been stuck, in seconds."""

    thread: threading.Thread
    stuck_s: Callable[[], float]


class Pulse:
    """Whether a daemon lives: its readers hand over, its other threads run, samples flow or their absence was told.

    That the main loop turns is shown by its asking.

    Parameters
    ----------
    patience_s
        A live reader that hands nothing over for so long is stuck.
    """

    def __init__(self, posts: "Sequence[Post]", patience_s: float = READER_S) -> None:
        self._posts = posts
        self._patience_s = max(patience_s, READER_S)
        self._threads: dict[str, _Watched] = {}
        self._readers = {post.id: _Reader() for post in posts}

    def watch(self, name: str, start: Callable[[], None], stuck_s: Callable[[], float] = lambda: 0.0) -> None:
        """Start something, and hold on to the thread that it begins; `stuck_s` tells for how long it is overdue."""
        before = set(threading.enumerate())
        start()
        for thread in set(threading.enumerate()) - before:
            self._threads[name] = _Watched(thread, stuck_s)

    def noted(self, put: "Callable[[Post, Item], None]") -> "Callable[[Post, Item], None]":
        """`put`, with a note of each call; for the reader threads."""

        def hand_over(post: "Post", item: "Item") -> None:
            with self._readers[post.id].handing(item):
                put(post, item)

        return hand_over

    def samples(self, stream: str) -> int:
        """How many came from a stream in this start."""
        return self._readers[stream].samples

    def trouble(self) -> str:
        """What does not live, in words; "" if all does."""
        now = time.monotonic()
        found = [said for name, watched in self._threads.items() if (said := _trouble_with(name, watched))]
        found += [said for post in self._posts if not post.ended and (said := self._trouble_of(post, now))]
        return "; ".join(found)

    def _trouble_of(self, post: "Post", now: float) -> str:
        reader = self._readers[post.id]
        if reader.thread is not None and not reader.thread.is_alive() and not reader.at_end:
            return f"the reader of {post.id} has died"
        # A reader that waits for room waits for the main loop, and a file may be played slowly.
        if reader.is_handing or reader.at_end or not post.is_live:
            return ""
        if now - reader.heard > self._patience_s:
            return f"the reader of {post.id} has been stuck for {now - reader.heard:.0f} s"
        state = post.state
        if now - reader.sampled > FLOW_S and (state is None or state.quality != "lost"):
            return f"{post.id} has had no sample for {now - reader.sampled:.0f} s, and no alarm says so"
        return ""


def _trouble_with(name: str, watched: _Watched) -> str:
    if not watched.thread.is_alive():
        return f"the thread of {name} has ended"
    stuck_s = watched.stuck_s()
    return f"the thread of {name} has been stuck for {stuck_s:.0f} s" if stuck_s > 0 else ""


class _Reader:
    """What a reader thread was seen to do; times are monotonic."""

    def __init__(self) -> None:
        self.heard = self.sampled = time.monotonic()
        self.samples = 0
        self.is_handing = self.at_end = False
        self.thread: threading.Thread | None = None

    @contextmanager
    def handing(self, item: "Item") -> Iterator[None]:
        """Around the handing over of an item, by the reader's thread."""
        self.thread, self.is_handing = threading.current_thread(), True
        self.at_end = not hasattr(item, "x")
        count = 0 if self.at_end else len(item.x)  # type: ignore[union-attr]
        try:
            yield
        finally:
            self.heard = time.monotonic()
            if count:
                self.sampled = self.heard
                self.samples += count
            self.is_handing = False
