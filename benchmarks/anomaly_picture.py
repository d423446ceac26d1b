"""Draws `docs/anomaly.png`: generated traffic with anomalies put in, replayed with `--plot` as a user would."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from anomaly_streams import DAY, STREAMS, Array

from holdover.apps.cli import main as holdover

PICTURE = Path(__file__).parents[1] / "docs" / "anomaly.png"
SEED = 3


def main() -> int:
    """Write the series, replay it, keep its picture."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "traffic.csv"
        rows = (f"{1.7e9 + 300 * i:.0f},{'' if np.isnan(x) else round(x, 1)}\n" for i, x in enumerate(traffic()))
        file.write_text("time,requests\n" + "".join(rows))
        code = holdover(["replay", str(file), "--model", "forecast", "-o", folder, "--plot"])
        if not code:
            PICTURE.write_bytes(file.with_suffix(".png").read_bytes())
    return code


def traffic() -> Array:
    """Requests in five minutes, of 20 days: three hours at a quarter, a gap, a spike, and a new level."""
    x = STREAMS["skewed"](np.random.default_rng(SEED), 20 * DAY)
    x[9 * DAY : 9 * DAY + 40] *= 0.25
    x[12 * DAY : 12 * DAY + 30] = np.nan
    x[15 * DAY + 100] = 420
    x[17 * DAY :] += 150
    return x


if __name__ == "__main__":
    sys.exit(main())
