"""Frames out of bytes: whatever lies between them, however they are cut."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdover.devices.sources import frames, protocentral
from holdover.devices.sources.codec import codec_of
from holdover.devices.sources.frame_codec import MAX_FRAME, FrameCodec
from holdover.devices.sources.line_parser import LEAD_OFF
from holdover.devices.sources.packet import Packet, merged
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError

PLAIN = Scale.of("test", "ECG", "mV")
TWO = Scale.of("test", "I,II", "mV", gain=0.5, offset=10)


def generic(scale: Scale = PLAIN) -> FrameCodec:
    return FrameCodec(frames.Frames("test", scale))


def boards() -> FrameCodec:
    return FrameCodec(protocentral.ProtoCentral("test", PLAIN))


def numbers(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)[:, np.newaxis]


def values(packets: list[Packet]) -> list[float]:
    return [float(v) for packet in packets for v in packet.x[:, 0]]


def garbage(packets: list[Packet]) -> int:
    return sum(packet.garbage for packet in packets)


# The generic frame


@pytest.mark.parametrize("width", [2, 3])
def test_a_frame_says_what_was_put_into_it(width: int) -> None:
    most = -frames.least(width) - 1
    sent = np.array([[0, 1], [-1, most], [frames.least(width), -most]], np.int64)
    (packet,) = generic(TWO).push(frames.build(sent, 7, width))
    expected = (sent.astype(float) - 10) * 0.5
    expected[2, 0] = np.nan
    np.testing.assert_array_equal(packet.x, expected.astype(np.float32))
    assert (packet.count, packet.lead_off, packet.garbage) == (7, None, 0)


def test_an_electrode_that_is_off_is_told_for_the_whole_frame() -> None:
    (packet,) = generic().push(frames.build(numbers(1, 2), 0, lead_off=True))
    assert packet.lead_off is not None
    assert packet.lead_off.tolist() == [True, True]


def test_the_counter_goes_on_over_its_end() -> None:
    codec = generic()
    counts = [frames.WRAP - 4, frames.WRAP - 2, frames.WRAP, frames.WRAP + 4, frames.WRAP + 2]
    found = [p.count for count in counts for p in codec.push(frames.build(numbers(5, 6), count))]
    assert found == counts


def test_frames_that_follow_on_are_one_packet() -> None:
    data = b"".join(frames.build(numbers(i), i) for i in (0, 1, 2, 5))
    assert [(p.count, len(p)) for p in generic().push(data)] == [(0, 3), (5, 1)]


@pytest.mark.parametrize(
    "broken",
    [
        lambda f: f[:-1] + bytes([f[-1] ^ 1]),  # the checksum
        lambda f: f[:11] + bytes([f[11] ^ 0x80]) + f[12:],  # a sample
        lambda f: f[:4] + b"\x02" + f[5:],  # two leads
        lambda f: f[:5] + b"\xff" + f[6:],  # more samples than there are
        lambda f: f[:5] + b"\x00" + f[6:],  # none
        lambda f: f[:2] + b"\x07" + f[3:],  # a kind that there is not
        lambda f: f[:-3],  # cut short
        lambda f: f + b"\xa5",  # a byte too many
    ],
)
def test_a_frame_that_is_broken_costs_itself_alone(broken: object) -> None:
    assert callable(broken)
    good = [frames.build(numbers(10 + i, 20 + i), 2 * i) for i in range(120)]
    codec = generic()
    found = codec.push(b"".join([*good[:3], broken(good[3]), *good[4:]])) + codec.finish()
    first = values(found)[:6]
    assert first == [10, 20, 11, 21, 12, 22]
    assert set(values(found)) >= {10.0 + i for i in range(120) if i != 3}
    assert garbage(found) > 0


@given(data=st.data(), seed=st.integers(0, 999))
def test_how_bytes_are_cut_never_changes_what_they_say(data: st.DataObject, seed: int) -> None:
    random = np.random.default_rng(seed)
    parts = []
    for i in range(12):
        parts.append(random.integers(0, 256, random.integers(0, 40), np.uint8).tobytes())
        parts.append(frames.build(random.integers(-9, 9, (3, 1)), 3 * i, int(random.integers(2, 4))))
    text = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    codec, whole = generic(), generic()
    pieces = [p for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True) for p in codec.push(text[a:b])]
    pieces += codec.finish()
    at_once = whole.push(text) + whole.finish()
    assert values(pieces) == values(at_once)
    assert garbage(pieces) == garbage(at_once)
    assert len(values(at_once)) == 36, "garbage hides no frame"


@given(st.binary(max_size=2000))
def test_every_byte_is_a_sample_or_counted(data: bytes) -> None:
    for codec in (generic(), boards()):
        found = codec.push(data) + codec.finish()
        assert garbage(found) <= len(data)
        if not values(found) and codec.layout.sync == frames.SYNC:
            assert garbage(found) == len(data)


def test_what_only_looks_like_a_frame_does_not_wait_for_ever() -> None:
    codec = generic()
    fake = frames.HEAD.pack(frames.SYNC, 3, 0, 1, 255, 0)
    got, sent = 0, 0
    while not got and sent < 2 * MAX_FRAME:
        data = (fake if not sent else b"") + frames.build(numbers(1, 2, 3), sent)
        got += len(values(codec.push(data)))
        sent += len(data)
    assert got
    assert sent < 1000


def test_the_sketch_in_the_docs_sends_such_frames(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    page = (Path(__file__).parent.parent / "docs" / "sensors" / "own-board.md").read_text()
    code = (
        page.split("```c\n")[1]
        .split("```")[0]
        .replace("Serial.write(f,", "fwrite(f, 1,")
        .replace(");\n}", ", stdout);\n}")
    )
    heads = "".join(f"#include <{name}.h>\n" for name in ("stdint", "stdbool", "string", "stdio"))
    main = "int main() { int16_t x[3] = {1, -2, 300}; send_frame(7, x, 3, false); send_frame(10, x, 3, true); }"
    (tmp_path / "sketch.c").write_text(heads + code + main)
    subprocess.run([compiler, "-Werror", "-o", "sketch", "sketch.c"], cwd=tmp_path, check=True, timeout=60)
    sent = subprocess.run([tmp_path / "sketch"], capture_output=True, check=True, timeout=10).stdout
    assert sent == frames.build(numbers(1, -2, 300), 7, 2) + frames.build(numbers(1, -2, 300), 10, 2, lead_off=True)


# ProtoCentral


@pytest.mark.parametrize("length", [8, 9, 20, 22])
def test_boards_of_protocentral_are_understood(length: int) -> None:
    sent = [-32768, -1, 0, 500, 32767]
    found = boards().push(b"".join(protocentral.build(number, length) for number in sent))
    assert values(found) == sent
    assert all(packet.lead_off is None and packet.count is None for packet in found)


@pytest.mark.parametrize("length", [50, 51])
def test_healthypi_5_sends_eight_samples_at_a_time(length: int) -> None:
    ecg = np.arange(-4, 4, dtype="<i4") * 1000
    data = ecg.tobytes().ljust(length, b"\7")
    frame = protocentral.HEAD.pack(protocentral.SYNC, length, 3) + data + protocentral.END
    assert values(boards().push(frame)) == ecg.tolist()


def test_frames_without_an_ecg_are_no_garbage() -> None:
    ppg = protocentral.HEAD.pack(protocentral.SYNC, 19, 4) + bytes(19) + protocentral.END
    found = boards().push(ppg + protocentral.build(3) + ppg)
    assert (values(found), garbage(found)) == ([3], 0)


def test_the_status_of_healthypi_3_and_4_tells_that_an_electrode_is_off() -> None:
    first, second = boards().push(protocentral.build(0, 20, off=True) + protocentral.build(5, 20))
    assert first.lead_off is not None
    assert first.lead_off.tolist() == [True]
    assert second.lead_off is None


@pytest.mark.parametrize("length", [0, 257, 65535])
def test_a_payload_of_a_length_that_cannot_be_is_passed_over(length: int) -> None:
    head = protocentral.HEAD.pack(protocentral.SYNC, length, 2)
    found = boards().push(head + protocentral.build(7))
    assert (values(found), garbage(found)) == ([7], len(head))


def test_samples_that_look_like_the_beginning_of_a_frame_are_samples() -> None:
    number = int.from_bytes(protocentral.SYNC, "little", signed=True)
    data = b"".join(protocentral.build(n) for n in (number, 0x0A, number))
    assert values(boards().push(data)) == [number, 0x0A, number]


# Options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"form": "edf"}, "expected one of lines, frames, protocentral"),
        ({"form": "frames", "time": "s"}, "for lines of text"),
        ({"form": "frames", "lead_off": "x"}, "for lines of text"),
        ({"form": "lines", "time": "h"}, "expected one of s, ms, us"),
        ({"form": "lines", "lead_off": "a,b"}, "lead_off"),
        ({"form": "lines", "lead_off": ""}, "lead_off"),
        ({"form": "protocentral", "scale": TWO}, "one lead"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, object], says: str) -> None:
    defaults = {"whose": "tcp", "form": "lines", "scale": PLAIN, "rate_hz": 100.0, "time": None, "lead_off": LEAD_OFF}
    with pytest.raises(SourceError, match=says):
        codec_of(**defaults | options)  # type: ignore[arg-type]


def test_a_mark_of_ones_own_says_that_an_electrode_is_off() -> None:
    codec = codec_of("tcp", "lines", PLAIN, 100.0, None, "-999")
    (packet,) = codec.push(b"1\n-999\n2\n!\n")
    assert packet.lead_off is not None
    assert packet.lead_off.tolist() == [False, True, False, False]
    np.testing.assert_array_equal(packet.x[:, 0], [1, np.nan, 2, np.nan])


def test_stamped_lines_are_cut_where_they_do_not_follow_on() -> None:
    codec = codec_of("tcp", "lines", PLAIN, 100.0, "ms", LEAD_OFF)
    stamps = [*range(0, 100, 10), *range(500, 540, 10)]
    found = codec.push("".join(f"{t},{t}\n" for t in stamps).encode())
    assert [(p.time, len(p)) for p in found] == [(0.0, 10), (0.5, 4)]
    assert all(p.count is None for p in found)


def test_long_stretches_of_stamped_lines_are_handed_on_in_pieces() -> None:
    codec = codec_of("tcp", "lines", PLAIN, 100.0, "s", LEAD_OFF)
    found = codec.push("".join(f"{i / 101:.6f},{i}\n" for i in range(1000)).encode())
    assert max(map(len, found)) == 50
    assert [p.time for p in found] == [pytest.approx(at / 101, abs=1e-6) for at in range(0, 1000, 50)]
    assert merged([replace(p, time=None) for p in found])[0].x.shape == (1000, 1)
