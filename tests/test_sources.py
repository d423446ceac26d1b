"""Every reader of recordings, against good files, broken files and any way of asking."""

import os
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.apps import recording
from holdover.devices import sources
from holdover.devices.sources import csv_file, edf_file, npz_file, units, wfdb_record
from holdover.devices.sources.recording import distinct, place
from holdover.runtime.chunk import Chunk
from holdover.runtime.errors import SourceError, UsageError
from holdover.runtime.resample import Resampler

RATE_HZ = 50.0
OPENERS: dict[str, Callable[..., Any]] = {
    "wfdb": wfdb_record.open,
    "csv": csv_file.open,
    "npz": npz_file.open,
    "npy": npz_file.open,
    "edf": edf_file.open,
}
OPTIONS: dict[str, dict[str, Any]] = {"csv": {"rate_hz": RATE_HZ}, "npy": {"rate_hz": RATE_HZ, "leads": ["MLII", "V5"]}}
KINDS = list(OPENERS)

_rng = np.random.default_rng(7)
SIGNAL = np.round(np.cumsum(_rng.normal(0, 0.05, (500, 2)), axis=0), 3)


def write(kind: str, folder: Path, x: np.ndarray = SIGNAL) -> Path:
    """Write a recording of two leads, MLII and V5 in mV at 50 Hz, in one of the kinds."""
    return {"wfdb": _write_wfdb, "csv": _write_csv, "npz": _write_npz, "npy": _write_npy, "edf": _write_edf}[kind](
        folder, x
    )


def _write_wfdb(folder: Path, x: np.ndarray) -> Path:
    wfdb = pytest.importorskip("wfdb")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The inplace keyword")  # wfdb 4.3.1 with pandas 3.1
        wfdb.wrsamp(
            "rec", RATE_HZ, ["mV", "mV"], ["MLII", "V5"], p_signal=x, fmt=["16", "16"], adc_gain=[1000.0, 1000.0],
            baseline=[0, 0], write_dir=str(folder),
        )  # fmt: skip
    return folder / "rec.hea"


def _write_csv(folder: Path, x: np.ndarray) -> Path:
    rows = "".join(",".join("" if np.isnan(v) else f"{v:.3f}" for v in row) + "\n" for row in x)
    (folder / "rec.csv").write_text("MLII,V5\n" + rows)
    return folder / "rec.csv"


def _write_npz(folder: Path, x: np.ndarray) -> Path:
    np.savez(folder / "rec.npz", ecg=x, fs=RATE_HZ, leads=["MLII", "V5"], unit="mV", epoch=1.5e9)
    return folder / "rec.npz"


def _write_npy(folder: Path, x: np.ndarray) -> Path:
    np.save(folder / "rec.npy", x)
    return folder / "rec.npy"


def _write_edf(folder: Path, x: np.ndarray) -> Path:
    edfio = pytest.importorskip("edfio")
    signals = [
        edfio.EdfSignal(x[:, i], RATE_HZ, label=label, physical_dimension="mV", physical_range=(-10, 10))
        for i, label in enumerate(("MLII", "V5"))
    ]
    edfio.Edf(signals).write(folder / "rec.edf")
    return folder / "rec.edf"


def opened(kind: str, path: Path, **options: Any) -> Any:
    return OPENERS[kind](path, **{**OPTIONS.get(kind, {}), **options})


def played(source: Any) -> np.ndarray:
    chunks = list(source.chunks())
    return np.concatenate([chunk.x for chunk in chunks]) if chunks else np.empty((0, len(source.channels)), np.float32)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


# What every reader does with a good file


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_is_played_as_it_was_written(kind: str, recordings: dict[str, Path]) -> None:
    source = opened(kind, recordings[kind])
    assert (source.name, source.rate_hz, source.length) == ("rec", RATE_HZ, 500)
    assert source.channels == ("MLII", "V5")
    assert source.units == ("mV", "mV")
    x = played(source)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, SIGNAL, atol=6e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lead_is_chosen_by_its_name(kind: str, recordings: dict[str, Path]) -> None:
    for lead, column in (("V5", 1), ("MLII", 0), ("v5", 1)):
        source = opened(kind, recordings[kind], lead=lead)
        assert len(source.channels) == 1
        np.testing.assert_allclose(played(source)[:, 0], SIGNAL[:, column], atol=6e-4)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(block_s=st.floats(0.001, 30))
def test_how_blocks_are_cut_never_changes_the_samples(kind: str, recordings: dict[str, Path], block_s: float) -> None:
    chunks = list(opened(kind, recordings[kind], block_s=block_s).chunks())
    assert all(a.end == b.at for a, b in pairwise(chunks))
    assert max(len(chunk) for chunk in chunks) <= max(1, round(block_s * RATE_HZ))
    np.testing.assert_array_equal(np.concatenate([c.x for c in chunks]), played(opened(kind, recordings[kind])))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12, deadline=None)
@given(at=st.integers(0, 500), block_s=st.floats(0.01, 12))
def test_seeking_gives_what_slicing_gives(kind: str, recordings: dict[str, Path], at: int, block_s: float) -> None:
    source = opened(kind, recordings[kind], block_s=block_s)
    whole = played(source)
    assert source.seek(at)
    chunks = list(source.chunks())
    assert [c.at for c in chunks[:1]] == [at][: len(chunks)]
    np.testing.assert_array_equal(np.concatenate([c.x for c in chunks] or [whole[:0]]), whole[at:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_place_outside_the_recording_cannot_be_sought(kind: str, recordings: dict[str, Path]) -> None:
    source = opened(kind, recordings[kind])
    assert not source.seek(-1)
    assert not source.seek(501)


@pytest.mark.parametrize("kind", KINDS)
def test_start_and_stop_keep_the_places_of_the_file(kind: str, recordings: dict[str, Path]) -> None:
    chunks = list(opened(kind, recordings[kind], start="0:02", stop="s250", block_s=1).chunks())
    assert (chunks[0].at, chunks[-1].end) == (100, 250)
    np.testing.assert_allclose(np.concatenate([c.x for c in chunks]), SIGNAL[100:250], atol=6e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_closing_ends_the_chunks(kind: str, recordings: dict[str, Path]) -> None:
    source = opened(kind, recordings[kind], block_s=1)
    chunks = source.chunks()
    next(chunks)
    source.close()
    assert list(chunks) == []


@pytest.mark.parametrize("kind", ["wfdb", "csv", "npz", "npy"])
def test_a_missing_sample_comes_as_nan(kind: str, tmp_path: Path) -> None:
    x = SIGNAL.copy()
    x[100:110, 0] = np.nan
    np.testing.assert_array_equal(np.isnan(played(opened(kind, write(kind, tmp_path, x)))), np.isnan(x))


# What every reader does with a bad file or a bad wish


def _cut(path: Path, keep: float = 0.5) -> None:
    path = path.with_suffix(".dat") if path.suffix == ".hea" else path
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def _gone(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAKS: dict[str, Callable[[Path], None]] = {
    "empty": _emptied, "garbage": _garbage, "gone": _gone, "a folder": _folder, "truncated": _cut,
}  # fmt: skip
WISHES: dict[str, tuple[dict[str, Any], str]] = {
    "missing lead": ({"lead": "aVF"}, "MLII, V5"),
    "no block": ({"block_s": 0}, "block_s"),
    "block of text": ({"block_s": "soon"}, "block_s"),
    "start past the end": ({"start": "10:00"}, "500 samples"),
    "start no time": ({"start": "noon"}, "noon"),
}


@pytest.mark.parametrize("check", BREAKS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_file_is_refused_in_words(kind: str, check: str, tmp_path: Path) -> None:
    path = write(kind, tmp_path)
    BREAKS[check](path)
    if (kind, check) == ("csv", "truncated"):
        path.write_bytes(path.read_bytes().rsplit(b",", 1)[0])  # within a row: elsewhere it looks like a shorter one
    with pytest.raises(SourceError, match="rec"):
        played(opened(kind, path))


@pytest.mark.parametrize("check", WISHES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_wish_that_cannot_be_is_refused_in_words(kind: str, check: str, recordings: dict[str, Path]) -> None:
    options, says = WISHES[check]
    with pytest.raises(SourceError, match=says):
        opened(kind, recordings[kind], **options)


@pytest.mark.parametrize("rate_hz", [0, -360, 0.000009, 1e7, float("nan"), "fast", True])
@pytest.mark.parametrize("kind", ["csv", "npz", "npy"])
def test_a_rate_that_cannot_be_is_refused(kind: str, rate_hz: Any, recordings: dict[str, Path]) -> None:
    with pytest.raises(SourceError, match="rate"):
        opened(kind, recordings[kind], rate_hz=rate_hz)


@pytest.mark.parametrize("kind", ["csv", "npy"])
def test_a_rate_that_nobody_states_is_asked_for(kind: str, recordings: dict[str, Path]) -> None:
    with pytest.raises(SourceError, match="give rate_hz"):
        OPENERS[kind](recordings[kind])


# WFDB


def _header(folder: Path, text: str, data: bytes = b"\0" * 4000) -> Path:
    (folder / "rec.hea").write_text(text)
    (folder / "rec.dat").write_bytes(data)
    return folder / "rec"


def test_a_truncated_wfdb_record_says_what_is_there_and_plays_it_if_allowed(tmp_path: Path) -> None:
    path = write("wfdb", tmp_path)
    _cut(path)
    with pytest.raises(SourceError, match="promises 500 samples, 250 are there") as error:
        wfdb_record.open(path)
    assert "allow_truncated" in str(error.value)
    np.testing.assert_allclose(played(wfdb_record.open(path, allow_truncated=True)), SIGNAL[:250], atol=6e-4)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rec 1 360 1000000000000\nrec.dat 212 200 11 0 0 0 0 MLII\n", "1000000000000 samples, 2666"),
        ("rec 1 0 1000\nrec.dat 16 200 11 0 0 0 0 MLII\n", "rate"),
        ("rec 2 360 1000\nrec.dat 16 200 11 0 0 0 0 MLII\n", "promises 2 signals"),
        ("rec 0 360 1000\n", "0 signals"),
        ("rec 1 360\nrec.dat 16 200 11 0 0 0 0 MLII\n", r"how many samples.*2000 are there"),
        ("rec/2 1 360 2000\nrec_1 1000\nrec_2 1000\n", "2 segments"),
        ("rec 1 360 1000\nother.dat 16 200 11 0 0 0 0 MLII\n", "other.dat"),
        ("\n\n", "not a WFDB header"),
        ("hello\nworld\n", "rec"),
    ],
)
def test_an_impossible_wfdb_header_is_refused(text: str, says: str, tmp_path: Path) -> None:
    pytest.importorskip("wfdb")
    with pytest.raises(SourceError, match=says):
        wfdb_record.open(_header(tmp_path, text))


def test_a_wfdb_date_gives_the_epoch_and_its_absence_none(tmp_path: Path) -> None:
    pytest.importorskip("wfdb")
    signal = "rec.dat 16 200 11 0 0 0 0 MLII\n"
    assert wfdb_record.open(_header(tmp_path, f"rec 1 360 1000 00:00:01 01/01/1970\n{signal}")).epoch == 1.0
    assert wfdb_record.open(_header(tmp_path, f"rec 1 360 1000 00:00:01\n{signal}")).epoch is None


def test_two_leads_of_one_name_can_both_be_chosen(tmp_path: Path) -> None:
    pytest.importorskip("wfdb")
    line = "rec.dat 16 200 11 0 0 0 0 ECG\n"
    path = _header(tmp_path, f"rec 2 250 1000\n{line}{line}", np.arange(2000, dtype="<i2").tobytes())
    assert wfdb_record.open(path).channels == ("ECG", "ECG#2")
    assert played(wfdb_record.open(path, lead="ECG#2"))[0, 0] == np.float32(1 / 200)


# CSV


def _csv(folder: Path, text: str | bytes, name: str = "rec.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def test_text_in_row_7_is_named_with_its_row_and_column(tmp_path: Path) -> None:
    path = _csv(tmp_path, "MLII,V5\n" + "0.1,0.2\n" * 5 + "abc,0.2\n0.1,0.2\n")
    with pytest.raises(SourceError, match="row 7, column MLII: 'abc' is not a number"):
        played(csv_file.open(path, rate_hz=360))
    assert len(played(csv_file.open(path, rate_hz=360, lead="V5"))) == 7


@pytest.mark.parametrize("bad", ["inf", "1_0", "0,5", "--1", "1.2.3", "0x10"])
def test_what_is_no_decimal_number_is_refused_in_a_file_of_any_size(bad: str, tmp_path: Path) -> None:
    path = _csv(tmp_path, "0.125\n" * 300_000 + bad + "\n0.5\n")
    with pytest.raises(SourceError, match="row 300001, column ch1"):
        played(csv_file.open(path, rate_hz=360))


def test_a_row_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="row 3 has 3 cells; expected 2"):
        played(csv_file.open(_csv(tmp_path, "a,b\n1,2\n1,2,3\n4\n"), rate_hz=1))


@pytest.mark.parametrize(
    "text",
    [
        "ECG\n1\n\n3\nnan\n",
        "1\n\n3\nNaN\n\n\n\n",
        "ECG;x\n1;a\n;b\n3;c\nNA;d\n",
        "# a note\nECG,x\r\n1,a\r\n,b\r\n3,c\r\n-,d\r\n",
        '\ufeff"ECG","x"\n"1","a"\n"","b"\n"3","c, d"\nnull,d\n',
        "ECG\tx\n1\ta\n\tb\n3\tc\n\td\n",
    ],
    ids=["plain", "no names", "semicolons", "comment and CRLF", "quotes and BOM", "tabs"],
)
def test_text_files_are_read_as_people_write_them(text: str, tmp_path: Path) -> None:
    source = csv_file.open(_csv(tmp_path, text), rate_hz=1, lead="ECG" if "ECG" in text else None)
    np.testing.assert_array_equal(played(source)[:, 0], np.array([1, np.nan, 3, np.nan], np.float32))
    assert source.length == 4


def test_stamps_in_milliseconds_tell_rate_and_holes(tmp_path: Path) -> None:
    at = np.r_[np.arange(100), np.arange(150, 250)]
    rows = "".join(f"{i / 360:.3f},{i}\n" for i in at)
    source = csv_file.open(_csv(tmp_path, "time,ECG\n" + rows))
    chunks = list(source.chunks())
    assert (source.rate_hz, source.epoch, source.length) == (360.0, None, 250)
    np.testing.assert_array_equal(np.concatenate([np.arange(c.at, c.end) for c in chunks]), at)
    np.testing.assert_array_equal(np.concatenate([c.x[:, 0] for c in chunks]), at)


def test_iso_stamps_give_epoch_and_rate(tmp_path: Path) -> None:
    rows = "".join(f"2015-02-26 21:{m:02d}:53,{m}\n" for m in (0, 5, 10, 20, 25))
    source = csv_file.open(_csv(tmp_path, "timestamp,value\n" + rows), block_s=3600)
    assert source.rate_hz == pytest.approx(1 / 300)
    assert source.epoch == 1424984453.0
    assert [(c.at, len(c)) for c in source.chunks()] == [(0, 3), (4, 2)]


def test_stamps_that_repeat_or_jump_back_are_placed_and_said(tmp_path: Path) -> None:
    stamps = [*range(20), 18, 19, *range(20, 30), *range(3, 8)]
    source = csv_file.open(_csv(tmp_path, "t,ECG\n" + "".join(f"{t},{t}\n" for t in stamps)), rate_hz=1, block_s=60)
    assert [(c.at, len(c), c.fault) for c in source.chunks()] == [(0, 20, ""), (18, 12, ""), (30, 5, "clock_jump")]


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("t,ECG\n0,1\nsoon,2\n", {}, "row 3, column t: 'soon' is not a time"),
        ("t,ECG\n0,1\n,2\n", {}, "row 3, column t"),
        ("t,ECG\n0,1\n0,2\n", {}, "do not advance"),
        ("t\n0\n1\n", {}, "no other"),
        ("a,b\n1,2\n", {"time": "c"}, "a, b"),
        ("a,b\n", {"rate_hz": 1}, "no samples"),
        ("\n\n\n", {"rate_hz": 1}, "no rows"),
        ("1,2\n", {"rate_hz": 1, "leads": ["x"]}, "2 columns and 1 names"),
        (b"a,b\n1\x00,2\n", {"rate_hz": 1}, "zero bytes"),
        ("1\n" + "2" * 3_000_000 + "\n", {"rate_hz": 1}, "rec.csv"),
        ("a,b\r1,2\r3,4\r", {"rate_hz": 1}, "row 2 cannot be split.*old Mac"),
        ("a,b\n1," + "2" * 200_000 + "\n3,4\n", {"rate_hz": 1, "lead": "b"}, "row 2"),
        ('a,b\n1,"' + "2" * 200_000 + '"\n3,4\n', {"rate_hz": 1}, "row 2 cannot be split.*limit"),
        ('"' + "a" * 200_000 + '",b\n1,2\n', {"rate_hz": 1}, "row 1 cannot be split.*limit"),
        ("1,2\n", {"rate_hz": 1, "separator": "ab"}, "row 1 cannot be split"),
        ("t,ECG\n  \n \n", {}, "row 2: only blank rows"),
        ("t,ECG\n0,1\n2e6,2\n4e6,3\n", {}, "rate of 5e-07 Hz cannot be.*time_ms"),
        (
            "t,ECG\n0,1\n1700000000000,2\n",
            {},
            "row 3, column t: .* like milliseconds; divide .* 1000 or name .* time_ms",
        ),
        ("t,ECG\n1700000000000000,1\n", {}, "row 2, column t: .* like microseconds; divide .* 1000000 or .* time_us"),
        ("t,ECG\n1700000000000000000,1\n", {}, "row 2, column t: .* like nanoseconds; divide"),
        ("t,ECG\n0,1\n9999999999,2\n", {}, "row 3, column t: .* no time between 1970 and 2200"),
        ("time_ms,ECG\n0,1\n9999999999000,2\n", {}, "row 3, column time_ms: .* no time between"),
        ("t,ECG\n2999-01-01 00:00:00,1\n2999-01-01 00:00:01,1\n", {}, "row 2, column t: .* no time between"),
    ],
)
def test_a_text_file_that_cannot_be_is_refused(text: str, options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=says):
        played(csv_file.open(_csv(tmp_path, text), **options))


@pytest.mark.parametrize(("name", "scale"), [("time_ms", 1e3), ("timestamp_ms", 1e3), ("time_us", 1e6), ("t", 1)])
def test_unix_stamps_are_read_in_the_unit_that_their_column_names(name: str, scale: float, tmp_path: Path) -> None:
    rows = "".join(f"{(1_700_000_000 + i / 4) * scale:.2f},{i}\n" for i in range(8))
    source = csv_file.open(_csv(tmp_path, f"{name},ECG\n{rows}"))
    assert (source.rate_hz, source.epoch, source.length) == (4.0, 1.7e9, 8)


def test_a_file_whose_stamps_go_on_is_resumed_exactly_at_any_place(tmp_path: Path) -> None:
    path = _csv(tmp_path, "t,ECG\n" + "".join(f"{t},{t}\n" for t in [*range(20), *range(25, 40)]))
    whole = {c.at + i: float(v) for c in csv_file.open(path).chunks() for i, v in enumerate(c.x[:, 0])}
    for at in range(41):
        source = csv_file.open(path)
        assert source.seek(at)
        got = {c.at + i: float(v) for c in source.chunks() for i, v in enumerate(c.x[:, 0])}
        assert got == {place: v for place, v in whole.items() if place >= at}


@pytest.mark.parametrize(
    ("stamps", "length"),
    [
        ([*range(20), 18, 19, *range(20, 30)], 30),
        ([*range(20), *range(3, 8)], 25),
        ([*range(20), *range(3, 48)], 65),
        ([*range(100, 120), *range(40)], 60),
        ([*range(20), 19, 18], 20),
    ],
    ids=["late", "set back", "set back and past it", "set back before the start", "late at the end"],
)
def test_a_file_whose_stamps_go_back_says_its_length_and_cannot_be_sought(
    stamps: list[int], length: int, tmp_path: Path
) -> None:
    source = csv_file.open(_csv(tmp_path, "t,ECG\n" + "".join(f"{t},{t}\n" for t in stamps)), rate_hz=1)
    assert not any(source.seek(at) for at in (0, 5, 19, length))
    chunks = list(source.chunks())
    assert source.length == length == max(c.end for c in chunks)
    assert np.concatenate([c.x[:, 0] for c in chunks]).tolist() == stamps


@pytest.mark.parametrize(
    ("rate_hz", "decimals", "rows", "expected"),
    [(250.13, 6, 200, 250.0), (250.25, 6, 90_000, 250.25), (360, 3, 90_000, 360), (1000 / 3, 6, 90_000, 1000 / 3)],
)
def test_a_rate_is_only_rounded_as_far_as_the_file_does_not_show_it(
    rate_hz: float, decimals: int, rows: int, expected: float, tmp_path: Path
) -> None:
    text = "".join(f"{i / rate_hz:.{decimals}f},0\n" for i in range(rows))
    assert csv_file.open(_csv(tmp_path, "t,ECG\n" + text)).rate_hz == expected


@pytest.mark.parametrize("rate_hz", [50.03, 250.13, 249.87, 359.9, 500.07])
def test_a_device_clock_that_is_a_little_off_never_goes_back_and_can_be_resampled(
    rate_hz: float, tmp_path: Path
) -> None:
    text = "".join(f"{i / rate_hz:.6f},0\n" for i in range(150_000))
    source = csv_file.open(_csv(tmp_path, "t,ECG\n" + text))
    chunks = list(source.chunks())
    assert source.rate_hz == pytest.approx(rate_hz, rel=2e-4)
    assert all(a.end <= b.at and not b.fault for a, b in pairwise(chunks))
    assert sum(map(len, chunks)) == 150_000
    for model_hz in (120, 125):
        Resampler(source.rate_hz, model_hz)


@settings(max_examples=60, deadline=None)
@given(
    cells=st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=60),
    sep=st.sampled_from([",", ";", "\t"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_column_of_numbers_comes_back(
    cells: list[float | None], sep: str, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [f"{'' if cell is None else repr(cell)}{sep}1" for cell in cells]
    path = _csv(tmp_path_factory.mktemp("any"), end.join([f"ECG{sep}x", *rows]) + end)
    expected = np.array([np.nan if cell is None else cell for cell in cells], np.float32)
    np.testing.assert_array_equal(played(csv_file.open(path, rate_hz=1, lead="ECG"))[:, 0], expected)


def test_a_long_text_file_is_read_in_little_memory(tmp_path: Path) -> None:
    path = _csv(tmp_path, "ECG\n" + "0.125\n-1.5\n" * 1_500_000)
    code = (
        "import sys, resource, numpy\n"
        "from holdover.devices.sources import csv_file\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "n = sum(len(c) for c in csv_file.open(sys.argv[1], rate_hz=360).chunks())\n"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    rows, grown_kib = map(int, done.stdout.split())
    assert rows == 3_000_000
    assert grown_kib < 64 * 1024


# NumPy's files


def _zip(folder: Path, header: bytes, name: str = "ecg.npy") -> Path:
    with zipfile.ZipFile(folder / "rec.npz", "w") as archive:
        archive.writestr(name, header)
    return folder / "rec.npz"


def _npy(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    "member", [_npy("(1000000000000,)"), _npy("(-5,)"), _npy("(3,)"), b"\x93NUMPY", b"hello", _npy("(1,)", "'|O'")]
)
def test_an_array_that_claims_what_is_not_there_is_refused(member: bytes, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rec\.npz"):
        npz_file.open(_zip(tmp_path, member), rate_hz=360)


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(3,)", "(-5,)"])
def test_an_npy_file_that_claims_what_is_not_there_is_refused(shape: str, tmp_path: Path) -> None:
    (tmp_path / "rec.npy").write_bytes(_npy(shape))
    with pytest.raises(SourceError, match=r"rec\.npy"):
        npz_file.open(tmp_path / "rec.npy", rate_hz=360)


@pytest.mark.parametrize(
    ("arrays", "options", "says"),
    [
        ({"ecg": np.array(["a", "b"])}, {}, "type <U1"),
        ({"ecg": np.zeros(9, complex)}, {}, "complex"),
        ({"ecg": np.zeros(9, bool)}, {}, "bool"),
        ({"ecg": np.zeros((2, 3, 4))}, {}, r"shape \(2, 3, 4\)"),
        ({"ecg": np.zeros(0)}, {}, "shape"),
        ({"ecg": np.zeros((2, 5000))}, {}, "transpose"),
        ({"ecg": np.zeros(9, np.int16)}, {}, "give a gain"),
        ({"ecg": np.zeros(9), "fs": [1, 2]}, {"rate_hz": None}, "rate"),
        ({"ecg": np.zeros((9, 2)), "leads": ["a"]}, {}, "2 channels and 1 names"),
        ({"ecg": np.zeros((9, 3)), "units": ["mV", "V"]}, {}, "2 units"),
        ({"a": np.zeros(9), "b": np.zeros(9)}, {}, "a, b"),
        ({"ecg": np.zeros(9), "epoch": "soon"}, {}, "epoch"),
    ],
)
def test_arrays_that_are_no_signal_are_refused(
    arrays: dict[str, Any], options: dict[str, Any], says: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rec.npz", **arrays)
    with pytest.raises(SourceError, match=says):
        npz_file.open(tmp_path / "rec.npz", **{"rate_hz": 360, **options})


def test_counts_become_units_by_their_gain(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "rec.npz", x=np.array([200, -100], np.int16), gain=0.005, rate_hz=360)
    assert played(npz_file.open(tmp_path / "rec.npz"))[:, 0].tolist() == [1.0, -0.5]


def test_only_the_arrays_that_are_needed_are_loaded(tmp_path: Path) -> None:
    with zipfile.ZipFile(_zip(tmp_path, _npy("(1000000000000,)"), "other.npy"), "a") as archive:
        archive.writestr("notes.txt", b"hello")
        archive.writestr("ecg.npy", _npy("(2,)") + struct.pack("<2d", 1, 2))
    assert played(npz_file.open(tmp_path / "rec.npz", rate_hz=1))[:, 0].tolist() == [1, 2]


def test_arrays_that_are_too_large_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_file, "MAX_BYTES", 3000)
    np.savez_compressed(tmp_path / "rec.npz", x=np.zeros(250), other=np.zeros(9000))
    assert npz_file.open(tmp_path / "rec.npz", rate_hz=1).length == 250
    np.savez_compressed(tmp_path / "rec.npz", x=np.zeros(250), leads=np.zeros(250))
    with pytest.raises(SourceError, match=r"GiB; save the signal as \.npy"):
        npz_file.open(tmp_path / "rec.npz", rate_hz=1)


def test_infinity_in_an_array_is_a_missing_sample(tmp_path: Path) -> None:
    np.savez(tmp_path / "rec.npz", x=np.array([1.0, np.inf, -np.inf, 1e300]))
    assert np.isnan(played(npz_file.open(tmp_path / "rec.npz", rate_hz=1))[:, 0]).tolist() == [False, True, True, True]


def test_an_npz_file_is_read_without_anything_heavy(recordings: dict[str, Path]) -> None:
    code = (
        "import sys\nfrom holdover.devices.sources.npz_file import open\nlist(open(sys.argv[1]).chunks())\n"
        "print([m for m in ('wfdb', 'pandas', 'scipy', 'matplotlib', 'edfio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, recordings["npz"]], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# EDF


def test_an_edf_file_that_promises_more_than_it_holds_is_refused_unless_allowed(recordings: dict[str, Path]) -> None:
    data = bytearray(recordings["edf"].read_bytes())
    data[236:244] = b"99999999"
    path = recordings["edf"].with_name("huge.edf")
    path.write_bytes(data)
    with pytest.raises(SourceError, match="promises 99999999 data records, 10 are there"):
        edf_file.open(path)
    assert len(played(edf_file.open(path, allow_truncated=True))) == 500


def test_edf_channels_of_different_rates_are_read_one_by_one(tmp_path: Path) -> None:
    edfio = pytest.importorskip("edfio")
    signals = [
        edfio.EdfSignal(np.zeros(10 * rate), rate, label=label, physical_dimension=unit, physical_range=(-1, 1))
        for rate, label, unit in ((100, "ECG", "uV"), (1, "SpO2", "%"))
    ]
    edfio.Edf(signals).write(tmp_path / "rec.edf")
    with pytest.raises(SourceError, match="differ in rate"):
        edf_file.open(tmp_path / "rec.edf")
    source = edf_file.open(tmp_path / "rec.edf", lead="ECG")
    assert (source.rate_hz, source.units, len(played(source))) == (100.0, ("uV",), 1000)


# Units, times, names


@pytest.mark.parametrize(
    ("have", "want", "by"), [("uV", "mV", 1e-3), ("µV", "uV", 1), ("V", "mV", 1e3), ("microV", "V", 1e-6)]
)
def test_units_of_potential_convert(have: str, want: str, by: float) -> None:
    assert units.factor(have, want) == by


def test_a_unit_that_is_no_potential_is_refused_with_the_channel() -> None:
    with pytest.raises(SourceError, match="the model wants mV, channel MLII is in 'mmHg'"):
        units.factor("mmHg", "mV", "MLII")
    assert units.factor("mmHg", "mmHg") == 1.0


@pytest.mark.parametrize("when", ["", "1:60", "-1", "1:2:3:4", "s1.5", "nan", "inf", "1e400", None, True, "s-1"])
def test_what_is_no_time_is_refused(when: Any) -> None:
    with pytest.raises(SourceError, match="is no time"):
        place(when, 360.0, "rec")


def test_names_that_repeat_or_are_blank_are_told_apart() -> None:
    assert distinct(["ECG", "ECG", " ", "ECG"]) == ("ECG", "ECG#2", "ch3", "ECG#3")


# Drawing them


def test_a_recording_with_an_absurd_hole_is_not_drawn_but_answered_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chunks = [Chunk(0, np.zeros((5, 1), np.float32)), Chunk(10**12, np.ones((5, 1), np.float32))]
    source = SimpleNamespace(rate_hz=250.0, close=lambda: None)
    feed = SimpleNamespace(source=source, chunks=lambda: iter(chunks))
    monkeypatch.setattr(recording, "open_recording", lambda *_args, **_options: feed)
    engine: Any = SimpleNamespace(contract=None)
    with pytest.raises(UsageError, match="too long to draw: give a range with -f and -t"):
        recording.read_signal(Path("rec.csv"), engine, None, {})
    chunks[1] = Chunk(6, chunks[1].x)
    np.testing.assert_array_equal(
        recording.read_signal(Path("rec.csv"), engine, None, {}), np.array([0] * 5 + [np.nan] + [1] * 5, np.float32)
    )


# Finding them


needs_installation = pytest.mark.skipif(
    not entry_points(group=sources.GROUP), reason="holdover is not installed, so its entry points are not there"
)


@needs_installation
def test_a_file_is_opened_by_its_extension(recordings: dict[str, Path]) -> None:
    assert {"wfdb", "csv", "npz", "edf", "stdin", "tcp"} <= set(sources.kinds())
    for kind, path in recordings.items():
        source = sources.open_file(path, **OPTIONS.get(kind, {}))
        assert next(iter(source.chunks())).at == 0
    assert sources.open_file(recordings["wfdb"].with_suffix("")).length == 500


@needs_installation
def test_an_unknown_source_or_option_is_answered_with_the_known_ones() -> None:
    with pytest.raises(SourceError, match="did you mean 'wfdb'"):
        sources.open_source("wfbd", {})
    with pytest.raises(SourceError, match="no option 'leed'; did you mean 'lead'"):
        sources.open_source("csv", {"path": "x", "leed": "MLII"})


def test_the_kind_of_a_file_is_told_by_its_name(recordings: dict[str, Path], tmp_path: Path) -> None:
    assert [sources.kind_of(path) for path in recordings.values()] == ["wfdb", "csv", "npz", "npz", "edf"]
    assert sources.kind_of(recordings["wfdb"].with_suffix("")) == "wfdb"
    with pytest.raises(SourceError, match=r"expected one of \.hea"):
        sources.kind_of(tmp_path / "a.docx")
    with pytest.raises(SourceError, match="nor a WFDB header"):
        sources.kind_of(tmp_path / "100")


def test_the_recordings_in_a_folder_are_its_headers_or_else_its_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no recordings"):
        sources.records_in(tmp_path)
    for name in ("b.csv", "a.npz", "readme.md", "x.dat"):
        (tmp_path / name).touch()
    assert [path.name for path in sources.records_in(tmp_path)] == ["a.npz", "b.csv"]
    for name in ("2.hea", "1.hea", "1.dat", "SHA256SUMS.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in sources.records_in(tmp_path)] == ["1.hea", "2.hea"]
    with pytest.raises(SourceError, match="not a folder"):
        sources.records_in(tmp_path / "nowhere")


# Real recordings


@pytest.fixture
def data() -> Path:
    if not os.environ.get("HOLDOVER_DATA"):
        pytest.skip("HOLDOVER_DATA does not name the folder of real recordings")
    return Path(os.environ["HOLDOVER_DATA"])


def test_mitdb_100_begins_at_minus_0_145_mv(data: Path) -> None:
    source = wfdb_record.open(data / "mitdb" / "100", lead="MLII", stop=1)
    assert played(source)[0, 0] == np.float32(-0.145)
    assert (source.rate_hz, source.epoch) == (360.0, None)


def test_mlii_is_the_second_signal_of_mitdb_114(data: Path) -> None:
    both = played(wfdb_record.open(data / "mitdb" / "114.dat", stop=10))
    np.testing.assert_array_equal(
        played(wfdb_record.open(data / "mitdb" / "114", lead="MLII", stop=10))[:, 0], both[:, 1]
    )


def test_blocks_of_a_real_record_are_what_the_reference_reader_gives(data: Path) -> None:
    import wfdb

    whole = wfdb.rdrecord(str(data / "mitdb" / "208"), return_res=32).p_signal
    np.testing.assert_array_equal(played(wfdb_record.open(data / "mitdb" / "208", block_s=3.7)), whole)


def test_a_record_with_bytes_before_its_samples_is_read(data: Path) -> None:
    source = wfdb_record.open(data / "cinc2017" / "A00001")
    assert (source.channels, source.length, len(played(source))) == (("ECG",), 9000, 9000)
