"""A stream of the lab streaming layer (LSL), from this machine or the network."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from threading import Event
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdover.devices.sources import Found
from holdover.devices.sources.device import Device, LinkLost
from holdover.devices.sources.live import Live
from holdover.devices.sources.order import slack_s
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.recording import checked_number, checked_rate
from holdover.devices.sources.scale import Scale
from holdover.devices.sources.units import POWERS, normal
from holdover.runtime.errors import SourceError

TIMEOUT_S = 10.0
RESOLVE_S = 0.4
"""How long the network is asked at a time, all of it, so that a second stream is found too."""
CONNECT_S = 5.0
PULL_S = 0.1
SILENT_S = 5.0
"""A stream that gives nothing for so long is connected to anew: liblsl does not always notice that one is gone."""
MAX_SAMPLES = 1 << 14
BUFFERED_S = 60
"""What LSL keeps for us while nobody reads."""


class Wanted(NamedTuple):
    """Which stream: what is None may be anything."""

    name: str | None
    stype: str | None
    source_id: str | None

    def __str__(self) -> str:
        said = {"name": self.name, "type": self.stype, "source_id": self.source_id}
        return ", ".join(f"{key} {value!r}" for key, value in said.items() if value is not None) or "any name"


def open(
    *,
    stream: str | None = None,
    type: str | None = None,
    source_id: str | None = None,
    timeout_s: float = TIMEOUT_S,
    leads: Sequence[str] | str | None = None,
    unit: str | None = None,
    gain: float = 1.0,
    offset: float = 0.0,
) -> Live:
    """Open a stream that is on the network now; one that is lost later is looked for again.

    Parameters
    ----------
    stream, type, source_id
        Its name, its type (such as "ECG") and its own id, as far as they matter.
    timeout_s
        For how long it is looked for, seconds.
    leads, unit
        Names and unit of its channels; None: as the stream says.
    gain, offset
        A value is (number - offset) * gain, in `unit`.

    Raises
    ------
    SourceError
        There is no such stream, or several; it has no regular rate, no numbers, or does not say its unit.
    """
    import mne_lsl.lsl as library

    wanted = Wanted(stream, type, source_id)
    if not all(isinstance(value, str | None) for value in wanted):
        raise SourceError(f"lsl: {wanted} cannot be; expected texts")
    Scale.of("lsl", leads or "ch1", unit or "uV", gain, offset)  # what cannot be is said before the network is asked
    found = _found(library, wanted, checked_number(timeout_s, "timeout_s", "lsl"))
    _check_samples(found)
    inlet = _connected(library, found)
    try:
        info = inlet.get_sinfo(CONNECT_S)
        scale = _scale(info, leads, unit, gain, offset)
        return Live(LslInlet(library, wanted, checked_rate(info.sfreq, "lsl"), scale, inlet))
    except SourceError:
        inlet.close_stream()
        raise


def find() -> list[Found]:
    """The streams on the network that carry samples; none where the library cannot start."""
    try:
        import mne_lsl.lsl as library
    except (OSError, RuntimeError):  # there is no liblsl for this machine
        return []

    return [
        Found(_words(info), {"stream": info.name, "source_id": info.source_id})
        for info in library.resolve_streams(timeout=1.0)
        if info.sfreq > 0
    ]


class LslInlet(Device):
    """The driver: pulls what an outlet pushed, with the outlet's time stamps as the device's time.

    Parameters
    ----------
    library
        The module `mne_lsl.lsl`.
    inlet
        The connection of the first session.
    """

    def __init__(self, library: Any, wanted: Wanted, rate_hz: float, scale: Scale, inlet: Any) -> None:
        super().__init__("lsl", rate_hz, scale)
        self.library, self.wanted = library, wanted
        self.slack_s = slack_s(rate_hz)
        self._inlet = inlet

    def session(self, stop: Event) -> Iterator[Packet]:
        """Yield what the stream sends, of a new connection if the first was lost."""
        inlet, self._inlet = self._inlet or self._found_again(), None
        heard_s = monotonic()
        try:
            while not stop.is_set():
                x, times = inlet.pull_chunk(timeout=PULL_S, max_samples=MAX_SAMPLES)
                heard_s = monotonic() if len(x) else heard_s
                yield from self._packets(x, times)
                if monotonic() - heard_s > max(SILENT_S, 3 / self.rate_hz):
                    raise LinkLost(f"{inlet.name!r} sent nothing for {SILENT_S:.0f} s")
        except RuntimeError as error:  # the library's LostError is one
            raise LinkLost(f"{inlet.name!r}: {error}") from None
        finally:
            inlet.close_stream()

    def close(self) -> None:
        """End `packets`."""
        super().close()
        if self._inlet is not None:  # nobody has read from it
            self._inlet.close_stream()

    def _found_again(self) -> Any:
        found = self.library.resolve_streams(RESOLVE_S, *self.wanted, 2)
        if len(found) != 1:
            raise LinkLost(_not_one(self.wanted, found))
        if (found[0].n_channels, found[0].sfreq) != (len(self.channels), self.rate_hz):
            raise LinkLost(f"{_words(found[0])} is not what it was; start again")
        try:
            return _connected(self.library, found[0])
        except SourceError as error:
            raise LinkLost(str(error)) from None

    def _packets(self, x: NDArray[Any], times: NDArray[np.float64]) -> Iterator[Packet]:
        """What was pulled, cut where time stamps jump."""
        if not len(x):
            yield self.nothing()
        strays = np.flatnonzero(np.abs(np.diff(times) - 1 / self.rate_hz) > self.slack_s) + 1
        edges = [0, *strays.tolist(), len(x)]
        for start, stop in pairwise(edges):
            if stop > start:
                yield Packet(self.scale.apply(x[start:stop]), time=_stamp(times[start]))


def _found(library: Any, wanted: Wanted, timeout_s: float) -> Any:
    asked = 0.0
    found: list[Any] = []
    while not found and asked < max(timeout_s, RESOLVE_S):
        found = library.resolve_streams(RESOLVE_S, *wanted, 2)
        asked += RESOLVE_S
    if len(found) != 1:
        raise SourceError(f"lsl: {_not_one(wanted, found)}")
    return found[0]


def _connected(library: Any, found: Any) -> Any:
    inlet = library.StreamInlet(found, max_buffered=BUFFERED_S, recover=False)
    try:
        inlet.open_stream(CONNECT_S)
    except (RuntimeError, TimeoutError) as error:
        raise SourceError(f"lsl: {_words(found)} was found and does not answer ({error}); see its firewall") from None
    return inlet


def _check_samples(info: Any) -> None:
    if info.dtype == "string":
        raise SourceError(f"lsl: {_words(info)} carries texts; expected numbers: name a stream of samples")
    if not info.sfreq > 0:
        raise SourceError(
            f"lsl: {_words(info)} has no regular rate; expected a stream that states its samples a second"
        )


def _scale(info: Any, leads: Sequence[str] | str | None, unit: str | None, gain: float, offset: float) -> Scale:
    names = leads or info.get_channel_names() or [f"ch{i + 1}" for i in range(info.n_channels)]
    units = [unit] * info.n_channels if unit else info.get_channel_units() or []
    unknown = [each for each in units if normal(str(each)) not in POWERS]
    if len(units) != info.n_channels or len(unknown) == info.n_channels:
        raise SourceError(f'lsl: {_words(info)} does not say its unit; give it, as in unit = "uV"')
    scale = Scale.of("lsl", names, str(units[0]), gain, offset)
    if len(scale.channels) != info.n_channels:
        raise SourceError(f"lsl: {_words(info)} has {info.n_channels} channels, {len(scale.channels)} names were given")
    return Scale(scale.channels, tuple(normal(str(each)) for each in units), scale.gain, scale.offset)


def _not_one(wanted: Wanted, found: Sequence[Any]) -> str:
    if found:
        return f"{len(found)} streams of {wanted}: {'; '.join(map(_words, found))}; name one by its source_id"
    return f"no stream of {wanted} is on the network; start it, and let firewalls pass UDP 16571 and TCP 16572 to 16604"


def _words(info: Any) -> str:
    of = f"type {info.stype!r}, source_id {info.source_id!r}, {info.n_channels} channels, {info.sfreq:g} Hz"
    return f"{info.name!r} ({of})"


def _stamp(time_s: float) -> float | None:
    return float(time_s) if math.isfinite(time_s) else None
