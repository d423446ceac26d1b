"""What Linux says of the machine: its processor, memory, file systems, heat and clock; None where it does not tell."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
SECTOR = 512
"""Bytes that /sys/block counts in, whatever the device."""
HELD_BACK = {
    0: "the voltage is too low",
    1: "its clock is capped",
    2: "it is throttled",
    3: "it is at the soft limit of its temperature",
}
"""Bits of a Raspberry Pi's get_throttled that speak of now; 16 bits further on, the same since it was started."""


class Disk(NamedTuple):
    """A block device: its name, what it is ("sd", "emmc", "nvme", "disk"), bytes, bytes written since the start, and
    how much of its life a maker's own estimate says is used, percent (eMMC alone tells)."""

    name: str
    kind: str
    size: int
    written: int
    life_used: int | None


def cpu_flags(root: Path = ROOT) -> frozenset[str]:
    """Features of the processor by the names of /proc/cpuinfo."""
    for line in _text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def model_name(root: Path = ROOT) -> str | None:
    """What the board is called: by the device tree, or the firmware of a PC."""
    for place in ("proc/device-tree/model", "sys/class/dmi/id/product_name"):
        if text := _text(root / place).strip("\0\n "):
            return text
    return None


def available_mb(root: Path = ROOT) -> float | None:
    """Memory that can be had without swapping, MB."""
    return _memory_mb(root / "proc/meminfo", "MemAvailable:")


def total_mb(root: Path = ROOT) -> float | None:
    """Memory that there is, MB."""
    return _memory_mb(root / "proc/meminfo", "MemTotal:")


def file_system(place: Path) -> str:
    """Kind of the file system that a place lies on, such as ext4 or tmpfs."""
    return _mount(place)[1]


def disk_under(place: Path, root: Path = ROOT) -> Disk | None:
    """The block device that a place lies on."""
    device = _mount(place, root)[0].removeprefix("/dev/")
    node = (root / "sys/class/block" / device).resolve()
    if not device or not node.is_dir():
        return None
    whole = node.parent if (node / "partition").exists() else node
    size = _number(_text(whole / "size"))
    written = _number(" ".join(_text(whole / "stat").split()[6:7]))
    if size is None or written is None:
        return None
    return Disk(whole.name, _kind(whole), round(size) * SECTOR, round(written) * SECTOR, _life_used(whole))


def uptime_s(root: Path = ROOT) -> float | None:
    """Seconds since the machine was started."""
    return _number(_text(root / "proc/uptime"))


def governors(root: Path = ROOT) -> frozenset[str]:
    """The cores' frequency governors; none where frequencies cannot be set, as in a virtual machine."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    return frozenset(text for file in files if (text := _text(file).strip()))


def kernel_clock() -> bool | None:
    """Whether the kernel's clock is disciplined (adjtimex(2), STA_UNSYNC)."""
    import ctypes

    timex = ctypes.create_string_buffer(512)
    try:
        answer = ctypes.CDLL(None).adjtimex(timex)
    except (AttributeError, OSError):
        return None
    # struct timex on 64-bit Linux: modes (4, padded to 8), offset, freq, maxerror, esterror, then status
    status = int.from_bytes(timex.raw[40:44], sys.byteorder)
    return None if answer < 0 else not status & 0x40


def resident_mb() -> float | None:
    """Memory that this process holds, MB."""
    return _memory_mb(ROOT / "proc/self/status", "VmRSS:")


def temperature_c(root: Path = ROOT) -> float | None:
    """Of the processor (the first thermal zone), degrees Celsius."""
    millis = _number(_text(root / "sys/class/thermal/thermal_zone0/temp"))
    return None if millis is None else millis / 1000


def throttled(root: Path = ROOT) -> bool | None:
    """Whether a Raspberry Pi is held back now by heat or low voltage; None on other machines."""
    flags = throttle_flags(root)
    return None if flags is None else bool(flags & 0xF)


def throttle_flags(root: Path = ROOT) -> int | None:
    """What a Raspberry Pi's firmware says of being held back, bits as in `HELD_BACK`; None on other machines."""
    try:
        return int(_text(root / "sys/devices/platform/soc/soc:firmware/get_throttled").strip(), 16)
    except ValueError:
        return None


def _memory_mb(file: Path, name: str) -> float | None:
    lines = (line.partition(name) for line in _text(file).splitlines())
    kilobytes = next((_number(value) for before, found, value in lines if found and not before), None)
    return None if kilobytes is None else kilobytes / 1024


def _mount(place: Path, root: Path = ROOT) -> tuple[str, str]:
    """The device and the kind of the file system that holds a place."""
    lines = (line.split() for line in _text(root / "proc/mounts").splitlines())
    mounts = [words[:3] for words in lines if len(words) >= 3]
    above = [(len(mount), device, kind) for device, mount, kind in mounts if place.resolve().is_relative_to(mount)]
    return max(above, default=(0, "", "unknown"))[1:]


def _kind(block: Path) -> str:
    if block.name.startswith("mmcblk"):
        return "sd" if _text(block / "device/type").strip() == "SD" else "emmc"
    return "nvme" if block.name.startswith("nvme") else "disk"


def _life_used(block: Path) -> int | None:
    """The worse of an eMMC's two estimates (JEDEC JESD84-B51, DEVICE_LIFE_TIME_EST), in steps of ten percent."""
    steps = list(_hexadecimal(_text(block / "device/life_time")))
    return 10 * max(steps) if steps and 0 < max(steps) <= 11 else None


def _number(text: str) -> float | None:
    """The first word as a number; None if it is none, or none that can be."""
    try:
        value = float(text.split()[0])
    except (IndexError, ValueError):
        return None
    return value if abs(value) < 1e18 else None


def _hexadecimal(text: str) -> Iterator[int]:
    for word in text.split():
        try:
            yield int(word, 16)
        except ValueError:
            return


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
