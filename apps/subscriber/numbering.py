"""The numbers of a stream's alerts: which did not come, and for how many of those the node accounts."""

import heapq
from collections.abc import Iterable
from math import inf
from typing import NamedTuple

import msgspec

MOST = 1000


class Account(msgspec.Struct, frozen=True, array_like=True):
    """`count` alerts with numbers from `first` to `last` were given up by the node; None: it cannot know how many."""

    first: int
    last: int
    count: int | None


class Balance(NamedTuple):
    """How many alerts did not come: without an explanation, and given up by the node, which said so."""

    missing: int
    given_up: int


class Numbering(msgspec.Struct):
    """What is known of one stream's numbers; only the last `MOST` holes and accounts are kept.

    Attributes
    ----------
    first, latest
        The lowest and the highest number that came; 0 before any has.
    holes
        Numbers between them that did not come, as (first, last), ascending.
    known
        So many of the accounts had come before the last alert.

    Examples
    --------
    >>> numbers = Numbering()
    >>> for number in (1, 2, 6):
    ...     began_anew = numbers.take(number, is_new=True)
    >>> numbers.account(Account(first=2, last=5, count=2))
    >>> numbers.balance()
    Balance(missing=1, given_up=2)
    """

    first: int = 0
    latest: int = 0
    holes: list[tuple[int, int]] = []
    accounts: list[Account] = []
    known: int = 0

    def take(self, number: int, *, is_new: bool) -> bool:
        """Take in the number of an alert that came; whether the node counts anew, from another ledger.

        Parameters
        ----------
        is_new
            The alert had not come before.
        """
        began_anew = False
        if not self.latest:
            self.first = self.latest = number
        elif number > self.latest:
            if number > self.latest + 1:
                self.holes.append((self.latest + 1, number - 1))
                del self.holes[:-MOST]
            self.latest = number
        elif number < self.first:
            self.first = number
        elif not self._fill(number) and is_new:
            self.first = self.latest = number
            self.holes, self.accounts = [], self.accounts[self.known :]
            began_anew = True
        self.known = len(self.accounts)
        return began_anew

    def account(self, account: Account) -> None:
        """Take in what the node gave up."""
        self.accounts.append(account)
        surplus = max(0, len(self.accounts) - MOST)
        del self.accounts[:surplus]
        self.known = max(0, self.known - surplus)

    def balance(self) -> Balance:
        """How many did not come, explained and not."""
        total = sum(last - first + 1 for first, last in self.holes)
        given_up = covered(self.holes, self.accounts)
        return Balance(total - given_up, given_up)

    def _fill(self, number: int) -> bool:
        for place, (first, last) in enumerate(self.holes):
            if first <= number <= last:
                rest = [(first, number - 1), (number + 1, last)]
                self.holes[place : place + 1] = [(a, b) for a, b in rest if a <= b]
                return True
        return False


def covered(holes: Iterable[tuple[int, int]], accounts: Iterable[Account]) -> int:
    """The most missing numbers that accounts can cover, each at most `count` within its bounds.

    The account that ends first is used first, which is optimal as for unit jobs with release times and deadlines.

    >>> covered([(3, 6)], [Account(1, 4, 1), Account(4, 9, 2)])
    3
    """
    waiting = sorted((a for a in accounts if a.count is None or a.count > 0), key=lambda a: a.first, reverse=True)
    active: list[tuple[int, float]] = []
    total = 0
    for first, last in holes:
        at = first
        while at <= last:
            while waiting and waiting[-1].first <= at:
                account = waiting.pop()
                heapq.heappush(active, (account.last, inf if account.count is None else account.count))
            while active and active[0][0] < at:
                heapq.heappop(active)
            stop = min(last, waiting[-1].first - 1) if waiting else last
            if not active:
                at = stop + 1
                continue
            until, room = heapq.heappop(active)
            used = int(min(min(stop, until) - at + 1, room))
            total, at = total + used, at + used
            if room > used:
                heapq.heappush(active, (until, room - used))
    return total
