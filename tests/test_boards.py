"""What a machine says of itself, read from trees laid out as Linux lays them out; and the advice drawn from it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.apps import cli
from holdover.devices.boards import advice, board, host

BLOCK = "sys/devices/platform/mmc/block"
PI = {
    "proc/device-tree/model": "Raspberry Pi Zero 2 W Rev 1.0\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU part\t: 0xd03\n",
    "proc/meminfo": "MemTotal:         430000 kB\nMemFree: 1 kB\nMemAvailable:     102400 kB\n",
    "proc/mounts": "/dev/mmcblk0p2 / ext4 rw,noatime 0 0\ntmpfs /run tmpfs rw 0 0\n",
    "proc/uptime": "86400.00 300000.00\n",
    "sys/class/thermal/thermal_zone0/temp": "61200\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "ondemand\n",
    f"{BLOCK}/mmcblk0/size": "62500000\n",
    f"{BLOCK}/mmcblk0/stat": "1 2 3 4 5 6 2000000 8 9 10 11\n",
    f"{BLOCK}/mmcblk0/device/type": "SD\n",
    f"{BLOCK}/mmcblk0/mmcblk0p2/partition": "2\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    """A machine's /proc and /sys, as far as these files go."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if (root / BLOCK).is_dir():
        (root / "sys/class/block").mkdir(parents=True)
        (root / "sys/class/block/mmcblk0p2").symlink_to(root / BLOCK / "mmcblk0/mmcblk0p2")
    return root


@pytest.fixture
def pi(tmp_path: Path) -> Path:
    """A Raspberry Pi Zero 2 W on a weak supply."""
    return tree(tmp_path, PI)


def test_a_raspberry_pi_is_read_as_what_it_is(pi: Path) -> None:
    assert host.model_name(pi) == "Raspberry Pi Zero 2 W Rev 1.0"
    assert "asimd" in host.cpu_flags(pi)
    assert (host.total_mb(pi), host.available_mb(pi)) == (pytest.approx(419.9, abs=0.1), 100.0)
    assert host.temperature_c(pi) == 61.2
    assert (host.throttle_flags(pi), host.throttled(pi)) == (0x50005, True)
    assert host.governors(pi) == {"powersave", "ondemand"}
    assert host.uptime_s(pi) == 86400


def test_the_disk_under_a_place_is_the_whole_device_of_its_partition(pi: Path) -> None:
    assert host.disk_under(Path("/"), pi) == host.Disk("mmcblk0", "sd", 32_000_000_000, 1_024_000_000, None)


def test_an_emmc_tells_how_much_of_its_life_is_used(tmp_path: Path) -> None:
    files = {**PI, f"{BLOCK}/mmcblk0/device/type": "MMC\n", f"{BLOCK}/mmcblk0/device/life_time": "0x03 0x09\n"}
    disk = host.disk_under(Path("/"), tree(tmp_path, files))
    assert disk is not None
    assert (disk.kind, disk.life_used) == ("emmc", 90)
    assert advice.storage(disk, 60.0).grade == "bad"


@pytest.mark.parametrize("text", ["", "garbage", "0x00 0x00", "0xff 0xff", "nothing 0x01"])
def test_an_estimate_that_says_nothing_is_none(tmp_path: Path, text: str) -> None:
    files = {**PI, f"{BLOCK}/mmcblk0/device/type": "MMC\n", f"{BLOCK}/mmcblk0/device/life_time": text}
    disk = host.disk_under(Path("/"), tree(tmp_path, files))
    assert disk is not None
    assert disk.life_used is None


@pytest.mark.parametrize("name", sorted(PI))
@pytest.mark.parametrize("text", ["", "\0", "garbage", "-1", "9" * 400])
def test_whatever_a_file_says_nothing_is_raised(tmp_path: Path, name: str, text: str) -> None:
    root = tree(tmp_path, {**PI, name: text})
    for read in (
        host.model_name, host.cpu_flags, host.available_mb, host.total_mb, host.uptime_s, host.governors,
        host.temperature_c, host.throttled, host.throttle_flags, board.known, board.defaults,
    ):  # fmt: skip
        read(root)
    host.disk_under(Path("/"), root)


def test_a_machine_that_says_nothing_is_none_of_the_boards(tmp_path: Path) -> None:
    assert (host.model_name(tmp_path), host.available_mb(tmp_path), host.disk_under(Path("/"), tmp_path)) == (None,) * 3
    assert board.known(tmp_path) is None
    assert board.defaults(tmp_path) == board.OTHER


@pytest.mark.parametrize("mine", board.BOARDS, ids=lambda b: b.name)
def test_each_board_is_known_by_its_name_and_has_its_defaults(tmp_path: Path, mine: board.Board) -> None:
    root = tree(tmp_path, {"proc/device-tree/model": f"{mine.name} Model B Rev 1.2\0"})
    assert board.known(root) == mine
    assert board.defaults(root) == mine.defaults


def test_a_nameless_machine_on_a_card_is_written_less_often(tmp_path: Path) -> None:
    files = {name: text for name, text in PI.items() if "model" not in name and "meminfo" not in name}
    assert board.defaults(tree(tmp_path, files)) == board.Defaults(0, 0.1, 60.0)


def test_this_machine_is_examined_without_an_error() -> None:
    found = {f.check: f for f in advice.examine(Path.cwd())}
    assert list(found) == [
        "board", "python", "cpu", "cores", "governor", "heat", "memory", "storage", "clock",
    ]  # fmt: skip
    assert all(f.why and f.mend for f in found.values() if f.grade != "ok")
    assert found["cores"].values["cores"] == len(os.sched_getaffinity(0))


def test_an_old_python_or_a_32_bit_one_is_bad() -> None:
    assert advice.python_itself((3, 10, 1), True).grade == "bad"
    assert advice.python_itself((3, 11, 0), True).grade == "ok"
    narrow = advice.python_itself((3, 12, 0), False, "aarch64")
    assert narrow.grade == "bad"
    assert "the kernel is a 64-bit one (aarch64)" in narrow.why


@pytest.mark.parametrize(
    ("flags", "machine", "grade", "word"),
    [
        ("fma avx2 avx512_vnni", "x86_64", "ok", "avx512_vnni"),
        ("fma avx2 avx_vnni", "x86_64", "ok", "avx_vnni"),
        ("sse4_2 avx", "x86_64", "note", "without avx2"),
        ("asimd asimddp i8mm", "aarch64", "ok", "dot product"),
        ("asimd", "aarch64", "note", "without asimddp, i8mm"),
        ("", "aarch64", "note", "unknown"),
        ("x", "riscv64", "note", "unknown"),
    ],
)
def test_a_processor_without_the_fast_instructions_is_noted(flags: str, machine: str, grade: str, word: str) -> None:
    found = advice.cpu(frozenset(flags.split()), machine)
    assert found.grade == grade
    assert word in found.what


def test_a_machine_that_is_busy_is_noted() -> None:
    assert [advice.load(2, x).grade for x in (0.5, 2.5)] == ["ok", "note"]


def test_cores_kept_slow_are_noted_with_the_command_that_mends_it() -> None:
    assert [advice.governor(frozenset(x)).grade for x in ((), {"ondemand"}, {"ondemand", "powersave"})] == [
        "ok", "ok", "note",
    ]  # fmt: skip
    assert "scaling_governor" in advice.governor(frozenset({"powersave"})).mend


@pytest.mark.parametrize(
    ("degrees", "flags", "grade", "words"),
    [
        (None, None, "ok", "no thermometer"),
        (48.0, 0, "ok", "48 degrees"),
        (72.0, 0, "note", "72 degrees"),
        (84.0, 0x8, "bad", "now it is at the soft limit"),
        (50.0, 0x1, "bad", "now the voltage is too low"),
        (50.0, 0x10000, "note", "since the start: the voltage is too low"),
        (50.0, 0x40004, "note", "now it is throttled"),
    ],
)
def test_heat_and_low_voltage_are_told(degrees: float | None, flags: int | None, grade: str, words: str) -> None:
    found = advice.heat(degrees, flags)
    assert found.grade == grade
    assert words in found.what


def test_little_memory_is_noted_and_hardly_any_is_bad() -> None:
    assert [advice.memory(x).grade for x in (900.0, 200.0, 50.0, None)] == ["ok", "note", "bad", "note"]


def test_what_a_card_takes_in_a_day_is_told() -> None:
    found = advice.storage(host.Disk("mmcblk0", "sd", 32 * 10**9, 500 * 10**6, None), 43_200.0)
    assert "SD card mmcblk0, 32 GB; all programs wrote 500 MB in 12.0 h, 1,000 MB a day" in found.what
    assert advice.storage(None, None).grade == "ok"


def test_a_clock_that_runs_free_is_noted_and_never_bad() -> None:
    assert [advice.clock(x).grade for x in (True, False, None)] == ["ok", "note", "note"]


def test_on_32_bits_a_command_that_needs_a_model_says_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "maxsize", 2**31 - 1)
    assert cli.main(["replay", "100"]) == 2
    said = capsys.readouterr().err
    assert "32-bit" in said
    assert "64-bit image" in said


def test_as_many_processes_as_the_board_bears(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("ECG\n" + "0.1\n" * 400)
    command = [sys.executable, "-m", "holdover.apps.cli", "replay", str(tmp_path), "-j", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "--jobs" not in done.stderr
    assert subprocess.run([*command[:-1], "-1"], capture_output=True, timeout=60).returncode == 2
