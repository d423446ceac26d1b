"""What is put around an alert on its way out."""

import msgspec

from holdover import __version__
from holdover.runtime.alert import Envelope
from holdover.runtime.ledger import Row
from holdover.runtime.wire import iso

HISTORICAL_S = 60.0


def seal(row: Row, *, node: str, boot_id: str, now: float) -> Envelope:
    """The envelope of an alert that is sent at `now`, Unix time in seconds."""
    return Envelope(
        node=node,
        boot_id=boot_id,
        version=__version__,
        stream_seq=row.stream_seq,
        arrived_time=row.arrived,
        latency_ms=None if row.arrived is None else round((row.created - row.arrived) * 1e3, 3),
        published_time=iso(now),
        resumed=row.resumed,
        historical=now - row.created > HISTORICAL_S,
    )


def enclose(body: bytes, envelope: Envelope) -> bytes:
    """Body and envelope as one flat JSON object, the body's bytes unchanged in front.

    Examples
    --------
    >>> enclose(b'{"label":"af"}', Envelope(node="pi", boot_id="b", version="1", stream_seq=7))[:40]
    b'{"label":"af","node":"pi","boot_id":"b",'
    """
    return body.rstrip()[:-1] + b"," + msgspec.json.encode(envelope)[1:]
