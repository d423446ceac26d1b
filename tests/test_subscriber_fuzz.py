"""Mutated messages: nothing ends the subscriber, and it takes and refuses what the oracle does."""

from pathlib import Path
from typing import Any

import pytest

from holdover.apps.subscriber import reception
from holdover.apps.subscriber.letter_reader import read_alert
from tests.payload_fuzz import MUTATIONS, run, run_process

SEED = 4


def test_mutated_messages_are_stored_once_or_refused_and_shown_again(tmp_path: Path) -> None:
    tally = run(SEED, 4000, tmp_path)
    assert tally.wrong == []
    assert tally.crashes == 0
    assert tally.shown_again == tally.accepted > 500
    assert tally.refused > 500
    assert tally.notices > 50
    assert set(tally.by_mutation) == set(MUTATIONS)


def test_mutated_messages_by_way_of_a_broker_do_not_end_the_process(tmp_path: Path) -> None:
    tally = run_process(SEED, 1500, tmp_path)
    assert tally.wrong == []
    assert tally.crashes == 0
    assert tally.shown_again > 200


@pytest.mark.parametrize("defect", ["too much", "too little", "otherwise"])
def test_a_defect_of_the_reader_is_found(defect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(node: str, stream: str, payload: bytes) -> Any:
        letter = read_alert(node, stream, payload)
        if defect == "too much":
            return letter or read_alert(node, stream, b'{"event_id": "made up"}')
        if letter is None or defect == "otherwise":
            return letter and letter._replace(content=letter.content | {"label": "other"})
        return letter if len(letter.event_id) > 1 else None

    monkeypatch.setattr(reception, "read_alert", broken)
    assert run(SEED, 2000, tmp_path).wrong
