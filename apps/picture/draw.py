"""The picture of a replay: a strip chart with its beats and alarms, as a PNG or a page of HTML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.apps.picture import series
from holdover.apps.picture.gates import Under
from holdover.apps.picture.page import page
from holdover.apps.picture.rows import render
from holdover.apps.picture.strip import Sheet, Span, Strip, choose
from holdover.runtime.annotation import Annotation
from holdover.runtime.detect.anomaly import Judged
from holdover.runtime.errors import UsageError

__all__ = ["Span", "draw"]


def draw(
    path: str | Path,
    x: NDArray[Any],
    rate_hz: float,
    annotations: Sequence[Annotation] = (),
    spans: Sequence[Span] = (),
    title: str = "",
    start_s: float = 0.0,
    unit: str = "mV",
    under: Under | None = None,
    judged: Sequence[Judged] = (),
) -> None:
    """Draw a recording with its beats and alarms.

    Parameters
    ----------
    path
        Where to; ".html" gives one page that needs nothing else, with a table of the alarms, ".png" an image.
    x
        (samples,), in `unit`; NaN where missing, drawn as breaks.
    annotations, spans
        On the source's clock, of which x[0] is at `start_s` seconds. What lies outside x is left out.
    under
        Gives heat maps that are drawn under the rows of signal.
    judged
        What an anomaly detector judged: the series is drawn in one piece then, with its band and probabilities.

    Raises
    ------
    UsageError
        If the extension is neither, there is nothing to draw, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".html", ".htm"):
        raise UsageError(f"a picture is written as .png or .html, not {path.suffix or 'without extension'}: {path}")
    signal = np.asarray(x).reshape(-1)
    if not len(signal):
        raise UsageError(f"there is nothing to draw for {path}: the recording has no samples")
    strip = Strip(signal, rate_hz, round(start_s * rate_hz), annotations, spans, unit)
    sheet = (
        Sheet((0,), len(signal), "all of it")
        if judged
        else choose(len(signal), rate_hz, [(span, strip.local(span)) for span in strip.spans])
    )
    try:
        if judged:
            image = series.render(strip, judged, title)
        else:
            image = render(strip, sheet, title, under(strip, sheet) if under else ())
    except ImportError as error:
        raise UsageError(f"a picture needs {error.name}, which is not installed: install holdover[replay]") from None
    data = image if path.suffix.lower() == ".png" else page(image, strip, sheet, title).encode()
    try:
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror})") from None
