"""What Linux says of the machine: its processor, memory, file systems and clock."""

import sys
from pathlib import Path


def cpu_flags() -> frozenset[str]:
    """Features of the processor by the names of /proc/cpuinfo."""
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def available_mb() -> float | None:
    """Memory that can be had without swapping, MB; None if Linux does not tell."""
    lines = (line.split() for line in _text("/proc/meminfo").splitlines())
    return next((int(words[1]) / 1024 for words in lines if words and words[0] == "MemAvailable:"), None)


def file_system(place: Path) -> str:
    """Kind of the file system that a place lies on, such as ext4 or tmpfs."""
    mounts = [line.split()[1:3] for line in _text("/proc/mounts").splitlines()]
    above = [(mount, kind) for mount, kind in mounts if place.resolve().is_relative_to(mount)]
    return max(above, key=lambda m: len(m[0]))[1] if above else "unknown"


def kernel_clock() -> bool | None:
    """Whether the kernel's clock is disciplined (adjtimex(2), STA_UNSYNC); None if it cannot be asked."""
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
    """Memory that this process holds, MB; None if Linux does not tell."""
    lines = (line.split() for line in _text("/proc/self/status").splitlines())
    return next((int(words[1]) / 1024 for words in lines if words and words[0] == "VmRSS:"), None)


def temperature_c() -> float | None:
    """Of the processor (the first thermal zone), degrees Celsius; None where there is none."""
    text = _text("/sys/class/thermal/thermal_zone0/temp").strip()
    return int(text) / 1000 if text.lstrip("-").isdigit() else None


def throttled() -> bool | None:
    """Whether a Raspberry Pi is held back now by heat or low voltage (bits 0 to 3); None on other machines."""
    text = _text("/sys/devices/platform/soc/soc:firmware/get_throttled").strip()
    try:
        return bool(int(text, 16) & 0xF)
    except ValueError:
        return None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
