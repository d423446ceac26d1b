"""Cold start and resident memory of the daemon with one stream, beside bare imports, interleaved.

A TCP source of text lines at 360 Hz feeds the daemon for some seconds; no broker is there, which is its hardest start.
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from machine import keep, stated

PEERS = {
    "numpy + onnxruntime": "import numpy, onnxruntime",
    "... + paho-mqtt + msgspec": "import numpy, onnxruntime, paho.mqtt.client, msgspec, sqlite3",
    "... + scipy.signal": "import numpy, onnxruntime, paho.mqtt.client, msgspec, sqlite3, scipy.signal",
}


def main() -> int:
    """Run, print a table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of streaming before memory is read")
    args = parser.parse_args()
    rows: dict[str, list[tuple[float, float]]] = {}
    for _ in range(args.rounds):
        rows.setdefault("holdover run", []).append(_daemon(args.seconds))
        for name, code in PEERS.items():
            rows.setdefault(name, []).append(_imports(code))
    print(f"{'':<28}{'ready, s':>10}{'resident, MB':>14}   median of {args.rounds}")
    medians = {name: [statistics.median(column) for column in zip(*pairs, strict=True)] for name, pairs in rows.items()}
    for name, (ready_s, resident_mb) in medians.items():
        print(f"{name:<28}{ready_s:>10.2f}{resident_mb:>14.1f}")
    print(f"kept in {keep('cold', stated() | {'ready_s_resident_mb': rows, 'median': medians})}")
    return 0


def _daemon(seconds: float) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=_feed, args=(server, seconds + 10), daemon=True).start()
        config = Path(folder) / "c.toml"
        config.write_text(
            '[mqtt]\nport = 9\n[[streams]]\nid = "a"\n'
            f'source = {{ kind = "tcp", port = {port}, rate_hz = 360, leads = "MLII" }}\n'
        )
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "holdover", "run", str(config)], stderr=subprocess.PIPE)
        assert process.stderr is not None
        for line in process.stderr:
            if b"ready" in line:
                break
        ready_s = time.perf_counter() - began
        time.sleep(seconds)
        resident = _resident_mb(process.pid)
        process.terminate()
        process.wait()
        process.stderr.close()
        return ready_s, resident


def _feed(server: socket.socket, seconds: float) -> None:
    sender, _ = server.accept()
    with sender:
        try:
            for i in range(int(seconds * 10)):
                sender.sendall(b"".join(b"%.3f\n" % (0.01 * ((i * 36 + k) % 97)) for k in range(36)))
                time.sleep(0.1)
        except OSError:
            return


def _imports(code: str) -> tuple[float, float]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(1, flush=True); import time; time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    ready_s, resident = time.perf_counter() - began, _resident_mb(process.pid)
    process.kill()
    process.wait()
    process.stdout.close()
    return ready_s, resident


def _resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
