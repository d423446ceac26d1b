"""Live lines of text: a real pipe, a real terminal, real sockets, and what goes wrong on them."""

import errno
import json
import logging
import os
import pty
import socket
import subprocess
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.devices.sources.byte_device import ByteDevice
from holdover.devices.sources.codec import LineCodec
from holdover.devices.sources.line_parser import LineParser, Samples
from holdover.devices.sources.lines import open_stdin, open_tcp
from holdover.devices.sources.live import Live
from holdover.runtime.chunk import Chunk
from holdover.runtime.errors import SourceError

NAN = float("nan")


def pushed(text: bytes, **options: Any) -> tuple[LineParser, Samples]:
    parser = LineParser("test", **{"channels": 1, **options})
    return parser, parser.push(text)


# Lines to samples


@pytest.mark.parametrize("text", [b"1,2,3\n", b"1;2;3\r\n", b"1 2\t3\n", b" 1, 2 ,3 \n", b"1\t2\t3\t\n", b"1,2,3,\n"])
def test_numbers_are_separated_as_devices_do(text: bytes) -> None:
    parser, got = pushed(text, channels=3)
    assert got.x.tolist() == [[1, 2, 3]]
    assert parser.bad == 0


def test_missing_and_lead_off_and_bad_lines_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    text = b"0.5\n\nnan\n!\nabc\n1 2\n-1e1\n1_0\ninf\n1e300\n\xff\xfe\n"
    with caplog.at_level(logging.WARNING, "holdover.source"):
        parser, got = pushed(text)
    expected = [0.5, NAN, NAN, NAN, NAN, NAN, -10, NAN, NAN, NAN, NAN]
    np.testing.assert_array_equal(got.x[:, 0], np.array(expected, np.float32))
    assert np.flatnonzero(got.off).tolist() == [3]
    assert parser.bad == 6
    assert len(caplog.records) == 1
    assert "'abc'" in caplog.text


def test_one_lead_off_does_not_hide_the_others() -> None:
    _, got = pushed(b"1,!\n,2\n", channels=2)
    np.testing.assert_array_equal(got.x, np.array([[1, NAN], [NAN, 2]], np.float32))
    assert got.off.tolist() == [True, False]


def test_counts_become_units_by_gain_and_offset() -> None:
    _, got = pushed(b"1024\n1224\n", gain=0.005, offset=1024)
    assert got.x[:, 0].tolist() == [0, 1]


def test_overlong_lines_are_discarded_and_counted_once() -> None:
    parser = LineParser("test", 1)
    xs = [parser.push(piece).x for piece in (b"1\n" + b"9" * 5000, b"9" * 5000, b"9\n2\n", b"8" * 9000 + b"\n3\n")]
    assert np.concatenate(xs)[:, 0].tolist() == [1, 2, 3]
    assert parser.bad == 2


@given(
    data=st.data(), values=st.lists(st.sampled_from(["0.5", "-2", "", "nan", "!", "x", "1,2", "7" * 5000]), max_size=30)
)
def test_how_bytes_are_cut_never_changes_the_samples(data: st.DataObject, values: list[str]) -> None:
    text = "".join(f"{value}\n" for value in values).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parser = LineParser("test", 1)
    parts = [parser.push(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole_parser, whole = pushed(text)
    np.testing.assert_array_equal(np.concatenate([p.x for p in parts]), whole.x)
    np.testing.assert_array_equal(np.concatenate([p.off for p in parts]), whole.off)
    assert parser.bad == whole_parser.bad


@given(st.binary(max_size=300))
def test_no_bytes_at_all_can_break_the_parser(data: bytes) -> None:
    parser, got = pushed(data, channels=2, stamped=True)
    rest = parser.finish()
    assert len(got.x) + len(rest.x) == data.count(b"\n") + bool(data.rpartition(b"\n")[2])


# Options


@pytest.mark.parametrize("opener", [open_stdin, open_tcp])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give rate_hz"),
        ({"rate_hz": 0}, "rate"),
        ({"rate_hz": 360, "time": "min"}, "time"),
        ({"rate_hz": 360, "gain": "high"}, "gain"),
    ],
)
def test_options_that_cannot_be_are_refused(
    opener: Callable[..., Any], options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = {"port": 9} if opener is open_tcp else {}
    with open(os.devnull) as empty:
        monkeypatch.setattr(sys, "stdin", empty)
        with pytest.raises(SourceError, match=says):
            opener(**port, **options)


def test_the_absence_of_standard_input_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SourceError, match="no standard input"):
        open_stdin(rate_hz=360)


@pytest.mark.parametrize("port", [None, 0, -1, 70000, "x", 1.5])
def test_a_port_that_cannot_be_is_refused(port: Any) -> None:
    with pytest.raises(SourceError, match="port"):
        open_tcp(port=port, rate_hz=360)


def test_a_port_that_is_taken_is_refused_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(SourceError, match="cannot listen"):
        open_tcp(port=server.getsockname()[1], listen=True, rate_hz=360)


# Standard input


_READ = """
import json, sys
from holdover.devices.sources.lines import open_stdin
source = open_stdin(**json.loads(sys.argv[1]))
for c in source.chunks():
    x = [[None if v != v else v for v in row] for row in c.x.tolist()]
    print(json.dumps([c.at, x, None if c.lead_off is None else c.lead_off.tolist(), c.fault, source.epoch]), flush=True)
print(json.dumps("end"), flush=True)
"""


def _reader(stdin: Any, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _READ, json.dumps({"rate_hz": 100, **options})]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True)


def test_a_pipe_is_read_to_its_end_with_the_last_line_unended() -> None:
    reader = _reader(subprocess.PIPE)
    began = time.time()
    out, _ = reader.communicate("0.5\n1\n!\n2", timeout=20)
    *chunks, end = [json.loads(line) for line in out.splitlines()]
    assert end == "end"
    assert [row for _, x, *_ in chunks for row in x] == [[0.5], [1], [None], [2]]
    assert chunks[-1][2][-1] is False
    assert abs(chunks[-1][4] - began) < 15


def test_a_silent_pipe_still_gives_empty_chunks_twice_a_second() -> None:
    reader = _reader(subprocess.PIPE)
    assert reader.stdout
    assert reader.stdin
    times = []
    for _ in range(4):
        assert json.loads(reader.stdout.readline())[:2] == [0, []]
        times.append(time.monotonic())
    reader.stdin.close()
    assert reader.wait(10) == 0
    reader.stdout.close()
    assert np.median(np.diff(times)) < 0.5


def test_a_terminal_that_hangs_up_ends_the_source() -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    reader = _reader(theirs)
    os.close(theirs)
    os.write(ours, b"0.5\r\n0.25\r\n")
    assert reader.stdout
    got: list[Any] = []
    while len(got) < 2:
        got += json.loads(reader.stdout.readline())[1]
    os.close(ours)
    rest, _ = reader.communicate(timeout=10)
    assert got == [[0.5], [0.25]]
    assert json.loads(rest.splitlines()[-1]) == "end"


def test_device_stamps_in_milliseconds_show_holes_and_a_restart() -> None:
    stamps = [*range(5000, 5100, 10), *range(5500, 5540, 10), "x", *range(0, 30, 10)]
    text = "".join(f"{t},1\n" for t in stamps)
    out, _ = _reader(subprocess.PIPE, time="ms").communicate(text, timeout=20)
    runs = [(at, len(x), fault) for at, x, _, fault, _ in (json.loads(line) for line in out.splitlines()[:-1]) if x]
    assert runs == [(0, 10, ""), (50, 5, ""), (55, 3, "clock_jump")]


# TCP


class Collector:
    """Reads a source in a thread, as a watch would."""

    def __init__(self, source: Live) -> None:
        self.source = source
        self.chunks: list[Chunk] = []
        self.times: list[float] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for chunk in self.source.chunks():
            self.chunks.append(chunk)
            self.times.append(time.monotonic())

    @property
    def values(self) -> list[float]:
        return [float(v) for chunk in list(self.chunks) for v in chunk.x[:, 0]]

    def until(self, count: int, seconds: float = 10) -> list[float]:
        deadline = time.monotonic() + seconds
        while len(self.values) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.values

    def stop(self) -> float:
        began = time.monotonic()
        self.source.close()
        self._thread.join(5)
        assert not self._thread.is_alive()
        return time.monotonic() - began


def feed_of(source: Live) -> Any:
    """Where a source has its bytes from."""
    assert isinstance(source.driver, ByteDevice)
    return source.driver.feed


def port_of(source: Live) -> int:
    """The port at which a source listens."""
    port: int = feed_of(source).port
    return port


def parser_of(source: Live) -> LineParser:
    """What reads a source's lines."""
    assert isinstance(source.driver, ByteDevice)
    assert isinstance(source.driver.codec, LineCodec)
    return source.driver.codec.parser


@pytest.fixture
def collect() -> Iterator[Callable[[Live], Collector]]:
    started: list[Collector] = []

    def start(source: Live) -> Collector:
        started.append(Collector(source))
        return started[-1]

    yield start
    for collector in started:
        collector.stop()


def test_a_server_that_dies_and_comes_back_is_called_again(
    collect: Callable[[Live], Collector], caplog: pytest.LogCaptureFixture
) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    collector = collect(open_tcp(port=port, rate_hz=100))
    line, _ = server.accept()
    line.sendall(b"1\n2\n3.1")
    assert collector.until(2) == [1, 2]
    epoch = collector.source.epoch
    assert epoch is not None
    line.close()
    server.close()
    time.sleep(0.7)
    server = socket.create_server(("127.0.0.1", port))
    line, _ = server.accept()
    line.sendall(b"4\ngarbage\n\xff\xff\n5\n")
    got = collector.until(6)
    told = [record for record in caplog.records if "trying again" in record.message]
    line.close()
    server.close()
    assert [v for v in got if v == v] == [1, 2, 4, 5]
    assert parser_of(collector.source).bad == 2
    assert 60 < collector.source.facts.lost < 1000, "as long as the line was away, at 100 Hz"
    assert [(c.at, c.fault) for c in collector.chunks if len(c)][1] == (2 + collector.source.facts.lost, "reconnected")
    assert collector.source.epoch == epoch
    assert len(told) == 1
    assert np.median(np.diff(collector.times)) < 0.5


def test_a_server_that_is_not_there_gives_empty_chunks_until_it_is(collect: Callable[[Live], Collector]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    collector = collect(open_tcp(port=port, rate_hz=100))
    time.sleep(1.2)
    assert len(collector.chunks) >= 2
    assert not any(len(chunk) for chunk in collector.chunks)
    with socket.create_server(("127.0.0.1", port)) as server:
        line, _ = server.accept()
        with line:
            line.sendall(b"7\n")
            assert collector.until(1) == [7]


def test_one_sender_after_another_is_listened_to(collect: Callable[[Live], Collector]) -> None:
    source = open_tcp(port=0, listen=True, rate_hz=100, leads="MLII")
    collector = collect(source)
    port = port_of(source)
    for text in (b"1\n2\n3.", b"4\n"):
        with socket.create_connection(("127.0.0.1", port)) as sender:
            sender.sendall(text)
        collector.until(3 if text[:1] == b"4" else 2)
    assert collector.values == [1, 2, 4]
    assert source.channels == ("MLII",)


def test_a_call_that_cannot_be_taken_is_told_once_and_does_not_end_the_listening(
    collect: Callable[[Live], Collector], caplog: pytest.LogCaptureFixture
) -> None:
    source = open_tcp(port=0, listen=True, rate_hz=100)
    server: socket.socket = feed_of(source)._server
    refusals = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ECONNABORTED, "aborted")]

    class Refusing:
        fileno, close = server.fileno, server.close

        def accept(self) -> Any:
            if refusals:
                raise refusals.pop()
            return server.accept()

    feed_of(source)._server = Refusing()
    collector = collect(source)
    with socket.create_connection(server.getsockname()) as sender:
        sender.sendall(b"7\n")
        assert collector.until(1) == [7]
    assert len([record for record in caplog.records if "no call can be taken" in record.message]) == 1
    assert collector.stop() < 0.5


def test_a_flood_comes_whole_and_in_order(collect: Callable[[Live], Collector]) -> None:
    source = open_tcp(port=0, listen=True, rate_hz=1000)
    collector = collect(source)
    values = np.arange(200_000)
    with socket.create_connection(("127.0.0.1", port_of(source))) as sender:
        sender.sendall("\n".join(map(str, values)).encode() + b"\n")
    collector.until(len(values), 20)
    np.testing.assert_array_equal(np.concatenate([c.x[:, 0] for c in collector.chunks]), values.astype(np.float32))
    filled = [c for c in collector.chunks if len(c)]
    assert all(a.end == b.at for a, b in pairwise(filled))
    assert all(abs(c.arrived - time.time()) < 60 for c in collector.chunks)


def test_closing_from_another_thread_ends_the_chunks_at_once(collect: Callable[[Live], Collector]) -> None:
    source = open_tcp(port=0, listen=True, rate_hz=100)
    assert source.seek(0) is False
    collector = collect(source)
    time.sleep(0.1)
    assert collector.stop() < 0.5


def test_lead_off_is_told_from_its_first_mark_on(collect: Callable[[Live], Collector]) -> None:
    source = open_tcp(port=0, listen=True, rate_hz=100)
    collector = collect(source)
    with socket.create_connection(("127.0.0.1", port_of(source))) as sender:
        for count, text in enumerate((b"1\n", b"!\n", b"2\n"), 1):
            sender.sendall(text)
            collector.until(count)
            time.sleep(0.15)
    off = [None if c.lead_off is None else c.lead_off.tolist() for c in collector.chunks if len(c)]
    assert off == [None, [True], [False]]
