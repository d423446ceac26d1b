"""Lines of a recording through source, model, rules and ledger, and what came of them; runs here and on emulated ARM.

Standard input carries the lines, the folder that is named gets the ledger.
"""

import sys
from pathlib import Path

from holdover.apps.feed import open_feed
from holdover.apps.model.shipped import find_model
from holdover.runtime.alert import Scene
from holdover.runtime.engine import load
from holdover.runtime.ledger import Checkpoint, Ledger
from holdover.runtime.snapshot import pack
from holdover.runtime.watch import Step, Watch, model_id

EPOCH = 1_700_000_000.0


def main(folder: Path, rate_hz: float) -> None:
    """Annotations, then the bodies of all alerts as the ledger keeps them."""
    engine = load(find_model())
    feed = open_feed({"kind": "stdin", "rate_hz": rate_hz, "leads": "MLII", "unit": "mV"}, engine.contract)
    scene = Scene(stream="bed", lead="MLII", rate_hz=rate_hz, epoch=EPOCH, model=model_id(engine))
    watch, said = Watch(engine, scene), []
    with Ledger(folder / "ledger.db") as ledger:
        for chunk in feed.chunks():
            said.append(watch.push(chunk))
            keep(ledger, watch, chunk.end, said[-1])
        said.append(watch.finish())
        keep(ledger, watch, chunk.end, said[-1])
        rows = ledger.unsent(limit=1000)
    for step in said:
        for mark in step.annotations:
            print(mark.at, mark.symbol, mark.subtype, mark.aux)
    for row in rows:
        print(row.stream_seq, row.body.decode())


def keep(ledger: Ledger, watch: Watch, at: int, step: Step) -> None:
    """Commit alerts with the memory that follows them, as the daemon does."""
    if step.alerts:
        memory = pack(watch.snapshot())
        saved = Checkpoint(watch.scene.model.sha256, at, EPOCH, memory)
        ledger.commit("bed", saved, [(alert, None) for alert in step.alerts])


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
