"""Sensors that send bytes, over real terminals and sockets: on good links, on bad ones, and pulled out."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from holdover.devices.simulators.byte_lines import PtyLine
from holdover.devices.simulators.byte_sensor import packets_of
from holdover.devices.simulators.impair import Impairments
from holdover.devices.sources import byte_device, frames, open_file, open_source
from holdover.devices.sources.lines import open_tcp, open_udp
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.runtime.chunk import Chunk
from holdover.runtime.clock import Holdover
from holdover.runtime.errors import SourceError, UsageError
from holdover.runtime.watch import bodies
from tests.brokers import Broker, any_broker, wait_until
from tests.byte_rigs import packets, port_of, rig, sending
from tests.collecting import Collector, collecting
from tests.processes import Daemon, configure, free_port, holdover, labels
from tests.signals import a_watch, calm, hear

NEVER = threading.Event()


def microvolts(seconds: int) -> NDArray[np.float32]:
    """The recording, as a sensor measures it that tells 1 uV; (n, 1), mV, 360 Hz."""
    return (np.rint(calm()[: seconds * 360].astype(np.float64) * 1000) * 0.001).astype(np.float32)


def numbered(n: int) -> NDArray[np.float32]:
    """Samples that are their own places, (n, 1), mV."""
    return (np.arange(n)[:, np.newaxis] * 0.001).astype(np.float32)


def places(collector: Collector) -> tuple[list[int], list[int]]:
    """Of all samples so far, the place that each got and the one that it had when it was sent."""
    chunks = [chunk for chunk in list(collector.chunks) if len(chunk)]
    got = [chunk.at + i for chunk in chunks for i in range(len(chunk))]
    return got, [round(v * 1000) for chunk in chunks for v in chunk.x[:, 0].tolist()]


@pytest.mark.parametrize(
    ("kind", "form"),
    [("serial", "lines"), ("serial", "frames"), ("serial", "protocentral"), ("tcp", "lines"), ("tcp", "frames"),
     ("tcp listen", "frames"), ("udp", "lines"), ("udp", "frames"), ("stdin", "lines"), ("stdin", "frames")],
)  # fmt: skip
def test_over_a_perfect_link_all_is_said_as_of_the_file_to_the_byte(kind: str, form: str, tmp_path: Path) -> None:
    x = microvolts(60)
    file = hear(a_watch(), [Chunk(0, x)])
    with rig(kind, tmp_path, form) as r, collecting() as collect:
        collector = collect(r.source)
        with sending(r, x):
            collector.until(len(x), 60)
        collector.stop()
    live = hear(a_watch(), [chunk for chunk in collector.chunks if len(chunk)])
    np.testing.assert_array_equal(collector.x, x)
    assert (live.annotations, bodies(live.alerts)) == (file.annotations, bodies(file.alerts))
    assert len(live.beats) > 60
    assert (r.source.facts.lost, r.source.facts.duplicated) == (0, 0)


BAD = {
    "loss": Impairments(loss=0.05, seed=1),
    "bursts": Impairments(loss=0.05, burst=8, seed=2),
    "duplicates": Impairments(duplicates=0.2, seed=3),
    "jitter": Impairments(jitter_s=0.2, seed=4),
    "reordered": Impairments(reorder=0.2, reorder_s=0.2, seed=5),
    "drift": Impairments(drift=0.01, seed=6),
    "all": Impairments(loss=0.05, burst=3, duplicates=0.2, reorder=0.1, jitter_s=0.2, drift=0.01, garbage=0.1, seed=7),
}


@pytest.mark.parametrize("how", BAD.values(), ids=BAD)
def test_over_a_bad_link_every_gap_is_accounted_for_to_the_sample(how: Impairments, tmp_path: Path) -> None:
    x = numbered(60 * 360)
    with rig("udp", tmp_path, "frames") as r, collecting() as collect:
        collector = collect(r.source)
        with sending(r, x, how, speed=10) as sent:
            came = {one.packet.count for one in sent if one.packet is not None and one.packet.count is not None}
            last = max(came) + 18
            wait_until(lambda: collector.end >= last - min(came), "the last sample", 60)
        collector.stop()
    got, own = places(collector)
    facts = r.source.facts
    assert [place + own[0] - got[0] for place in got] == own
    assert len(got) == len(set(got)) == 18 * len(came)
    assert facts.lost == last - own[0] - len(got)
    assert facts.duplicated == 18 * (len([one for one in sent if one.packet is not None]) - len(came))
    assert facts.late == 0


def test_over_a_bad_link_all_is_said_as_of_the_file_with_the_same_holes(tmp_path: Path) -> None:
    x = microvolts(60)
    how = Impairments(loss=0.08, burst=10, duplicates=0.2, reorder=0.1, jitter_s=0.2, garbage=0.1, seed=10)
    with rig("udp", tmp_path, "frames") as r, collecting() as collect:
        collector = collect(r.source)
        with sending(r, x, how, speed=10) as sent:
            came = {one.packet.count or 0: one.packet for one in sent if one.packet is not None}
            assert min(came) == 0, "the first packet comes"
            wait_until(lambda: len(collector.x) == 18 * len(came), "all that was not lost", 60)
        collector.stop()
    file = hear(a_watch(), [Chunk(at, came[at].x) for at in sorted(came)])
    live = hear(a_watch(), [chunk for chunk in collector.chunks if len(chunk)])
    assert (live.annotations, bodies(live.alerts)) == (file.annotations, bodies(file.alerts))
    assert ("signal_missing", "start") in live.technical
    assert len(live.beats) > 20


def test_lines_with_a_time_are_put_in_their_places_by_it(tmp_path: Path) -> None:
    x, how = numbered(30 * 360), Impairments(loss=0.1, duplicates=0.2, reorder=0.1, seed=9)
    with rig("udp", tmp_path, "lines", time="s") as r, collecting() as collect:
        collector = collect(r.source)
        with sending(r, x, how, speed=5) as sent:
            counts = [one.packet.count or 0 for one in sent if one.packet is not None]
            wait_until(lambda: collector.end >= max(counts) + 18 - counts[0], "the last sample", 60)
        collector.stop()
    got, own = places(collector)
    assert [place + own[0] - got[0] for place in got] == own
    assert len(got) == 18 * len({count for count in counts if count >= counts[0]})


def test_a_text_line_on_a_bad_serial_port_stays_in_step(tmp_path: Path) -> None:
    x = numbered(30 * 360)
    how = Impairments(garbage=0.05, lead_off=((5.0, 6.0),), jitter_s=0.1, seed=8)
    with rig("serial", tmp_path) as r, collecting() as collect:
        collector = collect(r.source)
        with sending(r, x, how, speed=10):
            wait_until(lambda: len(collector.x) and collector.x[-1, 0] == x[-1, 0], "the last sample", 40)
        collector.stop()
    off = np.concatenate([np.zeros(len(c), bool) if c.lead_off is None else c.lead_off for c in collector.chunks])
    assert 300 < off.sum() <= 360, "a line in which garbage stands is a missing sample"
    own = collector.x[np.isfinite(collector.x[:, 0]), 0]
    assert len(own) > 0.9 * (len(x) - 360)
    assert r.source.facts.garbage > 0


@pytest.mark.timeout(240)
def test_a_sensor_that_is_pulled_out_a_hundred_times_loses_only_what_it_said_to_nobody(tmp_path: Path) -> None:
    with rig("serial", tmp_path, "frames") as r, collecting() as collect:
        collector, at = collect(r.source), 0
        for pulled in range(101):
            while len(collector.faults) < pulled or not len(collector.x):
                counts = np.arange(at, at + 20)[:, np.newaxis]
                r.line.write(frames.build(counts, at), NEVER)
                at += 20
                time.sleep(0.02)
            r.line.unplug()
            at += 7  # nobody hears these
            r.line.plug()
        wait_until(lambda: r.source.facts.lost == collector.end - len(collector.x), "what was lost is accounted for")
        collector.stop()
    got, own = places(collector)
    assert [place + own[0] - got[0] for place in got] == own
    assert r.source.facts.reconnects == 100
    assert collector.faults == ["reconnected"] * 100


def test_a_sensor_without_a_counter_that_is_pulled_out_leaves_a_hole_as_long_as_it_was_away(tmp_path: Path) -> None:
    with rig("serial", tmp_path, rate_hz=100.0) as r, collecting() as collect:
        collector = collect(r.source)
        r.line.write(b"1\n2\n3\n", NEVER)
        collector.until(3)
        r.line.unplug()
        began = time.monotonic()
        time.sleep(1.0)
        r.line.plug()
        while "reconnected" not in collector.faults and time.monotonic() - began < 20:
            r.line.write(b"4\n", NEVER)
            time.sleep(0.05)
        away_s = time.monotonic() - began
        collector.stop()
    (after,) = [chunk.at for chunk in collector.chunks if chunk.fault == "reconnected"]
    assert 90 <= after - 3 <= 100 * away_s
    assert r.source.facts.lost == after - 3 + (4 - 3 - 1)


def test_a_sensor_that_was_away_for_long_is_missing_once_and_not_twice(tmp_path: Path) -> None:
    with rig("serial", tmp_path, rate_hz=100.0) as r:
        holdover_clock, began, places = Holdover(100.0), time.monotonic(), list[int]()
        r.line.write(b"1\n", NEVER)
        for chunk in r.source.chunks():
            now = time.monotonic()
            if len(chunk) and not places:
                r.line.unplug()
                began = now
            elif not r.line.path.exists() and now - began > 3:  # type: ignore[attr-defined]
                r.line.plug()
            elif now - began > 3:
                r.line.write(b"2\n", NEVER)
            place = holdover_clock.push(chunk, now).at
            if len(chunk):
                places.append(place)
            if len(places) == 2:
                away_s = now - began
                r.source.close()
    assert places[1] - places[0] == pytest.approx(100 * away_s, abs=60), "as long as it was away, in samples"


def test_a_half_open_line_is_given_up_and_made_anew() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, collecting() as collect:
        source = open_tcp(port=server.getsockname()[1], rate_hz=100, silence_s=1.0)
        collector = collect(source)
        first, _ = server.accept()
        with first:
            first.sendall(b"1\n")
            collector.until(1)
            server.settimeout(10)
            second, _ = server.accept()  # nobody has closed the first
            with second:
                second.sendall(b"2\n")
                collector.until(2)
        collector.stop()
    assert collector.faults == ["reconnected"]


def test_what_makes_no_sense_is_said_once_with_what_may_be_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(byte_device, "SENSELESS_S", 0.5)
    random = np.random.default_rng(0)
    with rig("serial", tmp_path, "frames", baud=9600) as r, collecting() as collect:
        collector = collect(r.source)
        until = time.monotonic() + 10
        while time.monotonic() < until and not ("senseless" in collector.faults and r.source.facts.garbage > 2000):
            r.line.write(random.integers(0, 256, 60, np.uint8).tobytes(), NEVER)
            time.sleep(0.02)
        r.line.write(frames.build(np.array([[5]]), 0), NEVER)
        collector.until(1)
        collector.stop()
    assert collector.faults == ["senseless"]
    assert len([record for record in caplog.records if "is 9600 baud right?" in record.message]) == 1


def test_a_datagram_that_holds_more_or_less_than_it_says_costs_itself_alone() -> None:
    good = [frames.build(np.array([[10 * i], [10 * i + 1]]), 2 * i) for i in range(4)]
    with collecting() as collect, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        source = open_udp(port=0, host="127.0.0.1", rate_hz=100, format="frames", window_s=0)
        collector = collect(source)
        where = ("127.0.0.1", port_of(source))
        for data in (good[0] + b"more", good[1][:-3], b"", b"\xa5", good[2], os.urandom(5000), good[3]):
            sender.sendto(data, where)
        collector.until(6)
        collector.stop()
    assert collector.x[:, 0].tolist() == [0, 1, 20, 21, 30, 31]
    assert source.facts.lost == 2
    assert source.facts.garbage >= len(good[1]) - 3 + 4 + 1 + 4900


def test_lines_in_datagrams_need_no_end_of_line() -> None:
    with collecting() as collect, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        source = open_udp(port=0, host="127.0.0.1", rate_hz=100)
        collector = collect(source)
        for data in (b"1", b"2\n3", b"!\n", b"4\r\n"):
            sender.sendto(data, ("127.0.0.1", port_of(source)))
        collector.until(5)
        collector.stop()
    np.testing.assert_array_equal(collector.x[:, 0], [1, 2, 3, np.nan, 4])


# A day, and the daemon


class Tireless:
    """A driver that gives numbered packets as fast as they are taken."""

    name, rate_hz, channels, units = "tireless", 360.0, ("ECG",), ("mV",)

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def packets(self, stop: threading.Event) -> Iterator[Packet]:
        x = np.zeros((1800, 1), np.float32)
        for second in range(0, self.seconds, 5):
            if stop.is_set():
                return
            if second % 50:
                yield Packet(x, count=360 * second)

    def close(self) -> None:
        """Nothing is held."""


def test_a_day_with_a_hole_every_minute_leaves_nothing_behind_in_memory() -> None:
    day = 86400
    source, came, last, middle = Live(Tireless(day), window_s=0), 0, 0, 0
    tracemalloc.start()
    try:
        for chunk in source.chunks():
            assert chunk.at >= last
            came, last = came + len(chunk), max(last, chunk.end)
            if not middle and last > day * 180:
                middle = tracemalloc.get_traced_memory()[0]
        end = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert came == day * 360 * 9 // 10
    assert source.facts.lost == last - came
    assert end - middle < 500_000, "bytes that the second half of the day has left behind"


class Broken(Tireless):
    """A driver that fails."""

    def packets(self, stop: threading.Event) -> Iterator[Packet]:
        yield from super().packets(stop)
        raise RuntimeError("the chip is on fire")


def test_the_failure_of_a_driver_is_raised_where_its_chunks_are_taken_after_all_that_it_gave() -> None:
    chunks: list[Chunk] = []
    with pytest.raises(SourceError, match="tireless: reading ended: the chip is on fire"):
        chunks.extend(Live(Broken(100), window_s=0).chunks())
    assert sum(map(len, chunks)) == 90 * 360


@pytest.fixture
def broker() -> Iterator[Broker]:
    with any_broker() as running:
        yield running


def test_what_a_link_has_lost_is_told_by_the_status_of_the_daemon(broker: Broker, tmp_path: Path) -> None:
    port, x = free_port(), numbered(40 * 360)
    options = (
        f'kind = "udp", port = {port}, host = "127.0.0.1", rate_hz = 360, leads = "MLII", unit = "mV", gain = 0.001'
    )
    config = configure(tmp_path, broker.port, f'id = "bed"\nsource = {{ {options}, format = "frames" }}')
    with Daemon(config) as daemon, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        daemon.ready()
        for packet in packets(x):
            assert packet.count is not None
            for _ in range(0 if packet.count == 1800 else 2):
                counts = np.arange(packet.count, packet.count + 18)[:, np.newaxis]
                sender.sendto(frames.build(counts, packet.count), ("127.0.0.1", port))
            time.sleep(0.002)

        def link() -> dict[str, Any]:
            done = holdover("status", config, "--json")
            return json.loads(done.stdout)["streams"][0].get("link") or {} if done.stdout else {}

        wait_until(lambda: link().get("lost") == 18, "the loss is told", 30)
        assert link()["duplicated"] == len(x) - 18
        said = holdover("status", config).stdout
        assert "18 lost" in said
        assert "of 360 Hz" in said or "360 Hz, not measured yet" in said
        assert daemon.stop() == 0, daemon.talk()
    assert ("signal_missing", "start") not in labels(tmp_path / "ledger.db"), "18 samples are bridged"


# Serial ports that cannot be had


def refusal(**options: object) -> str:
    pytest.importorskip("serial", reason="pyserial is not installed (pip install holdover[serial])")
    with pytest.raises(SourceError) as caught:
        open_source("serial", {"rate_hz": 250, **options})
    return str(caught.value)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[PtyLine]:
    line = PtyLine(tmp_path / "ttySIM")
    line.plug()
    yield line
    line.unplug()


def test_a_port_that_is_not_there_is_said_with_those_that_are() -> None:
    assert "/dev/ttyNONE is not there; plugged in: " in refusal(port="/dev/ttyNONE")


def test_a_port_that_may_come_later_can_be_waited_for(tmp_path: Path) -> None:
    line = PtyLine(tmp_path / "ttySIM")
    with collecting() as collect:
        collector = collect(
            open_source("serial", {"rate_hz": 250, "port": str(line.path), "wait": True, "format": "frames"})  # type: ignore[arg-type]
        )
        time.sleep(0.5)
        line.plug()
        for at in range(0, 4000, 20):
            line.write(frames.build(np.arange(at, at + 20)[:, np.newaxis], at), NEVER)
            time.sleep(0.02)
            if len(collector.x):
                break
        collector.until(20)
        collector.stop()
    line.unplug()


def test_one_device_cannot_be_two_streams(terminal: PtyLine) -> None:
    first = open_source("serial", {"rate_hz": 250, "port": str(terminal.path)})
    assert "is in use by another program, or another stream" in refusal(port=os.path.realpath(terminal.path))
    first.close()
    open_source("serial", {"rate_hz": 250, "port": str(terminal.path)}).close()


def test_a_port_that_belongs_to_others_is_said_with_the_group_to_join(terminal: PtyLine) -> None:
    if os.geteuid():
        pytest.skip("only root can become somebody else")
    port = os.path.realpath(terminal.path)
    os.chmod(port, 0o660)
    os.chown(port, 0, 20)
    code = f"""
import grp, os, holdover.devices.sources.serial_port as s, serial.tools.list_ports, holdover.devices.sources.frames
os.setgroups([]); os.setgid(65534); os.setuid(65534)
s.open(port={port!r}, rate_hz=250)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "belongs to group dialout: sudo usermod -aG dialout $USER, then log in again" in done.stderr
    os.chmod(port, stat.S_IRUSR | stat.S_IWUSR)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "belongs to root alone" in done.stderr


def test_what_is_no_serial_port_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1\n")
    assert "is no serial port" in refusal(port=str(tmp_path / "file"))
    assert "is no serial port" in refusal(port=str(tmp_path))
    assert "is no serial port" in refusal(port="/dev/null")


@pytest.mark.parametrize(
    ("options", "says"),
    [({}, "port = None"), ({"port": 7}, "port = 7"), ({"port": "/dev/null", "baud": 3}, "baud = 3"),
     ({"port": "/dev/null", "baud": "fast"}, "baud = 'fast'"), ({"port": "/dev/null", "gain": 0}, "gain = 0"),
     ({"port": "/dev/null", "rate_hz": None}, "give rate_hz"), ({"port": "/dev/null", "format": "x"}, "format = 'x'")],
)  # fmt: skip
def test_options_of_a_port_that_cannot_be_are_refused(options: dict[str, object], says: str) -> None:
    assert says in refusal(**options)


def test_auto_needs_one_device_and_no_other() -> None:
    from holdover.devices.sources.serial_port import find

    if find():
        pytest.skip("a serial device is plugged into this machine")
    assert "no serial device is plugged in" in refusal(port="auto")


def test_a_simulated_port_takes_the_place_of_nothing_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(UsageError, match="is there already"):
        PtyLine(tmp_path / "mine")


# A file that grows


def rows(first: int, last: int) -> str:
    return "".join(f"{i / 100:.2f},{i},{-i}\n" for i in range(first, last))


def test_a_file_that_grows_is_followed_through_halves_rotation_and_truncation(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("time,II,V5\n" + rows(0, 50))
    with collecting() as collect:
        source = open_file(path, follow=True, lead="V5")
        collector = collect(source)  # type: ignore[arg-type]
        with path.open("a") as file:
            file.write(rows(50, 60) + "0.60,6")
            file.flush()
            collector.until(10)
            file.write("0,-60\n")
            file.flush()
            collector.until(11)
        path.rename(tmp_path / "log.csv.1")
        path.write_text(rows(61, 70))
        collector.until(20)
        path.write_text(rows(70, 73))
        collector.until(23)
        collector.stop()
    assert collector.x[:, 0].tolist() == [-float(i) for i in range(50, 73)]
    assert collector.end == 23
    assert (source.rate_hz, source.channels, source.length) == (100.0, ("V5",), None)
    assert not collector.faults


def test_a_file_is_followed_from_the_row_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("II\n1\n2\n3")
    with collecting() as collect:
        collector = collect(open_file(path, follow=True, rate_hz=100))  # type: ignore[arg-type]
        with path.open("a") as file:
            file.write("0\n40\n")
        assert collector.until(2)[:, 0].tolist() == [30, 40]
        collector.stop()


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("time,II\n2024-01-01T00:00:00,1\n2024-01-01T00:00:01,2\n")
    with pytest.raises(SourceError, match="only times in seconds"):
        open_file(path, follow=True)
    path.write_text("II\n1\n2\n")
    with pytest.raises(SourceError, match="leave start and stop out"):
        open_file(path, follow=True, rate_hz=100, start=1)


def test_simulated_packets_are_those_of_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text("II\n" + "".join(f"{i}\n" for i in range(103)))
    made = list(packets_of(open_file(path, rate_hz=200, block_s=0.2)))
    assert [float(v) for packet in made for v in packet.x[:, 0]] == list(range(103))
    assert [(packet.count, packet.time) for packet in made][:3] == [(0, 0.0), (10, 0.05), (20, 0.1)]
