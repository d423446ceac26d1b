"""A process that serves models as the daemon does, without limits: it loads what it is told of and watches a signal."""

import os
import select
import subprocess
import sys
import time
from pathlib import Path

SERVE = """
import sys
import numpy as np
from holdover.runtime.alert import Scene
from holdover.runtime.chunk import Chunk
from holdover.runtime.engine import load
from holdover.runtime.snapshot import pack
from holdover.runtime.watch import Watch, model_id

print("up", flush=True)
for line in sys.stdin:
    engine = load(line.strip())
    leads = len(engine.contract.signal.channels)
    rate_hz = engine.contract.signal.rate_hz * 3
    watch = Watch(engine, Scene(stream="s", lead="I", rate_hz=rate_hz, epoch=0.0, model=model_id(engine)))
    rng, at = np.random.default_rng(0), 0
    for size in (1, 7, 250, 3, 1000, 400):
        x = np.cumsum(rng.normal(0, 0.05, (size, leads)), axis=0).astype(np.float32)
        for alert in watch.push(Chunk(at, x)).alerts:
            alert.body_json()
        at += size
    pack(watch.snapshot())
    watch.finish()
    print("served", flush=True)
"""


class Server:
    """Reused until a model ends it; `serve` says whether it lives on."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.said = ""

    def serve(self, path: Path, wall_s: float = 20.0) -> bool:
        """Whether the process has served the model and is still there: no crash, no exception, no hanging."""
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        self._process.stdin.write(os.fsencode(path) + b"\n")
        self._process.stdin.flush()
        if self._line(wall_s) == b"served\n":
            return True
        self._process.kill()
        _, talk = self._process.communicate()
        self.said = talk.decode(errors="replace").strip()[-300:]
        self._process = None
        return False

    def _start(self) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", SERVE], stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
        assert self._line(60.0) == b"up\n"
        return self._process

    def _line(self, wall_s: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        until, found = time.monotonic() + wall_s, b""
        while not found.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], max(until - time.monotonic(), 0))[0]:
                return b"late"
            part = os.read(self._process.stdout.fileno(), 64)
            if not part:
                return b"gone"
            found += part
        return found

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.kill()
            self._process.communicate()
        self._process = None
