"""What carrying the memory is worth, on the validation records: F1 of beats, V and S."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import MODEL_HZ, Record, load, view
from net import HOP, Memory, Net, normalise
from numpy.typing import NDArray
from score import count, decode, rates
from train import data_folder, saved

from holdover.export.contract_io import write_whole
from holdover.runtime.errors import HoldoverError

Array = NDArray[Any]
RESETS_S = (2, 10, 60, 300)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print and write the table; 0 if it went well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="what train.py has kept")
    parser.add_argument("--data", help="folder with mitdb/, svdb/, vfdb/, cinc2017/ (default: HOLDOVER_DATA)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file for the figures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        net = Net().eval()
        net.load_state_dict(saved(options.checkpoint)["average"])
        records = [r for r in load(data_folder(options.data), "validation") if len(r.at)]
        found = dict(ablations(net, records))
        write_whole(options.output, (json.dumps(found, indent=1) + "\n").encode())
        print(json.dumps(found, indent=1))
    except HoldoverError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def ablations(net: Net, records: Sequence[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each way to run the net, and what it reaches on mitdb and svdb."""
    carried = {r.name: outputs(net, view(r)) for r in records}
    yield "carried", _scored(records, carried)
    for seconds in reversed(RESETS_S):
        reset = {r.name: outputs(net, view(r), seconds) for r in records}
        yield f"reset every {seconds} s", _scored(records, reset)


def outputs(net: Net, x: Array, reset_s: int = 0) -> Array:
    """The outputs (frames, columns) of a recording, its memory forgotten every so often; the front end goes on."""
    z = normalise(x)
    block = reset_s * MODEL_HZ or len(z)
    whole = np.pad(z, (0, -len(z) % block)).reshape(-1, block)
    with torch.no_grad():
        y = net(torch.from_numpy(whole), Memory.zeros(len(whole)))[0].numpy()
    found: Array = y.reshape(-1, y.shape[2])[: len(z) // HOP]
    return found


def _scored(records: Sequence[Record], found: dict[str, Array]) -> dict[str, Any]:
    counts = {r.name: count(r, *decode(found[r.name])) for r in records}
    return {source: rates([counts[r.name] for r in records if r.source == source]) for source in ("mitdb", "svdb")}


if __name__ == "__main__":
    sys.exit(main())
