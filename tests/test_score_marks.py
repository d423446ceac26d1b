"""What a replay writes beside its notes, for the programs that compare episodes and heart rates."""

from pathlib import Path

import numpy as np
import pytest

from holdover.apps.model.shipped import find_model
from holdover.apps.recording import Result, alarm_marks, play, write_wfdb
from holdover.evaluate.annotations import read_annotations
from holdover.evaluate.event import Event, Maker, read_alarms
from holdover.evaluate.marks import rate_marks
from holdover.runtime.alert import Alert, ModelId, Phase, Scene
from holdover.runtime.annotation import Annotation
from holdover.runtime.engine import load
from tests.scoring import data, score

wfdb = pytest.importorskip("wfdb", reason="needs holdover[replay]")

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # wfdb's use of pandas
RATE_HZ = 360.0
AF, VF = "irregular_rhythm", "ventricular_fibrillation"
LENGTH = 600 * 360
BEATS = [Annotation(at, "N") for at in range(288, LENGTH, 288)]  # 75 a minute


def s(seconds: float) -> int:
    return round(seconds * RATE_HZ)


def result(*spans: tuple[str, float, float | None], beats: list[Annotation] = BEATS) -> Result:
    """What a replay of ten minutes came to: alarms (label, onset, end in seconds), each told 4 s after its onset."""
    model = ModelId("some-model", "1.2", "ab")
    scene = Scene(stream="x", lead="MLII", rate_hz=RATE_HZ, epoch=None, model=model)
    phases = []
    for label, on, off in spans:
        phases.append(Phase(label=label, phase="start", onset=s(on), at=s(on + 4), priority="high"))
        if off is not None:
            phases.append(Phase(label=label, phase="end", onset=s(on), at=s(off), end=s(off), priority="high"))
    alerts = [Alert(scene, phase, 0) for phase in sorted(phases, key=lambda phase: phase.at)]
    return Result(Path("x"), "x", "MLII", RATE_HZ, 0, LENGTH, beats, alerts, 0.983, 0.483, model)


def written(folder: Path, found: Result, reference: list[Annotation]) -> str:
    """Record x with a reference, and what a replay writes of it."""
    (folder / "x.hea").write_text(f"x 1 360 {LENGTH}\nx.dat 16 200\n")
    write_wfdb(folder, "x", reference, "atr", RATE_HZ)
    write_wfdb(folder, "x", found.annotations, "blm", RATE_HZ)
    write_wfdb(folder, "x", alarm_marks(found), "alm", RATE_HZ)
    return str(folder / "x")


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    done = score(capsys, *argv)
    assert done.status == 0, done.err
    return done.out


def test_epicmp_reads_the_episodes_of_a_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result((AF, 350, 450), (VF, 460, 470), (AF, 590, None))
    marks = [(s(320), "+", "(AFIB"), (s(400), "+", "(N"), (s(465), "[", ""), (s(475), "]", ""), (s(500), "+", "(AFIB")]
    record = written(tmp_path, found, [Annotation(at, symbol, aux=aux) for at, symbol, aux in marks])
    af, vf = (
        said(capsys, "epicmp", "-r", record, "-a", "atr", "alm", "-L", kind, "-").split() for kind in ("-A", "-V")
    )
    assert af[-10:] == ["2", "0", "2", "0", "100", "100", "33", "55", "3:00.000", "1:50.000"]
    assert vf[-10:] == ["1", "0", "1", "0", "100", "100", "50", "50", "0:10.000", "0:10.000"]


def test_where_the_model_tells_rhythms_irregular_intervals_are_no_fibrillation() -> None:
    spans = (AF, 350, 450), ("atrial_fibrillation", 360, 400), (AF, 500, None)
    told = [Annotation(beat.at, "N", fibrillates=0.5) for beat in BEATS]
    marks = [(mark.at, mark.aux) for mark in alarm_marks(result(*spans, beats=told)) if mark.symbol == "+"]
    assert marks == [(s(360), "(AFIB"), (s(400), "(N")]
    without = [mark.aux for mark in alarm_marks(result(*spans[::2])) if mark.symbol == "+"]
    assert without == ["(AFIB", "(N", "(AFIB", "(N"]


def test_mxm_reads_the_heart_rate_of_a_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = [Annotation(at, "=", aux="60") for at in range(100, LENGTH, 1800)]
    record = written(tmp_path, result((AF, 350, 450)), known)
    told = said(capsys, "mxm", "-r", record, "-a", "atr", "alm", "--by-definition").splitlines()
    assert told[-2:] == ["     Normalized RMS error: 25.0000% (n = 60)", "Mean reference measurement: 60"]


def test_the_alarms_are_read_past_these_marks(tmp_path: Path) -> None:
    record = written(tmp_path, result((AF, 350, 450), (VF, 460, 470)), BEATS)
    told = read_alarms(read_annotations(record, "alm", RATE_HZ, LENGTH), LENGTH)
    assert told.maker == Maker("some-model 1.2 sha256:ab", 0.983, 0.483)
    assert told.events == [
        Event(AF, "high", "physiological", s(350), s(354), s(450)),
        Event(VF, "high", "physiological", s(460), s(464), s(470)),
    ]


def test_the_heart_rate_forgets_the_beats_before_a_loss_of_the_signal() -> None:
    lost = [Annotation(s(20), "~", -1), Annotation(s(60), "~", 0)]
    slow = [Annotation(s(at), "N") for at in np.arange(0.5, 20, 1.0)]
    fast = [Annotation(s(at), "N") for at in np.arange(60.25, 80, 0.5)]
    rates = [(mark.at / RATE_HZ, float(mark.aux)) for mark in rate_marks([*slow, *lost, *fast], RATE_HZ)]
    assert {rate for _, rate in rates} == {60.0, 120.0}
    assert all((rate == 60.0) == (at < 20) for at, rate in rates)
    assert min(at for at, _ in rates if at > 20) == pytest.approx(62.25), "four intervals make a rate"


def test_the_heart_rate_is_that_of_the_beats_around_it() -> None:
    """A tempo that glides from 50 to 150 a minute: each mark is within 10 % of the mean of the last 12 intervals."""
    at = np.cumsum(60 / np.linspace(50, 150, 400))
    marks = list(rate_marks([Annotation(s(t), "N") for t in at], RATE_HZ))
    assert len(marks) == pytest.approx(at[-1] / 5, abs=2)
    for mark in marks:
        here = at[at <= mark.at / RATE_HZ + 1e-6][-13:]
        assert float(mark.aux) == pytest.approx(60 / np.diff(here).mean(), rel=0.1)


def test_what_stands_at_sample_0_is_not_lost(tmp_path: Path) -> None:
    for symbol in ('"', "~", "+", "N"):
        write_wfdb(tmp_path, "x", [Annotation(0, symbol, -1, "text"), Annotation(50, "N")], "tst", RATE_HZ)
        marks = wfdb.rdann(str(tmp_path / "x"), "tst")
        assert list(zip(marks.sample.tolist(), marks.symbol, strict=True)) == [(1, symbol), (50, "N")]


def test_real_fibrillation_and_heart_rate_are_scored_by_the_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records 202 and 207, away from their references; heart rates against those of the reference beats."""
    place, engine = data("mitdb"), load(find_model())
    monkeypatch.setenv("WFDB", f"{place} {tmp_path}")
    for record in ("202", "207"):
        write_wfdb(tmp_path, record, alarm_marks(play(place / f"{record}.hea", engine)), "alm", RATE_HZ)
        known = wfdb.rdann(str(place / record), "atr")
        beats = [
            Annotation(at, "N") for at, c in zip(known.sample.tolist(), known.symbol, strict=True) if c in "NLRVAaJE"
        ]
        write_wfdb(tmp_path, record, list(rate_marks(beats, RATE_HZ)), "ref", RATE_HZ)
    af = said(capsys, "epicmp", "-r", "202", "-a", "atr", "alm", "-L", "-A", "-").split()
    vf = said(capsys, "epicmp", "-r", "207", "-a", "atr", "alm", "-L", "-V", "-").split()
    assert int(af[-10]) >= 2, "of 4 episodes of atrial fibrillation"
    assert vf[-10:-8] == ["1", "0"], "the one episode of ventricular flutter"
    rates = said(capsys, "mxm", "-r", "202", "-a", "ref", "alm", "--by-definition").splitlines()
    assert float(rates[-2].split()[3].rstrip("%")) < 5
