"""What of a machine matters here: each check a pure function of what was read to a `Finding`."""

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from holdover.devices.boards import board, host
from holdover.devices.boards.finding import Finding, Grade

X86_SLOW: Mapping[tuple[str, ...], str] = {
    ("avx2",): "float32 and int8 arithmetic falls back to older, narrower instructions",
    ("avx512_vnni", "avx_vnni"): "int8 models are slower than they could be; the shipped one is float32",
}
ARM_SLOW: Mapping[tuple[str, ...], str] = {
    ("asimddp",): "int8 models have no dot product and are slower; the shipped one is float32",
    ("i8mm",): "int8 models do without the matrix instructions; the shipped one is float32",
}
NAMED = {
    "avx": "avx", "avx2": "avx2", "fma": "fma", "avx512f": "avx512f", "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni", "asimd": "NEON (asimd)", "asimddp": "dot product (asimddp)", "asimdhp": "asimdhp",
    "i8mm": "i8mm", "sve": "sve",
}  # fmt: skip
"""Features of a processor that arithmetic is written for, by the names of /proc/cpuinfo."""
HOT_C, TOO_HOT_C = 70.0, 80.0
"""A Raspberry Pi caps its clock from 80 degrees on, some models from 60 (raspberrypi.com, frequency and thermal
management)."""
SLOW_GOVERNORS = frozenset({"powersave"})
LIFE_USED = 80
"""Percent of a device's life by its own estimate from which on it should be replaced."""


def examine(place: Path) -> Iterator[Finding]:
    """Every check of this machine in turn; `place` is where the ledger goes."""
    yield machine(host.model_name(), host.total_mb())
    yield python_itself(sys.version_info[:3], sys.maxsize > 2**32, platform.machine())
    yield cpu(host.cpu_flags(), platform.machine())
    yield load(len(os.sched_getaffinity(0)), os.getloadavg()[0])
    yield governor(host.governors())
    yield heat(host.temperature_c(), host.throttle_flags())
    yield memory(host.available_mb())
    yield storage(host.disk_under(place), host.uptime_s())
    yield clock(host.kernel_clock())


def machine(name: str | None, total_mb: float | None) -> Finding:
    """What this is, and what is taken here where nothing is said."""
    mine = board.defaults()
    memory = "" if total_mb is None else f", {total_mb:,.0f} MB"
    what = (
        f"{name or 'without a name'}{memory}; where nothing is said: a checkpoint each {mine.checkpoint_s:g} s, calls "
        f"of the model with {mine.gather_s:g} s of a live signal; with -j 0, {mine.threads or 'as many'} recordings "
        f"side by side{'' if mine.threads else ' as there are cores'}"
    )
    return Finding("ok", "board", what, values={"board": name, "total_mb": total_mb})


def python_itself(version: tuple[int, ...], is_64_bit: bool, architecture: str = "") -> Finding:
    """The interpreter."""
    what = f"{'.'.join(map(str, version))}, {64 if is_64_bit else 32}-bit"
    if version >= (3, 11) and is_64_bit:
        return Finding("ok", "python", what)
    why = "holdover needs Python 3.11 or later, and onnxruntime has no wheels for 32-bit systems"
    if not is_64_bit and architecture in ("aarch64", "x86_64"):
        why += f"; the kernel is a 64-bit one ({architecture}), the system on it is not"
    return Finding("bad", "python", what, why, "install a 64-bit system with Python 3.11 or later")


def cpu(flags: frozenset[str], architecture: str) -> Finding:
    """What the processor can do that arithmetic is written for; flags as in /proc/cpuinfo."""
    has = ", ".join(words for name, words in NAMED.items() if name in flags)
    slow = {"x86_64": X86_SLOW, "AMD64": X86_SLOW, "aarch64": ARM_SLOW}.get(architecture)
    if slow is None or not flags:
        why = "holdover is written for x86-64 and 64-bit ARM; what is fast here is not known"
        return Finding("note", "cpu", f"{architecture}, features unknown", why, "see the cost of a step below")
    lacks = {names: why for names, why in slow.items() if not flags.intersection(names)}
    what = f"{architecture}: {has or 'none of the features looked for'}"
    if not lacks:
        return Finding("ok", "cpu", what)
    missing = ", ".join(" or ".join(names) for names in lacks)
    mend = "nothing to install: see the cost of a step below"
    return Finding("note", "cpu", f"{what}; without {missing}", "; ".join(lacks.values()), mend)


def load(cores: int, load_1min: float) -> Finding:
    """How many cores this process may use, and how busy they are."""
    what = f"{cores} for this process, load {load_1min:.2f} over the last minute"
    if load_1min <= cores:
        return Finding("ok", "cores", what, values={"cores": cores, "load_1min": load_1min})
    why = "steps wait for their turn, and alerts come late"
    return Finding("note", "cores", what, why, "see with top what runs", {"cores": cores, "load_1min": load_1min})


def governor(found: frozenset[str]) -> Finding:
    """Who sets the cores' frequency."""
    what = ", ".join(sorted(found)) or "frequencies cannot be set here"
    values = {"governors": sorted(found)}
    if not found & SLOW_GOVERNORS:
        return Finding("ok", "governor", what, values=values)
    why = "the cores stay at their lowest frequency, and a step takes several times as long"
    mend = "echo ondemand | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return Finding("note", "governor", what, why, mend, values)


def heat(temperature_c: float | None, throttle_flags: int | None) -> Finding:
    """Temperature of the processor, degrees Celsius, and what a Raspberry Pi says of being held back."""
    flags = throttle_flags or 0
    now = [words for bit, words in host.HELD_BACK.items() if flags >> bit & 1]
    once = [words for bit, words in host.HELD_BACK.items() if flags >> (bit + 16) & 1 and words not in now]
    degrees = "no thermometer" if temperature_c is None else f"{temperature_c:.0f} degrees Celsius"
    what = "; ".join([degrees, *(f"now {words}" for words in now), *(f"since the start: {words}" for words in once)])
    values = {"temperature_c": temperature_c, "throttle_flags": throttle_flags}
    if flags & 1 or flags >> 16 & 1:
        why = "samples are lost and SD cards corrupted when the voltage sags"
        return Finding("bad" if flags & 1 else "note", "heat", what, why, "use the supply made for this board", values)
    hot = temperature_c is not None and temperature_c >= HOT_C
    if not (hot or now or once):
        return Finding("ok", "heat", what, values=values)
    grade: Grade = "bad" if temperature_c is not None and temperature_c >= TOO_HOT_C else "note"
    return Finding(grade, "heat", what, "a hot processor slows itself down", "add a heat sink or a fan", values)


def memory(available_mb: float | None) -> Finding:
    """RAM that a new process could have, MiB."""
    if available_mb is None:
        return Finding("note", "memory", "cannot be read", "too little of it ends the daemon", "see with free -m")
    what, values = f"{available_mb:,.0f} MB available", {"available_mb": round(available_mb)}
    if available_mb >= 256:
        return Finding("ok", "memory", what, values=values)
    grade: Grade = "note" if available_mb >= 96 else "bad"
    return Finding(grade, "memory", what, "the system ends processes when none is left", "stop what else runs", values)


def storage(disk: host.Disk | None, uptime_s: float | None) -> Finding:
    """What the ledger lies on, how much all programs write to it, and what its maker says of its age."""
    if disk is None:
        return Finding("ok", "storage", "not a block device of its own: its wear is not seen from here")
    kind = {"sd": "SD card", "emmc": "eMMC", "nvme": "NVMe"}.get(disk.kind, "disk")
    what = f"{kind} {disk.name}, {disk.size / 1e9:,.0f} GB"
    values: dict[str, Any] = {"disk": disk.name, "kind": disk.kind, "life_used_percent": disk.life_used}
    if uptime_s:
        written_mb = disk.written / 1e6
        a_day = written_mb * 86_400 / uptime_s
        what += f"; all programs wrote {written_mb:,.0f} MB in {uptime_s / 3600:,.1f} h, {a_day:,.0f} MB a day"
        values["written_mb_day"] = round(a_day, 1)
    if disk.life_used is None:
        return Finding("ok", "storage", what, values=values)
    what += f"; {disk.life_used} % of its life is used, it says"
    if disk.life_used < LIFE_USED:
        return Finding("ok", "storage", what, values=values)
    why = "a worn device loses what was written last, or turns read-only"
    return Finding("bad", "storage", what, why, "copy the system to a new one now", values)


def clock(is_synchronised: bool | None) -> Finding:
    """Whether the system's clock follows a reference."""
    why = "times in alerts may be wrong; detection itself runs on the sample clock"
    mend = "timedatectl set-ntp true, or see chronyc tracking"
    if is_synchronised:
        return Finding("ok", "clock", "synchronised")
    what = "cannot tell whether it is synchronised" if is_synchronised is None else "not synchronised"
    return Finding("note", "clock", what, why, mend)
