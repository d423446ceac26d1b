"""Anomalies of any signal: said the same however samples arrive, a few a day, and never stuck."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.runtime.chunk import Chunk
from holdover.runtime.contract import Contract
from holdover.runtime.detect.anomaly import Judged
from holdover.runtime.detect.limits import Limits, SensorLimits
from holdover.runtime.errors import ConfigError, ContractError
from holdover.runtime.snapshot import pack, unpack
from holdover.runtime.watch import Watch, bodies
from tests.anomalies import DAY, RATE_HZ, a_watch, alerts, naive, one_chunk, plain, starts
from tests.graphs import document
from tests.signals import cut, disturb, examples, hear

LAYERS = ("error", "likelihood", "residual", "level", "mean", "profile")
ALL = naive(layers=list(LAYERS), calibrate=300, hold=10, false_alerts_per_day=3.0)
DRIFT = naive(layers=["error", "likelihood"], threshold="drift_spot", calibrate=300, false_alerts_per_day=3.0)
N = 1500


def noise(n: int = N, seed: int = 0) -> Any:
    """A day's season and noise, with a burst at 900 and a level for good from 1200 on, where there are so many."""
    x = 20 + 3 * np.sin(2 * np.pi * np.arange(n) / DAY) + np.random.default_rng(seed).normal(size=n)
    x[900:904] += 30
    x[1200:] += 25
    return x.astype(np.float32)


TROUBLES = (("hole", 700, 1), ("hole", 800, 40), ("nan", 850, 3), ("repeat", 1000, 5), ("clock_jump", 1100, 1))


def troubled() -> list[Chunk]:
    """The same with what goes wrong in a file of a sensor."""
    from tests.signals import Trouble

    return disturb(noise()[:, np.newaxis], [Trouble(*trouble) for trouble in TROUBLES])


@examples(15)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), st.sampled_from([plain(), ALL, DRIFT]))
def test_how_samples_arrive_never_changes_what_is_said_of_a_sensor(sizes: list[int], engine: Any) -> None:
    whole = hear(a_watch(engine), troubled())
    assert {a.phase.label for a in whole.alerts} >= {"calibrating", "anomaly", "signal_missing"}
    said = hear(a_watch(engine), cut(troubled(), sizes, [False, True]))
    assert bodies(said.alerts) == bodies(whole.alerts)
    assert said.annotations == whole.annotations


@examples(10)
@given(st.lists(st.integers(1, N - 1), min_size=1, max_size=5, unique=True), st.sampled_from([plain(), ALL, DRIFT]))
def test_a_watch_over_a_sensor_restored_at_any_sample_goes_on_to_the_same_bytes(places: list[int], engine: Any) -> None:
    whole = hear(a_watch(engine), troubled())
    watch, said = a_watch(engine), []
    for chunk in cut(troubled(), [7]):
        if any(chunk.at <= place < chunk.end for place in places):
            memory = pack(watch.snapshot())
            watch = a_watch(engine)
            watch.restore(unpack(memory))
        said += watch.push(chunk).alerts
    said += watch.finish().alerts
    assert bodies(said) == bodies(whole.alerts)


def test_what_a_snapshot_holds_is_not_moved_by_what_follows() -> None:
    watch = a_watch(ALL)
    watch.push(one_chunk(noise()[:1000]))
    memory = watch.snapshot()
    before = pack(memory)
    watch.push(one_chunk(noise()[1000:], 1000))
    assert pack(memory) == before


@pytest.mark.parametrize("engine", [plain(), ALL, DRIFT], ids=["plain", "all", "drift"])
def test_memory_does_not_grow(engine: Any) -> None:
    watch = a_watch(engine)
    x = np.random.default_rng(4).standard_t(3, 30_000).astype(np.float32)
    watch.push(one_chunk(x))
    assert len(pack(watch.snapshot())) < 25_000


def test_calibrating_is_published_and_raises_no_alert() -> None:
    watch = a_watch()
    x = noise(1000)
    x[200] += 1000
    first = watch.push(one_chunk(x[:250])).alerts
    assert watch.calibrating
    assert [(a.phase.label, a.phase.phase, a.phase.kind, a.phase.at) for a in first] == [
        ("calibrating", "start", "technical", 0)
    ]
    later = watch.push(one_chunk(x[250:], 250)).alerts
    assert not watch.calibrating
    assert [(a.phase.label, a.phase.phase) for a in later[:1]] == [("calibrating", "end")]


def test_an_alert_carries_its_tail_probability_and_what_it_rests_on() -> None:
    said = alerts(a_watch(), one_chunk(noise(1000)))
    (start,) = [a.phase for a in said if a.phase.label == "anomaly" and a.phase.phase == "start" and a.phase.at == 900]
    assert 0 < start.evidence["tail_probability"] < 1e-4
    assert start.evidence["layer"] in LAYERS
    assert start.evidence["channel"] == "ch0"
    assert start.evidence["value"] == pytest.approx(float(noise(1000)[900]), rel=1e-3)
    assert start.evidence["forecast"] == pytest.approx(float(noise(1000)[899]), rel=1e-3)
    (end,) = [a.phase for a in said if a.phase.label == "anomaly" and a.phase.phase == "end" and a.phase.onset == 900]
    assert end.end_reason == "recovered"
    assert 900 <= (end.end or 0) < 910
    assert end.at >= (end.end or 0) + 60


def test_the_channel_that_is_wrong_is_named() -> None:
    x = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    x[900, 1] += 40
    said = alerts(a_watch(naive(3)), one_chunk(x))
    (start,) = [a.phase for a in said if a.phase.label == "anomaly" and a.phase.phase == "start" and a.phase.at == 900]
    assert start.evidence["channel"] == "ch1"


def test_the_one_channel_is_called_what_the_source_calls_it() -> None:
    watch = a_watch(lead="bearing 3")
    said = alerts(watch, one_chunk(noise(1000)))
    channels = {a.phase.evidence["channel"] for a in said if (a.phase.label, a.phase.phase) == ("anomaly", "start")}
    assert channels == {"bearing 3"}


def test_after_a_shift_that_stays_there_is_one_regime_change_and_then_alerts_again() -> None:
    engine = naive(1, "score", layers=["error"], calibrate=300, hold=10)
    x = np.abs(np.random.default_rng(2).normal(size=4000))
    x[1500:] += 100
    x[3500] += 100
    said = alerts(a_watch(engine), one_chunk(x))
    (shift,) = starts(said, "regime_change")
    assert 1500 < shift < 1500 + 288
    assert starts(said, "calibrating") == [0, shift]
    (over,) = [a.phase for a in said if a.phase.label == "regime_change" and a.phase.phase == "end"]
    assert over.at == shift + 350
    assert [at for at in starts(said, "anomaly") if at > over.at][-1] == 3500
    assert len([at for at in starts(said, "anomaly") if 1500 <= at < shift]) == 1


def test_a_level_that_stays_is_one_alert_and_never_locks_out() -> None:
    x = noise(6000)
    x[5000] += 60
    said = starts(alerts(a_watch(), one_chunk(x)), "anomaly")
    assert sum(1200 <= at < 2000 for at in said) == 1
    assert 5000 in said


def test_what_is_alarmed_is_not_learned_by_a_threshold() -> None:
    engine = naive(layers=["error"], calibrate=500, hold=10)
    x = np.random.default_rng(3).normal(size=6000)
    clean, burst = a_watch(engine), a_watch(engine)
    clean.push(one_chunk(x))
    x[3000:3020] *= 1e4
    burst.push(one_chunk(x))
    limits = [w.snapshot()["anomaly"]["_panel"]["_thresholds"][0]["limit"] for w in (clean, burst)]
    assert limits[1] == pytest.approx(limits[0], rel=0.2)


def test_a_bridged_sample_is_neither_judged_nor_learned() -> None:
    judged: list[Judged] = []
    x = noise(800)
    alerts(a_watch(told=judged.append), one_chunk(x[:500]), one_chunk(x[501:], 501))
    assert 500 not in {j.at for j in judged}
    assert {499, 501} <= {j.at for j in judged}


def test_after_a_gap_what_was_learned_stays() -> None:
    x = noise(900)
    said = alerts(a_watch(), one_chunk(x[:600]), one_chunk(x[640:], 640))
    assert starts(said, "calibrating") == [0]
    assert starts(said, "signal_missing") == [601]


def test_the_configuration_goes_before_the_contract() -> None:
    x = np.random.default_rng(1).standard_t(3, 20_000)
    few, many = (
        len(starts(alerts(a_watch(limits=Limits(sensor=SensorLimits(false_alerts_per_day=asked))), one_chunk(x)),
                   "anomaly"))
        for asked in (1 / 30, 4.0)
    )  # fmt: skip
    assert many > 3 * few > 0


def test_more_alerts_than_samples_allow_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"false_alerts_per_day 100 is one in 2\.88 samples.*ask for 14\.4 or fewer"):
        a_watch(limits=Limits(sensor=SensorLimits(false_alerts_per_day=100.0)))


def test_other_limits_hold_from_where_they_are_set() -> None:
    x = np.random.default_rng(1).standard_t(3, 12_000)
    engine = naive(layers=["error"], calibrate=1000, hold=5)
    said = []
    for asked in (0.1, 10.0):
        watch = a_watch(engine)
        watch.push(one_chunk(x[:6000]))
        watch.set_limits(Limits(sensor=SensorLimits(false_alerts_per_day=asked)))
        said.append(len(starts(watch.push(one_chunk(x[6000:], 6000)).alerts, "anomaly")))
    assert said[1] > 10 * max(said[0], 1)


@pytest.mark.parametrize(
    ("detectors", "says"),
    [
        ([{"kind": "anomaly", "calibrat": 3}], "unknown field `calibrat`"),
        ([{"kind": "anomaly", "layers": []}], "name at least one"),
        ([{"kind": "anomaly", "layers": ["level", "level"]}], "each once"),
        ([{"kind": "anomaly", "layers": ["leve"]}], "Invalid enum value"),
        ([{"kind": "anomaly", "false_alerts_per_day": 0}], "false_alerts_per_day"),
        ([{"kind": "anomaly", "threshold": "drift_spot", "calibrate": 150}], "leaves less than half"),
        ([{"kind": "anomaly", "normal": "calm"}], "takes the label 'calm' for normal"),
        ([{"kind": "anomaly"}, {"kind": "anomaly"}], "twice"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_words(detectors: list[dict[str, Any]], says: str) -> None:
    engine = naive()
    changed = Contract.of({**engine.contract.document, "detectors": detectors})
    with pytest.raises(ContractError, match=says):
        Watch(_with(engine, changed), a_watch().scene)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ({"meaning": "quality"}, "judges an output of the meaning forecast"),
        ({"width": 3}, "its width is 3, and the signal has 1"),
    ],
)
def test_outputs_that_cannot_be_judged_are_refused_in_words(output: dict[str, Any], says: str) -> None:
    engine = naive()
    outputs = [{**engine.contract.document["outputs"][0], **output}]
    changed = Contract.of({**engine.contract.document, "outputs": outputs})
    with pytest.raises(ContractError, match=says):
        Watch(_with(engine, changed), a_watch().scene)


def test_a_forecast_without_a_horizon_is_refused() -> None:
    contract = document([])
    contract["outputs"][0]["meaning"] = "forecast"
    with pytest.raises(ContractError, match="output y is a forecast and does not say of how many samples ahead"):
        Contract.of(contract)


def _with(engine: Any, contract: Contract) -> Any:
    """The same engine under another contract."""
    from types import SimpleNamespace

    return SimpleNamespace(contract=contract, sha256=engine.sha256, lane=engine.lane, step=engine.step)


@pytest.mark.parametrize("rate_hz", [1 / 86400, 1 / 3600, RATE_HZ, 1.0, 250.0])
def test_any_rate_is_taken_as_it_comes(rate_hz: float) -> None:
    x = noise(1000)
    limits = Limits(sensor=SensorLimits(false_alerts_per_day=0.01))
    assert 900 in starts(alerts(a_watch(limits=limits, rate_hz=rate_hz), one_chunk(x)), "anomaly")


def test_a_constant_series_is_announced_and_a_step_in_it_is_an_alert() -> None:
    x = np.full(1200, 7.25)
    x[1000:] = 8.0
    said = alerts(a_watch(), one_chunk(x))
    (end,) = [a.phase for a in said if a.phase.label == "calibrating" and a.phase.phase == "end"]
    assert end.evidence["constant"] is True
    assert starts(said, "anomaly") == [1000]
    assert not any(a.phase.label == "signal_flat" for a in said)


def test_a_flat_line_is_said_where_it_is_asked_for() -> None:
    x = noise(900)
    x[500:600] = x[500]
    limits = Limits(sensor=SensorLimits(flat_samples=20, rail=1000.0))
    said = alerts(a_watch(limits=limits), one_chunk(x))
    assert starts(said, "signal_flat")
    assert not starts(alerts(a_watch(), one_chunk(x)), "signal_flat")


@pytest.mark.parametrize("n", [0, 1, 2, 49, 51])
def test_a_few_values_calibrate_and_end(n: int) -> None:
    said = alerts(a_watch(), one_chunk(noise(1000)[:n]))
    phases = [(a.phase.phase, a.phase.end_reason) for a in said if a.phase.label == "calibrating"]
    assert phases == ([("start", None), ("end", "input_ended")] if n else [])


def test_nothing_but_nan_is_missing_and_not_judged() -> None:
    said = alerts(a_watch(), one_chunk(np.full(600, np.nan)))
    assert {a.phase.label for a in said} == {"signal_missing"}


@pytest.mark.parametrize("value", [1e30, -1e30, 3e38])
def test_a_huge_value_is_an_alert_and_leaves_the_memory_whole(value: float) -> None:
    x = noise(1190)
    x[1000] = value
    watch = a_watch(ALL)
    assert 1000 in starts(alerts(watch, one_chunk(x)), "anomaly")
    x[1000] = 20
    watch = a_watch(ALL)
    watch.push(one_chunk(x))
    assert np.isfinite(watch.snapshot()["anomaly"]["_scales"][0]["spread"])


def test_a_model_that_gives_no_number_is_said_and_nothing_is_learned_of_it() -> None:
    engine = naive(1, "score", layers=["error"], calibrate=300)
    watch = a_watch(engine)
    x = np.abs(noise(800))
    watch.push(one_chunk(x[:600]))
    anomaly = watch._anomaly
    assert anomaly is not None
    spread = anomaly._scales[0].spread
    phases = [p for at in (600, 601) for p in anomaly._sample(at, [1.0], [1.0], [float("nan")], [1.0])]
    assert [(p.label, p.phase) for p in phases] == [("model_output_invalid", "start")]
    assert anomaly._scales[0].spread == spread
    phases = list(anomaly._sample(602, [1.0], [1.0], [1.0], [1.0]))
    assert [(p.label, p.phase) for p in phases][:1] == [("model_output_invalid", "end")]


def test_what_is_told_of_each_sample_is_what_was_said() -> None:
    judged: list[Judged] = []
    said = alerts(a_watch(told=judged.append), one_chunk(noise()))
    assert [j.at for j in judged] == sorted(j.at for j in judged)
    beyond = [j.at for j in judged if j.beyond]
    assert set(starts(said, "anomaly")) <= set(beyond)
    assert all(b - a <= 60 or b in starts(said, "anomaly") for a, b in pairwise(beyond))
    within = [j for j in judged[400:800] if not j.beyond]
    assert np.mean([j.low <= j.x <= j.high for j in within]) > 0.99


@pytest.mark.parametrize("kind", ["drifting", "counted", "quantised"])
def test_a_year_unattended_raises_about_as_many_alerts_as_were_asked_for(kind: str) -> None:
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
    try:
        from anomaly_streams import STREAMS
    finally:
        sys.path.pop(0)
    x = STREAMS[kind](np.random.default_rng(5), 365 * DAY)
    said = alerts(a_watch(), one_chunk(x))
    assert 365 / 7 / 2 < len(starts(said, "anomaly")) < 365 / 7 * 2
    assert not starts(said, "regime_change")
