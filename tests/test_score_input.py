"""What cannot be scored: said with the file and the place in it, and without a traceback."""

from pathlib import Path

import pytest

from tests.scoring import HEADER, PAIR, beat, score, small_record, write_annotations

SKIP = 59 << 10


@pytest.fixture
def record(tmp_path: Path) -> str:
    return small_record(tmp_path)


Pytest = pytest.CaptureFixture[str]


def complaint(record: str, capsys: Pytest) -> str:
    said = score(capsys, "bxb", "-r", record, *PAIR, "-f", "0")
    assert (said.status, said.err.count("\n")) == (3, 1)
    return said.err


def note(text: bytes, gap: int = 0) -> tuple[int, ...]:
    padded = text + b"\0" * (len(text) % 2)
    words = (int.from_bytes(padded[k : k + 2], "little") for k in range(0, len(padded), 2))
    return (beat(22, gap), 63 << 10 | len(text), *words)


def test_what_is_nothing_to_score_is_told_with_what_there_is(tmp_path: Path, capsys: Pytest) -> None:
    said = score(capsys, "bxbb", "--ref", tmp_path)
    assert said.status == 2
    assert "bxbb is no folder, no record with annotations bxbb.blm, and none of bxb, rxr" in said.err
    said = score(capsys, tmp_path, "--ref", tmp_path)
    assert said.status == 3
    assert "has no annotations to score (*.blm)" in said.err


def test_a_test_record_that_the_reference_lacks_is_named(record: str, tmp_path: Path, capsys: Pytest) -> None:
    (tmp_path / "999.blm").write_bytes(Path(f"{record}.tst").read_bytes())
    said = score(capsys, tmp_path, "--ref", tmp_path)
    assert said.status == 3
    assert "999.hea is missing" in said.err


def test_several_records_need_a_folder_as_reference(record: str, tmp_path: Path, capsys: Pytest) -> None:
    for name in ("100", "101"):
        (tmp_path / f"{name}.blm").write_bytes(Path(f"{record}.tst").read_bytes())
    said = score(capsys, tmp_path, "--ref", record)
    assert said.status == 3
    assert "100 is no folder, and" in said.err
    assert "has 2 records; expected a folder" in said.err


def test_a_missing_record_or_annotator_is_named(record: str, capsys: Pytest) -> None:
    assert "no record elsewhere: elsewhere.hea is missing" in complaint("elsewhere", capsys)
    Path(f"{record}.tst").unlink()
    assert "100.tst is missing: no annotator tst" in complaint(record, capsys)


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0\0\0"])
def test_an_empty_file_is_named(record: str, content: bytes, capsys: Pytest) -> None:
    Path(f"{record}.tst").write_bytes(content)
    assert "100.tst is empty: not one annotation in it" in complaint(record, capsys)


@pytest.mark.parametrize("content", [b"\0", b"\x64\x04\x00", b"\x64\x04\x0a\xfc", b"\x64\x04\x00\xec\x01"])
def test_a_file_that_is_cut_off_is_named(record: str, content: bytes, capsys: Pytest) -> None:
    Path(f"{record}.tst").write_bytes(content)
    said = complaint(record, capsys)
    assert "100.tst cannot be read as WFDB annotations" in said
    assert "is it cut off" in said


@pytest.mark.parametrize("header", ["", "100\n", "100 1 0 3600\n100.dat 16 200\n", "\xff\xfe\n"])
def test_a_header_that_cannot_be_read_is_named(record: str, header: str, capsys: Pytest) -> None:
    Path(f"{record}.hea").write_text(header, encoding="latin-1")
    assert "100.hea" in complaint(record, capsys)


def test_a_code_that_wfdb_does_not_know_is_named_with_its_place(record: str, capsys: Pytest) -> None:
    write_annotations(Path(f"{record}.tst"), beat(1, 100), beat(55, 50), beat(1, 100))
    said = complaint(record, capsys)
    assert "100.tst: annotation 2 at sample 150 has code 55, which WFDB does not know (expected 1 to 49)" in said


def test_codes_that_users_define_are_no_beats(record: str, capsys: Pytest) -> None:
    write_annotations(Path(f"{record}.tst"), beat(1, 102), beat(42, 50), beat(49, 50), beat(5, 200))
    said = score(capsys, "bxb", "-r", record, *PAIR, "-f", "0", "-l", "-", "-")
    assert said.out.split()[1:12] == ["1", "0", "0", "0", "1", "0", "0", "0", "0", "0", "0"]


def test_beats_out_of_order_are_named_with_their_place(record: str, capsys: Pytest) -> None:
    back = (-50) & 0xFFFFFFFF
    write_annotations(Path(f"{record}.tst"), beat(1, 100), beat(1, 300), SKIP, back >> 16, back & 0xFFFF, beat(1, 0))
    said = complaint(record, capsys)
    assert "100.tst: annotation 3 is at sample 350, before the one ahead of it at sample 400" in said


def test_annotations_after_the_end_of_the_record_are_named(record: str, capsys: Pytest) -> None:
    write_annotations(Path(f"{record}.tst"), *[beat(1, 1000)] * 5)
    assert "100.tst: annotation 4 is at sample 4000, after the end of the record" in complaint(record, capsys)


def test_a_file_of_another_rate_is_named(record: str, capsys: Pytest) -> None:
    write_annotations(Path(f"{record}.tst"), *note(b"## time resolution: 250"), beat(1, 100))
    assert "100.tst counts time at 250 Hz, its record at 360 Hz" in complaint(record, capsys)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-f", "8", "-t", "5"), "the end of the comparison (sample 1800) is before its start (sample 2880)"),
        ((), "the end of the comparison (sample 3600) is before its start (sample 108000)"),
        (("-f", "10"), "the comparison begins and ends at sample 3600: nothing would be compared"),
        (("-f", "30", "-t", "40"), "would begin at sample 10800, but its samples end before sample 3600"),
        (("-f", "soon"), "'soon' is no time"),
        (("-f", "0", "-w", "-1"), "'-1' is no time"),
        (("-f", "0", "--tolerance", "-1"), "--tolerance -1 cannot be"),
        (("-f", "0", "--tolerance", "nan"), "--tolerance nan cannot be"),
    ],
)
def test_terms_that_cannot_be_are_refused(
    record: str, tmp_path: Path, options: tuple[str, ...], message: str, capsys: Pytest
) -> None:
    said = score(capsys, record, "--test", "tst", "--ref", tmp_path, *options)
    assert said.status == 2
    assert message in said.err


def test_limits_that_contradict_one_another_are_refused(record: str, tmp_path: Path, capsys: Pytest) -> None:
    config = tmp_path / "daemon.toml"
    config.write_text('node = "x"\n[limits]\nrun_beats = 9\nvt_beats = 5\n')
    said = score(capsys, record, "--test", "tst", "--ref", tmp_path, "-f", "0", "--config", config)
    assert said.status == 2
    assert "daemon.toml: vt_beats 5 is less than run_beats 9" in said.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"start asystole", "annotation 1 at sample 900: 'start asystole' is no alarm; expected"),
        (b"start asystole loud", "'start asystole loud' is no alarm"),
        (b"start asystole high technical soon", "'start asystole high technical soon' is no alarm"),
        (b"start asystole high physiological 901", "the alarm begins at sample 901, after it is told"),
        (b"end asystole high physiological 900 899", "ends at sample 899, before its onset at sample 900"),
        (b"end ", "is no alarm"),
    ],
)
def test_a_note_that_is_no_alarm_is_named_with_its_place(
    record: str, tmp_path: Path, text: bytes, message: str, capsys: Pytest
) -> None:
    write_annotations(tmp_path / "100.alm", *note(text, 900))
    said = score(capsys, record, "--test", "tst", "--ref", tmp_path, "-f", "0")
    assert said.status == 3
    assert "100.alm: annotation 1 at sample 900" in said.err
    assert message in said.err


def test_an_alarm_that_ends_before_it_began_is_named_with_its_place(
    record: str, tmp_path: Path, capsys: Pytest
) -> None:
    start, end = note(b"start asystole high physiological 700", 900), note(b"end asystole high physiological 0 600", 50)
    write_annotations(tmp_path / "100.alm", *start, *end)
    said = score(capsys, record, "--test", "tst", "--ref", tmp_path, "-f", "0")
    assert said.status == 3
    assert (
        "100.alm: annotation 2 at sample 950: the alarm ends at sample 600, before its onset at sample 700" in said.err
    )


def test_an_alarm_file_of_another_rate_is_refused(record: str, tmp_path: Path, capsys: Pytest) -> None:
    write_annotations(tmp_path / "100.alm", *note(b"## time resolution: 250"), *note(b"start asystole high", 900))
    said = score(capsys, record, "--test", "tst", "--ref", tmp_path, "-f", "0")
    assert said.status == 3
    assert "100.alm counts time at 250 Hz" in said.err


def test_a_comparison_that_begins_after_the_last_annotation_is_refused(record: str, capsys: Pytest) -> None:
    Path(f"{record}.hea").write_text(HEADER.replace(" 3600", ""))
    said = score(capsys, "bxb", "-r", record, *PAIR, "-f", "2", "-l", "-", "-")
    assert (said.status, "would begin at sample 720, but its annotations end before sample 403" in said.err) == (
        2,
        True,
    )


def test_a_record_in_which_no_beat_was_found_is_scored(record: str, tmp_path: Path, capsys: Pytest) -> None:
    Path(f"{record}.tst").write_bytes(b"\0\0")
    said = score(capsys, tmp_path, "--test", "tst", "--ref", tmp_path, "-f", "0")
    assert (said.status, said.err) == (0, "")
    assert "0/2" in said.out


def test_a_record_held_against_another_is_warned_of(record: str, tmp_path: Path, capsys: Pytest) -> None:
    for ending in ("hea", "atr"):
        Path(f"{record}.{ending}").rename(tmp_path / f"208.{ending}")
    said = score(capsys, record, "--test", "tst", "--ref", tmp_path / "208", "-f", "0")
    assert said.status == 0
    assert said.err.startswith("holdover: warning: 100 is held against 208, by its name another record")
    Path(f"{record}.tst").rename(tmp_path / "208.tst")
    assert score(capsys, tmp_path / "208", "--test", "tst", "--ref", tmp_path / "208", "-f", "0").err == ""


def test_record_and_annotators_are_each_found_along_the_folders_of_wfdb(
    record: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Pytest
) -> None:
    (tmp_path / "out").mkdir()
    Path(f"{record}.tst").rename(tmp_path / "out" / "100.tst")
    monkeypatch.setenv("WFDB", f"{tmp_path} {tmp_path / 'out'}")
    said = score(capsys, "bxb", "-r", "100", *PAIR, "-f", "0", "-l", "-", "-")
    assert (said.status, said.err.count("\n")) == (0, 1), "no more than the warning that -f is not standard"
    monkeypatch.setenv("WFDB", str(tmp_path))
    assert "100.tst is missing: no annotator tst" in score(capsys, "bxb", "-r", "100", *PAIR).err


def test_a_report_that_cannot_be_written_is_said(record: str, tmp_path: Path, capsys: Pytest) -> None:
    said = score(capsys, record, "--test", "tst", "--ref", tmp_path, "-f", "0", "--report", tmp_path / "no" / "r.html")
    assert said.status == 2
    assert "r.html" in said.err


def test_a_record_without_a_length_is_scored_to_its_last_annotation(
    record: str, tmp_path: Path, capsys: Pytest
) -> None:
    Path(f"{record}.hea").write_text(HEADER.replace(" 3600", ""))
    write_annotations(tmp_path / "100.alm", *note(b"start asystole high", 300))
    said = score(capsys, record, "--test", "tst", "--ref", tmp_path, "-f", "0")
    assert (said.status, said.err) == (0, "")
    assert "2/2" in said.out
