"""A simulated Polar H10 behind the interface of bleak: byte-exact frames, without a radio."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdover.devices.simulators.impair import Impairments, impair
from holdover.devices.sources import polar_frame as pmd
from holdover.devices.sources.packet import Packet

RESET_NS = 599_616_000 * 10**9
"""2019-01-01, to which the clock of an H10 that was off is set, ns since 2000-01-01."""
FRAME = 73
"""Samples of a data frame, as firmware 3 sends them."""
CHARACTERISTICS = (pmd.CONTROL, pmd.DATA, pmd.HEART_RATE)
PERFECT = Impairments()

Notify = Callable[[Any, bytearray], None]


class Word(NamedTuple):
    """What a strap does next.

    Attributes
    ----------
    wait_s
        For how long it waits before.
    data
        What it sends; None: it breaks the connection off.
    to
        The characteristic.
    away_s
        For how long it cannot be found after a break.
    """

    wait_s: float
    data: bytes | None
    to: str = pmd.DATA
    away_s: float = 0.0


def play(
    uv: NDArray[np.int32],
    how: Impairments = PERFECT,
    *,
    speed: float = 1.0,
    rate_hz: float = pmd.RATE_HZ,
    start_ns: int = RESET_NS,
) -> Iterator[Word]:
    """What a strap does that measures a signal (n,), uV, in the time that it takes, divided by `speed`.

    Parameters
    ----------
    how
        What happens on the way. A strap that is unplugged breaks the connection off and cannot be found; an electrode
        that is off is told as missing skin contact, the signal being 0.
    rate_hz
        The rate by the strap's clock; that of a real one is 128 to 131 Hz.
    start_ns
        The strap's clock at the first sample.
    """
    last_s, gone_s, skin = 0.0, None, True
    for sent in impair(packets(uv), rate_hz, how):
        wait_s, there = (sent.due_s - last_s) / speed, gone_s is None
        if sent.packet is None and not sent.plugged:
            gone_s = sent.due_s
        elif sent.packet is None and gone_s is not None:
            yield Word((gone_s - last_s) / speed, None, away_s=(sent.due_s - gone_s) / speed)
            last_s, gone_s = sent.due_s, None
        elif sent.packet is not None and there:
            yield Word(wait_s, sent.garbage) if sent.garbage else Word(wait_s, b"", "")
            if (off := _is_off(sent.packet)) == skin:
                skin = not off
                yield touching(skin)
            yield Word(0.0, _frame(sent.packet, rate_hz, start_ns))
            last_s = sent.due_s


def packets(uv: NDArray[np.int32]) -> Iterator[Packet]:
    """A signal (n,) as packets of one frame each."""
    for at in range(0, len(uv), FRAME):
        yield Packet(uv[at : at + FRAME, np.newaxis].astype(np.float32), count=at)


def touching(skin: bool) -> Word:
    """A heart rate of 60 and whether the electrodes touch the skin."""
    return Word(0.0, bytes([0x06 if skin else 0x04, 60]), pmd.HEART_RATE)


def _is_off(packet: Packet) -> bool:
    return packet.lead_off is not None and bool(packet.lead_off.any())


def _frame(packet: Packet, rate_hz: float, start_ns: int) -> bytes:
    last = (packet.count or 0) + len(packet) - 1
    uv = np.nan_to_num(packet.x[:, 0]).astype(np.int32)
    return pmd.build(start_ns + round(last * 1e9 / rate_hz), uv)


class SimulatedStrap:
    """One strap; itself the `radio` of `holdover.devices.sources.polar.PolarStrap`.

    What it sends goes on where it was when a host connects again. It answers as the specification says: a start that
    does not ask for 130 Hz and 14 bit, a command of the wrong length or twice the same start are refused, and it sends
    nothing to a host that did not ask for notifications.

    Attributes
    ----------
    connections, running
        How many there were; whether it sends, and so drains its battery.
    back_at
        Monotonic time before which it cannot be found.
    has_heart_rate, answers
        Whether it has a heart rate service, and answers commands.
    status
        What it answers to a start that it could grant.
    """

    def __init__(
        self, words: Iterable[Word], name: str = "Polar H10 A1B2C3D4", address: str = "24:AC:AC:01:02:03"
    ) -> None:
        self.found = SimpleNamespace(name=name, address=address)
        self.connections = 0
        self.running = False
        self.back_at = 0.0
        self.has_heart_rate = True
        self.answers = True
        self.status = pmd.SUCCESS
        self.words = iter(words)
        self.BleakScanner = _Scanner([self])
        self.BleakClient = lambda _found, **options: _Client(self, **options)

    @property
    def in_range(self) -> bool:
        """Whether it can be found."""
        return monotonic() >= self.back_at

    def answer(self, command: bytes) -> int:
        """The status of a command, which is done if it is `SUCCESS`."""
        if command[:1] not in (pmd.START_ECG[:1], pmd.STOP_ECG[:1]):
            return 1
        if command[1:2] != bytes([pmd.ECG]):
            return 2
        starts = command[:1] == pmd.START_ECG[:1]
        expected = pmd.START_ECG if starts else pmd.STOP_ECG
        if len(command) != len(expected):
            return 4
        if command != expected:
            return 5
        if starts == self.running:
            return pmd.ALREADY
        status = self.status if starts else pmd.SUCCESS
        self.running = starts and status == pmd.SUCCESS
        return status


class _Scanner:
    def __init__(self, straps: list[SimulatedStrap]) -> None:
        self.straps = straps

    async def discover(self, timeout: float) -> list[Any]:
        """Those in range."""
        await asyncio.sleep(min(timeout, 0.01))
        return [strap.found for strap in self.straps if strap.in_range]

    async def find_device_by_filter(self, wanted: Callable[[Any, Any], bool], timeout: float) -> Any:
        """The first that is wanted; None if there is none."""
        return next((found for found in await self.discover(timeout) if wanted(found, None)), None)


class _Client:
    def __init__(self, strap: SimulatedStrap, disconnected_callback: Callable[[Any], None], timeout: float) -> None:
        self._strap, self._on_gone, self.timeout = strap, disconnected_callback, timeout
        self._notify: dict[str, Notify] = {}
        self._sending: asyncio.Task[None] | None = None
        self.is_connected = False

    async def connect(self) -> None:
        """Come up; an error if the strap is out of range."""
        from bleak.exc import BleakError

        if not self._strap.in_range:
            raise BleakError("device is not there")
        self.is_connected = True
        self._strap.connections += 1

    async def start_notify(self, uuid: str, callback: Notify) -> None:
        """Send what is of this characteristic to a callback from now on."""
        from bleak.exc import BleakCharacteristicNotFoundError

        self._check_connected()
        if uuid not in CHARACTERISTICS or (uuid == pmd.HEART_RATE and not self._strap.has_heart_rate):
            raise BleakCharacteristicNotFoundError(uuid)
        self._notify[uuid] = callback

    async def write_gatt_char(self, uuid: str, data: bytes, response: bool) -> None:
        """Take a command, and answer it as a notification."""
        from bleak.exc import BleakError

        self._check_connected()
        if uuid != pmd.CONTROL or not response:
            raise BleakError("write not permitted")
        was_running = self._strap.running
        status = self._strap.answer(bytes(data))
        if self._strap.answers:
            self._tell(Word(0.0, bytes([pmd.RESPONSE, *data[:2], status, 0]), pmd.CONTROL))
        if self._strap.running and not was_running:
            self._sending = asyncio.get_running_loop().create_task(self._send())
        elif self._sending and not self._strap.running:
            self._sending.cancel()

    async def disconnect(self) -> None:
        """End the connection."""
        if self._sending:
            self._sending.cancel()
        self.is_connected = False

    async def _send(self) -> None:
        for word in self._strap.words:
            await asyncio.sleep(word.wait_s)
            if word.data is None:
                self._strap.running = self.is_connected = False
                self._strap.back_at = monotonic() + word.away_s
                self._on_gone(self)
                return
            self._tell(word)

    def _tell(self, word: Word) -> None:
        if word.to in self._notify and word.data is not None:
            self._notify[word.to](word.to, bytearray(word.data))

    def _check_connected(self) -> None:
        from bleak.exc import BleakError

        if not self.is_connected:
            raise BleakError("not connected")
