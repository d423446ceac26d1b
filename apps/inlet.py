"""Where the reader threads of a daemon leave what they read."""

import queue
import threading

from holdover.apps.post import Item, Post


class Inlet:
    """A bounded queue, so that a file waits for the loop; many threads put, the loop gets."""

    def __init__(self, size: int = 64) -> None:
        self._queue: queue.Queue[tuple[Post, Item]] = queue.Queue(size)
        self.closed = threading.Event()

    def put(self, post: Post, item: Item) -> None:
        """Wait for room, and leave an item; nothing once closed."""
        while not self.closed.is_set():
            try:
                self._queue.put((post, item), timeout=0.2)
                return
            except queue.Full:
                continue

    def get(self, timeout_s: float) -> tuple[Post, Item] | None:
        """The next item, or None if none came in time."""
        try:
            return self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
