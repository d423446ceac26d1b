"""The wires of a small computer: I2C, SPI and one line that says that a sample is ready; and the clock beside them."""

import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, Protocol

from holdover.devices.sources import Found
from holdover.devices.sources.claim import Claim
from holdover.devices.sources.device import LinkLost
from holdover.runtime.errors import SourceError

NOT_THERE = {
    "i2c": "switch I2C on (sudo raspi-config nonint do_i2c 0) and start the machine again",
    "spi": "switch SPI on (sudo raspi-config nonint do_spi 0) and start the machine again",
    "gpio": "name the chip that has the line; gpiodetect lists them",
}


class Register(NamedTuple):
    """What is written to a register of a chip before it measures, and why."""

    name: str
    address: int
    value: int
    why: str


class Closing(Protocol):
    """Something that is let go of."""

    def close(self) -> None:
        """Let go."""
        ...


class I2c(Protocol):
    """One chip on an I2C bus."""

    def read_i2c(self, register: int, n: int) -> bytes:
        """Read n bytes from a register; OSError if nobody answers."""
        ...

    def write_i2c(self, register: int, data: bytes) -> None:
        """Write bytes to a register; OSError if nobody answers."""
        ...

    def close(self) -> None:
        """Let go of the bus."""
        ...


class Spi(Protocol):
    """One chip on an SPI bus."""

    def transfer(self, data: bytes) -> bytes:
        """Send bytes while the chip is selected; as many come back."""
        ...

    def close(self) -> None:
        """Let go of the bus."""
        ...


class ReadyLine(Protocol):
    """A line that a chip pulls low when a sample is ready."""

    def wait(self, timeout_s: float) -> int:
        """How often it was pulled low since the last call; waits for once if it was not, as long as `timeout_s`."""
        ...

    def close(self) -> None:
        """Let go of the line."""
        ...


class Clock:
    """This machine's clock, which is never set."""

    def now(self) -> float:
        """Seconds since any start."""
        return time.monotonic()

    def wait(self, seconds: float, stop: Event) -> None:
        """Wait so long, or until told to stop."""
        stop.wait(max(seconds, 0.0))


class LinuxI2c:
    """A chip on /dev/i2c-N, through smbus2.

    Raises
    ------
    SourceError
        There is no such bus, no right to use it (the message says how to get it), or another stream reads the chip.
    """

    def __init__(self, bus: int, address: int) -> None:
        import smbus2

        self.address = address
        path = f"/dev/i2c-{bus}"
        try:
            self._bus = smbus2.SMBus(bus)
        except OSError as error:
            raise refusal("i2c", path, error) from None
        self._claim = claimed(f"0x{address:02x} of {path}", self._bus)

    def read_i2c(self, register: int, n: int) -> bytes:
        """Read n bytes from a register."""
        return bytes(self._bus.read_i2c_block_data(self.address, register, n))

    def write_i2c(self, register: int, data: bytes) -> None:
        """Write bytes to a register."""
        self._bus.write_i2c_block_data(self.address, register, list(data))

    def close(self) -> None:
        """Let go of the bus."""
        self._bus.close()
        self._claim.close()


class LinuxSpi:
    """A chip on /dev/spidevB.D, through spidev.

    Raises
    ------
    SourceError
        As `LinuxI2c`.
    """

    def __init__(self, bus: int, device: int, mode: int, speed_hz: int) -> None:
        import spidev

        self._spi = spidev.SpiDev()
        path = f"/dev/spidev{bus}.{device}"
        try:
            self._spi.open(bus, device)
        except OSError as error:
            raise refusal("spi", path, error) from None
        self._claim = claimed(path, self._spi)
        self._spi.mode = mode
        self._spi.max_speed_hz = speed_hz

    def transfer(self, data: bytes) -> bytes:
        """Send bytes, and take as many."""
        return bytes(self._spi.xfer2(list(data)))

    def close(self) -> None:
        """Let go of the bus."""
        self._spi.close()
        self._claim.close()


class LinuxLine:
    """An input of /dev/gpiochipN, through gpiod.

    Raises
    ------
    SourceError
        As `LinuxI2c`.
    """

    def __init__(self, chip: int, line: int) -> None:
        import gpiod

        falling = gpiod.LineSettings(edge_detection=gpiod.line.Edge.FALLING)
        path = f"/dev/gpiochip{chip}"
        try:
            self._request: Any = gpiod.request_lines(path, consumer="holdover", config={line: falling})
        except (OSError, ValueError) as error:  # ValueError: a line that the chip does not have
            raise refusal("gpio", path, error) from None
        self._seen = 0

    def wait(self, timeout_s: float) -> int:
        """How often the line fell since the last call, also where the kernel could not keep each fall."""
        if not self._request.wait_edge_events(timeout_s):
            return 0
        seen, self._seen = self._seen, int(self._request.read_edge_events()[-1].line_seqno)
        return self._seen - seen

    def close(self) -> None:
        """Let go of the line."""
        self._request.release()


def i2c_buses(folder: Path = Path("/dev")) -> list[int]:
    """The I2C buses of this machine."""
    return sorted(numbers[0] for numbers in _numbered(folder, r"i2c-(\d+)"))


def spi_places(folder: Path = Path("/dev")) -> list[Found]:
    """Where a chip can be on SPI: every bus and chip select that is switched on; whether one is there is not asked."""
    places = sorted(_numbered(folder, r"spidev(\d+)\.(\d+)"))
    return [Found(f"SPI bus {bus}, chip select {device}", {"bus": bus, "device": device}) for bus, device in places]


def _numbered(folder: Path, pattern: str) -> Iterator[list[int]]:
    for path in folder.iterdir():
        if match := re.fullmatch(pattern, path.name):
            yield [int(number) for number in match.groups()]


def refusal(wires: str, path: str, error: Exception) -> SourceError:
    """Why a bus cannot be opened, and what to do."""
    if isinstance(error, PermissionError):
        group = _group(path) or wires
        return SourceError(f"{path} belongs to group {group}: sudo usermod -aG {group} $USER, then log in again")
    if isinstance(error, FileNotFoundError):
        return SourceError(f"there is no {path}: {NOT_THERE[wires]}")
    return SourceError(f"{path} cannot be opened ({error}); see that no other program or kernel driver has it")


def claimed(device: str, wires: Closing) -> Claim:
    """A device that no other stream reads; SourceError if one does, and the wires are let go of."""
    try:
        return Claim(device)
    except LinkLost as error:
        wires.close()
        raise SourceError(str(error)) from None


def checked_index(value: Any, option: str, most: int, whose: str) -> int:
    """The number of a bus, a chip select or a line; SourceError if it is none from 0 to `most`."""
    if type(value) is not int or not 0 <= value <= most:
        raise SourceError(f"{whose}: {option} = {value!r} cannot be; expected a number from 0 to {most}")
    return value


def checked_choice(value: Any, option: str, known: Sequence[Any], whose: str) -> None:
    """SourceError if an option is none of those that are known."""
    if value not in known or isinstance(value, bool) != isinstance(known[0], bool):
        raise SourceError(f"{whose}: {option} = {value!r} cannot be; expected one of {', '.join(map(str, known))}")


def _group(path: str) -> str:
    try:
        return Path(path).group()
    except (OSError, KeyError):
        return ""
