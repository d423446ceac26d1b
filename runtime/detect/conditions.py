"""The conditions that rules raise: how urgent each is, whether it latches, and which silences which."""

from typing import NamedTuple

from holdover.runtime.alert import Priority


class Condition(NamedTuple):
    """Priority in the words of IEC 60601-1-8 and FHIR DeviceAlert; latched: shown after its end until it was seen."""

    priority: Priority
    latched: bool = False


CONDITIONS = {
    "ventricular_fibrillation": Condition("high", latched=True),
    "asystole": Condition("high", latched=True),
    "ventricular_tachycardia": Condition("high", latched=True),
    "extreme_bradycardia": Condition("high", latched=True),
    "extreme_tachycardia": Condition("high", latched=True),
    "idioventricular_rhythm": Condition("medium"),
    "ventricular_run": Condition("medium"),
    "pause": Condition("medium"),
    "bradycardia": Condition("medium"),
    "tachycardia": Condition("medium"),
    "r_on_t": Condition("medium"),
    "atrial_fibrillation": Condition("low"),
    "irregular_rhythm": Condition("low"),
    "supraventricular_run": Condition("low"),
    "ventricular_couplet": Condition("low"),
    "ventricular_bigeminy": Condition("low"),
    "frequent_ventricular_beats": Condition("low"),
    "ventricular_trigeminy": Condition("info"),
    "missed_beat": Condition("info"),
    "anomaly": Condition("medium"),
    "regime_change": Condition("low"),
}
"""By label, the graver first. The standard assigns no priorities; these are what makers of monitors use."""

STAGES = (
    ("ventricular_fibrillation", "asystole", "pause", "missed_beat"),
    ("ventricular_fibrillation", "ventricular_tachycardia", "idioventricular_rhythm", "ventricular_run"),
    ("extreme_bradycardia", "bradycardia"),
    ("extreme_tachycardia", "tachycardia"),
    ("atrial_fibrillation", "irregular_rhythm"),
)
"""Alarm chains whose members are stages of one event: the start of one ends those after it, as superseded."""

_BELOW_TACHYCARDIA = (
    "extreme_tachycardia",
    "tachycardia",
    "atrial_fibrillation",
    "irregular_rhythm",
    "supraventricular_run",
    "r_on_t",
    "ventricular_couplet",
    "ventricular_bigeminy",
    "frequent_ventricular_beats",
    "ventricular_trigeminy",
    "missed_beat",
)

SILENCED = {
    "ventricular_fibrillation": tuple(label for label in CONDITIONS if label != "ventricular_fibrillation"),
    "asystole": (
        "extreme_bradycardia",
        "pause",
        "bradycardia",
        "missed_beat",
        "atrial_fibrillation",
        "irregular_rhythm",
    ),
    "ventricular_tachycardia": ("idioventricular_rhythm", "ventricular_run", *_BELOW_TACHYCARDIA),
    "extreme_bradycardia": ("pause", "bradycardia", "missed_beat"),
    "extreme_tachycardia": ("tachycardia", "supraventricular_run"),
    "idioventricular_rhythm": ("ventricular_run", "missed_beat", "frequent_ventricular_beats"),
    "ventricular_run": ("r_on_t", "ventricular_couplet", "frequent_ventricular_beats"),
    "pause": ("missed_beat",),
    "atrial_fibrillation": ("irregular_rhythm", "missed_beat", "supraventricular_run"),
    "irregular_rhythm": ("missed_beat", "supraventricular_run"),
    "ventricular_bigeminy": ("ventricular_trigeminy", "frequent_ventricular_beats"),
}
"""While the first is said, none of the others starts (as in the alarm chains of bedside monitors)."""
