"""The limits of the rules, with units and sane bounds; what a configuration may set."""

from difflib import get_close_matches
from typing import Annotated

import msgspec
from msgspec import Meta

from holdover.runtime.detect.conditions import CONDITIONS
from holdover.runtime.errors import ConfigError

MOST_BEATS = 100
"""Beats in a row that a limit may ask for."""

Uv = Annotated[float, Meta(gt=0, le=1e5)]
Bpm = Annotated[float, Meta(gt=0, le=400)]


class SignalLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is told from an ECG in microvolts; fixed and named, never learned from the signal.

    Attributes
    ----------
    flat_uv
        A line that stays within so much for `Limits.flat_s`, mains taken out, is flat. Monitors may have 30 uV of
        noise of their own (IEC 60601-2-27); the quietest 1.5 s without a beat in MIT-BIH records 201 and 232 have 65.
    mains_uv
        Amplitude of 50 or 60 Hz, with up to two harmonics, from which on a signal with nothing else in it is mains.
        Monitors must work in 100 uV peak to valley (IEC 60601-2-27), half of this.
    quiet_uv
        After a jump, windows with less than this, peak to peak without trend and mains, have no beat in them; half of
        what coarse fibrillation has at least (Kerber et al., Circulation 95:1677, 1997).
    jump_mv
        All of a window this far from the baseline of half a second ago is a jump.
    noise_uv
        RMS around 50 Hz, mains taken out, that no window of 1.5 s is below: muscle noise, beats may be wrong.
    noise_only_uv
        The same, from which on beats cannot be told from it.
    """

    flat_uv: Uv = 40.0
    mains_uv: Uv = 100.0
    quiet_uv: Uv = 100.0
    jump_mv: Annotated[float, Meta(gt=0, le=100)] = 1.0
    noise_uv: Uv = 75.0
    noise_only_uv: Uv = 250.0

    def __post_init__(self) -> None:
        for less, more in (("flat_uv", "quiet_uv"), ("noise_uv", "noise_only_uv")):
            if getattr(self, less) > getattr(self, more):
                raise ValueError(
                    f"{less} {getattr(self, less):g} is more than {more} {getattr(self, more):g}; "
                    f"it must be that or less"
                )


class SensorLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of signals that are no ECG in mV; in samples, since such signals may come once in five minutes.

    Attributes
    ----------
    false_alerts_per_day
        How many a stream without anomalies may raise; None for what the model's contract says.
    flat_samples
        Equal samples in a row that make a flat line; 0 for never, as a sensor may give one value for long.
    rail
        Absolute value, in the signal's unit, from which on a sample counts as saturated; 0 for never.
    """

    false_alerts_per_day: Annotated[float, Meta(gt=0, le=1e6)] | None = None
    flat_samples: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    rail: Annotated[float, Meta(ge=0)] = 0.0


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the rules; fixed and named, never learned from the signal.

    Defaults follow bedside monitors and the definitions of the Computing in Cardiology Challenge 2015.

    Attributes
    ----------
    tachycardia_bpm, bradycardia_bpm
        Heart rate above or below which an alarm starts.
    rate_hysteresis_bpm
        How far back inside the limit the rate must come before the alarm ends; of the rate of a tachycardia too.
    extreme_tachycardia_delta_bpm, extreme_bradycardia_delta_bpm
        How far beyond `tachycardia_bpm` or `bradycardia_bpm` a rate is extreme.
    extreme_tachycardia_beats, extreme_bradycardia_beats
        Beats in a row, each as fast or as slow, that make an extreme rate.
    extreme_bradycardia_s
        Seconds of it that do, where the beats would take longer.
    asystole_s
        Seconds without a beat.
    pause_s
        Seconds without a beat that make a pause; none where it is `asystole_s` or more.
    run_beats
        Ventricular beats in a row that make a run (EC57: 3).
    vt_beats, vt_bpm
        Ventricular beats in a row, and their rate, that make a ventricular tachycardia.
    ivr_beats
        Ventricular beats in a row, slower than that, that make an idioventricular rhythm.
    sv_beats, sv_bpm
        Supraventricular premature beats in a row, and their rate, that make a run.
    cycles
        How often in a row a pattern of bigeminy or trigeminy must come.
    wrong_beats
        Beats in a row or a pattern that may be called wrong, or not found, without an end to it; 0 for none.
    pvc_per_min
        Ventricular beats in a minute, above which they are called frequent.
    rate_back_s
        Seconds for which the heart rate must have been back inside before the alarm ends.
    repeat_low_s, repeat_medium_s
        Seconds after its end for which an alarm of low or informational, or of medium priority is not said again.
    off
        Labels that are never said; those of high priority cannot be among them.
    bridge_s
        Missing samples that are bridged; a longer hole resets the memory.
    flat_s
        Seconds of a constant value that make a flat line of an ECG in mV; 0 for never. It must be found before an
        asystole is, see `check_ecg`.
    rail
        Absolute value in mV from which on a sample of an ECG counts as saturated; 0 for never.
    signal
        What is told from an ECG in mV (a table of its own); other signals are not judged by it.
    sensor
        What is told from other signals (a table of its own), in place of `flat_s`, `rail` and `signal`.
    """

    tachycardia_bpm: Bpm = 120.0
    bradycardia_bpm: Bpm = 50.0
    rate_hysteresis_bpm: Annotated[float, Meta(ge=0, le=50)] = 5.0
    extreme_tachycardia_delta_bpm: Annotated[float, Meta(ge=0, le=200)] = 20.0
    extreme_bradycardia_delta_bpm: Annotated[float, Meta(ge=0, le=100)] = 10.0
    extreme_tachycardia_beats: Annotated[int, Meta(ge=5, le=17)] = 17
    extreme_bradycardia_beats: Annotated[int, Meta(ge=3, le=10)] = 5
    extreme_bradycardia_s: Annotated[float, Meta(ge=3, le=60)] = 7.0
    asystole_s: Annotated[float, Meta(ge=2, le=30)] = 4.0
    pause_s: Annotated[float, Meta(ge=1, le=10)] = 3.0
    run_beats: Annotated[int, Meta(ge=3, le=20)] = 3
    vt_beats: Annotated[int, Meta(ge=3, le=MOST_BEATS)] = 5
    vt_bpm: Bpm = 100.0
    ivr_beats: Annotated[int, Meta(ge=3, le=MOST_BEATS)] = 5
    sv_beats: Annotated[int, Meta(ge=3, le=MOST_BEATS)] = 3
    sv_bpm: Bpm = 100.0
    cycles: Annotated[int, Meta(ge=2, le=20)] = 3
    wrong_beats: Annotated[int, Meta(ge=0, le=1)] = 1
    pvc_per_min: Annotated[int, Meta(ge=1, le=200)] = 10
    rate_back_s: Annotated[float, Meta(ge=0, le=300)] = 15.0
    repeat_low_s: Annotated[float, Meta(ge=0, le=3600)] = 300.0
    repeat_medium_s: Annotated[float, Meta(ge=0, le=300)] = 60.0
    off: list[str] = []
    bridge_s: Annotated[float, Meta(ge=0, le=2)] = 0.2
    flat_s: Annotated[float, Meta(ge=0, le=3600)] = 1.5
    rail: Annotated[float, Meta(ge=0)] = 20.0
    signal: SignalLimits = SignalLimits()
    sensor: SensorLimits = SensorLimits()

    def __post_init__(self) -> None:
        if self.bradycardia_bpm + 2 * self.rate_hysteresis_bpm >= self.tachycardia_bpm:
            raise ValueError(
                f"bradycardia_bpm {self.bradycardia_bpm:g} and tachycardia_bpm {self.tachycardia_bpm:g} leave no room "
                f"for the hysteresis of {self.rate_hysteresis_bpm:g} on either side"
            )
        if self.extreme_bradycardia_delta_bpm >= self.bradycardia_bpm:
            raise ValueError(
                f"extreme_bradycardia_delta_bpm {self.extreme_bradycardia_delta_bpm:g} below bradycardia_bpm "
                f"{self.bradycardia_bpm:g} leaves no rate that is extreme; make it smaller"
            )
        for name in ("vt_beats", "ivr_beats"):
            if getattr(self, name) < self.run_beats:
                raise ValueError(f"{name} {getattr(self, name)} is less than run_beats {self.run_beats}")
        for label in self.off:
            _check_off(label)

    def check_ecg(self) -> None:
        """`ConfigError` where a dead ECG would be an asystole before it is a flat line.

        An electrode may be lost up to a second after a beat; a flat line is looked for in windows of 0.25 s, and
        announced `bridge_s` later.
        """
        known_s = 1.0 + 0.25 + self.flat_s + self.bridge_s
        if self.flat_s and known_s > self.asystole_s:
            raise ConfigError(
                f"flat_s {self.flat_s:g} and bridge_s {self.bridge_s:g} are too long for asystole_s "
                f"{self.asystole_s:g}: a dead ECG would be called an asystole. Make asystole_s {known_s:g} or more, or "
                f"flat_s less"
            )


def _check_off(label: str) -> None:
    if label not in CONDITIONS:
        near = get_close_matches(label, CONDITIONS, 1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(CONDITIONS)}"
        raise ValueError(f"off names {label!r}, which no rule raises; {hint}")
    if CONDITIONS[label].priority == "high":
        raise ValueError(f"off names {label!r}, which endangers life and cannot be switched off; take it out")
