"""Write CARD.md: its words from here, its figures from results.json."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RIVALS = {
    "last": "the last value",
    "season": "a season ago, the best of ten lags",
    "mean": "a running mean, the best of five",
    "best": "the best of all these",
}
TEMPLATE = """\
# forecast {version}

Says what the next sample of one sensor will be, and how far it may miss, whatever the sensor, its unit and its rate.
A small GRU that carries its memory from sample to sample: no window, no look-back buffer but one week's worth of
samples, no training on the user's data. Beside the anomaly detector of the runtime it turns a stream into a few
alerts.

## Intended use, and not
Temperatures, currents, pressures, loads, counts, prices: slow or steady streams whose next value is roughly
foreseeable. For research, teaching and engineering.
- **Not for ECG, nor other signals whose shape is the message.** A forecasting LSTM is a poor detector of abnormal
  beats: VUS-PR 0.12 on MIT-BIH, against 0.69 for methods that compare shapes (TSB-AD, NeurIPS 2024). The
  [ecg-beats](../ecg_beats/CARD.md) model is for that.
- **Not a safety function.** What it calls normal is what came before: a fault that grows slowly becomes normal.
- One channel. Several channels that explain one another want a model of their own; `examples/own-forecaster` makes one.

## What goes in, what comes out
One channel, in any unit (`"unit": "any"`), at any rate (`"any_rate": true`; the contract's 1 Hz is nominal): samples
are taken as they come, nothing is resampled.

| output | delay | settles after | what it is |
|---|---|---|---|
| `forecast` | none | {settle:,} samples | the next sample (horizon 1), in the unit of the signal |
| `spread` | none | {settle:,} samples | the absolute error to be expected of it, in the same unit |

*Settles after* is measured: the mean absolute error after a reset, on generated series, is at most 5 % above that
with the full past from there on. The first forecast is the first value. A season of a day or a week is
used once it has been seen twice.

## How it forecasts
Nine simple forecasts ("anchors") are carried along: the last value, five running means (2 to 150 samples), the
straight line through the last two values, the last value plus what followed it a season ago, and the value of a
season ago. Seasons are tried at ten lags (24, 48, 96, 144, 168, 288, 336, 672, 1440, 2016: a day or a week at steps
of 1 to 60 minutes) and mixed by how well each has lately done. Each anchor is trusted beforehand by how well it has
lately done against the last value; the GRU (32 wide), which sees the same, changes that trust, adds a small step of
its own, and says how far the forecast may miss. All of this is in the file; differences are divided by a carried
measure of their usual size, so that for a above 0 the result for a x + b is a times the result for x, plus b.

{parameters:,} parameters; one ONNX file (opset 17, IR 8), {file_bytes:,} bytes; {state_floats:,} floats of memory a
stream, 2,015 of them the last week at 5 minutes. Made a stream by `holdover export` and proven: {frames:,} frames,
the same bits for every cut into blocks, largest difference from the whole-sequence graph {max_error:.1e}; from the
net in torch, over {far_series} generated series of {far_samples:,} samples each in random pieces, {far:.1e} of a
typical move.

## Training
`python models/forecast/train.py --steps {steps}` ({steps:,} steps, seed {seed}, torch {torch}, {minutes:.0f} minutes
on a part of one core; {train_samples:,} samples). **Generated series alone** (`series.py`): seasons of days and weeks
or of any period, drift, random walks, level shifts, switching states, noise that is white, remembered, heavy-tailed
or louder at times, bursts, counts, saturation, quantisation, held and constant stretches. Nothing recorded was
trained on, so all of the Numenta Anomaly Benchmark is unseen.

## Measured
Mean absolute error of the shipped file, divided by that of a simple forecast, for each series; the first 15 % of each
is not scored. Below 1 the model is better. The rivals are in their best form for each series **by hindsight**, which
the model has not.

{judged_count} generated series of {length:,} samples, drawn from another seed than the training:

{generated}

{nab}
Of an error and the spread said of it the mean ratio is {fit_low:.2f}, {fit:.2f} and {fit_high:.2f} on a quarter, a
half and three quarters of the generated series{fit_nab}. `python models/forecast/card.py` writes this card from
`results.json`, which the recipe wrote.

## Limitations
- It foresees one step. A slow fault moves the forecast with it; the runtime's detector looks at the level and at
  longer stretches too.
- Seasons of other lengths than the ten are not remembered; then it does what the last value and the running means can
  do. A season is trusted where it does better than the last value most of the time: a jump that comes at the same
  hour each day is foreseen in a quiet signal, and still surprises in one whose noise hides the rest of the day.
- Where samples are missing for long, the runtime ends the memory, and the season is learned anew.
- Single precision: moves below a millionth of the value are none.
- The spread is fitted on generated series; use it as a scale, and let the detector's own calibration say what is
  rare.

## Licence
Weights: Apache-2.0. No data of others went into them. Judged on the Numenta Anomaly Benchmark v1.1 (MIT licence;
Lavin & Ahmad, ICMLA 2015; Ahmad et al., Neurocomputing 262, 2017), whose figures stand in `results.json` by folder.
"""


def main() -> int:
    """Write the card; 0."""
    (HERE / "CARD.md").write_text(
        card(json.loads((HERE / "results.json").read_text(encoding="utf-8"))), encoding="utf-8"
    )
    return 0


def card(results: Mapping[str, Any]) -> str:
    """The card for results as `publish` writes them."""
    verification, nab = results["verification"], results["nab"]
    far = verification["generated"]
    low, middle, high = results["generated"]["error_over_spread"]
    return TEMPLATE.format(
        version="0.1.0",
        settle=results["settle_samples"]["forecast"],
        frames=verification["frames"],
        max_error=verification["max_error"],
        far=far["against_torch"],
        far_series=far["series"],
        far_samples=far["samples"],
        minutes=results["train_seconds"] / 60,
        judged_count=results["generated"]["series"],
        length=far["samples"],
        generated=_table(results["generated"]),
        nab=_on_nab(nab) if nab else "",
        fit_low=low,
        fit=middle,
        fit_high=high,
        fit_nab=f"; {', '.join(f'{q:.2f}' for q in nab['all']['error_over_spread'])} on NAB" if nab else "",
        **{key: results[key] for key in NUMBERS},
    )


NUMBERS = ("parameters", "file_bytes", "state_floats", "steps", "seed", "torch", "train_samples")


def _table(judged: Mapping[str, Any]) -> str:
    lines = ["| against | median | quartiles | better on |", "|---|---|---|---|"]
    for rival, name in RIVALS.items():
        row = judged["rivals"][rival]
        low, middle, high = row["ratio"]
        lines.append(
            f"| {name} | {middle:.3f} | {low:.3f} to {high:.3f} | {100 * row['better']:.0f} % of {row['of']} |"
        )
    return "\n".join(lines)


def _on_nab(nab: Mapping[str, Any]) -> str:
    count = nab["all"]["series"]
    lines = [f"The {count} series of the Numenta Anomaly Benchmark v1.1, anomalies and all, none seen in training:", ""]
    lines += [_table(nab["all"]), "", "By folder, the median against each:", ""]
    lines += ["| folder | series | " + " | ".join(RIVALS) + " |", "|---|---|" + "---|" * len(RIVALS)]
    for folder, judged in nab.items():
        if folder != "all":
            cells = " | ".join(f"{judged['rivals'][rival]['ratio'][1]:.3f}" for rival in RIVALS)
            lines.append(f"| {folder} | {judged['series']} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
