"""From the ledger to the broker: what is sent, what is marked as there, and what is sent again."""

from contextlib import suppress

from holdover.runtime.ledger import Ledger, LedgerFull
from holdover.runtime.sinks.mqtt import MqttSink, Progress


class Delivery:
    """Moves alerts between a ledger and a sink, in the one thread that owns both.

    What the broker has acknowledged and the ledger could not note, as on a full disk, is kept and noted later, and is
    not sent again meanwhile.

    Examples
    --------
    While the daemon runs::

        for topic, payload in delivery.turn():
            ...
    """

    def __init__(self, ledger: Ledger, sink: MqttSink) -> None:
        self.ledger, self.sink = ledger, sink
        self._is_new = False
        self._rows: list[int] = []
        self._dropped: list[int] = []
        self._confirmed: list[str] = []

    def turn(self) -> list[tuple[str, bytes]]:
        """Note what has arrived, send what has not; returns what the sink heard beside."""
        progress = self.sink.poll()
        self._is_new |= progress.connected
        with suppress(LedgerFull):
            self._note(progress)
            if self._is_new:
                self.ledger.send_again()
                self._is_new = False
        with suppress(LedgerFull):
            self._send()
        return progress.heard

    def close(self, timeout_s: float = 5.0) -> None:
        """Wait for what is on its way, say that the node is offline, take leave, and note what arrived."""
        with suppress(LedgerFull):
            self._note(self.sink.close(timeout_s))

    def _send(self) -> None:
        if not self.sink.connected:
            return
        there, told = set(self._rows), set(self._dropped)
        rows = self.ledger.unsent(limit=self.sink.window + len(there))
        accounts = [account for account in self.ledger.dropped() if account.id not in told]
        self.sink.send([row for row in rows if row.id not in there], accounts)

    def _note(self, progress: Progress) -> None:
        self._rows += progress.rows
        self._dropped += progress.dropped
        self._confirmed += progress.confirmed
        self.ledger.acknowledge(self._rows)
        self._rows = []
        self.ledger.forget_dropped(self._dropped)
        self._dropped = []
        self.ledger.confirm(self._confirmed)
        self._confirmed = []
