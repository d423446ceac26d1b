"""Samples over MQTT: every form of a message, hostile ones, and a real broker."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import cbor2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdover.apps.broker import Broker, start_broker
from holdover.devices.simulators.impair import Impairments, impair
from holdover.devices.simulators.mqtt import COUNT_MV, FORMS, Publisher, connected
from holdover.devices.sources import block, mqtt, open_source
from holdover.devices.sources.block import HEADER, BadBlock, build, parse
from holdover.devices.sources.live import Live
from holdover.devices.sources.mqtt_exchange import MAX_WAITING, Exchange
from holdover.devices.sources.packet import Packet
from holdover.runtime.errors import BrokerError, HoldoverError, SourceError
from holdover.runtime.mqtt_options import MqttOptions
from tests.brokers import any_broker, mosquitto, wait_until
from tests.collecting import Collector, collecting

NAN = float("nan")
RATE_HZ = 250.0
GOOD = build(np.array([[1, 2], [-3, -32768]], np.int16), count=7, time=12.5)


def signal(n: int, leads: int = 1) -> NDArray[np.float32]:
    x = np.random.default_rng(1).integers(-1000, 1000, (n, leads)) * COUNT_MV
    return x.astype(np.float32)


# Messages


def test_a_raw_block_is_laid_out_as_documented() -> None:
    assert GOOD.hex(" ", 4) == ("484f5342 01010200 07000000 00000000 00000000 00002940 02000000 01000200 fdff0080")
    got = parse(GOOD, 2, RATE_HZ)
    np.testing.assert_array_equal(got.values, [[1, 2], [-3, NAN]])
    assert (got.count, got.time, got.lead_off) == (7, 12.5, None)


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_every_form_carries_a_packet_whole(form: str, data: st.DataObject) -> None:
    leads, n = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 30))
    x = signal(n, leads)
    x[data.draw(st.lists(st.integers(0, n - 1), max_size=3)) if n else []] = NAN
    off = np.ones(n, np.bool_) if n and data.draw(st.booleans()) else None
    count, time = data.draw(st.none() | st.integers(0, 2**62)), data.draw(st.none() | st.floats(0, 1e10))
    got = parse(FORMS[form](Packet(x, off, count, time)), leads, RATE_HZ)
    sent = np.round(x / COUNT_MV) if form == "int16" else x
    np.testing.assert_array_equal(got.values.astype(np.float32), sent)
    assert (got.count, got.time) == (count, time)
    assert (got.lead_off is None) == (off is None)


@pytest.mark.parametrize(
    ("message", "leads", "values"),
    [
        (b"0.5", 1, [[0.5]]),
        (b" -2\n", 1, [[-2]]),
        (b"null", 1, [[NAN]]),
        (b"[1, null, 2.5]", 1, [[1], [NAN], [2.5]]),
        (b"[[1], [2]]", 1, [[1], [2]]),
        (b"[[1, 2], [3, 4]]", 2, [[1, 2], [3, 4]]),
        (b"[]", 1, []),
        (b'{"samples": [1], "battery": 80}', 1, [[1]]),
        (cbor2.dumps([1, NAN]), 1, [[1], [NAN]]),
    ],
)
def test_simple_nodes_may_send_bare_numbers(message: bytes, leads: int, values: list[list[float]]) -> None:
    np.testing.assert_array_equal(parse(message, leads, RATE_HZ).values, np.array(values).reshape(-1, leads))


def test_one_word_on_the_electrodes_or_one_for_each_sample() -> None:
    def off(said: Any) -> Any:
        return parse(json.dumps({"samples": [1, 2], "lead_off": said}).encode(), 1, RATE_HZ).lead_off.tolist()  # type: ignore[union-attr]

    assert off(True) == [True, True]
    assert off([False, True]) == [False, True]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "empty"),
        (GOOD[:-1], "its header says 2 samples, 36 bytes"),
        (GOOD + b"\0", "37 bytes"),
        (GOOD[: HEADER.size - 1], "27 bytes of a header of 28"),
        (b"HOSB", "4 bytes"),
        (GOOD[:4] + b"\2" + GOOD[5:], "version 2"),
        (GOOD[:5] + b"\7" + GOOD[6:], "kind 7"),
        (GOOD[:6] + b"\3" + GOOD[7:], "3 leads; expected 2"),
        (GOOD[:24] + b"\xff\xff\xff\xff", "4294967295 samples"),
        (bytes(block.MAX_BYTES + 1), "at most"),
        (b'{"samples": [[1, "2"]]}', "str"),
        (b'{"samples": [[true, 1]]}', "bool"),
        (b'{"samples": [[1, 2], [3]]}', "a row of 1"),
        (b'{"samples": [1, 2]}', "array"),
        (b'{"samples": 1}', "array"),
        (b'{"values": [[1, 2]]}', "samples"),
        (b'{"samples": [[1, 2]], "count": -1}', "count"),
        (b'{"samples": [[1, 2]], "count": 1.5}', "count"),
        (b'{"samples": [[1, 2]], "lead_off": [true, false]}', "lead_off for 2"),
        (b'{"samples": [[1, 2]], "rate_hz": 500}', "500 Hz; this stream is of 250 Hz"),
        (b'{"samples": [[1, 2]], "rate_hz": 0}', "0 Hz"),
        (b'{"samples": [[1, 1' + b"0" * 400 + b"]]}", "range"),
        (b"[" * 100_000, "JSON"),
        (b'{"samples": [[1, 2]', "JSON"),
        (b"hello", "CBOR"),
        (b"\x81" * 100_000, "CBOR"),
        (b"\x9b" + b"\xff" * 8, "CBOR"),
        (cbor2.dumps([[10**400, 1]]), "range"),
        (cbor2.dumps({"samples": [[b"1", 2]]}), "bytes"),
        (cbor2.dumps({1: 2}), "str"),
        (cbor2.dumps(5), "array or map"),
        (cbor2.dumps([[1, 2]]) + b"\xff", "CBOR"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(message: bytes, says: str) -> None:
    with pytest.raises(BadBlock, match=says):
        parse(message, 2, RATE_HZ)


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_break_the_parser(message: bytes, with_header: bool) -> None:
    message = GOOD[:8] + message if with_header else message
    try:
        got = parse(message, 2, RATE_HZ)
    except BadBlock:
        return
    assert got.values.shape == (len(got.values), 2)


@given(st.binary(min_size=1, max_size=3), st.integers(0, len(GOOD) - 1))
def test_a_block_with_bytes_changed_is_read_or_refused(change: bytes, at: int) -> None:
    message = (GOOD[:at] + change + GOOD[at + len(change) :])[: len(GOOD)]
    with suppress(BadBlock):
        assert parse(message, 2, RATE_HZ).values.shape == (2, 2)


# Options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give rate_hz"),
        ({"rate_hz": 250}, "name this one"),
        ({"rate_hz": 250, "topic": "a/+/b"}, "no topic"),
        ({"rate_hz": 250, "topic": "a/{stream}", "stream": "#"}, "no topic"),
        ({"rate_hz": 250, "topic": ""}, "no topic"),
        ({"rate_hz": 250, "topic": 5}, "topic = 5"),
        ({"rate_hz": 250, "topic": "a", "port": "x"}, "port"),
        ({"rate_hz": 250, "topic": "a", "port": 0}, "port is 0"),
        ({"rate_hz": 250, "topic": "a", "version": "4"}, "version"),
        ({"rate_hz": 250, "topic": "a", "gain": 0}, "gain = 0"),
        ({"rate_hz": 250, "topic": "a", "password_file": "/nowhere"}, "password_file"),
        ({"rate_hz": -1, "topic": "a"}, "rate"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(HoldoverError, match=says):
        mqtt.open(**options)


# A broker


@pytest.fixture
def collect() -> Iterator[Callable[[Live], Collector]]:
    with collecting() as start:
        yield start


def a_source(broker: Broker, stream: str = "bed-3", **options: Any) -> Live:
    given = {"topic": "ward/{stream}/ecg", "rate_hz": RATE_HZ, **options}
    return mqtt.open(stream=stream, host=broker.host, port=broker.port, **given)


def subscribed(publisher: Publisher, collector: Collector, topic: str = "ward/bed-3/ecg") -> None:
    """Wait until what is published arrives: messages that cannot be read, which count as garbage."""

    def heard() -> bool:
        publisher.send(topic, b"\xff")
        return collector.source.facts.garbage > 0

    wait_until(heard, "the subscription stands")


def packets(x: NDArray[np.float32], n: int = 50) -> Iterator[Packet]:
    for at in range(0, len(x), n):
        yield Packet(x[at : at + n], count=at)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_published_in_any_form_comes_whole(form: str, collect: Callable[[Live], Collector]) -> None:
    x = signal(1000, 2)
    with any_broker() as broker, connected(MqttOptions(port=broker.port)) as publisher:
        gain = COUNT_MV if form == "int16" else 1.0
        collector = collect(a_source(broker, leads="I,II", gain=gain))
        subscribed(publisher, collector)
        publisher.play("ward/bed-3/ecg", impair(packets(x), RATE_HZ, Impairments()), form, threading.Event(), 100)
        np.testing.assert_array_equal(collector.until(1000), x)
        assert collector.source.facts.lost == 0
        collector.stop()


def test_a_bad_link_is_repaired_and_accounted_for(collect: Callable[[Live], Collector]) -> None:
    x = signal(5000)
    how = Impairments(loss=0.05, duplicates=0.2, reorder=0.1, garbage=0.05, seed=3)
    with any_broker() as broker, connected(MqttOptions(port=broker.port)) as publisher:
        collector = collect(a_source(broker))
        subscribed(publisher, collector)
        sent = list(impair(packets(x), RATE_HZ, how))
        publisher.play("ward/bed-3/ecg", sent, "float32", threading.Event(), 10)
        last = max(item.packet.count or 0 for item in sent if item.packet is not None) + 50
        wait_until(lambda: collector.end >= last, "the last came")
        collector.stop()
    there = {item.packet.count for item in sent if item.packet is not None}
    facts = collector.source.facts
    assert facts.lost == sum(count not in there for count in range(0, last, 50)) * 50
    assert facts.garbage > 1
    for chunk in collector.chunks:
        np.testing.assert_array_equal(chunk.x, x[chunk.at : chunk.end])


def test_streams_of_one_process_share_a_connection_and_keep_their_own_count(
    collect: Callable[[Live], Collector],
) -> None:
    with mosquitto() as broker, connected(MqttOptions(port=broker.port)) as publisher:
        one, two = collect(a_source(broker, "one")), collect(a_source(broker, "two"))
        subscribed(publisher, one, "ward/one/ecg")
        subscribed(publisher, two, "ward/two/ecg")
        assert len(Exchange._open) == 1
        publisher.send("ward/one/ecg", build(signal(10), count=100))
        publisher.send("ward/two/ecg", build(signal(10), count=5))
        publisher.send("ward/two/ecg", build(signal(10), count=20))
        one.until(10)
        two.until(20)
        assert (one.source.facts.lost, two.source.facts.lost) == (0, 5)
        one.stop()
        publisher.send("ward/two/ecg", build(signal(10), count=30))
        two.until(30)
        two.stop()
        wait_until(lambda: not Exchange._open, "the last one closes the connection")


def test_a_broker_that_is_killed_and_comes_back_is_listened_to_again(
    collect: Callable[[Live], Collector], caplog: pytest.LogCaptureFixture
) -> None:
    with mosquitto() as broker:
        collector = collect(a_source(broker))
        with connected(MqttOptions(port=broker.port)) as publisher:
            subscribed(publisher, collector)
            publisher.send("ward/bed-3/ecg", build(signal(10), count=0))
            collector.until(10)
        broker.kill()
    collector.source.facts.garbage = 0
    with start_broker(broker.port) as broker:
        with connected(MqttOptions(port=broker.port)) as publisher:
            subscribed(publisher, collector)
            publisher.send("ward/bed-3/ecg", build(signal(10), count=60))
            collector.until(20)
        collector.stop()
    assert [chunk.fault for chunk in collector.chunks if chunk.fault] == ["reconnected"]
    assert [chunk.at for chunk in collector.chunks if len(chunk)] == [0, 60]
    assert "trying again until it answers" in caplog.text


def test_a_message_that_the_broker_kept_is_not_taken_for_live(
    collect: Callable[[Live], Collector], caplog: pytest.LogCaptureFixture
) -> None:
    with any_broker() as broker, connected(MqttOptions(port=broker.port)) as publisher:
        publisher.send("ward/bed-3/ecg", build(signal(10)), retain=True)
        collector = collect(a_source(broker))
        wait_until(lambda: "without retain" in caplog.text, "it is said")
        assert len(collector.x) == 0
        collector.stop()


def test_a_broker_that_is_not_there_is_waited_for_and_closing_does_not_hang(
    collect: Callable[[Live], Collector], caplog: pytest.LogCaptureFixture
) -> None:
    collector = collect(mqtt.open(topic="a", rate_hz=RATE_HZ, port=1))
    wait_until(lambda: "cannot reach a broker" in caplog.text, "it is said")
    collector.stop()
    with pytest.raises(BrokerError, match="no broker answers"), connected(MqttOptions(port=1)):
        pass


def test_it_is_found_by_its_kind() -> None:
    with pytest.raises(SourceError, match="give rate_hz"):
        open_source("mqtt", {"topic": "a"})


def test_messages_that_nobody_takes_in_time_are_dropped_and_that_is_said() -> None:
    n = MAX_WAITING + 40
    with any_broker() as broker, connected(MqttOptions(port=broker.port)) as publisher:
        driver, stop = a_source(broker).driver, threading.Event()
        packets = driver.packets(stop)

        def heard() -> bool:
            publisher.send("ward/bed-3/ecg", build(signal(1), count=0))
            return len(next(packets)) > 0

        wait_until(heard, "the subscription stands")
        for count in range(1, n):
            publisher.send("ward/bed-3/ecg", build(signal(1), count=count))
        got = [next(packets) for _ in range(MAX_WAITING)]
        driver.close()
        list(packets)
    assert [packet.fault for packet in got][:1] == ["overrun"]
    counts = [packet.count or 0 for packet in got if len(packet)]
    assert counts == sorted(counts)
    assert counts[-1] < n - 1
