"""A ring of raw samples on disk, so that a source that cannot seek can be read again after a crash."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from holdover.runtime.chunk import Chunk
from holdover.runtime.errors import LedgerError
from holdover.runtime.journal_record import JournalHead, pack_record, read_head, unpack_records
from holdover.runtime.ledger_file import hold

SUFFIX = ".journal"
SEGMENT_MB = 4.0


class JournalError(LedgerError):
    """The journal cannot be opened or written; what was to be appended is not in it, not even in part."""


class Journal:
    """Chunks in order of writing, each with a number that counts up from 0 and is never used again.

    The number is the position in a journaled stream, not the sample: chunks may repeat samples or go back, and empty
    ones announce missing samples, so only the number says what was consumed. Whoever has consumed record k stores
    k + 1 in its `Checkpoint.at`, and goes on with `read(k + 1)`. Call `sync` before such a checkpoint is committed.

    Parameters
    ----------
    folder
        Holds one folder for each stream; made if it is missing.
    epoch
        Unix time of sample 0. None: as the journal remembers it; a live source sets the attribute with its first chunk.
    next_at_least
        The `Checkpoint.at` of the stream, so that numbers that were consumed and then lost in a power cut are not
        given again.
    max_mb
        Bound of the ring in MiB.

    Attributes
    ----------
    next
        Number that the next record gets.
    end
        Place on the sample clock just after the furthest sample.
    last_arrived
        Unix time of the last chunk in seconds; NaN if unknown.
    keep_from
        Oldest record that is still needed; the ring deletes nothing from it on. None: all may go.
    damaged
        How many records the last `read` found lost.

    Raises
    ------
    LedgerError
        Another process uses the journal.
    JournalError
        The folder cannot be used, or holds the samples of another rate or other channels.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        stream: str,
        *,
        rate_hz: float,
        channels: tuple[str, ...],
        units: tuple[str, ...],
        epoch: float | None = None,
        next_at_least: int = 0,
        max_mb: float = 64,
    ) -> None:
        if Path(stream).name != stream:
            raise JournalError(f"the stream's name is {stream!r}, expected one that can name a folder")
        self.folder, self.stream = Path(folder) / stream, stream
        self.rate_hz, self.channels, self.units, self.epoch = rate_hz, tuple(channels), tuple(units), epoch
        self.max_bytes = int(max_mb * 2**20)
        self.segment_bytes = int(min(SEGMENT_MB * 2**20, self.max_bytes / 4))
        self.next, self.end, self.last_arrived, self.damaged = 0, 0, math.nan, 0
        self.keep_from: int | None = None
        self._fd, self._size = -1, 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(f"cannot make the journal's folder {self.folder}: {error.strerror}") from error
        self._lock = hold(self.folder / "journal")
        try:
            self._resume()
        except BaseException as error:
            with suppress(JournalError):
                self.close()
            if isinstance(error, OSError) and not isinstance(error, LedgerError):
                raise self._refused(error) from error
            raise
        self.next = max(self.next, next_at_least)

    def append(self, chunk: Chunk) -> int:
        """Write a chunk; returns its number. It is on the disk for good after the next `sync`.

        Raises
        ------
        JournalError
            No room, or the wrong number of channels; the journal is as it was before.
        """
        if chunk.x.ndim != 2 or chunk.x.shape[1] != len(self.channels):
            raise JournalError(f"a chunk has the shape {chunk.x.shape}, expected (samples, {len(self.channels)})")
        number, record = self.next, pack_record(self.next, chunk)
        with self._explained():
            if self._fd < 0 or self._size + len(record) > self.segment_bytes:
                self._roll(len(record))
            self._write(record)
        self._note(number, chunk)
        return number

    def sync(self) -> None:
        """Make sure that all that was appended survives a power cut; meant to be called once a second.

        Raises
        ------
        JournalError
            The disk refuses.
        """
        if self._fd >= 0:
            with self._explained():
                os.fdatasync(self._fd)

    def read(self, number: int) -> Iterator[tuple[int, Chunk]]:
        """Every record from `number` on, each with its own, as it was appended.

        Those that are missing in between were damaged, and are counted in `damaged`; those before `oldest` have left
        the ring.

        Raises
        ------
        JournalError
            The disk refuses.
        """
        self.damaged = 0
        expected = max(number, self.oldest)
        for path, follower in self._segments_with_follower():
            for found, _, chunk in self._records(path) if follower > expected else ():
                if found >= expected:
                    self.damaged += found - expected
                    expected = found + 1
                    yield found, chunk

    @property
    def oldest(self) -> int:
        """Number of the oldest record that the ring holds; `next` if it is empty."""
        segments = self._segments()
        return segments[0][0] if segments else self.next

    def close(self) -> None:
        """Sync, close, and let go of the lock; doing so twice is fine."""
        open_fds = [fd for fd in (self._fd, self._lock) if fd >= 0]
        try:
            self.sync()
        finally:
            self._fd = self._lock = -1
            for fd in open_fds:
                with suppress(OSError):
                    os.close(fd)

    def _resume(self) -> None:
        """Take up the last segment where its last whole record ends; what is torn after it is cut off."""
        segments = self._segments()
        while segments and self._size == 0:
            first, path = segments.pop()
            data = path.read_bytes()
            head = read_head(data)
            records = list(self._records(path))
            self.next = max(self.next, first)
            if head is None and not records:
                path.unlink()
                continue
            self._check(head, path)
            for number, end, chunk in records:
                self._note(number, chunk)
                self._size = end
            self._size = self._size or data.index(b"\n") + 1
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            os.ftruncate(self._fd, self._size)

    def _note(self, number: int, chunk: Chunk) -> None:
        self.next = max(self.next, number + 1)
        self.end = max(self.end, chunk.end)
        self.last_arrived = chunk.arrived

    def _check(self, head: JournalHead | None, path: Path) -> None:
        if head is None:
            return
        expected = msgspec.structs.replace(self._new_head(), epoch=head.epoch, end=head.end)
        for name in head.__struct_fields__:
            if getattr(head, name) != getattr(expected, name):
                raise JournalError(
                    f"the journal {path} was written with {name} {getattr(head, name)}, expected "
                    f"{getattr(expected, name)}: move {self.folder} away, or give the stream another name"
                )
        self.end = max(self.end, head.end)
        self.epoch = head.epoch if self.epoch is None else self.epoch

    def _roll(self, need: int) -> None:
        """Go on in a new segment, and let go of the oldest ones."""
        if self._fd >= 0:
            self.sync()
            old, self._fd = self._fd, -1
            os.close(old)
        self._make_room(need)
        path = self.folder / f"{self.next:012d}{SUFFIX}"
        try:
            self._fd, self._size = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), 0
            self._write(msgspec.json.encode(self._new_head()) + b"\n")
            _sync_folder(self.folder)
        except OSError:
            self._give_up(path)
            raise

    def _new_head(self) -> JournalHead:
        return JournalHead(
            stream=self.stream,
            rate_hz=self.rate_hz,
            channels=self.channels,
            units=self.units,
            epoch=self.epoch,
            end=self.end,
        )

    def _give_up(self, path: Path) -> None:
        """Close a segment that has no record yet; where it cannot be deleted, the next attempt empties it."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with suppress(OSError):
                os.close(fd)
            with suppress(OSError):
                path.unlink()

    def _make_room(self, need: int) -> None:
        if need + 4096 > self.max_bytes:
            raise JournalError(f"a chunk of {need} bytes does not fit into a journal of {self.max_bytes}: raise max_mb")
        total = sum(path.stat().st_size for _, path in self._segments()) + max(need, self.segment_bytes)
        for path, follower in self._segments_with_follower():
            if total <= self.max_bytes or (self.keep_from is not None and follower > self.keep_from):
                break
            total -= path.stat().st_size
            path.unlink()
        if total > self.max_bytes:
            raise JournalError(
                f"the journal {self.folder} is full ({self.max_bytes / 2**20:.0f} MB), and record {self.keep_from} is "
                "still needed: see why no checkpoint is taken, or raise its limit"
            )

    def _write(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], self._size + done)
        except OSError:
            with suppress(OSError):  # what is left of a torn record is overwritten by the next one
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except LedgerError:
            raise
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> JournalError:
        return JournalError(
            f"the journal {self.folder} cannot be written ({error.strerror}): nothing was appended; "
            "make room on the disk, or correct its owner"
        )

    def _segments(self) -> list[tuple[int, Path]]:
        with self._explained():
            paths = list(self.folder.glob(f"*{SUFFIX}"))
        found = [path for path in paths if path.stem.isascii() and path.stem.isdecimal()]
        return sorted((int(path.stem), path) for path in found)

    def _segments_with_follower(self) -> list[tuple[Path, int]]:
        """Each segment, with the number that the next one begins with."""
        segments = self._segments()
        followers = [first for first, _ in segments[1:]] + [self.next]
        return [(path, follower) for (_, path), follower in zip(segments, followers, strict=False)]

    def _records(self, path: Path) -> Iterator[tuple[int, int, Chunk]]:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise JournalError(f"the journal {path} cannot be read ({error.strerror}): see to its disk") from error
        for number, end, chunk in unpack_records(data):
            if chunk.x.shape[1] == len(self.channels):
                yield number, end, chunk


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
