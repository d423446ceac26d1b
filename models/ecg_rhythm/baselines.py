"""Detectors of others, followed by simple rules of prematurity, on the recordings that judge: the figures to beat.

Nothing here is trained. The detectors see the whole recording before they answer; what they and the rules say is
written as WFDB annotations and scored by `holdover score`, as the model is.
"""

import argparse
import json
import multiprocessing
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d
from scipy.signal import butter, sosfiltfilt

from holdover.models.ecg_rhythm.asked import record_macro
from holdover.models.ecg_rhythm.figures import write_figures
from holdover.models.ecg_rhythm.judge import DS2, SVDB, printed
from holdover.runtime.errors import SourceError, UsageError

PARTS = {"ds2": ("mitdb", DS2), "svdb": ("svdb", SVDB)}
LATEST = 8
"""Intervals and complexes that a rule remembers: as many as Hamilton's detector keeps."""
PREMATURE = 0.8
"""Of the usual interval: the 20 per cent of Malik et al. 1989, Eur Heart J 10:1060, above which one is ectopic."""
ALIKE = 0.8
"""Least correlation with the usual complex; set beforehand, not tuned."""
WIDER = 1.5
"""Of the usual width: 120 ms, from where a complex is called wide, is half as much again as a normal one of 80 ms."""
STEEP = 0.25
"""A complex is as wide as its slope is above this part of its largest; set beforehand, not tuned."""
AROUND_S, SHIFT_S = 0.12, 0.04
"""What of a complex is compared, to either side; how far the two are moved against each other."""

Array = NDArray[Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the figures as JSON; 0 if it went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("HOLDOVER_DATA"), help="folder with mitdb/, svdb/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file for the figures")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    return write_figures(options.output, lambda: baselines(_folder(options.data), options.jobs))


def baselines(data: Path, jobs: int) -> dict[str, Any]:
    """What each detector and the rules reach on DS2 and on svdb 840-849, by `holdover score`.

    Raises
    ------
    SourceError
        A recording is not there, or is damaged.
    """
    missing = [f"{folder}/{n}" for folder, names in PARTS.values() for n in names if not _is_there(data / folder / n)]
    if missing:
        raise SourceError(f"{data} lacks {' '.join(missing)}; fetch them with wfdb.dl_database, or give another --data")
    with TemporaryDirectory() as place:
        out = Path(place)
        work = [
            (name, str(data / folder / record), str(out / name / part))
            for part, (folder, records) in PARTS.items()
            for name in DETECTORS
            for record in records
        ]
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            for done, _ in enumerate(pool.imap_unordered(_annotate, work), 1):
                print(f"\r{done} of {len(work)}", end="", file=sys.stderr)
        print(file=sys.stderr)
        figures = {n: {part: _scored(out / n / part, data / PARTS[part][0]) for part in PARTS} for n in DETECTORS}
    return {
        "command": "python -m holdover.models.ecg_rhythm.baselines --data DIR -o FILE",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("wfdb", "scipy", "numpy")},
        "rules": {"premature": PREMATURE, "alike": ALIKE, "wider": WIDER, "steep": STEEP, "latest": LATEST},
        "detectors": figures,
    }


def classes(x: Array, rate_hz: float, at: NDArray[np.int64]) -> list[str]:
    """Call beats N, A (supraventricular premature) or V, from left to right.

    A beat is premature where its interval is below `PREMATURE` of the median of the last `LATEST` usual ones (not
    premature, nor right after one that is); of these it is V where its complex is unlike the usual one or wider. After
    `LATEST` premature beats in a row their interval is the usual one: the rhythm has changed.

    Parameters
    ----------
    x : array
        (samples,), the lead, mV.
    rate_hz : float
        Of the lead.
    at : array
        (beats,), samples of the beats, rising.
    """
    band = sosfiltfilt(butter(2, (0.5, 40), "bandpass", fs=rate_hz, output="sos"), x)
    half, shift = round(AROUND_S * rate_hz), round(SHIFT_S * rate_hz)
    complexes = [_cut(band, place, half + shift) for place in at]
    widths = [_width(c, rate_hz) for c in complexes]
    usual: deque[float] = deque(np.diff(at)[:LATEST].tolist(), LATEST)
    row: list[float] = []
    template = np.median(complexes[:LATEST], 0)[shift:-shift] if len(at) else np.zeros(0)
    breadth = float(np.median(widths[:LATEST])) if widths else 0.0
    found = ["N"] * min(len(at), 1)
    for before, here, shape, width in zip(at[:-1], at[1:], complexes[1:], widths[1:], strict=True):
        interval = float(here - before)
        if interval < PREMATURE * float(np.median(usual)):
            row.append(interval)
            found.append("V" if _alike(shape, template) < ALIKE or width > WIDER * breadth else "A")
            if len(row) == LATEST:
                usual.extend(row)
            continue
        if found[-1] == "N":
            usual.append(interval)
        row = []
        found.append("N")
        template = template + (shape[shift:-shift] - template) / LATEST
        breadth += (width - breadth) / LATEST
    return found


def hamilton(x: Array, rate_hz: float) -> NDArray[np.int64]:
    """Beats after Hamilton 2002, Open source ECG analysis, Computers in Cardiology 29:101-104: its five rules.

    The threshold lies 0.3125 of the way from the mean of the last eight noise peaks to that of the last eight beats'.
    """
    band = sosfiltfilt(butter(1, (8, 16), "bandpass", fs=rate_hz, output="sos"), x)
    slope = np.abs(np.gradient(band))
    level = uniform_filter1d(slope, round(0.08 * rate_hz))
    apart = round(0.2 * rate_hz)
    peaks = np.flatnonzero((level == maximum_filter1d(level, 2 * apart + 1)) & (level > 0))
    steep = maximum_filter1d(np.abs(np.gradient(x)), apart)
    return _placed(np.abs(band), _called(peaks, level, steep, rate_hz), round(0.06 * rate_hz))


def _called(peaks: NDArray[np.int64], level: Array, steep: Array, rate_hz: float) -> list[int]:
    """Which peaks are beats: thresholds that follow, T waves left out, and one look back where a beat is overdue."""
    refractory = 0.36 * rate_hz
    first = level[peaks[peaks < 8 * rate_hz]]
    tall: deque[float] = deque([float(first.max(initial=0.0))], LATEST)
    noise: deque[float] = deque([0.0], LATEST)
    intervals: deque[float] = deque([rate_hz], LATEST)
    beats: list[int] = []
    passed: list[int] = []

    def take(peak: int) -> None:
        if beats:
            intervals.append(peak - beats[-1])
        beats.append(peak)
        tall.append(float(level[peak]))
        passed.clear()

    for peak in peaks.tolist():
        limit = np.mean(noise) + 0.3125 * (np.mean(tall) - np.mean(noise))
        if beats and peak - beats[-1] > 1.5 * np.mean(intervals):
            late = [p for p in passed if level[p] > limit / 2 and p - beats[-1] > refractory]
            if late:
                take(max(late, key=lambda p: float(level[p])))
        is_t = beats and peak - beats[-1] < refractory and steep[peak] < steep[beats[-1]] / 2
        if level[peak] > limit and not is_t:
            take(peak)
        else:
            noise.append(float(level[peak]))
            passed.append(peak)
    return beats


def _xqrs(x: Array, rate_hz: float) -> Any:
    from wfdb.processing import xqrs_detect

    return xqrs_detect(x, rate_hz, verbose=False)


def _gqrs(x: Array, rate_hz: float) -> Any:
    from wfdb.processing import gqrs_detect

    return gqrs_detect(d_sig=np.rint(200 * x).astype(np.int64), fs=rate_hz, adc_gain=200, adc_zero=0)


DETECTORS: dict[str, Callable[[Array, float], Any]] = {"Hamilton": hamilton, "XQRS": _xqrs, "GQRS": _gqrs}


def _annotate(work: tuple[str, str, str]) -> None:
    """Let one detector and the rules judge one record, and write what they said."""
    import wfdb

    name, record, out = work
    Path(out).mkdir(parents=True, exist_ok=True)
    names = wfdb.rdheader(record).sig_name
    read = wfdb.rdrecord(record, channels=[names.index("MLII") if "MLII" in names else 0])
    x = np.nan_to_num(read.p_signal[:, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        at = np.unique(np.asarray(DETECTORS[name](x, read.fs), dtype=np.int64))
    wfdb.wrann(Path(record).name, "qrs", at, symbol=classes(x, read.fs, at), fs=read.fs, write_dir=out)


def _scored(out: Path, reference: Path) -> dict[str, Any]:
    score = json.loads(printed("score", out, "--ref", reference, "--test", "qrs", "--json"))
    return {"maps": {code: _whole(score, code) for code in score["maps"]}}


def _whole(score: dict[str, Any], code: str) -> dict[str, Any]:
    """What the scorer says of all records together, and the mean over them of F1 of S."""
    kept = {name: each for name, each in score["maps"][code].items() if name != "records"}
    return kept | {"S record-macro F1": round(record_macro(score, code), 2)}


def _cut(x: Array, place: int, half: int) -> Array:
    """The lead to either side of a place, the ends held."""
    return x[np.clip(np.arange(place - half, place + half + 1), 0, len(x) - 1)]


def _width(shape: Array, rate_hz: float) -> float:
    """How long, in samples, the slope stays above `STEEP` of its largest, from first to last."""
    slope = uniform_filter1d(np.abs(np.gradient(shape)), max(round(0.01 * rate_hz), 1))
    above = np.flatnonzero(slope > STEEP * slope.max())
    return float(above[-1] - above[0] + 1) if len(above) else 0.0


def _alike(shape: Array, template: Array) -> float:
    """The largest correlation of a complex with the usual one, over `SHIFT_S` to either side."""
    windows = np.lib.stride_tricks.sliding_window_view(shape, len(template))
    windows, template = windows - windows.mean(1, keepdims=True), template - template.mean()
    size = np.linalg.norm(windows, axis=1) * np.linalg.norm(template)
    return float((windows @ template / np.maximum(size, 1e-12)).max())


def _placed(x: Array, at: Sequence[int], near: int) -> NDArray[np.int64]:
    """Each place moved to the largest value near it."""
    return np.array([max(p - near, 0) + int(x[max(p - near, 0) : p + near + 1].argmax()) for p in at], np.int64)


def _is_there(place: Path) -> bool:
    return all(place.with_suffix(ending).is_file() for ending in (".hea", ".dat", ".atr"))


def _folder(given: str | None) -> Path:
    if not given or not Path(given).is_dir():
        raise UsageError(f"no data folder ({given or 'neither --data nor HOLDOVER_DATA is set'}); give --data DIR, "
                         "a folder with PhysioNet's mitdb/ and svdb/ in it")  # fmt: skip
    return Path(given)


if __name__ == "__main__":
    sys.exit(main())
