"""`holdover replay`: the same recording in every dress, one record or many, whole or not at all."""

import json
import os
import re
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from holdover.apps.model.shipped import find_model
from holdover.apps.recording import play
from holdover.evaluate.event import alarm_note
from holdover.runtime.engine import load
from tests.brokers import wait_until
from tests.processes import HOLDOVER, PATIENCE_S, RATE_HZ, a_recording, bare, holdover, processes_with, signal_mv

wfdb = pytest.importorskip("wfdb", reason="needs holdover[replay]")

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas
GAIN = 200.0


def digitised(samples: int | None = None) -> NDArray[np.int64]:
    """The recording in steps of 5 uV, as its digitiser gave it, so that every format can hold it exactly."""
    steps: NDArray[np.int64] = np.rint(signal_mv()[:samples] * GAIN).astype(np.int64)
    return steps


def as_wfdb(folder: Path, name: str = "208", samples: int | None = None) -> Path:
    wfdb.wrsamp(
        name, fs=RATE_HZ, units=["mV"], sig_name=["MLII"], d_signal=digitised(samples)[:, np.newaxis],
        fmt=["16"], adc_gain=[GAIN], baseline=[0], write_dir=str(folder),
    )  # fmt: skip
    return folder / name


def as_npz(folder: Path, name: str = "208", samples: int | None = None) -> Path:
    return a_recording(folder / f"{name}.npz", (digitised(samples) / GAIN).astype(np.float32))


def as_csv(folder: Path, name: str = "208", samples: int | None = None) -> Path:
    lines = "".join(f"{value / GAIN:.3f}\n" for value in digitised(samples))
    (folder / f"{name}.csv").write_text("MLII\n" + lines)
    return folder / f"{name}.csv"


def as_edf(folder: Path, name: str = "208") -> Path:
    edfio = pytest.importorskip("edfio", reason="needs holdover[replay]")
    x = digitised() / GAIN
    trace = edfio.EdfSignal(x, RATE_HZ, label="MLII", physical_dimension="mV", physical_range=(-10.0, 10.0))
    edfio.Edf([trace]).write(folder / f"{name}.edf")
    return folder / f"{name}.edf"


def done(*args: str | Path) -> "subprocess.CompletedProcess[str]":
    ended = holdover("replay", *args)
    assert ended.returncode == 0, ended.stderr
    return ended


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def bodies(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "alerts.jsonl").read_text().splitlines()]


def test_what_it_writes_is_what_it_found_and_others_can_read_it(tmp_path: Path) -> None:
    record = as_npz(tmp_path)
    said = done(record, "-o", tmp_path / "out", "--json")
    assert files(tmp_path / "out") == ["208.alm", "208.blm", "alerts.jsonl"]
    result = play(record, load(find_model()))
    beats = wfdb.rdann(str(tmp_path / "out" / "208"), "blm")
    assert beats.sample.tolist() == [a.at for a in result.annotations]
    assert beats.symbol == [a.symbol for a in result.annotations]
    assert beats.fs == RATE_HZ
    alarms = wfdb.rdann(str(tmp_path / "out" / "208"), "alm")
    marks = list(zip(alarms.sample.tolist(), alarms.symbol, alarms.aux_note, strict=True))
    *notes, maker = [(at, note.rstrip("\0")) for at, symbol, note in marks if symbol == '"']
    assert notes == [(a.phase.at, alarm_note(a.phase)) for a in result.alerts]
    delays = f"delay_s {result.delay_s:.3f} silence_s {result.silence_s:.3f}"
    assert maker == (result.last, f"by ecg-rhythm 0.1.0 sha256:{result.model.sha256} {delays}")
    assert Counter(alarms.symbol)["="] == pytest.approx(60, abs=2), "a heart rate every 5 s"
    assert (tmp_path / "out" / "alerts.jsonl").read_bytes() == b"".join(a.body_json() + b"\n" for a in result.alerts)
    assert said.stdout == (tmp_path / "out" / "alerts.jsonl").read_text()
    assert f"{sum(a.is_beat for a in result.annotations)} beats" in said.stderr
    assert [line for line in said.stderr.splitlines() if len(line) > 80 and str(tmp_path) not in line] == []


def test_one_process_or_two_write_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "records").mkdir()
    for name, seconds in (("a", 120), ("b", 300), ("c", 60)):
        as_wfdb(tmp_path / "records", name, seconds * 360)
    for jobs in ("1", "2"):
        done(tmp_path / "records", "-o", tmp_path / jobs, "-j", jobs)
    assert files(tmp_path / "1") == sorted([f"{n}.{e}" for n in "abc" for e in ("alm", "blm")] + ["alerts.jsonl"])
    for name in files(tmp_path / "1"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert list(dict.fromkeys(body["stream"] for body in bodies(tmp_path / "1"))) == ["a", "b", "c"]


def test_wfdb_csv_npz_and_edf_give_the_same_bytes(tmp_path: Path) -> None:
    found = {}
    for kind, make in (("wfdb", as_wfdb), ("csv", as_csv), ("npz", as_npz), ("edf", as_edf)):
        (tmp_path / kind).mkdir()
        options = ("--rate", "360", "--unit", "mV") if kind == "csv" else ()
        done(make(tmp_path / kind), "-o", tmp_path / kind / "out", "--stream", "x", *options)
        found[kind] = tmp_path / kind / "out"
    expected = (found["npz"] / "alerts.jsonl").read_bytes()
    assert expected.count(b"\n") > 20
    for kind in ("wfdb", "csv"):
        assert (found[kind] / "alerts.jsonl").read_bytes() == expected
        for extension in ("blm", "alm"):
            assert (found[kind] / f"208.{extension}").read_bytes() == (found["npz"] / f"208.{extension}").read_bytes()
    counts = [Counter((body["label"], body["phase"]) for body in bodies(found[kind])) for kind in ("edf", "npz")]
    assert counts[0] == counts[1], "EDF has steps of its own, and an epoch"


@pytest.mark.parametrize(
    ("start", "stop"), [("1:00", "2:00"), ("60", "120s"), ("0:01:00", "s43200"), ("s21600", "0:02:00.0")]
)
def test_a_range_is_played_on_the_clock_of_the_whole(start: str, stop: str, tmp_path: Path) -> None:
    ended = done(as_npz(tmp_path), "-f", start, "-t", stop, "-o", tmp_path / "out")
    assert "0:01:00.0 of signal" in ended.stderr
    marks = wfdb.rdann(str(tmp_path / "out" / "208"), "blm")
    assert 21600 <= marks.sample.min() < 23000
    assert 42000 < marks.sample.max() < 43200


def _two_leads(folder: Path) -> Path:
    x = np.stack([np.zeros(36000), signal_mv()[:36000]], axis=1).astype(np.float32)
    np.savez(folder / "two.npz", ecg=x, fs=RATE_HZ, leads=np.array(["V1", "II"]), units=np.array(["mV", "uV"]))
    return folder / "two.npz"


def test_a_lead_is_chosen_by_name_and_a_missing_one_is_answered_with_those_there_are(tmp_path: Path) -> None:
    record = _two_leads(tmp_path)
    assert "two (II)" in done(record, "--lead", "ii").stderr
    for options in (["--lead", "V5"], []):
        ended = holdover("replay", record, *options)
        assert ended.returncode == 3
        assert "V1, II" in ended.stderr


@pytest.mark.parametrize(
    ("lead", "taken"),
    [("MLII,ii", "II"), ("MLII, V1,II", "V1"), ("MLII,first", "V1"), ("first", "V1"), ("II,first", "II")],
)
def test_of_several_leads_the_first_that_is_there_is_taken(lead: str, taken: str, tmp_path: Path) -> None:
    assert f"two ({taken})" in done(_two_leads(tmp_path), "--lead", lead).stderr


@pytest.mark.parametrize("lead", ["MLII,V5", ",", "firs"])
def test_leads_that_are_all_missing_are_answered_with_a_list_that_would_do(lead: str, tmp_path: Path) -> None:
    ended = holdover("replay", _two_leads(tmp_path), "--lead", lead)
    assert ended.returncode == 3
    assert f"has no lead {lead!r}; it has V1, II" in ended.stderr
    assert "V1,first" in ended.stderr


def test_a_folder_of_records_with_other_leads_is_played_whole_and_those_that_cannot_be_are_told_again(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    as_npz(folder, "a", 3600)
    _two_leads(folder)
    assert "two (V1)" in done(folder, "--lead", "MLII,first", "-o", tmp_path / "out").stderr
    assert files(tmp_path / "out") == ["a.alm", "a.blm", "alerts.jsonl", "two.alm", "two.blm"]
    ended = holdover("replay", folder)
    assert ended.returncode == 3
    assert ended.stderr.splitlines()[-1] == "holdover: 1 of 2 records could not be played: two"


def test_a_record_that_is_dead_from_end_to_end_is_scored_with_the_others(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    as_wfdb(records, "a", 36000)
    wfdb.wrsamp(
        "dead", fs=RATE_HZ, units=["mV"], sig_name=["MLII"], d_signal=np.zeros((36000, 1), dtype=np.int64), fmt=["16"],
        adc_gain=[GAIN], baseline=[0], write_dir=str(records),
    )  # fmt: skip
    at = np.arange(300, 36000, 300)
    for name in ("a", "dead"):
        wfdb.wrann(name, "atr", at, symbol=["N"] * len(at), fs=RATE_HZ, write_dir=str(records))
    done(records, "-o", tmp_path / "out")
    ended = holdover("score", tmp_path / "out", "--ref", records, "-f", "0", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["records"] == ["a", "dead"]
    q_se = told["maps"]["bxb"]["records"]["dead"]["Q Se"]
    assert (q_se["part"], q_se["whole"]) == (0, len(at))


def test_a_bad_record_among_good_ones_is_told_and_the_others_are_done(tmp_path: Path) -> None:
    folder = tmp_path / "records"
    folder.mkdir()
    for name in ("a", "c"):
        as_npz(folder, name, 36000)
    (folder / "b.npz").write_bytes(b"PK\x03\x04 cut off")
    for jobs in ("1", "2"):
        ended = holdover("replay", folder, "-o", tmp_path / jobs, "-j", jobs)
        assert ended.returncode == 3
        assert [line for line in ended.stderr.splitlines() if line.startswith("holdover: ") and "b.npz" in line]
        assert files(tmp_path / jobs) == ["a.alm", "a.blm", "alerts.jsonl", "c.alm", "c.blm"]
        assert {body["stream"] for body in bodies(tmp_path / jobs)} == {"a", "c"}
    assert (tmp_path / "1" / "alerts.jsonl").read_bytes() == (tmp_path / "2" / "alerts.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["my recording", "ecg.v2", "ünï", "-minus"])
def test_a_record_may_have_any_name(name: str, tmp_path: Path) -> None:
    record = as_npz(tmp_path, name, 36000)
    done("-o", tmp_path / "out", "--plot", "--", record)
    assert files(tmp_path / "out") == sorted([f"{name}.{e}" for e in ("alm", "blm", "png")] + ["alerts.jsonl"])
    assert len(wfdb.rdann(str(tmp_path / "out" / name), "blm").sample) > 100


def test_a_record_without_beats_writes_empty_files(tmp_path: Path) -> None:
    record = a_recording(tmp_path / "short.npz", signal_mv()[:100])
    done(record, "-o", tmp_path / "out")
    assert files(tmp_path / "out") == ["alerts.jsonl", "short.alm", "short.blm"]
    assert (tmp_path / "out" / "alerts.jsonl").read_bytes() == b""


def test_it_draws_png_and_html(tmp_path: Path) -> None:
    record = as_npz(tmp_path, samples=36000)
    done(record, "-o", tmp_path / "out", "--plot")
    assert (tmp_path / "out" / "208.png").read_bytes().startswith(b"\x89PNG")
    done("--plot", "html", "-o", tmp_path / "out", record)
    page = (tmp_path / "out" / "208.html").read_text()
    assert "tachycardia" in page
    assert "208" in page


@pytest.mark.parametrize("options", [[], ["-j", "2"]])
def test_ctrl_c_leaves_nothing_half_written(options: Sequence[str], tmp_path: Path) -> None:
    x = np.tile(signal_mv(), 12)
    for name in "abcdef":
        a_recording(tmp_path / f"{name}.npz", x)
    out, mark = tmp_path / "out", str(uuid.uuid4())
    process = subprocess.Popen(
        [*HOLDOVER, "replay", *(str(tmp_path / f"{n}.npz") for n in "abcdef"), "-o", str(out), *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True,
        env=os.environ | {"HOLDOVER_TEST": mark},
    )  # fmt: skip
    try:
        wait_until(lambda: list(out.glob("*.alm")), "the first record is done", PATIENCE_S)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all processes of the group get it
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "holdover: interrupted"
    assert "Traceback" not in said
    left = files(out)
    assert left
    assert all(Path(name).suffix in (".alm", ".blm") and len(Path(name).stem) == 1 for name in left), left
    for name in left:
        marks = wfdb.rdann(str(out / Path(name).stem), Path(name).suffix[1:])
        assert len(marks.sample) > (100 if name.endswith(".blm") else 10), "what is there is whole"
    wait_until(lambda: not list(processes_with(mark)), "no process is left", PATIENCE_S)


def scored(folder: Path) -> Path:
    """Two records of ten minutes with the beats that the model finds as their reference."""
    for name in ("a", "b"):
        x = np.tile(digitised(), 2)[:, np.newaxis]
        wfdb.wrsamp(
            name, fs=RATE_HZ, units=["mV"], sig_name=["MLII"], d_signal=x, fmt=["16"], adc_gain=[GAIN], baseline=[0],
            write_dir=str(folder),
        )  # fmt: skip
    done(folder, "-o", folder / "first")
    for name in ("a", "b"):
        (folder / f"{name}.atr").write_bytes((folder / "first" / f"{name}.blm").read_bytes())
    return folder


def test_replay_and_score_in_one_tell_what_the_two_tell(tmp_path: Path) -> None:
    records = scored(tmp_path)
    told = [
        done(records / "a.hea", records / "b.hea", "-o", tmp_path / f"out{jobs}", "-j", jobs, "--score").stdout
        for jobs in ("1", "2")
    ]
    apart = holdover("score", tmp_path / "out1", "--ref", records)
    assert apart.returncode == 0, apart.stderr
    assert told == [apart.stdout] * 2
    q_se = next(line for line in told[0].splitlines() if line.startswith("Q Se")).split()
    assert q_se[2] == "100.00", "held against what it said itself"
    assert re.search(r"^all of \w+ priority +\d+ +100\.0 +\d+ +100\.0 ", told[0], re.MULTILINE)


def test_the_score_of_a_part_leaves_out_its_own_first_five_minutes(tmp_path: Path) -> None:
    record = scored(tmp_path) / "a.hea"
    told = done(record, "-o", tmp_path / "out", "-f", "1:00", "-t", "8:00", "--score", "--json").stdout
    figures = json.loads(told)["maps"]["bxb"]["figures"]["Q Se"]
    marks = wfdb.rdann(str(tmp_path / "a"), "atr")
    scored_at = [at for at, s in zip(marks.sample, marks.symbol, strict=True) if s in "NSVQ" and 360 <= at / 360 <= 480]
    assert figures["whole"] == pytest.approx(len(scored_at), abs=1)


def test_a_record_without_a_reference_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    records = scored(tmp_path)
    (records / "b.atr").unlink()
    ended = holdover("replay", records / "a.hea", records / "b.hea", "-o", tmp_path / "out", "--score")
    assert ended.returncode == 3
    assert "b.atr is missing: no annotator atr for this record" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "1 record:\n  a\n" in ended.stdout
    assert "NOT SCORED:\n  b\n" in ended.stdout
    assert {body["stream"] for body in bodies(tmp_path / "out")} == {"a", "b"}, "its alerts are there all the same"


def test_a_reference_elsewhere_and_a_page_of_the_score(tmp_path: Path) -> None:
    records, elsewhere = scored(tmp_path), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (records / "a.atr").rename(elsewhere / "a.atr")
    (elsewhere / "a.hea").write_bytes((records / "a.hea").read_bytes())
    page = tmp_path / "score.html"
    done(records / "a.hea", "-o", tmp_path / "out", "--score", "--ref", elsewhere, "--report", page)
    assert "not a medical device" in page.read_text()
    assert "ecg-rhythm 0.1.0 sha256:" in page.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score"], "--score needs a folder"),
        (["--ref", "x"], "add --score"),
        (["--report", "x.html"], "add --score"),
    ],
)
def test_scores_without_what_they_need_are_refused(options: list[str], message: str, tmp_path: Path) -> None:
    ended = holdover("replay", as_npz(tmp_path, samples=3600), *options)
    assert ended.returncode == 2
    assert message in ended.stderr


def test_at_a_pace_the_alerts_are_the_same(tmp_path: Path) -> None:
    record = as_npz(tmp_path)
    paced, free = (done(record, "--json", *options).stdout for options in (["--speed", "150"], []))
    assert paced == free
    assert len(bare(map(json.loads, free.splitlines()))) > 20


def test_an_output_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = as_npz(tmp_path, samples=3600)
    for out in ("file", "file/out", "/proc/holdover"):
        ended = holdover("replay", record, "-o", tmp_path / out)
        assert ended.returncode == 2
        assert out in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_record_100_has_the_beats_of_its_reference() -> None:
    place = os.environ.get("HOLDOVER_DATA")
    record = Path(place or "") / "mitdb" / "100.hea"
    if not record.is_file():
        pytest.skip("HOLDOVER_DATA names no folder with record 100 of the MIT-BIH Arrhythmia Database")
    result = play(record.with_suffix(""), load(find_model()))
    assert sum(a.is_beat for a in result.annotations) == pytest.approx(2273, rel=0.02)
