"""Frames out of a stream of bytes that may hold anything else."""

from typing import Protocol

from holdover.devices.sources.packet import Packet, merged

MAX_FRAME = 4096


class Layout(Protocol):
    """How the frames of one kind are laid out.

    Attributes
    ----------
    sync
        The bytes that a frame begins with.
    head
        How many bytes tell its length.
    """

    sync: bytes
    head: int

    def size(self, head: bytes) -> int:
        """The length of the frame that begins so, in bytes; 0 if none can."""
        ...

    def packet(self, frame: bytes) -> Packet | None:
        """What a frame says; None if it is none, as its checksum or its end tells."""
        ...

    def nothing(self, garbage: int) -> Packet:
        """No samples, and so many bytes that were thrown away."""
        ...


class FrameCodec:
    """Finds frames, and goes on at the next one after whatever is none.

    What looked like a frame and was none is searched again from its second byte on, so that a frame in it is found.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._bytes = bytearray()

    def push(self, data: bytes) -> list[Packet]:
        """The packets of the frames that are whole."""
        self._bytes += data
        packets, at, garbage = [], 0, 0
        while True:
            begin = self._find(at)
            garbage, at = garbage + begin - at, begin
            size = self._size(at)
            if size is None or (size and at + size > len(self._bytes)):
                break
            packet = self.layout.packet(bytes(self._bytes[at : at + size])) if size else None
            if packet is None:
                garbage, at = garbage + 1, at + 1
            else:
                packets.append(packet)
                at += size
        del self._bytes[:at]
        return [*merged(packets), *_thrown_away(self.layout, garbage)]

    def finish(self) -> list[Packet]:
        """Throw away what waits; a frame that it holds beyond its first byte is found."""
        packets: list[Packet] = []
        while self._bytes:
            del self._bytes[:1]
            packets += [*_thrown_away(self.layout, 1), *self.push(b"")]
        return merged(packets)

    def lose(self, torn: bool) -> None:  # noqa: ARG002 - a frame shows where it begins
        """Forget the half frame that waits."""
        self._bytes.clear()

    def _find(self, at: int) -> int:
        """Where a frame may begin, perhaps with its last bytes still to come."""
        sync = self.layout.sync
        found = self._bytes.find(sync, at)
        if found >= 0:
            return found
        halves = (n for n in range(len(sync) - 1, 0, -1) if self._bytes.endswith(sync[:n]))
        return max(len(self._bytes) - next(halves, 0), at)

    def _size(self, at: int) -> int | None:
        """The length of the frame that begins here, 0 if none can; None while its head is not whole."""
        head = bytes(self._bytes[at : at + self.layout.head])
        if len(head) < self.layout.head:
            return None
        size = self.layout.size(head)
        return size if size <= MAX_FRAME else 0


def _thrown_away(layout: Layout, garbage: int) -> list[Packet]:
    return [layout.nothing(garbage)] if garbage else []
