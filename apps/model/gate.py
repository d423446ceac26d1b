"""The gate before a model file is loaded: its bytes are examined here, then it is tried in a process of its own."""

import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from holdover.apps.model.gate_child import LENGTH
from holdover.runtime.errors import ModelError
from holdover.runtime.model_gate import EXPORT, Refusal, Verdict, examine

if TYPE_CHECKING:
    from holdover.apps.model.manifest import Golden, Stated
    from holdover.apps.model.trial import Report

START_S = 120.0
KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR")
"""All of the environment that the child gets: it has no business with credentials."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a trial may take: address space beyond the child's own and several times the file, CPU time, time."""

    memory_mb: int = 1024
    cpu_s: int = 30
    wall_s: float = 120.0


class Gate:
    """Judges model files; keeps one child for several, until one kills it. A context manager.

    Examples
    --------
    >>> from holdover.apps.model.shipped import find_model
    >>> with Gate() as gate:
    ...     verdict = gate.judge(find_model().read_bytes())
    >>> verdict.accepted, verdict.checks[-1]
    (True, 'watch')
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget or Budget()
        self._child: _Child | None = None
        self.deaths = 0
        self.given: Golden | None = None

    def judge(self, data: bytes, stated: "Stated | None" = None, *, hand_back: bool = False) -> Verdict:
        """Examine a file's bytes, then try them.

        Parameters
        ----------
        data
            The file.
        stated
            Its manifest, the signature checked already; None where there is none.
        hand_back
            Whether to leave what the model gave in `given`, for a manifest.
        """
        manifest = stated.manifest if stated else None
        verdict = examine(data, manifest.sha256 if manifest else None)
        if not verdict.accepted:
            return verdict
        report = self._try(data, verdict.sha256, manifest.golden if manifest else None, hand_back)
        self.given = report.golden
        facts = verdict.facts | {"trial_cpu_s": round(report.cpu_s, 3), "share_of_time": round(report.share_of_time, 4)}
        return replace(verdict, checks=verdict.checks + report.checks, refusal=report.refusal, facts=facts)

    def _try(self, data: bytes, sha256: str, golden: "Golden | None", hand_back: bool) -> "Report":
        import msgspec

        from holdover.apps.model.trial import Order, Report

        b = self._budget
        memory_mb = b.memory_mb + 4 * (len(data) >> 20)
        order = Order(data, sha256, golden, hand_back, memory_mb, b.cpu_s)
        message = msgspec.msgpack.encode(order)
        used = self._child is not None
        refusal = None
        for _ in range(1 + used):  # what an earlier file left broken in the child is not held against this one
            self._child = self._child or _Child()
            answer = self._child.ask(message, b.wall_s)
            if answer is not None:
                return msgspec.msgpack.decode(answer, type=Report)
            refusal = self._child.obituary(b, memory_mb)
            self.deaths += 1
            self.close()
        assert refusal is not None
        return Report(failed=refusal.check, found=refusal.found, do=refusal.do)

    def close(self) -> None:
        """End the child."""
        if self._child:
            self._child.end()
        self._child = None

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Child:
    """The other process, and the two pipes to it."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in KEPT if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "holdover.apps.model.gate_child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, cwd="/",
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self.late = False
        if self._read(time.monotonic() + START_S) is None:
            code = self._process.poll()
            self.end()
            raise ModelError(
                f"the process that tries model files did not start (exit code {code}): check the installation with "
                "'holdover doctor'"
            )

    def ask(self, order: bytes, wall_s: float) -> bytes | None:
        """Send an order and wait for its report; None if the process died of it, or was late and had to be killed."""
        until = time.monotonic() + wall_s
        try:
            answer = self._read(until) if self._write(LENGTH.pack(len(order)) + order, until) else None
        except (BrokenPipeError, ConnectionResetError):
            answer = None
        self.late = answer is None and time.monotonic() >= until
        return answer

    def obituary(self, budget: Budget, memory_mb: int) -> Refusal:
        """Why there was no report."""
        if self.late:
            self._process.kill()
        code = self._process.wait(START_S)
        if self.late or code == -signal.SIGXCPU:
            found = (
                f"it takes more than {budget.cpu_s} s of computing, or {budget.wall_s:g} s, for some seconds of signal"
            )
            return Refusal("time", found, "make the model smaller, or look for a loop without an end")
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        found = f"onnxruntime dies of it ({name}; it may take {memory_mb} MB)"
        return Refusal("crash", found, "do not use it; " + EXPORT)

    def end(self) -> None:
        """Close the pipes and see it go."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process.kill()
        self._process.wait(START_S)

    def _write(self, data: bytes, until: float) -> bool:
        view = memoryview(data)
        while view:
            if not select.select([], [self._in], [], max(until - time.monotonic(), 0.0))[1]:
                return False
            view = view[os.write(self._in, view) :]
        return True

    def _read(self, until: float) -> bytes | None:
        head = self._exactly(LENGTH.size, until)
        return self._exactly(LENGTH.unpack(head)[0], until) if head else None

    def _exactly(self, size: int, until: float) -> bytes | None:
        found = bytearray()
        while len(found) < size:
            if not select.select([self._out], [], [], max(until - time.monotonic(), 0.0))[0]:
                return None
            part = os.read(self._out, size - len(found))
            if not part:
                return None
            found += part
        return bytes(found)


def read_stated(path: Path, manifest: Path | None, key: Path | None) -> "Stated | None":
    """The manifest of a model file: the one that is given, else the one beside it, else None.

    Raises
    ------
    ModelError
        A key is given and there is no manifest that it could vouch for; or as `model_manifest.read`.
    """
    from holdover.apps.model import manifest as model_manifest

    found = manifest or model_manifest.beside(path)
    if manifest or found.exists():
        return model_manifest.read(found, key)
    if key:
        raise ModelError(
            f"{path} has no manifest ({found.name} beside it) that {key} could vouch for: ask its maker for one"
        )
    return None
