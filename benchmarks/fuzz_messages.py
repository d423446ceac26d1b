"""Mutated MQTT messages through the subscriber: 100,000 into its reading path, a fifth of them by a real broker too.

A wrong acceptance is a message that is stored though it is no JSON object with an event_id (or no account of dropped
alerts), is stored twice or otherwise than it came, or cannot be shown again; a wrong refusal is one that is refused
though it is one. An oracle made of Python's own JSON reader and the published schema decides. Which messages are made,
and in which order, follows from the seed.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from machine import keep, stated

from tests.payload_fuzz import MUTATIONS, Tally, run, run_process

SEED = 20261123


def main() -> int:
    """Run, keep the counts; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=SEED, help="of all that is drawn (default: %(default)s)")
    parser.add_argument("--count", type=int, default=100_000, metavar="N", help="messages (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as inside, tempfile.TemporaryDirectory() as outside:
        tally = run(args.seed, args.count, Path(inside), tell=True)
        process = run_process(args.seed, args.count // 5, Path(outside))
    figures = {
        **stated(("holdover", "msgspec", "paho-mqtt", "jsonschema")),
        "seed": args.seed,
        "mutations": len(MUTATIONS),
        "reading_path": _figures(tally),
        "through_a_broker_to_a_process": _figures(process),
    }
    wrong = tally.wrong + process.wrong
    print(f"wrote {keep('fuzz-messages', figures)}: {tally.messages} messages, {len(wrong)} wrong")
    print("\n".join(wrong))
    return 1 if wrong else 0


def _figures(tally: Tally) -> dict[str, Any]:
    return {
        "messages": tally.messages,
        "alerts_stored": tally.accepted,
        "alerts_shown_again_from_the_store": tally.shown_again,
        "alerts_that_were_there": tally.repeated,
        "accounts_stored": tally.notices,
        "refused": tally.refused,
        "others": tally.other,
        "crashes": tally.crashes,
        "wrong_acceptances_or_refusals": len(tally.wrong),
        "seconds": round(tally.seconds, 1),
        "by_mutation": {name: dict(found.most_common()) for name, found in sorted(tally.by_mutation.items())},
    }


if __name__ == "__main__":
    raise SystemExit(main())
