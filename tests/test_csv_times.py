"""Text files of sensors with times from a second to a day apart: what is missing, twice, late, or in local time."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdover.devices.sources import csv_file
from holdover.runtime.errors import SourceError
from tests.anomalies import a_watch, alerts, starts

START = datetime(2024, 10, 26, 0, 0)
"""The day before clocks in Berlin go back: at 03:00 on the 27th it is 02:00 again."""


def written(folder: Path, stamps: list[datetime], values: list[Any] | None = None) -> Path:
    """A file of times without a zone and one value a row."""
    values = list(range(len(stamps))) if values is None else values
    rows = [f"{stamp:%Y-%m-%d %H:%M:%S},{value}" for stamp, value in zip(stamps, values, strict=True)]
    path = folder / "pump.csv"
    path.write_text("timestamp,value\n" + "\n".join(rows) + "\n")
    return path


def every(seconds: float, n: int, start: datetime = START) -> list[datetime]:
    """So many times, so far apart."""
    return [start + timedelta(seconds=seconds * i) for i in range(n)]


def played(path: Path) -> tuple[Any, list[tuple[int, list[float], str]]]:
    """A source, and (place, values, fault) of its chunks."""
    source = csv_file.open(path)
    return source, [(c.at, c.x[:, 0].tolist(), c.fault) for c in source.chunks()]


@pytest.mark.parametrize("seconds", [1, 10, 60, 300, 3600, 86400])
def test_the_rate_is_the_step_of_the_times(seconds: int, tmp_path: Path) -> None:
    source, chunks = played(written(tmp_path, every(seconds, 60)))
    assert source.rate_hz == pytest.approx(1 / seconds, rel=1e-6)
    assert source.epoch == START.replace(tzinfo=UTC).timestamp()
    assert [x for _, values, _ in chunks for x in values] == list(range(60))


def test_missing_rows_leave_a_hole_of_their_size(tmp_path: Path) -> None:
    stamps = every(300, 100)
    _, chunks = played(written(tmp_path, stamps[:40] + stamps[43:]))
    places = [at + i for at, values, _ in chunks for i in range(len(values))]
    assert places == [*range(40), *range(43, 100)]
    assert not any(fault for _, _, fault in chunks)


def test_rows_that_come_twice_or_a_little_late_take_the_places_of_their_times(tmp_path: Path) -> None:
    stamps = every(300, 60)
    said = alerts(a_watch(), *_chunks(written(tmp_path, [*stamps[:30], stamps[29], stamps[28], *stamps[30:]])))
    assert starts(said, "timestamps_backward") == [30]
    assert not starts(said, "clock_jump")
    assert not starts(said, "signal_missing")


def test_the_hour_that_comes_twice_is_said_and_no_sample_is_dropped(tmp_path: Path) -> None:
    stamps = every(300, 600)
    local = [t if t < datetime(2024, 10, 27, 3) else t - timedelta(hours=1) for t in stamps]
    chunks = _chunks(written(tmp_path, local))
    places = [c.at + i for c in chunks for i in range(len(c))]
    assert places == list(range(600))
    said = alerts(a_watch(), *chunks)
    assert starts(said, "clock_jump") == [27 * 12]
    assert not starts(said, "timestamps_backward")


def test_the_hour_that_is_skipped_is_missing_since_nothing_tells_it_from_a_loss(tmp_path: Path) -> None:
    stamps = every(300, 600, datetime(2024, 3, 30))
    local = [t if t < datetime(2024, 3, 31, 2) else t + timedelta(hours=1) for t in stamps]
    said = alerts(a_watch(), *_chunks(written(tmp_path, local)))
    (onset,) = [a.phase.onset for a in said if a.phase.label == "signal_missing" and a.phase.phase == "start"]
    assert onset == 26 * 12
    (end,) = [a.phase for a in said if a.phase.label == "signal_missing" and a.phase.phase == "end"]
    assert end.end == 27 * 12


def test_times_with_a_zone_know_no_summer_time(tmp_path: Path) -> None:
    path = tmp_path / "zone.csv"
    rows = [(t, "+02:00" if t < datetime(2024, 10, 27, 3) else "+01:00") for t in every(300, 600)]
    local = [(t if zone == "+02:00" else t - timedelta(hours=1), zone) for t, zone in rows]
    path.write_text("time,value\n" + "".join(f"{t.isoformat()}{zone},{i}\n" for i, (t, zone) in enumerate(local)))
    _, chunks = played(path)
    assert [at + i for at, values, _ in chunks for i in range(len(values))] == list(range(600))
    assert not any(fault for _, _, fault in chunks)


def test_jitter_of_a_fifth_of_a_step_leaves_no_hole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    stamps = [t + timedelta(seconds=float(rng.uniform(-60, 60))) for t in every(300, 400)]
    _, chunks = played(written(tmp_path, stamps))
    places = [at + i for at, values, _ in chunks for i in range(len(values))]
    assert all(b - a == 1 for a, b in pairwise(places))


def test_text_in_the_column_of_numbers_is_named_by_row_and_column(tmp_path: Path) -> None:
    path = written(tmp_path, every(300, 20), [*range(10), "faulty", *range(9)])
    with pytest.raises(SourceError, match="row 12, column value: 'faulty' is not a number"):
        played(path)


def test_empty_cells_are_missing_samples(tmp_path: Path) -> None:
    _, chunks = played(written(tmp_path, every(300, 20), [*range(10), "", "nan", *range(8)]))
    values = [x for _, part, _ in chunks for x in part]
    assert [i for i, x in enumerate(values) if np.isnan(x)] == [10, 11]


def test_a_single_row_does_not_tell_its_rate(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="its stamps do not advance"):
        csv_file.open(written(tmp_path, every(300, 1)))


def _chunks(path: Path) -> list[Any]:
    return list(csv_file.open(path).chunks())
