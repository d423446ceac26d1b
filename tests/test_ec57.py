"""The programs of the field, character for character: golden texts, layouts without one, times, sums."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdover.evaluate.period import clock, period, samples
from holdover.evaluate.sumstats import summary
from holdover.runtime.errors import SourceError, UsageError
from tests.scoring import PAIR, beat, data, score, small_record, write_annotations

RECORDS = ("100", "203", "207", "210", "219", "232")


Spoken = Callable[..., str]


@pytest.fixture
def spoken(capsys: pytest.CaptureFixture[str]) -> Spoken:
    def say(*argv: str | Path) -> str:
        said = score(capsys, *argv)
        assert said.status == 0, said.err
        return said.out

    return say


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Path:
    place = data("ec57-golden")
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def record(tmp_path: Path) -> str:
    return small_record(tmp_path)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("bxb", ("bxb", "-S")),
        ("bxb-v", ("bxb", "-s")),
        ("bxb-f0", ("bxb", "-f", "0", "-S")),
        ("rxr", ("rxr", "-S")),
        ("af", ("epicmp", "-A")),
    ],
)
def test_reports_are_those_of_the_reference_programs(
    golden: Path, spoken: Spoken, tmp_path: Path, record: str, text: str, argv: tuple[str, ...]
) -> None:
    out = tmp_path / "report.txt"
    program, *options = argv
    spoken(program, "-r", record, *PAIR, *options, str(out))
    assert out.read_bytes() == (golden / f"{record}.{text}.txt").read_bytes()


@pytest.mark.parametrize("record", RECORDS)
def test_bxb_says_what_was_missed_in_shutdown_on_stdout(
    golden: Path, spoken: Spoken, tmp_path: Path, record: str
) -> None:
    said = spoken("bxb", "-r", record, *PAIR, "-v", "-S", str(tmp_path / "report.txt"))
    assert said == (golden / f"{record}.bxb-list.txt").read_text()


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (("bxb", "-L"), ("bxb", "shutdown")),
        (("rxr", "-L"), ("rxr-v", "rxr-s")),
        (("epicmp", "-L", "-A"), ("af",)),
        (("epicmp", "-L", "-V"), ("vf",)),
    ],
)
def test_line_formats_and_their_sums_are_those_of_the_reference_programs(
    golden: Path, spoken: Spoken, tmp_path: Path, argv: tuple[str, ...], texts: tuple[str, ...]
) -> None:
    program, *options = argv
    files = [tmp_path / f"{text}.line.txt" for text in texts]
    for record in RECORDS:
        spoken(program, "-r", record, *PAIR, *options, *map(str, files))
    for file, text in zip(files, texts, strict=True):
        assert file.read_bytes() == (golden / file.name).read_bytes()
        assert spoken("sumstats", str(file)) == (golden / f"{text}.sum.txt").read_text()


def test_records_are_found_along_the_wfdb_variable(
    record: str, spoken: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WFDB", f". {Path(record).parent}")
    said = spoken("bxb", "-r", "100", *PAIR, "-f", "0", "-l", "-", "-")
    assert said.split()[:12] == ["100", "1", "0", "0", "0", "1", "0", "0", "0", "0", "0", "0"]


def test_reports_without_a_golden_text_are_laid_out_like_those_with_one(
    record: str, spoken: Spoken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(record).parent)
    condensed = spoken("bxb", "-r", "100", *PAIR, "-f", "0", "-C", "-").splitlines()
    assert condensed[4:11] == [
        "         Algorithm",
        "      n+f+q    s    v  o+x",
        "     _____________________",
        "  N  |    1    0    1    0",
        "  S  |    0    0    0    0",
        "  V  |    0    0    0    0",
        " F+Q |    0    0    0    0",
    ]
    spoken("bxb", "-r", "100", *PAIR, "-f", "0", "-l", "beats.txt", "shutdown.txt")
    heading, line = Path("beats.txt").read_text().splitlines()
    assert line == " 100     1   0   0   0   1    0   0   0   0   0   0 100.00 100.00      -   0.00 50.000"
    assert len(line) == len(heading)
    runs = spoken("rxr", "-r", "100", *PAIR, "-f", "0", "-c", "-").splitlines()
    assert runs[4:8] == [
        "          Algorithm Run Length",
        "         nc    v    c    s    l",
        "     __________________________",
        "  NC |         0    0    0    0",
    ]


def test_measurements_are_reported_and_averaged(
    record: str, spoken: Spoken, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, rate in (("atr", b"80"), ("tst", b"76")):
        text = int.from_bytes(rate, "little")
        write_annotations(Path(f"{record}.{name}"), beat(23, 100), 63 << 10 | 2, text, beat(1, 10))
    assert spoken("mxm", "-r", "100", *PAIR, "-f", "0", "-t", "s100", "-u").splitlines()[-2:] == [
        "   Unnormalized RMS error:  5.6569 (n = 1)",
        "Mean reference measurement: 160",
    ]
    assert spoken("mxm", "-r", "100", *PAIR, "-f", "0", "--by-definition").splitlines()[-2:] == [
        "     Normalized RMS error:  5.0000% (n = 1)",
        "Mean reference measurement: 80",
    ]
    spoken("mxm", "-r", "100", *PAIR, "-f", "0", "-l", "rate.txt")
    assert spoken("sumstats", "rate.txt").splitlines()[2:] == [
        "Record\tRMS error (%)\tMean reference measurement",
        "   100\t 3.5355\t\t160",
        "_" * 50,
        "Average  3.5355\t\t160",
        "",
        "Summary of results from 1 record",
    ]


def test_times_are_written_as_the_reference_programs_write_them() -> None:
    assert [samples(text, 360, 650000) for text in ("5:0", ".15", "1:0:0", "s77", "e", "0")] == [
        108000,
        54,
        1296000,
        77,
        650000,
        0,
    ]
    assert clock(3599 * 360 + 360, 360.0) == " 1:00:00.000"


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "-5", "s-1", "inf"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no time"):
        samples(text, 360)


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(UsageError, match="before its start"):
        period(360, 650000, start="10:0", end="5:0")


def test_sumstats_names_the_line_it_cannot_read(golden: Path) -> None:
    text = (golden / "bxb.line.txt").read_text()
    with pytest.raises(SourceError, match=r"beats\.txt, line 8: not a line of this report: 'rubbish'"):
        summary(text + "rubbish\n", "beats.txt")
    with pytest.raises(SourceError, match="is no line-format report"):
        summary("rubbish\n", "beats.txt")
