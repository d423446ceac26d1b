"""Alerts as JSON lines, to a file or a stream."""

import io
import os
import sys
from typing import IO, Any

from holdover.runtime.alert import Alert, Envelope
from holdover.runtime.errors import UsageError
from holdover.runtime.ledger import Row
from holdover.runtime.sinks.envelope import enclose


class JsonLines:
    """One alert a line: the body alone, byte for byte as it was decided, or with its envelope.

    Parameters
    ----------
    target
        A path ("-": standard output), or an open text or binary stream, which stays open on `close`.
    append
        Add to a file that is there, instead of writing it anew.

    Raises
    ------
    UsageError
        The file cannot be written.

    Examples
    --------
    >>> from holdover.runtime.alert import ModelId, Phase, Scene
    >>> scene = Scene(stream="ecg", lead="MLII", rate_hz=360.0, epoch=None, model=ModelId("m", "1", "ab"))
    >>> alert = Alert(scene, Phase(label="asystole", phase="start", onset=720, at=1800), 0)
    >>> out = io.BytesIO()
    >>> JsonLines(out).send(alert)
    >>> out.getvalue() == alert.body_json() + b"\\n"
    True
    """

    def __init__(self, target: str | os.PathLike[str] | IO[Any], *, append: bool = False) -> None:
        if isinstance(target, str) and target == "-":
            target = sys.stdout
        self._owns = isinstance(target, (str, os.PathLike))
        if isinstance(target, (str, os.PathLike)):
            try:
                self._out: IO[Any] = open(target, "ab" if append else "wb")  # noqa: SIM115 - closed by close()
            except OSError as error:
                raise UsageError(f"cannot write alerts to {os.fspath(target)}: {error.strerror}") from error
        else:
            self._out = target
        self._text = isinstance(self._out, io.TextIOBase)

    def send(self, alert: Alert | Row, envelope: Envelope | None = None) -> None:
        """Write one line, and flush it."""
        body = alert.body if isinstance(alert, Row) else alert.body_json()
        line = (enclose(body, envelope) if envelope else body) + b"\n"
        self._out.write(line.decode() if self._text else line)
        self._out.flush()

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self._owns:
            self._out.close()
