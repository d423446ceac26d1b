"""The limits of the rules, with units and sane bounds; what a configuration may set."""

from typing import Annotated

import msgspec
from msgspec import Meta

Bpm = Annotated[float, Meta(gt=0, le=400)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the rules; fixed and named, never learned from the signal.

    Defaults follow bedside monitors and the definitions of the Computing in Cardiology Challenge 2015.

    Attributes
    ----------
    tachycardia_bpm, bradycardia_bpm
        Heart rate above or below which an alarm starts.
    rate_hysteresis_bpm
        How far back inside the limit the rate must come before the alarm ends.
    asystole_s
        Seconds without a beat.
    run_beats
        Ventricular beats in a row that make a run (EC57: 3).
    vt_beats, vt_bpm
        Ventricular beats in a row, and their rate, that make a ventricular tachycardia.
    pvc_per_min
        Ventricular beats in a minute, above which they are called frequent.
    bridge_s
        Missing samples that are bridged; a longer hole resets the memory.
    flat_s
        Seconds of a constant value that make a flat line; 0 for signals that may stay constant.
    rail
        Absolute value, in the model's unit, from which on a sample counts as saturated; 0 for never.
    """

    tachycardia_bpm: Bpm = 120.0
    bradycardia_bpm: Bpm = 50.0
    rate_hysteresis_bpm: Annotated[float, Meta(ge=0, le=50)] = 5.0
    asystole_s: Annotated[float, Meta(ge=2, le=30)] = 4.0
    run_beats: Annotated[int, Meta(ge=3, le=20)] = 3
    vt_beats: Annotated[int, Meta(ge=3, le=100)] = 5
    vt_bpm: Bpm = 100.0
    pvc_per_min: Annotated[int, Meta(ge=1, le=200)] = 10
    bridge_s: Annotated[float, Meta(ge=0, le=2)] = 0.2
    flat_s: Annotated[float, Meta(ge=0, le=3600)] = 1.5
    rail: Annotated[float, Meta(ge=0)] = 20.0

    def __post_init__(self) -> None:
        if self.bradycardia_bpm + 2 * self.rate_hysteresis_bpm >= self.tachycardia_bpm:
            raise ValueError(
                f"bradycardia_bpm {self.bradycardia_bpm:g} and tachycardia_bpm {self.tachycardia_bpm:g} leave no room "
                f"for the hysteresis of {self.rate_hysteresis_bpm:g} on either side"
            )
        if self.vt_beats < self.run_beats:
            raise ValueError(f"vt_beats {self.vt_beats} is less than run_beats {self.run_beats}")
