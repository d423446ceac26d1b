"""A source made to fit a model: its channels picked, its unit converted, its pace set."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from holdover.devices.sources import kind_of, open_source
from holdover.devices.sources.units import factor
from holdover.runtime.chunk import Chunk, Source
from holdover.runtime.contract import ANY_UNIT, Contract
from holdover.runtime.errors import SourceError

LIVE_BLOCK_S = 0.2
"""Length of chunks when a file is played at a pace."""

FIRST = "first"
"""Where a lead may be named: the first channel, whatever it is called."""


class Feed:
    """A source whose chunks have the channels and unit that the model takes.

    Parameters
    ----------
    source
        Where the samples come from.
    contract
        Names the model's channels.
    lead
        Taken instead of the model's channel: a name, or several in order of preference, as in "MLII,V5,first"; the
        first that is there is taken, "first" is always there.
    """

    def __init__(self, source: Source, contract: Contract, lead: str | None = None) -> None:
        self.source = source
        wanted = contract.signal.channels
        self._columns = [_column(source, lead or c.name, lead is None and len(wanted) == 1) for c in wanted]
        self.leads = tuple(source.channels[i] for i in self._columns)
        pairs = [(source.units[i], c.unit) for i, c in zip(self._columns, wanted, strict=True)]
        self._factor = np.array(
            [1.0 if want == ANY_UNIT else factor(have, want, lead) for (have, want), lead in
             zip(pairs, self.leads, strict=True)], np.float32
        )  # fmt: skip
        self._plain = len(source.channels) == len(wanted) and bool((self._factor == 1).all())
        self.units = tuple(have if want == ANY_UNIT else want for have, want in pairs)

    def fit(self, chunk: Chunk) -> Chunk:
        """The chunk in the model's channels and unit."""
        return chunk if self._plain else replace(chunk, x=chunk.x[:, self._columns] * self._factor)

    def chunks(self, speed: float | None = None) -> Iterator[Chunk]:
        """What the source gives; at `speed` times real time, or as fast as it comes."""
        began, first = time.monotonic(), None
        for chunk in self.source.chunks():
            if speed and len(chunk):
                first = chunk.at if first is None else first
                due = began + (chunk.end - first) / self.source.rate_hz / speed
                time.sleep(max(due - time.monotonic(), 0))
                chunk = replace(chunk, arrived=time.time())
            yield self.fit(chunk)


def open_feed(options: Mapping[str, Any], contract: Contract, lead: str | None = None, paced: bool = False) -> Feed:
    """Open a source by its table, `kind` among the options, and fit it to a model.

    Of a file with several channels only those are read that the model takes.

    Raises
    ------
    SourceError
        It cannot be opened, has no such lead, or none whose unit can be the model's.
    """
    options = dict(options)
    if paced and "path" in options:
        options.setdefault("block_s", LIVE_BLOCK_S)
    source = open_table(options)
    try:
        feed = Feed(source, contract, lead)
    except SourceError:
        source.close()
        raise
    if "path" in options and len(source.channels) > 1 and len(feed.leads) == 1:
        source.close()
        return Feed(open_table({**options, "lead": feed.leads[0]}), contract, feed.leads[0])
    return feed


def open_table(options: Mapping[str, Any]) -> Source:
    """Open a source by its table, `kind` among the options; `SourceError` if it cannot be."""
    options = dict(options)
    kind = options.pop("kind")
    try:
        return open_source(kind, options)
    except (TypeError, AttributeError) as error:  # an option of another type than the source expects
        raise SourceError(f"source {kind!r}: an option has a value of the wrong type ({error})") from error


def open_recording(path: str | Path, contract: Contract, lead: str | None = None, **options: Any) -> Feed:
    """Open a file, its kind by its extension, and fit it to a model; raises as `open_feed`."""
    return open_feed({"kind": kind_of(path), "path": str(path), **options}, contract, lead)


def _column(source: Source, lead: str, only: bool) -> int:
    """Which channel of the source a lead is: by name, or the only one there is."""
    names = [name.lower() for name in source.channels]
    for wish in (lead, *(part.strip() for part in lead.split(","))):
        if wish.lower() in names:
            return names.index(wish.lower())
        if wish.lower() == FIRST:
            return 0
    if only and len(source.channels) == 1:
        return 0
    raise SourceError(
        f"{source.name} has no lead {lead!r}; it has {', '.join(source.channels)}: name the one to use (--lead, or "
        f"lead = in the configuration; several in order of preference, as in {source.channels[0]},{FIRST})"
    )
