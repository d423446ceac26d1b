"""Anomalies of any signal: what the model failed to predict, and what has never been, as a few alerts a day."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from holdover.runtime.alert import EndReason, Phase, Scene
from holdover.runtime.contract import Contract
from holdover.runtime.detect.anomaly_options import AnomalyOptions
from holdover.runtime.detect.carried import Carried
from holdover.runtime.detect.episode import Episode
from holdover.runtime.detect.layer import Sample, Setting
from holdover.runtime.detect.limits import Limits
from holdover.runtime.detect.panel import Panel, Verdict
from holdover.runtime.detect.residual import Residual
from holdover.runtime.detect.scale import FIRST, LEAST, Scale
from holdover.runtime.detect.view import DAY_S
from holdover.runtime.errors import ConfigError
from holdover.runtime.frames import Frames
from holdover.runtime.quality_episodes import technical

LABELS = ("anomaly", "regime_change")
MOST_OFTEN = 0.05
"""Alerts a sample that can be asked for at most."""
MOSTLY = 0.5
"""Share of alarmed samples, an exponential mean, from which on the signal is another."""
NOTHING = Verdict(1.0, "error", 0.0, 0.0, beyond=False)


@dataclass(frozen=True, slots=True)
class Judged:
    """One sample as it was judged, for pictures and scores.

    Attributes
    ----------
    at
        Place on the source's clock.
    x, said
        Of the first channel: what came, and what the model said of it (NaN where it says a score).
    low, high
        Between them the residual alone raises no alert.
    probability
        How often, a sample, one is as improbable; 1 while calibrating.
    beyond
        Whether it is alarmed.
    """

    at: int
    x: float
    said: float
    low: float
    high: float
    probability: float
    beyond: bool


class Anomaly(Carried):
    """Judges the residual of a model and the signal itself; says when it calibrates, and when the signal is another.

    Parameters
    ----------
    contract, options
        Of the model, and of its detector.
    scene
        Its rate is the source's; its lead is what the first channel is called there.
    limits
        Of them `sensor.false_alerts_per_day` goes before the option.
    told
        Called with each sample that was judged.

    Raises
    ------
    ConfigError
        If more alerts are asked for than one in twenty samples.
    """

    carried = ("_residual", "_panel", "_scales", "_anomaly", "_regime", "_invalid", "_since", "_begun", "_last",
               "_count", "_least", "_alarmed", "_bridged")  # fmt: skip

    def __init__(
        self,
        contract: Contract,
        options: AnomalyOptions,
        scene: Scene,
        limits: Limits,
        told: Callable[[Judged], None] | None = None,
    ) -> None:
        self.options = options
        self._rate_hz = rate_hz = scene.rate_hz
        self.told = told
        self._limits = limits
        self._residual = Residual(contract, options.normal)
        self._channels = [scene.lead, *(channel.name for channel in contract.signal.channels[1:])]
        risk = self._risk(limits)
        reach = options.reach_of(risk, risk * DAY_S * rate_hz)
        self._panel = Panel(Setting(options, rate_hz, len(self._channels), self._residual.channels, reach), risk)
        self._scales = [Scale(options.memory) for _ in range(self._residual.channels)]
        self._anomaly, self._regime = (Episode(label) for label in LABELS)
        self._invalid: int | None = None
        self._since: int | None = None
        self._begun = False
        self._last = self._count = 0
        self._least = 1.0
        self._alarmed = 0.0
        self._bridged: list[int] = []

    @property
    def calibrating(self) -> bool:
        """Whether nothing can raise an alert yet, or again."""
        return not self._scales[0].known or self._panel.calibrating

    @property
    def limits(self) -> Limits:
        """See `Limits`."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._panel.set_risk(self._risk(limits))

    def _risk(self, limits: Limits) -> float:
        """The probability, a sample, of an alert."""
        asked = limits.sensor.false_alerts_per_day or self.options.false_alerts_per_day
        risk = asked / (DAY_S * self._rate_hz)
        if risk > MOST_OFTEN:
            raise ConfigError(
                f"false_alerts_per_day {asked:g} is one in {1 / risk:.3g} samples at {self._rate_hz:.4g} Hz; ask for "
                f"{MOST_OFTEN * DAY_S * self._rate_hz:.3g} or fewer, one in {1 / MOST_OFTEN:.0f}"
            )
        return risk

    def bridge(self, at: int, n: int) -> None:
        """The n samples from a place on are made up: they are neither judged nor learned."""
        self._bridged += range(at, at + n)

    def update(self, frames: Frames) -> Iterator[Phase]:
        """Take what came and what the model said; a phase comes true at a sample that can be judged now."""
        if not self._begun and len(frames.heard):
            self._begun = True
            yield self._calibrate(frames.origin)
        found = self._residual.push(frames)
        columns = (found.x, found.said, found.error, found.size)
        for at, *row in zip(found.at.tolist(), *(column.tolist() for column in columns), strict=True):
            if at in self._bridged:
                self._bridged.remove(at)
            else:
                yield from self._sample(at, *row)

    def _sample(
        self, at: int, x: list[float], said: list[float], error: list[float], size: list[float]
    ) -> Iterator[Phase]:
        """Judge a sample, and learn of it what may be learned."""
        if not math.isfinite(sum(error)):
            yield from self._not_judged(at)
            return
        if self._invalid is not None:
            yield self._valid(at, "recovered")
        verdict, was = NOTHING, self.calibrating
        if self._scales[0].known:
            z = self._scaled(x, error, size)
            verdict = self._panel.judge(Sample(at, x, error, z, abs(z[0]) if len(z) == 1 else math.hypot(*z)))
            if self.told:
                self.told(self._judged(at, x, said, size, verdict if not was else NOTHING))
            if verdict.beyond and not was:
                yield from self._alarm(at, x, said, z, verdict)
                return
            self._panel.learn()
        for scale, value in zip(self._scales, error, strict=True):
            scale.learn(value)
        if was and not self.calibrating:
            yield from self._calibrated(at)
        yield from self._quiet(at)

    def _scaled(self, x: list[float], error: list[float], size: list[float]) -> list[float]:
        """The residuals in mean absolute deviations; rounding of what came is none."""
        if self._residual.scored:
            return [max(self._scales[0].score(error[0]), 0.0)]
        return [
            scale.score(e, 1e-6 * abs(value) / s + LEAST)
            for scale, e, value, s in zip(self._scales, error, x, size, strict=True)
        ]

    def _alarm(self, at: int, x: list[float], said: list[float], z: list[float], verdict: Verdict) -> Iterator[Phase]:
        first = not self._anomaly
        channel = self._panel.channel(verdict.layer, z)
        self._panel.refuse(first)
        self._last, self._count = at, 1 if first else self._count + 1
        self._least = min(verdict.probability, 1.0 if first else self._least)
        self._alarmed += (1 - self._alarmed) / self.options.relearn
        if first:
            said_of_it = {} if math.isnan(said[channel]) else {"forecast": figure(said[channel])}
            yield self._anomaly.start(
                at, at, 1 - verdict.probability, tail_probability=figure(verdict.probability), layer=verdict.layer,
                layer_score=figure(verdict.score), layer_limit=figure(verdict.limit), channel=self._channels[channel],
                value=figure(x[channel]), **said_of_it,
            )  # fmt: skip
        if self._alarmed > MOSTLY:
            yield from self._relearn(at)

    def _quiet(self, at: int) -> Iterator[Phase]:
        self._alarmed -= self._alarmed / self.options.relearn
        if self._anomaly and at - self._last >= self.options.hold:
            yield self._end(self._last, at, "recovered")

    def _end(self, end: int, at: int, reason: EndReason) -> Phase:
        return self._anomaly.end(
            end, at, reason, alarmed_samples=self._count, least_tail_probability=figure(self._least)
        )

    def _relearn(self, at: int) -> Iterator[Phase]:
        """The signal has become another: that is said once, and it is learned anew."""
        onset = self._anomaly.onset
        yield self._end(self._last, at, "superseded")
        self._panel.forget()
        self._scales = [Scale(self.options.memory) for _ in self._scales]
        self._alarmed = 0.0
        yield self._regime.start(at if onset is None else onset, at, None, alarmed_samples=self._count)
        yield self._calibrate(at)

    def _calibrate(self, at: int) -> Phase:
        self._since = at
        samples = FIRST + self.options.calibration
        evidence = {"detection": "not yet", "calibrating_samples": samples}
        return technical("calibrating", "start", at, at, priority="info", evidence=evidence)

    def _calibrated(self, at: int) -> Iterator[Phase]:
        if self._regime:
            yield self._regime.end(at, at)
        still = {"constant": True} if not any(scale.spread for scale in self._scales) else {}
        yield self._ready(at, "recovered", detection="begins", **still)

    def _ready(self, at: int, reason: EndReason, **evidence: Any) -> Phase:
        assert self._since is not None
        onset, self._since = self._since, None
        return technical("calibrating", "end", onset, at, priority="info", end=at, end_reason=reason, evidence=evidence)

    def _not_judged(self, at: int) -> Iterator[Phase]:
        """The model gave no number; nothing is judged until it does again."""
        if self._invalid is None:
            self._invalid = at
            evidence = {"detection": "suspended", "output": self._residual.output.name}
            yield technical("model_output_invalid", "start", at, at, priority="medium", evidence=evidence)

    def _valid(self, at: int, reason: EndReason) -> Phase:
        onset, self._invalid = self._invalid, None
        assert onset is not None
        return technical("model_output_invalid", "end", onset, at, priority="medium", end=at, end_reason=reason)

    def _judged(self, at: int, x: list[float], said: list[float], size: list[float], verdict: Verdict) -> Judged:
        low, high = (said[0] + size[0] * error for error in self._panel.band)
        return Judged(at, x[0], said[0], low, high, verdict.probability, verdict.beyond)

    def interrupt(self, end: int, at: int, reason: EndReason) -> Iterator[Phase]:
        """The signal ended at `end`, which became known at `at`: close what is open; what was learned stays."""
        self._residual.reset()
        self._bridged = []
        self._alarmed = 0.0
        if self._anomaly:
            yield self._end(min(self._last, end), at, reason)
        if self._invalid is not None:
            yield self._valid(at, reason)
        if reason != "input_ended":
            return
        if self._regime:
            yield self._regime.end(end, at, reason)
        if self._since is not None:
            yield self._ready(at, reason)


def figure(value: float) -> float:
    """A number to four significant digits, as evidence shows it."""
    return float(f"{value:.4g}")
