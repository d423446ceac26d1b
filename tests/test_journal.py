"""The journal gives back exactly what was appended, whatever happened to its files."""

import errno
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.runtime.chunk import Chunk
from holdover.runtime.errors import LedgerError
from holdover.runtime.journal import Journal, JournalError


def open_journal(
    folder: Path,
    *,
    max_mb: float = 64,
    next_at_least: int = 0,
    channels: tuple[str, ...] = ("I", "II"),
    epoch: float | None = None,
) -> Journal:
    return Journal(
        folder,
        "ecg",
        rate_hz=360.0,
        channels=channels,
        units=("mV",) * len(channels),
        epoch=epoch,
        next_at_least=next_at_least,
        max_mb=max_mb,
    )


def a_chunk(number: int, n: int = 50) -> Chunk:
    """Chunk number k at sample 50 k, with something of each kind now and then."""
    noise = np.random.default_rng(number)
    x = noise.normal(size=(n, 2)).astype(np.float32)
    x[noise.random(x.shape) < 0.05] = np.nan
    lead_off = noise.random(n) < 0.1 if number % 3 == 0 else None
    return Chunk(number * n, x, lead_off, 1.7e9 + number if number % 4 else math.nan, "clock_jump" * (number % 5 == 0))


def append_many(journal: Journal, count: int) -> None:
    for number in range(count):
        journal.append(a_chunk(number))


def assert_same(found: Sequence[Chunk], expected: Sequence[Chunk]) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.at, a.x.shape, a.x.dtype, a.fault) == (b.at, b.x.shape, b.x.dtype, b.fault)
        assert a.x.tobytes() == b.x.tobytes()
        assert (a.lead_off is None) == (b.lead_off is None)
        np.testing.assert_array_equal(a.lead_off, b.lead_off)
        np.testing.assert_array_equal(a.arrived, b.arrived)


chunks = st.builds(
    lambda at, n, seed, fault, arrived: replace(a_chunk(seed, n), at=at, fault=fault, arrived=arrived),
    st.integers(-(10**6), 10**12),
    st.integers(0, 30),
    st.integers(0, 1000),
    st.text(max_size=20),
    st.floats(allow_infinity=False),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(chunks, max_size=8), min_size=1, max_size=4), st.data())
def test_a_reader_gets_exactly_the_chunks_after_those_it_had(sessions: list[list[Chunk]], data: st.DataObject) -> None:
    everything = [chunk for session in sessions for chunk in session]
    consumed = data.draw(st.integers(0, len(everything)))
    with tempfile.TemporaryDirectory() as folder:
        for session in sessions:
            journal = open_journal(Path(folder))
            for chunk in session:
                journal.append(chunk)
            journal.close()
        journal = open_journal(Path(folder))
        found = list(journal.read(consumed))
        assert [number for number, _ in found] == list(range(consumed, len(everything)))
        assert_same([chunk for _, chunk in found], everything[consumed:])
        assert (journal.next, journal.damaged) == (len(everything), 0)
        assert journal.end == max([0, *(chunk.end for chunk in everything)])
        journal.close()


def test_what_was_just_appended_can_be_read_at_once(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    assert list(journal.read(0)) == []
    for number in range(5):
        assert journal.append(a_chunk(number)) == number
    journal.sync()
    assert_same([chunk for _, chunk in journal.read(0)], [a_chunk(number) for number in range(5)])
    assert (journal.end, journal.oldest, journal.next) == (250, 0, 5)
    journal.close()
    journal.close()


def test_the_journal_remembers_the_clock(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.epoch = 1.7e9
    journal.append(replace(a_chunk(3), arrived=1.7e9 + 12.25))
    journal.close()
    journal = open_journal(tmp_path)
    assert (journal.epoch, journal.end, journal.last_arrived) == (1.7e9, 200, 1.7e9 + 12.25)
    journal.close()


def test_the_ring_lets_the_oldest_go_and_keeps_its_bound(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_mb=0.125)
    append_many(journal, 1000)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.journal")) <= 0.125 * 2**20
    assert 700 < journal.oldest < 900
    assert [number for number, _ in journal.read(0)] == list(range(journal.oldest, 1000))
    assert journal.damaged == 0
    journal.close()


def test_the_ring_never_deletes_what_a_checkpoint_still_needs(tmp_path: Path) -> None:
    journal = open_journal(tmp_path, max_mb=0.125)
    journal.keep_from = 100
    with pytest.raises(JournalError, match="record 100 is still needed"):
        append_many(journal, 1000)
    full = journal.next
    assert journal.oldest <= 100 < full
    journal.keep_from = full
    assert journal.append(a_chunk(full)) == full
    assert_same([chunk for _, chunk in journal.read(full)], [a_chunk(full)])
    journal.close()


def test_numbers_that_were_consumed_are_not_given_again_after_a_power_cut(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    append_many(journal, 10)
    journal.close()
    (path,) = tmp_path.rglob("*.journal")
    os.truncate(path, path.stat().st_size - 1000)
    journal = open_journal(tmp_path, next_at_least=10)
    assert journal.append(a_chunk(20)) == 10
    assert [number for number, _ in journal.read(10)] == [10]
    journal.close()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("three")
    journal = open_journal(folder, epoch=1.7e9)
    for number in range(3):
        journal.append(a_chunk(number, 5))
    journal.close()
    (path,) = folder.rglob("*.journal")
    return path.read_bytes()


def lay(folder: Path, data: bytes) -> None:
    (folder / "ecg").mkdir(exist_ok=True)
    (folder / "ecg" / "000000000000.journal").write_bytes(data)


def test_a_journal_cut_at_any_byte_gives_its_whole_records_and_goes_on(three: bytes, tmp_path: Path) -> None:
    for cut in range(len(three)):
        lay(tmp_path, three[:cut])
        journal = open_journal(tmp_path)
        whole = journal.next
        found = [chunk for _, chunk in journal.read(0)]
        assert_same(found, [a_chunk(number, 5) for number in range(whole)])
        assert journal.append(a_chunk(whole)) == whole
        assert_same([chunk for _, chunk in journal.read(whole)], [a_chunk(whole)])
        assert journal.damaged == 0
        journal.close()
        shutil.rmtree(tmp_path / "ecg")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_record_is_counted_and_the_others_come_whole(three: bytes, data: st.DataObject) -> None:
    body = three.index(b"\n") + 1
    at = data.draw(st.integers(body, len(three) - 1))
    flip = data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        lay(Path(folder), three[:at] + bytes([three[at] ^ flip]) + three[at + 1 :])
        journal = open_journal(Path(folder))
        found = dict(journal.read(0))
        assert len(found) == 2
        assert_same(list(found.values()), [a_chunk(number, 5) for number in found])
        assert journal.damaged == (0 if 2 not in found else 1)
        journal.close()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_garbage_is_never_a_crash(three: bytes, noise: bytes, at: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lay(Path(folder), three[:at] + noise + three[at + len(noise) :])
        try:
            journal = open_journal(Path(folder))
        except JournalError as error:
            assert "was written with" in str(error)  # noqa: PT017 - either outcome is right
            return
        list(journal.read(0))
        number = journal.append(a_chunk(7))
        assert_same([chunk for _, chunk in journal.read(number)], [a_chunk(7)])
        journal.close()


def test_files_that_are_no_journal_are_passed_over(tmp_path: Path) -> None:
    lay(tmp_path, b"")
    for name in ("notes.txt", "x.journal", "-1.journal", "²³.journal"):
        (tmp_path / "ecg" / name).write_bytes(b"\xff" * 100)
    journal = open_journal(tmp_path)
    assert journal.append(a_chunk(0)) == 0
    journal.close()


def test_another_source_is_refused_in_words(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append(a_chunk(0))
    with pytest.raises(JournalError, match=r"shape \(4, 1\), expected \(samples, 2\)"):
        journal.append(Chunk(0, np.zeros((4, 1), np.float32)))
    with pytest.raises(LedgerError, match="held by process"):
        open_journal(tmp_path)
    journal.close()
    with pytest.raises(JournalError, match=r"written with channels \('I', 'II'\), expected \('V1',\)"):
        open_journal(tmp_path, channels=("V1",))
    with pytest.raises(JournalError, match="stream's name"):
        Journal(tmp_path, "../ecg", rate_hz=1.0, channels=("I",), units=("mV",))
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot make"):
        open_journal(tmp_path / "file")


REFUSING_DISK = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_journal import JournalError, a_chunk, assert_same, open_journal

journal = open_journal(Path(sys.argv[1]))
for limit in (100, 5000, 5100):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        for _ in range(100):
            journal.append(a_chunk(journal.next))
    except JournalError as error:
        assert "nothing was appended" in str(error)
    else:
        raise AssertionError("never full")
    found = [chunk for _, chunk in journal.read(0)]
    assert_same(found, [a_chunk(number) for number in range(journal.next)])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for _ in range(3):
    journal.append(a_chunk(journal.next))
journal.close()
journal = open_journal(Path(sys.argv[1]))
assert_same([chunk for _, chunk in journal.read(0)], [a_chunk(number) for number in range(journal.next)])
assert journal.next > 10
journal.close()
print("ok")
"""


def test_a_disk_that_is_full_leaves_no_half_record(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    command = [sys.executable, "-c", REFUSING_DISK, str(tmp_path), tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ok" in done.stdout, done.stderr


class ReadOnly:
    """The system as it is on a file system that turned read-only: these calls fail."""

    def __init__(self, patch: pytest.MonkeyPatch, *names: str) -> None:
        for owner, name in ((Path if name in ("stat", "unlink", "glob", "read_bytes") else os, name) for name in names):
            patch.setattr(owner, name, self._refuse)

    def _refuse(self, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


EVERYTHING = ("pwrite", "ftruncate", "unlink", "open", "fdatasync", "fsync")


@pytest.mark.parametrize("refused", [("pwrite", "ftruncate"), EVERYTHING, ("stat",), ("unlink",), ("glob",), ("open",)])
def test_a_file_system_that_turns_read_only_is_a_journal_error_and_no_more(
    tmp_path: Path, refused: tuple[str, ...]
) -> None:
    journal = open_journal(tmp_path, max_mb=0.125)
    append_many(journal, 300)
    for _ in range(3):
        with pytest.MonkeyPatch.context() as patch:
            ReadOnly(patch, *refused)
            with pytest.raises(JournalError, match="Read-only"):
                append_many_more(journal, 100)
        assert append_many_more(journal, 20) == journal.next - 1
    found = dict(journal.read(0))
    assert list(found) == list(range(journal.oldest, journal.next))
    assert_same(list(found.values()), [a_chunk(number) for number in found])
    assert journal.damaged == 0
    journal.close()
    journal = open_journal(tmp_path, max_mb=0.125)
    assert journal.next == max(found) + 1
    journal.close()


def append_many_more(journal: Journal, count: int) -> int:
    """Go on where the journal is; the last number."""
    return [journal.append(a_chunk(journal.next)) for _ in range(count)][-1]


def test_half_a_record_that_cannot_be_cut_off_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = open_journal(tmp_path)
    append_many(journal, 3)
    pwrite = os.pwrite

    def half(fd: int, data: bytes, at: int) -> int:
        if len(data) < 600:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pwrite(fd, data[: len(data) // 2 + 1], at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        ReadOnly(patch, "ftruncate")
        with pytest.raises(JournalError, match="Input/output"):
            journal.append(a_chunk(3, 500))
    assert_same([chunk for _, chunk in journal.read(0)], [a_chunk(number) for number in range(3)])
    assert journal.append(a_chunk(3, 5)) == 3
    assert journal.append(a_chunk(4)) == 4
    expected = [a_chunk(0), a_chunk(1), a_chunk(2), a_chunk(3, 5), a_chunk(4)]
    assert_same([chunk for _, chunk in journal.read(0)], expected)
    journal.close()
    journal = open_journal(tmp_path)
    assert_same([chunk for _, chunk in journal.read(0)], expected)
    journal.close()


def test_a_disk_that_cannot_be_read_or_synced_is_a_journal_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path)
    append_many(journal, 3)
    with monkeypatch.context() as patch:
        ReadOnly(patch, "fdatasync", "read_bytes")
        with pytest.raises(JournalError, match="cannot be read"):
            list(journal.read(0))
        with pytest.raises(JournalError, match="cannot be written"):
            journal.sync()
        with pytest.raises(JournalError, match="cannot be written"):
            journal.close()
    open_journal(tmp_path).close()


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_journal import a_chunk, open_journal
journal = open_journal(Path(sys.argv[1]))
while True:
    print(journal.append(a_chunk(journal.next)), flush=True)
"""


def test_a_kill_loses_no_chunk_that_was_appended(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)]
    said = -1
    for lines in (1, 50):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout
            for _ in range(lines):
                said = int(writer.stdout.readline())
            writer.kill()
        journal = open_journal(tmp_path)
        assert journal.next > said
        assert_same([chunk for _, chunk in journal.read(0)], [a_chunk(number) for number in range(journal.next)])
        journal.close()
