"""What a contract's detector of the kind "anomaly" may say."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from holdover.runtime.errors import ContractError

LayerName = Literal["error", "likelihood", "residual", "level", "mean", "profile"]

VIEWS = {"residual", "level", "mean", "profile"}
A_WEEK = 1 / 7
FEW, MANY = 250, 1000
REACH, LEAST_REACH, A_WHILE = 4000, 500, 0.5


class AnomalyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The options of the anomaly detector; those in samples are samples of the model.

    Attributes
    ----------
    layers
        What is judged of each sample, see `holdover.runtime.detect.layers`; a sample that is bad in one is bad.
    threshold
        "spot" or "drift_spot", from the stream itself; "fixed" at `fixed`.
    false_alerts_per_day
        How many a stream without anomalies may raise; a configuration's limit goes before it.
    calibrate
        Samples at the start, or after a change of regime, that raise no alert; 0 for 250, or 1000 where a layer needs a
        threshold.
    memory
        Samples that the centre and spread of an error are remembered for.
    reach
        Samples that the range of a view is remembered for; 0 for 4000, or where more than one alert in two days is
        asked for, as many as two of them are apart if that is less, but at least 500.
    mean, short
        Samples of the mean that is a view, and of the likelihood's and the profile's.
    depth
        Samples of the moving mean of drift SPOT.
    hold
        Alarmed samples with fewer than so many others between them are one alert.
    relearn
        Samples, most of them alarmed, after which the signal is said to be another, and learned anew.
    fixed
        In mean absolute deviations, or in ranges; by layer.
    normal
        Of class logits, the label that is no anomaly; the first if it is "".
    """

    layers: tuple[LayerName, ...] = ("residual", "level", "mean")
    threshold: Literal["spot", "drift_spot", "fixed"] = "spot"
    false_alerts_per_day: Annotated[float, Meta(gt=0, le=1e6)] = A_WEEK
    calibrate: Annotated[int, Meta(ge=0, le=100_000)] = 0
    memory: Annotated[int, Meta(ge=100, le=1_000_000)] = 1000
    reach: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    mean: Annotated[int, Meta(ge=2, le=10_000)] = 30
    short: Annotated[int, Meta(ge=2, le=10_000)] = 10
    depth: Annotated[int, Meta(ge=2, le=10_000)] = 100
    hold: Annotated[int, Meta(ge=1, le=10_000)] = 60
    relearn: Annotated[int, Meta(ge=10, le=1_000_000)] = 288
    fixed: Annotated[float, Meta(gt=0, le=1e6)] = 8.0
    normal: str = ""

    def __post_init__(self) -> None:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"layers {list(self.layers)}: name at least one, each once")
        if self.threshold == "drift_spot" and self.depth > self.calibration // 2:
            raise ValueError(
                f"depth {self.depth} leaves less than half of calibrate {self.calibration} for the threshold"
            )

    @property
    def calibration(self) -> int:
        """Samples that raise no alert at the start."""
        return self.calibrate or (FEW if set(self.layers) <= VIEWS else MANY)

    def reach_of(self, risk: float, per_day: float) -> int:
        """Samples that a range is remembered for, where alerts have a probability a sample and come so often a day."""
        if self.reach or per_day <= A_WHILE:
            return self.reach or REACH
        return round(min(REACH, max(2 / risk, LEAST_REACH)))

    @classmethod
    def of(cls, table: dict[str, Any]) -> "AnomalyOptions":
        """Check a detector's table without its `kind`; raises `ContractError`."""
        try:
            return msgspec.convert(table, cls)
        except msgspec.ValidationError as error:
            raise ContractError(f"the contract's detector 'anomaly' has options that do not fit: {error}") from error
