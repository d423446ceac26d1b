"""A few schedules of the chaos campaign; `make chaos` plays a thousand."""

from pathlib import Path

import pytest

from tests import chaos
from tests.brokers import mosquitto

SEEDS = 23
"""So many seeds in a row have every kind of fault once as the first; the rest of each schedule is drawn."""


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    mosquitto().stop()
    return chaos.a_record(tmp_path_factory.mktemp("chaos"))


@pytest.mark.parametrize("first", range(0, 12, 4))
def test_no_alert_is_lost_doubled_or_out_of_order_whatever_fails(
    record: tuple[Path, dict[str, list[str]]], first: int
) -> None:
    path, expected = record
    assert sum(map(len, expected.values())) > 30
    for outcome in chaos.campaign(range(first, SEEDS, 12), path, expected, jobs=3):
        faults = "; ".join(map(str, outcome.faults))
        assert outcome.fine, f"python tests/chaos.py --seed {outcome.seed}\n{faults}\n{outcome.error or outcome}"


def test_every_kind_of_fault_is_drawn_and_a_seed_always_gives_the_same() -> None:
    assert {chaos.schedule(seed)[0].kind for seed in range(200)} == set(chaos.KINDS)
    assert chaos.schedule(7) == chaos.schedule(7)
    assert len(chaos.KINDS) == SEEDS
