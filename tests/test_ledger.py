"""The ledger keeps what was committed, and nothing by half."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.runtime.errors import LedgerError
from holdover.runtime.ledger import Checkpoint, Ledger, LedgerFull
from holdover.runtime.ledger_file import explained
from tests.brokers import POSITION, an_alert, fill


def test_a_commit_is_there_after_closing(tmp_path: Path) -> None:
    position = Checkpoint("cd" * 32, 4711, 1.7e9 + 1 / 3, b"\x00memory\xff")
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert ledger.checkpoint("ecg") is None
        rows = ledger.commit("ecg", position, [(an_alert(1), 12.5), (an_alert(2), None)], resumed=True)
        assert [row.stream_seq for row in rows] == [1, 2]
    with Ledger(tmp_path / "ledger.db") as ledger:
        assert ledger.checkpoint("ecg") == position
        assert ledger.unsent() == rows
        assert [(r.arrived, r.resumed) for r in rows] == [(12.5, True), (None, True)]
        assert rows[0].body == an_alert(1).body_json()


def test_an_alert_that_is_already_there_is_not_stored_twice(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        fill(ledger, 1, 2)
        stored = ledger.commit("ecg", POSITION, [(an_alert(2), None), (an_alert(3), None), (an_alert(1), None)])
        assert [(row.event_id, row.stream_seq) for row in stored] == [(an_alert(3).body()["event_id"], 3)]
        assert [row.stream_seq for row in ledger.unsent()] == [1, 2, 3]


def test_each_stream_counts_for_itself(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        fill(ledger, 1, 2)
        (row,) = ledger.commit("other", POSITION, [(an_alert(1, "other"), None)])
        assert (row.stream_seq, row.id) == (1, 3)
        assert [row.stream_seq for row in ledger.unsent(limit=2)] == [1, 2]


def test_acknowledged_alerts_leave_the_queue_and_their_numbers_do_not_return(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        fill(ledger, *range(10))
        time.sleep(0.01)
        count, age_s = ledger.depth()
        assert count == 10
        assert 0 < age_s < 10
        ledger.acknowledge(row.id for row in ledger.unsent())
        assert ledger.depth() == (0, 0.0)
        assert ledger.prune(3) == 7
        assert ledger.prune(3) == 0
        assert ledger.prune(0) == 3
        fill(ledger, 11)
        assert [(row.id, row.stream_seq) for row in ledger.unsent()] == [(11, 11)]


def test_pruning_never_touches_unsent_alerts(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        fill(ledger, *range(10))
        ledger.acknowledge([2, 4, 6])
        assert ledger.prune(0) == 3
        assert [row.id for row in ledger.unsent()] == [1, 3, 5, 7, 8, 9, 10]


def test_a_second_daemon_is_told_who_holds_the_ledger(tmp_path: Path) -> None:
    script = "import sys; from holdover.runtime.ledger import Ledger; Ledger(sys.argv[1]).unsent(); print(); input()"
    command = [sys.executable, "-c", script, str(tmp_path / "ledger.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        holder.stdout.readline()
        with pytest.raises(LedgerError, match=f"held by process {holder.pid}: stop it"):
            Ledger(tmp_path / "ledger.db")
        holder.send_signal(signal.SIGKILL)
    Ledger(tmp_path / "ledger.db").close()


def test_a_path_that_cannot_be_a_ledger_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam, this is not a database.")
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        db.execute("CREATE TABLE cats (name)")
    for name, words in (
        ("missing/ledger.db", "mkdir -p"),
        (".", "is a folder"),
        ("letter.txt", "not SQLite"),
        ("other.db", "another program"),
    ):
        for _ in range(2):
            with pytest.raises(LedgerError, match=words):
                Ledger(tmp_path / name)
    assert (tmp_path / "letter.txt").read_text().startswith("Dear")


def test_a_ledger_of_another_version_is_left_alone(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        fill(ledger, 1)
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        db.execute("PRAGMA user_version = 7")
    with pytest.raises(LedgerError, match="schema 7"):
        Ledger(tmp_path / "ledger.db")
    assert len(list(tmp_path.glob("ledger.db*"))) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_refused_in_words(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LedgerError, match="cannot be written by this user"):
        Ledger(tmp_path / "ledger.db")


def test_a_full_ledger_stores_nothing_by_half_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db", max_mb=0.25) as ledger:
        at = _fill_up(ledger)
        count, _ = ledger.depth()
        assert count == 2 * at
        position = ledger.checkpoint("ecg")
        assert position is not None
        assert position.at == at
        ledger.acknowledge(row.id for row in ledger.unsent(limit=20))
        rows = ledger.commit("ecg", POSITION, [(an_alert(10**6), None)])
        assert [row.stream_seq for row in rows] == [2 * at + 1]
        assert ledger.depth()[0] == 2 * at - 20 + 1


def _fill_up(ledger: Ledger) -> int:
    """Commit pairs of alerts until there is no room; how many pairs went in."""
    for at in range(1, 10**6):
        try:
            entries = [(an_alert(2 * at), None), (an_alert(2 * at + 1), None)]
            ledger.commit("ecg", Checkpoint("cd" * 32, at, None, os.urandom(2000)), entries)
        except LedgerFull:
            return at - 1
    raise AssertionError("never full")


FULL_DISK = """
import os, resource, sys
sys.path.insert(0, sys.argv[2])
from test_ledger import _fill_up
from brokers import an_alert, POSITION
from holdover.runtime.ledger import Ledger

folder, limit = sys.argv[1], int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
with Ledger(folder + "/ledger.db") as ledger:
    at = _fill_up(ledger)
    assert at > 10, at
    assert (ledger.depth()[0], ledger.checkpoint("ecg").at) == (2 * at, at)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        os.unlink(folder + "/ballast")
    assert ledger.commit("ecg", POSITION, [(an_alert(10**6), None)])[0].stream_seq == 2 * at + 1
with Ledger(folder + "/ledger.db") as ledger:
    assert ledger.set_aside is None and ledger.depth()[0] == 2 * at + 1
print("ok")
"""


def _in_a_process(*command: str) -> str:
    tests = str(Path(__file__).parent)
    path = os.pathsep.join([tests, str(Path(tests).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_disk_that_refuses_to_write_counts_as_full(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    assert "ok" in _in_a_process(sys.executable, "-c", FULL_DISK, str(tmp_path), tests, str(400_000))


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root to mount a small disk")
def test_a_full_disk_is_survived(tmp_path: Path) -> None:
    tests = str(Path(__file__).parent)
    mount = f"mount -t tmpfs -o size=2m none {tmp_path} && head -c 1000000 /dev/zero > {tmp_path}/ballast"
    run = f"{mount} && exec {sys.executable} -c '{FULL_DISK}' {tmp_path} {tests} 0"
    assert "ok" in _in_a_process("unshare", "--mount", "sh", "-c", run)


def test_a_ledger_that_turns_read_only_keeps_what_it_has_and_goes_on_later(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger.db") as ledger:
        fill(ledger, 1)
        ledger._db.execute("PRAGMA query_only = 1")
        with pytest.raises(LedgerFull, match=r"cannot be written now .* it is tried again"):
            fill(ledger, 2)
        with pytest.raises(LedgerFull):
            ledger.acknowledge([1])
        assert ledger.depth()[0] == 1
        ledger._db.execute("PRAGMA query_only = 0")
        fill(ledger, 2)
        assert [row.stream_seq for row in ledger.unsent()] == [1, 2]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_READONLY_DIRECTORY, LedgerFull),
        (sqlite3.SQLITE_IOERR, LedgerFull),
        (sqlite3.SQLITE_IOERR_READ, LedgerFull),
        (sqlite3.SQLITE_IOERR_WRITE, LedgerFull),
        (sqlite3.SQLITE_CORRUPT, LedgerError),
        (sqlite3.SQLITE_MISUSE, LedgerError),
    ],
)
def test_a_disk_that_fails_at_run_time_is_tried_again(code: int, kind: type[LedgerError]) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    assert type(explained(error, Path("ledger.db"))) is kind


def test_a_damaged_ledger_is_set_aside_and_what_can_be_read_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        fill(ledger, *range(300))
        ledger.acknowledge([1, 2, 3])
    _damage(path)
    data = path.read_bytes()
    with Ledger(path) as ledger:
        assert ledger.set_aside is not None
        assert ledger.set_aside.name.startswith("ledger.db.corrupt-")
        assert ledger.set_aside.read_bytes()[: 4096 * 20] == data[: 4096 * 20]
        rows = ledger.unsent(limit=1000)
        assert 200 < len(rows) < 297
        assert all(row.body == an_alert(row.id - 1).body_json() and row.stream_seq == row.id for row in rows)
        assert ledger.commit("ecg", POSITION, [(an_alert(10**6), None)])[0].stream_seq == 301
        assert ledger.checkpoint("ecg") == POSITION
    with Ledger(path) as ledger:
        assert ledger.set_aside is None


def test_a_ledger_whose_beginning_was_lost_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    for spoilt in (bytes(8192), os.urandom(8192), b"SQLite format 3\0" + os.urandom(100)):
        with Ledger(path) as ledger:
            fill(ledger, 1)
        path.write_bytes(spoilt)
        with Ledger(path) as ledger:
            assert ledger.set_aside is not None
            fill(ledger, 1)
    assert len(list(tmp_path.glob("*.corrupt-*"))) == 3


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("healthy") / "ledger.db"
    with Ledger(path) as ledger:
        fill(ledger, *range(30))
    return path


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), spots=st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=64))))
def test_no_damage_whatever_brings_the_ledger_down(healthy: Path, cut: float, spots: list[tuple[float, bytes]]) -> None:
    data = bytearray(healthy.read_bytes())
    for place, noise in spots:
        at = int(place * len(data))
        data[at : at + len(noise)] = noise
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        Ledger(path).close()
        path.write_bytes(data[: int(cut * len(data))])
        try:
            with Ledger(path) as ledger:
                ids = [row.id for row in ledger.unsent(limit=1000)]
                assert ids == sorted(ids)
                fill(ledger, 10**6)
        except LedgerError as error:
            assert str(path) in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("number", [0, -0.0, 12, float("nan"), float("inf"), 1e300, 1 / 3])
def test_no_number_whatever_makes_a_ledger_look_damaged(number: float, tmp_path: Path) -> None:
    for _ in range(2):
        with Ledger(tmp_path / "ledger.db") as ledger:
            assert ledger.set_aside is None
            ledger.commit("ecg", Checkpoint("cd" * 32, 7, number, b""), [(an_alert(1), number)], resumed=True)


NOISE = (("a bit", 1), ("some bytes", 64), ("a page", 4096))


@pytest.mark.parametrize(("what", "size"), NOISE)
def test_damage_in_any_page_is_found_at_the_start_and_no_alert_is_altered(what: str, size: int, tmp_path: Path) -> None:
    dice = random.Random(size)
    whole = tmp_path / "whole.db"
    with Ledger(whole) as ledger:
        fill(ledger, *range(60))
        ledger.acknowledge(range(1, 11))
    data = whole.read_bytes()
    wanted = {an_alert(number).body_json() for number in range(10, 60)}
    found = saved = 0
    for page in range(len(data) // 4096):
        for _ in range(3):
            at = page * 4096 + (0 if size == 4096 else dice.randrange(4097 - size))
            noise = bytes([data[at] ^ 1 << dice.randrange(8)]) if size == 1 else dice.randbytes(size)
            path = tmp_path / f"{page}-{found}.db"
            path.with_name(path.name + ".lock").touch()
            path.write_bytes(data[:at] + noise + data[at + size :])
            with Ledger(path) as ledger:
                rows = {row.body for row in ledger.unsent(limit=1000)}
                assert rows <= wanted, "what is sent is what was written"
                if ledger.set_aside:
                    found, saved = found + 1, saved + len(rows)
                    (told,) = ledger.dropped()
                    assert (told.reason, told.first, told.last) == ("damaged", 1, 60)
                else:
                    assert rows == wanted, "nothing is lost in silence"
                assert ledger.commit("ecg", POSITION, [(an_alert(10**6), None)])[0].stream_seq == 61
    assert found > 10, what
    assert saved > 30 * found, "what can be read is saved"


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4096 * 20 : 4096 * 24] = b"\xff" * 4096 * 4
    path.write_bytes(data)


def test_a_damaged_ledger_on_a_full_disk_stays_until_there_is_room_for_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        fill(ledger, *range(300))
    _damage(path)
    for _ in range(2):
        with pytest.raises(LedgerFull, match="has no room"):
            Ledger(path, max_mb=0.1)
    assert list(tmp_path.glob("*.corrupt-*")) == []
    with Ledger(path) as ledger:
        assert ledger.set_aside is not None
        assert ledger.depth()[0] > 200


def test_a_kill_while_a_damaged_ledger_is_replaced_leaves_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        fill(ledger, 1, 2)
    path.rename(tmp_path / "ledger.db.new")
    path.with_name("ledger.db-wal").write_bytes(b"the log of the damaged one")
    with Ledger(path) as ledger:
        assert [row.stream_seq for row in ledger.unsent()] == [1, 2]
        assert ledger.set_aside is None


def test_what_was_sent_before_the_damage_is_not_sent_again_when_it_is_decided_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        fill(ledger, *range(300))
        ledger.acknowledge(range(1, 301))
    _damage(path)
    with Ledger(path) as ledger:
        fill(ledger, *range(300))
        assert 0 < ledger.depth()[0] < 100, "only what cannot be read any more"


SMALL_DISK = """
import os, sys
from holdover.runtime.ledger import Checkpoint, Ledger
with Ledger(sys.argv[1] + "/ledger.db") as ledger:
    for at in range(600):
        ledger.commit("ecg", Checkpoint("cd" * 32, at, None, os.urandom(5000)))
    assert ledger.checkpoint("ecg").at == 599
print("ok")
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root to mount a small disk")
def test_a_disk_that_is_smaller_than_the_log_may_grow_is_not_filled_by_it(tmp_path: Path) -> None:
    run = f"mount -t tmpfs -o size=2m none {tmp_path} && exec {sys.executable} -c '{SMALL_DISK}' {tmp_path}"
    assert "ok" in _in_a_process("unshare", "--mount", "sh", "-c", run)


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from brokers import an_alert
from holdover.runtime.ledger import Checkpoint, Ledger
with Ledger(sys.argv[1]) as ledger:
    found = ledger.checkpoint("ecg")
    at = found.at if found else 0
    while True:
        at += 1
        ledger.commit("ecg", Checkpoint("cd" * 32, at, None, bytes([at % 256]) * 10000), [(an_alert(at), None)])
        print(at, flush=True)
"""


def test_a_kill_at_any_moment_leaves_alerts_and_position_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "ledger.db"), str(Path(__file__).parent)]
    said = 0
    for lines in (3, 17, 40):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout
            for _ in range(lines):
                said = int(writer.stdout.readline())
            writer.kill()
        with Ledger(tmp_path / "ledger.db") as ledger:
            position = ledger.checkpoint("ecg")
            assert position is not None
            assert position.at >= said
            assert position.memory == bytes([position.at % 256]) * 10000
            assert [row.stream_seq for row in ledger.unsent(limit=10**6)] == list(range(1, position.at + 1))
