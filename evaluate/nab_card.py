"""What a detector scores on a corpus: by profile and data folder, for a threshold optimised, fixed, or its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdover.evaluate.nab import PROFILES, Labels, Profile, Tally, best_threshold, normalised, tally, total
from holdover.evaluate.nab_corpus import Series

WEEK_S = 7 * 86400.0

Scores = Mapping[str, NDArray[np.float64]]
"""By series, (rows,), 0 to 1, high is anomalous."""

Alerts = Mapping[str, NDArray[np.bool_]]
"""By series, (rows,), where there is an alert."""


class Final(NamedTuple):
    """One profile's score, 0 to 100 (high is good; None without a window), windows and those found, rows with a false
    alert."""

    score: float | None
    windows: int
    found: int
    false: int


@dataclass(frozen=True)
class Outcome:
    """How the alerts that one way of setting the threshold gives score, by profile and series."""

    title: str
    labels: Mapping[str, Labels]
    tallies: Mapping[str, Mapping[str, Tally]]
    thresholds: Mapping[str, float] | None = None

    @property
    def folders(self) -> tuple[str, ...]:
        """The data folders of the corpus, in order."""
        return tuple(sorted({folder_of(name) for name in self.labels}))

    def final(self, profile: Profile, folder: str | None = None) -> Final:
        """Score all series, or those of one data folder."""
        names = [name for name in self.labels if folder in (None, folder_of(name))]
        windows = sum(len(self.labels[name].counted) for name in names)
        whole = total([self.tallies[profile.name][name] for name in names])
        score = normalised(whole.score, windows, profile)
        return Final(None if math.isnan(score) else score, windows, whole.found, whole.fp)

    def as_json(self) -> dict[str, Any]:
        """All figures, for JSON."""
        places = {"all": None, **{folder: folder for folder in self.folders}}
        return {
            "thresholds": None if self.thresholds is None else dict(self.thresholds),
            "final": {
                place: {profile.name: self.final(profile, folder)._asdict() for profile in PROFILES}
                for place, folder in places.items()
            },
            "series": {
                name: {profile.name: self.tallies[profile.name][name]._asdict() for profile in PROFILES}
                for name in self.labels
            },
        }


def folder_of(name: str) -> str:
    """Return the data folder of a series."""
    return name.split("/")[0]


def optimised(corpus: Mapping[str, Series], scores: Scores) -> Outcome:
    """Score with the threshold that is best on these labels, one for each profile: what NAB publishes."""
    labels = {name: series.labels for name, series in corpus.items()}
    best = {profile.name: best_threshold(labels, scores, profile).threshold for profile in PROFILES}
    tallies = {
        profile.name: _tallies(labels, at_threshold(scores, best[profile.name]), profile) for profile in PROFILES
    }
    return Outcome("threshold optimised on these labels, as NAB does", labels, tallies, best)


def fixed(title: str, corpus: Mapping[str, Series], alerts: Alerts) -> Outcome:
    """Score alerts that were decided without a look at the labels."""
    labels = {name: series.labels for name, series in corpus.items()}
    return Outcome(title, labels, {profile.name: _tallies(labels, alerts, profile) for profile in PROFILES})


def at_threshold(scores: Scores, threshold: float) -> dict[str, NDArray[np.bool_]]:
    """Alert at each row whose score is at least the threshold."""
    return {name: score >= threshold for name, score in scores.items()}


def at_rate(corpus: Mapping[str, Series], scores: Scores, per_week: float) -> dict[str, NDArray[np.bool_]]:
    """Alert at each row that is as improbable as to come so often a week by chance, if a score is 1 - tail probability.

    How many rows a week has is by each series' own median step; a series of one row gives no alert.
    """
    return {name: 1 - score <= per_week * corpus[name].step_s / WEEK_S for name, score in scores.items()}


def _tallies(labels: Mapping[str, Labels], alerts: Alerts, profile: Profile) -> dict[str, Tally]:
    return {name: tally(labels[name], alerts[name], profile) for name in labels}
