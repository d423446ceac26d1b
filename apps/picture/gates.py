"""Gates under the strip chart: what each unit keeps as the signal comes, units in order of how long they remember."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from holdover.apps.picture.strip import GROUPS, Sheet, Strip
from holdover.runtime.errors import UsageError

if TYPE_CHECKING:
    from holdover.export.gate_engine import GateEngine
    from holdover.export.taps import Tap
    from holdover.runtime.detect.limits import Limits
    from holdover.runtime.frames import Frames

Array = NDArray[Any]
Under = Callable[[Strip, Sheet], "list[Band]"]

ROW_IN, ONLY_ROW_IN = 0.95, 1.5
"""Height of a heat map: under each of several rows of signal, and under the only one."""
COLUMNS = 1600
"""In a row at most: of more frames than the picture has pixels, each pixel shows its last."""
GATE_COLORS, CELL_COLORS = "viridis", "RdBu_r"
ECTOPIC = frozenset("SVF")
"""Classes of beats that are marked in the heat maps."""


@dataclass(frozen=True)
class Band:
    """Heat maps of one gate of one layer, one under every row of a sheet.

    Attributes
    ----------
    layer, part : str
        Of the tap.
    pace : float
        Source samples a column.
    rows : dict of int to array
        By the first sample of a row: (units, columns); NaN where the model had no memory.
    time_constants_s : array
        (units,), in the order of the rows.
    """

    layer: str
    part: str
    pace: float
    rows: dict[int, Array]
    time_constants_s: Array

    @classmethod
    def empty(cls, layer: str, part: str, pace: float, units: int, sheet: Sheet) -> "Band":
        """Nothing yet; of several frames in a pixel one is drawn."""
        pace *= math.ceil(sheet.width / pace / COLUMNS)
        columns = math.ceil(sheet.width / pace)
        rows = {first: np.full((units, columns), np.nan, np.float32) for first in sheet.rows}
        return cls(layer, part, pace, rows, np.empty(0))

    def put(self, values: Array, places: Array) -> None:
        """Take frames, (frames, units), that begin at these samples of the strip."""
        for first, image in self.rows.items():
            columns = np.floor((places - first) / self.pace + 1e-9).astype(np.int64)
            inside = (columns >= 0) & (columns < image.shape[1])
            image[:, columns[inside]] = values[inside].T

    def ordered(self, time_constants_s: Array) -> "Band":
        """The units that remember longest on top; of a cell each unit over its own largest, as they differ widely."""
        order = np.argsort(-time_constants_s, kind="stable")
        rows = {first: image[order] for first, image in self.rows.items()}
        if self.part == "cell":
            size = np.max([np.abs(np.nan_to_num(image)).max(axis=1) for image in rows.values()], axis=0)
            rows = {first: image / np.maximum(size, 1e-30)[:, np.newaxis] for first, image in rows.items()}
        return Band(self.layer, self.part, self.pace, rows, time_constants_s[order])

    @property
    def lowest(self) -> float:
        """The number that has the first colour; 1 has the last."""
        return -1.0 if self.part == "cell" else 0.0


class _Layer:
    """One layer's heat maps while the recording is played."""

    def __init__(self, engine: "GateEngine", tap: "Tap", every: bool, rate_hz: float, sheet: Sheet) -> None:
        from holdover.apps.memory import Forgotten
        from holdover.export.taps import KEEPS

        specs = {o.name: o for o in engine.contract.outputs}
        self._keeps = specs[tap.outputs[KEEPS[tap.op]]]
        self._frame_s = self._keeps.samples_per_frame / engine.contract.signal.rate_hz
        self._forgotten = Forgotten()
        parts = tap.outputs if every else {KEEPS[tap.op]: self._keeps.name}
        self._bands = [
            (specs[output], Band.empty(tap.layer, part, self._frame_s * rate_hz, specs[output].width, sheet))
            for part, output in parts.items()
        ]

    def take(self, frames: "Frames", origin: int) -> None:
        """Take what the gates were, of a strip that begins at this source sample."""
        self._forgotten.add(frames.values[self._keeps.name])
        for spec, band in self._bands:
            band.put(frames.values[spec.name], frames.at(spec) - origin)

    def drawn(self) -> list[Band]:
        """The heat maps, their units in order."""
        seconds = self._forgotten.time_constants() * self._frame_s
        return [band.ordered(seconds) for _, band in self._bands if len(seconds)]


def under(
    engine: "GateEngine", every: bool, limits: "Limits", recording: Path, lead: str | None, options: Mapping[str, Any]
) -> Under:
    """What draws the gates of a recording under its strip.

    Parameters
    ----------
    engine
        The model's gates.
    every
        All gates of a layer, and its cell, instead of the one gate that keeps.
    limits
        Of the replay: they say where the signal is lost, and with it the memory.
    recording, lead, options
        As they were played.
    """

    def bands(strip: Strip, sheet: Sheet) -> list[Band]:
        layers = [_Layer(engine, tap, every, strip.rate_hz, sheet) for tap in _gated(engine)]
        for frames in _frames(engine, limits, recording, lead, options):
            for layer in layers:
                layer.take(frames, strip.origin)
        return [band for layer in layers for band in layer.drawn()]

    return bands


def _gated(engine: "GateEngine") -> "list[Tap]":
    from holdover.export.taps import KEEPS

    return [tap for tap in engine.taps if tap.op in KEEPS]


def _frames(
    engine: "GateEngine", limits: "Limits", recording: Path, lead: str | None, options: Mapping[str, Any]
) -> "Iterator[Frames]":
    """Play a recording as the watch plays it: the same runs, the same losses of memory."""
    from holdover.apps.feed import open_recording
    from holdover.runtime.quality import Lost, Quality, Usable
    from holdover.runtime.stream import Stream

    feed = open_recording(recording, engine.contract, lead, **options)
    stream = Stream(engine, feed.source.rate_hz)
    millivolts = all(channel.unit == "mV" for channel in engine.contract.signal.channels)
    quality = Quality(feed.source.rate_hz, limits, 0, limits.signal if millivolts else None)
    for chunk in feed.chunks():
        for piece in quality.push(chunk):
            if isinstance(piece, Usable):
                yield stream.push(piece.chunk)
            elif isinstance(piece, Lost):
                stream.reset()
    feed.source.close()


def gates_of(model: str | None) -> "GateEngine":
    """The gates of a model by its name or path.

    Raises
    ------
    UsageError
        It has no gate that keeps, or one that the textbook equations do not give.
    """
    from holdover.apps.model.shipped import find_model
    from holdover.export import contract_io
    from holdover.export.gate_engine import GateEngine

    graph, contract = contract_io.load(find_model(model))
    try:
        engine = GateEngine(graph, contract)
    except UsageError as error:
        raise UsageError(str(error).replace("--tap", "--gates")) from None
    if not _gated(engine):
        raise UsageError("the model's recurrent layers are plain RNNs, which have no gates to draw: leave --gates out")
    return engine


def draw_band(ax: Any, band: Band, strip: Strip, first: int, row_s: float) -> None:
    """One heat map on axes of its own, the ectopic beats marked."""
    image = band.rows[first]
    colors = CELL_COLORS if band.part == "cell" else GATE_COLORS
    right = image.shape[1] * band.pace / strip.rate_hz
    ax.set_facecolor("#e9e9e9")
    ax.imshow(image, cmap=colors, vmin=band.lowest, vmax=1, aspect="auto", interpolation="nearest",
              extent=(0, right, len(image), 0))  # fmt: skip
    ax.set_xlim(0, row_s)
    for mark in strip.marks:
        at = mark.at - strip.origin - first
        if GROUPS.get(mark.symbol) in ECTOPIC and 0 <= at < row_s * strip.rate_hz:
            ax.axvline(at / strip.rate_hz, color="white", linewidth=0.8, linestyle=(0, (2, 2)))
    places = sorted({0, len(image) // 2, len(image) - 1})
    ax.set_yticks([p + 0.5 for p in places], [f"{band.time_constants_s[p]:.2g} s" for p in places])
    ax.tick_params(which="both", length=0, labelsize=7, colors="#555555")
    ax.set_ylabel(f"{band.layer.replace('_', ' ')}\n{band.part}", fontsize=8, color="#444444", parse_math=False)
    for spine in ax.spines.values():
        spine.set_color("#cccccc")


def draw_key(figure: Any, bands: Sequence[Band], left: float, height: float) -> None:
    """What the colours say, at the foot of a figure so many inches high."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    shown = {band.part == "cell": band.lowest for band in bands}
    for k, (cell, lowest) in enumerate(sorted(shown.items())):
        at = left + 0.2 * k
        ax = figure.add_axes((at, 0.14 / height, 0.07, 0.1 / height))
        mappable = ScalarMappable(Normalize(lowest, 1), CELL_COLORS if cell else GATE_COLORS)
        figure.colorbar(mappable, cax=ax, orientation="horizontal", ticks=[])
        text = "cell, -1 to 1 of each unit's largest" if cell else "gate, 0 (shut) to 1 (open)"
        figure.text(at + 0.075, 0.12 / height, text, fontsize=8, color="#555555")
    figure.text(left + 0.2 * len(shown), 0.12 / height, "units in order of how long they remember", fontsize=8,
                color="#555555")  # fmt: skip
