"""The layers of the anomaly detector together: how improbable a sample is, and what is learned of it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from holdover.runtime.detect.anomaly_options import LayerName
from holdover.runtime.detect.budget import Budget
from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.layer import Sample, Setting
from holdover.runtime.detect.layers import LAYERS
from holdover.runtime.detect.threshold import THRESHOLDS, Own, Threshold
from holdover.runtime.detect.view import Residual

LOOK = 256
"""Samples after which the risk is asked for anew."""
CHANGE = 0.05
"""A risk that has changed by less, relative to what it was, is left."""


class Verdict(NamedTuple):
    """How probable a sample is, by the layer that finds it the least so; and whether that is beyond the limit."""

    probability: float
    layer: LayerName
    score: float
    limit: float
    beyond: bool


class Panel(Carried):
    """Layers, each with its threshold; they share the risk evenly.

    Parameters
    ----------
    setting
        Of the layers.
    risk
        The probability, a sample, of an alert that is asked for.
    """

    carried = ("_layers", "_thresholds", "_budget", "_scores", "_told", "_seen")

    def __init__(self, setting: Setting, risk: float) -> None:
        self._setting = setting
        self._names = setting.options.layers
        self._budget = Budget(risk)
        self._told: list[bool] = [False] * len(self._names)
        self._seen = 0
        self.forget()

    @property
    def calibrating(self) -> bool:
        """Whether a layer has no limit yet."""
        return any(threshold.calibrating for threshold in self._thresholds)

    def set_risk(self, risk: float) -> None:
        """Ask for another risk from here on."""
        self._budget.risk = risk
        self._ask()

    def forget(self) -> None:
        """Calibrate anew; what alerts there were stays known."""
        options, share = self._setting.options, self._budget.asked / len(self._names)
        self._layers = [LAYERS[name](self._setting) for name in self._names]
        self._thresholds: list[Threshold] = [
            Own(share, options.calibration) if layer.surprises else THRESHOLDS[options.threshold](share, options)
            for layer in self._layers
        ]
        self._scores = [0.0] * len(self._names)

    def judge(self, sample: Sample) -> Verdict:
        """Score the next sample."""
        worst = Verdict(1.0, self._names[0], 0.0, 0.0, False)
        beyond = False
        for i, (layer, threshold) in enumerate(zip(self._layers, self._thresholds, strict=True)):
            score = self._scores[i] = layer.score(sample)
            limit = threshold.limit
            beyond |= score > limit
            probability = min(len(self._names) * threshold.probability(score), 1.0)
            if probability < worst.probability:
                worst = Verdict(probability, self._names[i], score, limit, score > limit)
        return worst._replace(beyond=beyond) if beyond != worst.beyond else worst

    def channel(self, name: LayerName, z: Sequence[float]) -> int:
        """The channel that a layer found worst in the sample that was judged last, whose residuals are z."""
        found = self._layers[self._names.index(name)].channel
        return max(range(len(z)), key=lambda i: abs(z[i])) if found is None else found

    @property
    def band(self) -> tuple[float, float]:
        """Residuals of the first channel between which the layer of residuals raises no alert; infinite for none."""
        for layer, threshold in zip(self._layers, self._thresholds, strict=True):
            if isinstance(layer, Residual):
                return layer.band(threshold.limit)
        return -math.inf, math.inf

    def learn(self) -> None:
        """Hold the sample that was judged last for normal."""
        for layer, threshold, score in zip(self._layers, self._thresholds, self._scores, strict=True):
            layer.learn()
            threshold.learn(score)
        self._pass()

    def refuse(self, first: bool) -> None:
        """The sample that was judged last is alarmed, the `first` of an alert or another: its size is not learned."""
        if first:
            self._budget.spend()
            self._told = [False] * len(self._names)
        for layer in self._layers:
            layer.refuse()
        for i, threshold in enumerate(self._thresholds):
            if not self._told[i] and self._scores[i] > threshold.limit:
                self._told[i] = True
                threshold.exceeded()
        self._pass()
        if first:
            self._ask()

    def _pass(self) -> None:
        self._budget.step()
        self._seen = (self._seen + 1) % LOOK
        if not self._seen:
            self._ask()

    def _ask(self) -> None:
        share = self._budget.asked / len(self._names)
        for threshold in self._thresholds:
            if abs(share - threshold.risk) > CHANGE * threshold.risk:
                threshold.risk = share
                threshold.refit()
