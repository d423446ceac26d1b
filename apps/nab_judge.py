"""A model and its detector as a judge of the series of a corpus: the daemon's own loop."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from holdover.apps.nab_run import Judged, told_once
from holdover.evaluate.nab_corpus import Series
from holdover.runtime.alert import Scene
from holdover.runtime.chunk import Chunk
from holdover.runtime.contract import Contract
from holdover.runtime.detect import anomaly
from holdover.runtime.detect.anomaly_options import AnomalyOptions
from holdover.runtime.detect.limits import Limits, SensorLimits
from holdover.runtime.engine import Engine, load
from holdover.runtime.errors import ModelError
from holdover.runtime.watch import Watch, model_id

CHUNK = 4096


@dataclass(frozen=True)
class ModelJudge:
    """Streams a series through a watch, each row as one sample, whatever time the stamps leave between two.

    Parameters
    ----------
    model
        The model's file; its contract names a detector of the kind "anomaly".
    per_day
        False alerts a day that the detector is asked for.
    """

    model: Path
    per_day: float

    def __call__(self, series: Series) -> Judged:
        """See `Judged`; a row that was not judged has the score 0."""
        engine = _engine(self.model)
        hold = detector_of(engine.contract).hold
        probability, alerts = np.ones(series.labels.rows), np.zeros(series.labels.rows, bool)

        def told(one: anomaly.Judged) -> None:
            probability[one.at] = one.probability

        limits = Limits(sensor=SensorLimits(false_alerts_per_day=self.per_day))
        watch = Watch(engine, _scene(engine, series), limits, told=told)
        x = series.values.astype(np.float32)[:, np.newaxis]
        steps = [watch.push(Chunk(at, x[at : at + CHUNK])) for at in range(0, len(x), CHUNK)]
        for phase in (alert.phase for step in (*steps, watch.finish()) for alert in step.alerts):
            if phase.phase == "start" and phase.kind != "technical":
                alerts[phase.at] = True
        return Judged(told_once(1 - probability, hold), alerts)


def detector_of(contract: Contract) -> AnomalyOptions:
    """Read what a model's contract says of its detector of anomalies.

    Raises
    ------
    ModelError
        It names none.
    """
    for detector in contract.detectors:
        options = dict(detector)
        if options.pop("kind", None) == "anomaly":
            return AnomalyOptions.of(options)
    raise ModelError(
        f"{contract.name} has no detector of the kind 'anomaly' in its contract; expected a model of sensor "
        "signals, such as forecast"
    )


def _scene(engine: Engine, series: Series) -> Scene:
    """The rate is the usual one of the series; 1 Hz where it has none."""
    rate_hz = 1 / series.step_s if series.step_s > 0 else 1.0
    return Scene(stream="nab", lead="value", rate_hz=rate_hz, epoch=None, model=model_id(engine))


@cache
def _engine(model: Path) -> Engine:
    return load(model)
