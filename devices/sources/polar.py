"""A Polar H10 chest strap over Bluetooth Low Energy."""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import suppress
from threading import Event
from time import monotonic
from typing import Any, TypeVar

import numpy as np

from holdover.devices.sources import Found
from holdover.devices.sources import polar_frame as pmd
from holdover.devices.sources.claim import Claim
from holdover.devices.sources.device import WAIT_S, Device, LinkLost, log
from holdover.devices.sources.live import Live
from holdover.devices.sources.packet import Packet
from holdover.devices.sources.scale import Scale
from holdover.runtime.errors import SourceError

MODEL = "Polar H10"
SCAN_S, FIND_S, CONNECT_S, ANSWER_S, LEAVE_S = 8.0, 4.0, 20.0, 5.0, 1.3
SILENT_S = 10.0
"""A strap that is connected and sends no ECG for so long is connected to anew."""
WEAR = "wear it with its electrodes moist, and end other apps that are connected to it"

_T = TypeVar("_T")


def open(
    *,
    device: str | None = None,
    leads: Sequence[str] | str = "ECG",
    unit: str = "uV",
    gain: float = 1.0,
    offset: float = 0.0,
) -> Live:
    """Open a Polar H10: 130 Hz, one lead, uV.

    Parameters
    ----------
    device
        The eight characters that stand on the strap's sensor and in its Bluetooth name, or its Bluetooth address; None:
        the only one in range.
    unit, gain, offset
        A value is (number - offset) * gain, in `unit`.

    Raises
    ------
    SourceError
        If an option cannot be. A strap that is not there is waited for.
    """
    import bleak

    return Live(PolarStrap(device, Scale.of("polar", leads, unit, gain, offset), bleak))


def find() -> list[Found]:
    """The straps in range; none where there is no Bluetooth."""
    import bleak

    return found_by(bleak)


def found_by(radio: Any) -> list[Found]:
    """The straps that a radio, such as the module bleak, can hear."""
    from bleak.exc import BleakError

    try:
        heard = asyncio.run(radio.BleakScanner.discover(timeout=FIND_S))
    except (BleakError, OSError):  # no adapter, or nobody to ask for it
        return []
    return [Found(strap.name, {"device": strap.name.rpartition(" ")[2]}) for strap in _straps(heard)]


class PolarStrap(Device):
    """The driver: sessions with one strap, the strap's own clock, and its word on skin contact.

    Parameters
    ----------
    radio
        Has `BleakScanner` and `BleakClient` as the module bleak does, or a simulated strap's.
    """

    def __init__(self, device: str | None, scale: Scale, radio: Any) -> None:
        if not (device is None or (isinstance(device, str) and device.strip())):
            raise SourceError(f'polar: device = {device!r} cannot be; expected e.g. "A1B2C3D4", or an address')
        if len(scale.channels) != 1:
            raise SourceError(f"polar: the strap has one lead and {len(scale.channels)} names were given")
        super().__init__("polar", float(pmd.RATE_HZ), scale)
        self.device = device and device.strip().lower()
        self.radio = radio

    def session(self, stop: Event) -> Iterator[Packet]:
        """Connect, start the ECG and yield its frames; the strap is always told to stop, or its battery drains."""
        from bleak.exc import BleakError

        call = _Call(self, stop)
        with asyncio.Runner() as runner:
            try:
                runner.run(call.connect())
                while not stop.is_set():
                    yield from runner.run(call.packets()) or [self.nothing()]
            except (BleakError, OSError) as error:
                raise LinkLost(_explained(error)) from None
            finally:
                runner.run(call.leave())

    def packet(self, frame: pmd.EcgFrame, touching: bool | None) -> Packet:
        """The samples of a frame, and whether an electrode was off (None: the strap does not say)."""
        n = len(frame.uv)
        off = None if touching is None else np.full(n, not touching)
        first_s = frame.ns / 1e9 - (n - 1) / self.rate_hz
        return Packet(self.scale.apply(frame.uv[:, np.newaxis]), off, time=first_s)


class _Call:
    """One connection to the strap; its coroutines are run in turns by the driver's thread."""

    def __init__(self, strap: PolarStrap, stop: Event) -> None:
        self._touching: bool | None = None
        self._strap, self._stop = strap, stop
        self._claim: Claim | None = None
        self._client: Any = None
        self._packets: asyncio.Queue[Packet] = asyncio.Queue()
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._heard_at = 0.0
        self._ended = ""

    async def connect(self) -> None:
        """Find the strap and have it send; `LinkLost` says why not."""
        found = await self._unless_stopped(self._find())
        self._claim = Claim(f"the strap {found.name} ({found.address})")
        self._client = self._strap.radio.BleakClient(found, disconnected_callback=self._gone, timeout=CONNECT_S)
        await self._unless_stopped(self._client.connect())
        await self._client.start_notify(pmd.CONTROL, self._control)
        await self._client.start_notify(pmd.DATA, self._data)
        await self._ask_for_contact()
        await self._start()
        self._heard_at = monotonic()
        log.info("polar: %s sends", found.name)

    async def packets(self) -> list[Packet]:
        """What came within `WAIT_S`, perhaps nothing; `LinkLost` where nothing more will."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                first = await self._packets.get()
            self._heard_at = monotonic()
            return [first, *(self._packets.get_nowait() for _ in range(self._packets.qsize()))]
        if self._ended:
            raise LinkLost(self._ended)
        if monotonic() - self._heard_at > SILENT_S:
            raise LinkLost(f"the strap is connected and sent no ECG for {SILENT_S:.0f} s")
        return []

    async def leave(self) -> None:
        """Tell the strap to stop, and disconnect, as far as that can still be done."""
        if self._client is not None:
            await self._farewell(self._client.write_gatt_char(pmd.CONTROL, pmd.STOP_ECG, response=True))
            await self._farewell(self._client.disconnect())
        if self._claim is not None:
            self._claim.close()

    async def _farewell(self, word: Awaitable[None]) -> None:
        from bleak.exc import BleakError

        with suppress(BleakError, OSError):
            await asyncio.wait_for(word, LEAVE_S)

    async def _find(self) -> Any:
        scanner, device = self._strap.radio.BleakScanner, self._strap.device
        if device is None:
            return _only(await scanner.discover(timeout=SCAN_S))
        found = await scanner.find_device_by_filter(lambda d, _: device in _names(d), timeout=SCAN_S)
        if found is None:
            raise LinkLost(f"{device} is not in range; {WEAR}")
        return found

    async def _ask_for_contact(self) -> None:
        """Hear of skin contact; a strap without heart rate sends its ECG all the same."""
        from bleak.exc import BleakError

        with suppress(BleakError):
            await self._client.start_notify(pmd.HEART_RATE, self._heart_rate)

    async def _start(self) -> None:
        status = await self._ask(pmd.START_ECG)
        if status == pmd.ALREADY:  # for a host that went without a word
            await self._ask(pmd.STOP_ECG)
            status = await self._ask(pmd.START_ECG)
        if status != pmd.SUCCESS:
            raise LinkLost(f"the strap refuses to send its ECG: {pmd.STATUS.get(status, f'status {status}')}")

    async def _ask(self, command: bytes) -> int:
        """Write a command; the status of its answer."""
        await self._client.write_gatt_char(pmd.CONTROL, command, response=True)
        try:
            async with asyncio.timeout(ANSWER_S):
                while (answer := await self._answers.get())[1] != command[0]:
                    pass
        except TimeoutError:
            raise LinkLost(f"the strap did not answer within {ANSWER_S:.0f} s") from None
        return answer[3]

    async def _unless_stopped(self, work: Coroutine[Any, Any, _T]) -> _T:
        """What comes of work that may take long; given up when the driver is to end."""
        task = asyncio.ensure_future(work)
        while not task.done():
            await asyncio.wait({task}, timeout=WAIT_S)
            if self._stop.is_set() and not task.done():
                task.cancel()
                await asyncio.wait({task})
                raise LinkLost("closed while it was being connected to")
        return task.result()

    def _control(self, _: Any, data: bytearray) -> None:
        if data[:1] == bytes([pmd.RESPONSE]) and len(data) >= 4:
            self._answers.put_nowait(bytes(data))
        elif data[:1] == bytes([pmd.STOPPED]) and pmd.ECG in data[1:]:
            self._ended = "the strap stopped sending of itself"

    def _data(self, _: Any, data: bytearray) -> None:
        frame = pmd.parse(bytes(data))
        if frame is None:
            self._strap.refuse(len(data), f"no ECG frame of raw samples: {data[:12].hex(' ')}")
        else:
            self._packets.put_nowait(self._strap.packet(frame, self._touching))

    def _heart_rate(self, _: Any, data: bytearray) -> None:
        self._touching = pmd.contact(bytes(data))

    def _gone(self, _: Any) -> None:
        self._ended = "the strap disconnected, as it does 45 s after it is taken off"


def _explained(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"the strap did not answer in time; {WEAR}"
    if isinstance(error, OSError):
        return f"there is no Bluetooth ({error.strerror or error}): install bluez, and sudo systemctl start bluetooth"
    return f"Bluetooth says {str(error) or type(error).__name__!r}; see whether it is on (bluetoothctl power on)"


def _names(found: Any) -> set[str]:
    """By what a strap may be called: its address, its name, and the last word of that."""
    name = (found.name or "").lower()
    return {found.address.lower(), name, name.rpartition(" ")[2]}


def _straps(heard: Sequence[Any]) -> list[Any]:
    return [device for device in heard if (device.name or "").startswith(MODEL)]


def _only(heard: Sequence[Any]) -> Any:
    straps = _straps(heard)
    if not straps:
        raise LinkLost(f"no {MODEL} is in range; {WEAR}")
    if len(straps) > 1:
        names = ", ".join(sorted(device.name for device in straps))
        raise LinkLost(f'{len(straps)} straps are in range ({names}); name one, as in device = "{straps[0].name[-8:]}"')
    return straps[0]
