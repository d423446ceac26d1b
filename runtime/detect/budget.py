"""How many alerts came, against how many were asked for."""

import math

from holdover.runtime.detect.carried import Carried

MEMORY = 15.0
"""Alerts asked for that are remembered: an exponential mean."""
DOUBT = 4.0
"""As many alerts, one for one, are supposed before the first."""
LEAST, MOST = 0.4, 4.0
"""The risk is divided by no less and no more than this, so that a stream of real anomalies cannot buy silence."""


class Budget(Carried):
    """Divides the risk where a tail is longer than the law says, and more alerts come than were asked for.

    Examples
    --------
    >>> budget = Budget(risk=0.001)
    >>> for _ in range(4):
    ...     budget.step(1000)
    >>> for _ in range(4 * 2):
    ...     budget.spend()
    >>> round(budget.asked, 5)  # twice too many: less is asked for
    0.00063
    """

    carried = ("risk", "_came", "_due", "_since")

    def __init__(self, risk: float) -> None:
        self.risk = risk
        self._came = 0.0
        self._due = 0.0
        self._since = 0

    def step(self, n: int = 1) -> None:
        """So many samples have passed."""
        self._since += n

    def spend(self) -> None:
        """An alert has come."""
        self._settle()
        self._came += 1

    @property
    def asked(self) -> float:
        """The risk that brings the alerts back to what was asked for."""
        self._settle()
        return self.risk / min(max((DOUBT + self._came) / (DOUBT + self._due), LEAST), MOST)

    def _settle(self) -> None:
        kept = math.exp(-self.risk * self._since / MEMORY)
        self._came *= kept
        self._due = (self._due - MEMORY) * kept + MEMORY
        self._since = 0
