"""The picture of a replay: that it can be drawn of anything, says what it shows, and stands alone."""

import html.parser
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed: install holdover[replay]")

from holdover.apps.picture.draw import Span, draw
from holdover.apps.picture.strip import MAX_ROWS, Strip, choose, clock
from holdover.runtime.annotation import Annotation
from holdover.runtime.errors import UsageError

RATE_HZ = 100.0


def ecg(seconds: float) -> np.ndarray:
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.exp(-(((t % 1) - 0.5) ** 2) / 0.0005) + 0.05 * np.sin(2 * np.pi * 0.3 * t)


def beats(seconds: float, symbols: str = "NNVNSNQF/") -> list[Annotation]:
    return [Annotation(round((i + 0.5) * RATE_HZ), symbols[i % len(symbols)]) for i in range(int(seconds))]


def span(start_s: float, end_s: float | None, label: str = "ventricular_tachycardia", **more: Any) -> Span:
    end = None if end_s is None else round(end_s * RATE_HZ)
    facts = {"kind": "physiological", "priority": "high", **more}
    return Span(label=label, start=round(start_s * RATE_HZ), end=end, **facts)


def size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_five_minutes_fill_a_page_of_ten_rows(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", ecg(300), RATE_HZ, beats(300), [span(20, 26), span(99, 104, "lead_off", kind="technical")])
    width, height = size(tmp_path / "a.png")
    assert width == 1600
    assert 1200 < height < 1500
    assert len(choose(30000, RATE_HZ, []).rows) == 10


@pytest.mark.parametrize(
    "x",
    [
        np.full(3000, np.nan),
        np.zeros(3000),
        np.zeros(1),
        np.array([np.nan]),
        np.full(500, 1e9),
        np.array([np.inf, 1.0]),
    ],
    ids=["all missing", "flat", "one sample", "one missing", "huge", "infinite"],
)
def test_any_signal_can_be_drawn(x: np.ndarray, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", x, RATE_HZ, beats(2), [span(0, 1)])
    assert size(tmp_path / "a.png")[0] == 1600


def test_any_title_and_label_can_be_written(tmp_path: Path) -> None:
    odd = "a$b$c_^{<script>} 心電図"
    draw(tmp_path / "a.html", ecg(9), RATE_HZ, [Annotation(5, "+", aux="(V$T\0")], [span(1, 2, odd)], title=odd)
    text = (tmp_path / "a.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_the_page_stands_alone_and_lists_the_alarms(tmp_path: Path) -> None:
    spans = [span(20, 26), span(40, None, "asystole"), span(50, 52, "gap", kind="technical", priority="low")]
    draw(tmp_path / "a.html", ecg(60), RATE_HZ, beats(60), spans, title="record 1")
    text = (tmp_path / "a.html").read_text()
    links: list[str] = []

    class Links(html.parser.HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the base's
            links.extend(value or "" for name, value in attrs if name in ("src", "href"))

    Links().feed(text)
    assert [link[:22] for link in links] == ["data:image/png;base64,"]
    for words in ("ventricular tachycardia", "0:20", "0:26", "6.0 s", "goes on", "technical", "60 beats, 3 alarms"):
        assert words in text


def test_places_are_those_of_the_recording_wherever_the_picture_starts() -> None:
    marks = [Annotation(at, "N") for at in (0, 6000, 6100, 9000)]
    spans = [span(0, 59), span(59, 61), span(70, 80), span(90, 95)]
    strip = Strip(ecg(30), RATE_HZ, 6000, marks, spans, "mV")
    assert [mark.at for mark in strip.marks] == [6000, 6100]
    assert [strip.local(s) for s in strip.spans] == [(0, 100), (1000, 2000)]
    assert strip.clock(1000) == "1:10"


def test_of_a_long_recording_the_rows_with_alarms_are_shown_and_it_says_so() -> None:
    day = round(86400 * RATE_HZ)
    few = choose(day, RATE_HZ, [(span(3600, 3610), (360_000, 361_000))])
    assert [row / RATE_HZ for row in few.rows] == [3570, 3600]
    assert "2 of its 2880 rows" in few.note
    many = [(span(i * 600, i * 600 + 5), (i * 60_000, i * 60_000 + 500)) for i in range(100)]
    sheet = choose(day, RATE_HZ, many)
    assert len(sheet.rows) == MAX_ROWS
    assert "not shown" in sheet.note
    assert "no alarms" in choose(day, RATE_HZ, []).note


def test_the_most_urgent_alarms_come_first_when_not_all_fit() -> None:
    low = [(span(i * 60, i * 60 + 5, priority="low"), (i * 6000, i * 6000 + 500)) for i in range(1000)]
    sheet = choose(round(86400 * RATE_HZ), RATE_HZ, [*low, (span(80000, 80005), (8_000_000, 8_000_500))])
    assert 8_000_000 // 3000 * 3000 in sheet.rows


def test_half_an_hour_is_shown_whole_in_longer_rows(tmp_path: Path) -> None:
    sheet = choose(round(1805 * RATE_HZ), RATE_HZ, [])
    assert (len(sheet.rows), sheet.width) == (31, 6000)
    draw(tmp_path / "a.png", ecg(1805), RATE_HZ)
    assert size(tmp_path / "a.png")[0] == 1600


def test_a_day_is_drawn_in_seconds(tmp_path: Path) -> None:
    x = np.tile(ecg(3600).astype(np.float32), 24)
    draw(tmp_path / "a.png", x, RATE_HZ, beats(86400), [span(i * 3000, i * 3000 + 20) for i in range(20)])
    assert size(tmp_path / "a.png")[1] > 3000


@pytest.mark.parametrize(
    ("name", "x", "says"),
    [("a.gif", [1.0], "png or .html"), ("a", [1.0], "without extension"), ("a.png", [], "no samples"),
     ("no/a.png", [1.0], "cannot be written")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_words(name: str, x: list[float], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        draw(tmp_path / name, np.array(x), RATE_HZ)


def test_times_are_written_as_minutes_and_seconds() -> None:
    assert [clock(t) for t in (0, 59.6, 61, 3599)] == ["0:00", "1:00", "1:01", "59:59"]
    assert [clock(t) for t in (3600, 86399)] == ["1:00:00", "23:59:59"]


def test_matplotlib_is_only_loaded_to_draw() -> None:
    code = "import sys, holdover.apps.picture.draw; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
