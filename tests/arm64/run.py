"""Quantized and float models on emulated 64-bit ARM, held against x86: `make test-arm64`.

Needs Debian's mmdebstrap and qemu-user-static, root for chroot, and half a minute for the root the first time. Numbers
only: emulated times say nothing.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from holdover.apps.model.shipped import shipped as models
from holdover.export.proof import engine_of
from holdover.quantize.method import Made
from holdover.quantize.methods.table import METHODS
from holdover.runtime.engine import initial_state
from tests.arm64.inside import run
from tests.processes import RATE_HZ as DEMO_HZ
from tests.processes import lines_of, signal_mv
from tests.quantize_nets import FAMILIES, RATE_HZ, calibration, ecg, parent

QEMU = Path("/usr/bin/qemu-aarch64-static")
CPUS = ("cortex-a53", "cortex-a72", "max")
"""Without dot products, as a Pi 3 and 4; and with all that there is."""
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
HERE = Path(__file__).parent
SECONDS = 4
TOLERANCE = 1e-4
"""Of the largest difference from x86, in parts of the output's spread."""
SAME = "the same bytes as on x86-64"
WHEELS = ("onnxruntime", "numpy", "msgspec", "paho-mqtt")
"""What the daemon needs."""
UNBOUND = "dynamic-int8"
"""Its ranges follow from the call, so that a last bit can move an integer: one reason why none is made unasked."""


def main() -> int:
    """Make the root if need be, run, show; 1 if a difference is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("build/arm64"), help="where the Debian root is or is made")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args()
    if missing := [n for n in ("mmdebstrap", str(QEMU)) if not shutil.which(n)]:
        print(f"skipped: {' and '.join(missing)} missing; apt-get install mmdebstrap qemu-user-static")
        return 0
    make_root(options.root)
    folder = options.root / "models"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(HERE / "inside.py", options.root / "inside.py")
    cases = list(prepare(folder))
    rows = [row for cpu in CPUS for row in compare(options.root, folder, cases, cpu)]
    show(rows)
    watched = {cpu: watch(options.root, cpu) for cpu in CPUS}
    print(f"the demo's recording, from lines to alerts in the ledger: {watched}")
    if options.json:
        stated = {
            "command": "make test-arm64",
            "date": datetime.now(UTC).date().isoformat(),
            "host": platform.machine(),
        }
        stated |= {name: version(name) for name in ("onnxruntime", "numpy")}
        options.json.write_text(json.dumps(stated | {"watched": watched, "rows": rows}, indent=1) + "\n")
    wrong = [r for r in rows if r["cuts"] or (r["difference"] > TOLERANCE and r["method"] != UNBOUND)]
    for row in wrong:
        print(f"too far apart: {row}")
    return 1 if wrong or set(watched.values()) != {SAME} else 0


def watch(root: Path, cpu: str) -> str:
    """The demo's recording as lines through source, model, rules and ledger, here and there: the same bytes or not."""
    shutil.rmtree(root / "package", ignore_errors=True)
    shutil.copytree(HERE.parent.parent / "src", root / "package", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "watch.py", root / "watch.py")
    there = [
        "chroot",
        str(root),
        f"/{QEMU.name}",
        "-cpu",
        cpu,
        "-E",
        "PYTHONPATH=/site:/package",
        "/usr/bin/python3.11",
    ]
    mine = alerts([sys.executable, str(HERE / "watch.py"), str(emptied(root / "here"))])
    emptied(root / "there")
    theirs = alerts([*there, "/watch.py", "/there"])
    return SAME if mine == theirs else f"DIFFERENT: {theirs[-500:].decode(errors='replace')}"


def emptied(folder: Path) -> Path:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def alerts(command: list[str]) -> bytes:
    """What `watch.py` prints, or why it failed."""
    lines = b"".join(lines_of(signal_mv()))
    done = subprocess.run([*command, f"{DEMO_HZ:g}"], input=lines, capture_output=True, check=False)
    return done.stderr if done.returncode else done.stdout


def show(rows: list[dict[str, Any]]) -> None:
    """The largest difference by machine and method, over the nets."""
    print(f"{'method':<14}" + "".join(f"{cpu:>24}" for cpu in CPUS))
    for method in ("float32", *METHODS):
        of = [[r for r in rows if (r["cpu"], r["method"]) == (cpu, method)] for cpu in CPUS]
        worst = [max(some, key=lambda r: float(r["difference"])) for some in of if some]
        if worst:
            print(f"{method:<14}" + "".join(f"{w['difference']:>9.1e} {w['net']:>14.14}" for w in worst))
    print("blocks of all sizes gave the same bits" if not any(r["cuts"] for r in rows) else "BLOCKS DIFFER")


def make_root(root: Path) -> None:
    """Debian's Python for ARM, and onnxruntime and NumPy as they are here."""
    if (root / "site").is_dir():
        return
    root.mkdir(parents=True, exist_ok=True)
    packages = "--include=python3.11,libstdc++6,libgcc-s1"
    call(["mmdebstrap", "-q", "--variant=extract", "--architectures=arm64", packages, "bookworm", str(root)])
    shutil.copy(QEMU, root / QEMU.name)
    wheels = [f"{name}=={version(name)}" for name in WHEELS]
    platforms = [word for p in PLATFORMS for word in ("--platform", p)]
    where = ["--target", str(root / "site"), "--python-version", "3.11", "--implementation", "cp", *platforms]
    call([sys.executable, "-m", "pip", "install", "-q", "--only-binary=:all:", *where, *wheels])


def call(words: list[str]) -> None:
    """Run, and stop with what it said if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed: {done.stderr[-2000:]}")


def prepare(folder: Path) -> Any:
    """The shipped models, and each net by each method, with inputs, into a folder; (net, method, file) of each."""
    for net, method, data in (*shipped(), *(made for name in FAMILIES for made in by_every_method(name))):
        path = folder / f"{net}.{method}.onnx"
        path.write_bytes(data)
        np.savez(path.with_suffix(".npz"), **inputs(data))
        yield net, method, path


def shipped() -> Iterator[tuple[str, str, bytes]]:
    """The models in the package."""
    for name, path in models().items():
        said = engine_of(path.read_bytes()).contract.document["quantization"]
        yield name.replace("_", "-"), said["method"] if said else "float32", path.read_bytes()


def by_every_method(net: str) -> Iterator[tuple[str, str, bytes]]:
    """A family, and what each method makes of it."""
    yield net, "float32", parent(net).data
    for method, make in METHODS.items():
        made = make(parent(net), calibration())
        if isinstance(made, Made):
            yield net, method, made.model.SerializeToString(deterministic=True)


def inputs(data: bytes) -> dict[str, Any]:
    """Signal, states before the first sample, and sizes of blocks."""
    c = engine_of(data).contract
    first = -(-c.first_chunk_min // c.hop) * c.hop
    state = {f"state:{s.input}": initial_state(c)[s.name] for s in c.states}
    end = {f"state:{c.eos_input}": np.zeros(1, np.int64)} if c.eos_input else {}
    few = max(first, 8 * c.hop)
    samples = int(SECONDS * c.signal.rate_hz) // few * few
    sizes = [few, samples] if c.bitwise else [max(first, c.grid)]
    samples = samples // sizes[0] * sizes[0]
    every = round(RATE_HZ / c.signal.rate_hz)
    return {"x": ecg(SECONDS * every)[None, ::every][:, :samples], "sizes": np.array(sizes), **state, **end}


def compare(root: Path, folder: Path, cases: list[tuple[str, str, Path]], cpu: str) -> list[dict[str, Any]]:
    """Run all in the emulated machine and hold them against this one."""
    inside = ["/usr/bin/python3.11", "/inside.py", f"/{folder.name}"]
    call(["chroot", str(root), f"/{QEMU.name}", "-cpu", cpu, "-E", "PYTHONPATH=/site", *inside])
    rows = []
    for net, method, path in cases:
        with np.load(path.with_suffix(".npz")) as given, np.load(path.with_suffix(".out.npz")) as found:
            state = {n.removeprefix("state:"): given[n] for n in given.files if n.startswith("state:")}
            sizes = [int(n) for n in given["sizes"]]
            here = run(path, given["x"], state, sizes[0])
            gap = max(far(here[k], found[f"{sizes[0]}:{k}"]) for k in here)
            cuts = max(float(np.abs(found[f"{sizes[0]}:{k}"] - found[f"{sizes[-1]}:{k}"]).max()) for k in here)
        rows.append({"cpu": cpu, "net": net, "method": method, "difference": gap, "cuts": cuts})
    return rows


def far(a: Any, b: Any) -> float:
    """Largest difference in parts of the spread."""
    return float(np.abs(a - b).max() / max(float(np.sqrt(a.var(axis=(0, 1)).mean())), 1e-9))


if __name__ == "__main__":
    sys.exit(main())
