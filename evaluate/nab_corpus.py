"""Reads a corpus as the Numenta Anomaly Benchmark lays it out, and what a detector said of it."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.evaluate.nab import Labels
from holdover.runtime.errors import SourceError

WINDOWS = Path("labels") / "combined_windows.json"
PUBLISHED = ("final_results.json", "results/final_results.json")

Columns = dict[str, tuple[str, ...]]
Times = NDArray[np.datetime64]


@dataclass(frozen=True)
class Series:
    """One series of a corpus: times as they stand in the file, and values, NaN where there is none; (rows,) each."""

    times: Times
    values: NDArray[np.float64]
    labels: Labels

    @property
    def step_s(self) -> float:
        """The median time from row to row; NaN with fewer than two rows."""
        steps = np.diff(self.times) / np.timedelta64(1, "s")
        return float(np.median(steps)) if steps.size else np.nan


def read_corpus(place: Path) -> dict[str, Series]:
    """Read all series of a corpus, by name, such as `realTweets/Twitter_volume_FB.csv`.

    Raises
    ------
    SourceError
        A file is missing or is not what it should be, or series and labels do not belong together.
    """
    windows = _json(place / WINDOWS)
    data = place / "data"
    found = sorted(file.relative_to(data).as_posix() for file in data.glob("*/*.csv"))
    if not found:
        raise SourceError(f"{place} is no corpus: no series in data/*/*.csv; expected a copy of the NAB repository")
    for name in found:
        if name not in windows:
            raise SourceError(f"{place / WINDOWS} has no labels for {name}; expected a list of windows, or []")
    for name in windows:
        if name not in found:
            raise SourceError(f"{place / WINDOWS} labels {name}, but {data / name} is missing")
    return {name: _series(data / name, windows[name]) for name in found}


def read_results(place: Path, corpus: Mapping[str, Series]) -> dict[str, NDArray[np.float64]]:
    """Read the anomaly scores that a detector gave each row of each series: (rows,), 0 to 1, high is anomalous.

    They lie as in the corpus, below `place`, in columns `timestamp` and `anomaly_score`; the name of a file may begin
    with that of the detector, as NAB's own do: `realTweets/numenta_Twitter_volume_FB.csv`.

    Raises
    ------
    SourceError
        A file is missing or says something else than scores of the rows of its series.
    """
    if not place.is_dir():
        raise SourceError(f"{place} is no folder; expected one of results, <data folder>/[<detector>_]<series>.csv")
    return {name: _scores(_result(place, name), name, series) for name, series in corpus.items()}


def read_published(place: Path) -> dict[str, dict[str, float]]:
    """Read the published final scores of a corpus, by detector and profile; none if they are not there.

    Raises
    ------
    SourceError
        The file is not what it should be.
    """
    file = next((place / name for name in PUBLISHED if (place / name).exists()), None)
    if file is None:
        return {}
    published = _json(file)
    for detector, scores in published.items():
        if not isinstance(scores, dict) or not all(isinstance(score, int | float) for score in scores.values()):
            raise SourceError(f"{file} says {scores!r:.60} of {detector}; expected a score for each profile")
    return published


def _json(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(said, dict):
        raise SourceError(f"{file} holds {type(said).__name__}; expected a JSON object")
    return said


def _series(file: Path, windows: object) -> Series:
    columns = _columns(file, ("timestamp", "value"))
    times = _times(file, columns["timestamp"])
    return Series(times, _numbers(file, columns["value"]), Labels(len(times), _windows(file, times, windows)))


def _windows(file: Path, times: Times, windows: object) -> tuple[tuple[int, int], ...]:
    """Rows of each window: the first that bears its time, as NAB finds it where a time stands twice."""
    try:
        limits = np.array(windows, "datetime64[us]").reshape(-1, 2)
    except (ValueError, TypeError) as error:
        raise SourceError(
            f"labels of {file.name}: {windows!r:.80} is no list of windows [from, to]: {error}"
        ) from error
    backward = zip(reversed(times.tolist()), range(len(times) - 1, -1, -1), strict=True)
    first = dict(backward) if limits.size else {}
    missing = [limit for limit in limits.ravel().tolist() if limit not in first]
    if missing:
        raise SourceError(f"labels of {file.name}: {missing[0]} is no time of a row of {file}")
    rows = tuple((first[a], first[b]) for a, b in limits.tolist())
    flat = [row for pair in rows for row in (pair[0] - 0.5, pair[1])]
    if sorted(flat) != flat:
        raise SourceError(f"labels of {file.name}: windows run backward or overlap; expected them in order")
    return rows


def _result(place: Path, name: str) -> Path:
    folder, file = name.split("/")
    named = sorted((place / folder).glob(f"*_{file}"), key=lambda found: len(found.name))
    exact = place / folder / file
    if exact.exists() or not named:
        return exact
    return named[0]


def _scores(file: Path, name: str, series: Series) -> NDArray[np.float64]:
    columns = _columns(file, ("timestamp", "anomaly_score"))
    times, scores = _times(file, columns["timestamp"]), _numbers(file, columns["anomaly_score"])
    if len(times) != len(series.times):
        raise SourceError(f"{file} has {len(times)} rows; expected the {len(series.times)} of {name}")
    for row in np.flatnonzero(times != series.times):
        raise SourceError(
            f"{file}, line {row + 2}: {times[row].item()}; expected {series.times[row].item()}, as in {name}"
        )
    for row in np.flatnonzero(~((scores >= 0) & (scores <= 1))):
        raise SourceError(f"{file}, line {row + 2}: anomaly score {scores[row]:g}; expected 0 to 1, 1 most anomalous")
    return scores


def _columns(file: Path, wanted: Sequence[str]) -> Columns:
    try:
        with file.open(newline="") as text:
            header, *rows = list(csv.reader(text)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error
    if not set(wanted) <= set(header):
        raise SourceError(f"{file} has the columns {', '.join(header) or 'none'}; expected {' and '.join(wanted)}")
    if not rows:
        raise SourceError(f"{file} has no rows after its header; expected at least one")
    if set(map(len, rows)) != {len(header)}:
        line, row = next((line, row) for line, row in enumerate(rows, start=2) if len(row) != len(header))
        raise SourceError(f"{file}, line {line}: {len(row)} fields; expected {len(header)}")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return {name: columns[name] for name in wanted}


def _times(file: Path, texts: tuple[str, ...]) -> Times:
    try:
        return np.array(texts, "datetime64[us]")
    except ValueError:
        row, text = next((row, text) for row, text in enumerate(texts) if not _is_time(text))
        raise SourceError(f"{file}, line {row + 2}: {text!r:.40} is no time such as 2015-02-26 21:42:53") from None


def _is_time(text: str) -> bool:
    try:
        np.datetime64(text, "us")
    except ValueError:
        return False
    return True


def _numbers(file: Path, texts: tuple[str, ...]) -> NDArray[np.float64]:
    """Numbers; NaN where nothing stands."""
    try:
        return np.array([float(text or "nan") for text in texts])
    except ValueError:
        row, text = next((row, text) for row, text in enumerate(texts) if not _is_number(text))
        raise SourceError(f"{file}, line {row + 2}: {text!r:.40} is no number") from None


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True
