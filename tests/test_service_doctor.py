"""`holdover doctor` tells what a configuration writes in a day."""

import json
from pathlib import Path

import pytest

from holdover.apps import doctor
from tests.processes import configure, from_file, from_tcp, holdover

DAY_S = 86_400
COMMIT_MS = {"commit_ms": 5.0, "commit_worst_ms": 9.0}


def wear(checkpoint_bytes: int, checkpoint_s: float, rates_hz: list[float | None]) -> doctor.Finding:
    return doctor.wear(checkpoint_bytes, checkpoint_s, rates_hz, 32 * 10**9, "ext4", "/data", COMMIT_MS)


def test_wear_grows_with_streams_and_shrinks_with_the_interval() -> None:
    one = wear(50_000, 30, [250.0]).values
    assert one["checkpoints_mb_day"] == pytest.approx(50_000 * DAY_S / 30 / 1e6)
    assert one["journal_mb_day"] > 4 * 250 * DAY_S / 1e6
    four = wear(50_000, 120, [250.0, 250.0, None, None]).values
    assert four["checkpoints_mb_day"] == one["checkpoints_mb_day"]
    assert four["journal_mb_day"] == pytest.approx(2 * one["journal_mb_day"], abs=0.11)


def test_a_small_disk_that_is_written_often_is_noted_and_told_what_helps() -> None:
    found = wear(100_000, 1, [360.0])
    assert (found.grade, found.values["checkpoints_mb_day"]) == ("note", 8640.0)
    assert "checkpoint_s = 10 writes a tenth" in found.mend
    assert wear(100_000, 30, [360.0]).grade == "ok"


def test_the_wear_is_that_of_the_configuration(tmp_path: Path) -> None:
    streams = from_tcp("a", 9000), from_tcp("b", 9001), from_file("c", tmp_path / "c.npz", 1)
    config = configure(tmp_path, 9, *streams, ledger="checkpoint_s = 5")
    found = {f["check"]: f for f in json.loads(holdover("doctor", "--config", config, "--json").stdout)["findings"]}
    values = found["commit"]["values"]
    assert (values["streams"], values["checkpoint_s"]) == (3, 5)
    assert values["checkpoints_mb_day"] == pytest.approx(3 * values["checkpoint_bytes"] * DAY_S / 5e6, abs=0.05)
    assert values["checkpoints_mb_day"] > 10, "a checkpoint holds the memory of a stream"
    assert "a day of 3 stream(s), 2 live" in found["commit"]["what"]


@pytest.mark.parametrize("rate", ["true", "-5", '"x"', "nan", "1e300"])
def test_a_rate_that_cannot_be_is_no_crash(rate: str, tmp_path: Path) -> None:
    config = configure(tmp_path, 9, f'id = "a"\nsource = {{ kind = "tcp", port = 9000, rate_hz = {rate} }}')
    done = holdover("doctor", "--config", config)
    assert "Traceback" not in done.stderr
    assert "1 stream(s)," in done.stdout
