"""A WFDB record that was made here, written as EDF+ with its alarms."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from holdover.apps.recording import whole
from holdover.devices.sources import open_source
from holdover.runtime.alert import Alert
from holdover.runtime.errors import SourceError, UsageError


def library() -> Any:
    """The edfio package; raises `UsageError` where it is not installed."""
    try:
        import edfio
    except ImportError:
        raise UsageError("--edf needs edfio, which is not installed: pip install 'holdover[replay]'") from None
    return edfio


def write(place: Path, alerts: Sequence[Alert]) -> Path:
    """Write NAME.edf beside NAME.hea, whole or not at all, with a note where each alarm starts and ends.

    EDF has no mark for a missing sample: there it is 0, and the alarm `signal_missing` says so. The last second is
    filled up with zeros.

    Raises
    ------
    SourceError
        EDF cannot hold it, as a rate whose second is no whole number of samples.
    """
    edfio = library()
    source = open_source("wfdb", {"path": place})
    x = np.concatenate([chunk.x for chunk in source.chunks()]).astype(np.float64)
    source.close()
    x = np.nan_to_num(np.pad(x, ((0, -len(x) % max(round(source.rate_hz), 1)), (0, 0))))
    path = place.with_name(f"{place.name}.edf")
    try:
        signals = [
            edfio.EdfSignal(x[:, i], source.rate_hz, label=lead[:16], physical_dimension=unit[:8])
            for i, (lead, unit) in enumerate(zip(source.channels, source.units, strict=True))
        ]
        with whole(path) as part:
            edfio.Edf(signals, annotations=_notes(edfio, alerts), **_start(edfio, source.epoch)).write(part)
    except ValueError as error:
        raise SourceError(f"{path} was not written, the WFDB record stands: {error}") from error
    return path


def _notes(edfio: Any, alerts: Sequence[Alert]) -> list[Any]:
    said = [(alert.phase.at / alert.scene.rate_hz, alert.phase) for alert in alerts if alert.phase.phase != "update"]
    return [edfio.EdfAnnotation(at, None, f"{p.priority} {p.label} {p.phase}") for at, p in said]


def _start(edfio: Any, epoch: float | None) -> dict[str, Any]:
    if epoch is None:
        return {}
    when = datetime.fromtimestamp(epoch, UTC)
    return {"recording": edfio.Recording(startdate=when.date()), "starttime": when.time()}
