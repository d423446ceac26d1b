"""`holdover devices`: what is plugged in; look at a signal, record it, or play a recording as if it were a device."""

import argparse
import importlib
from typing import NamedTuple, Protocol

EPILOG = """\
examples:
  holdover devices list
  holdover devices probe serial port=/dev/ttyUSB0 rate_hz=250 unit=mV gain=0.003
  holdover devices probe --config holdover.toml --stream bed-3
  holdover devices record tcp port=9000 listen=true rate_hz=250 -o night
  holdover devices simulate 100 --as serial --loss 0.05

A probe ends with 0 where all is as it should be, 1 where something is not, and
3 where no sample came."""

SIMULATED = ("serial", "tcp", "udp", "mqtt", "lsl", "polar")
FORMS = ("lines", "frames", "protocentral")
SHARES = {
    "loss": "share of packets that are lost, 0 to 1",
    "duplicates": "share that come twice",
    "reorder": "share that are overtaken by later ones",
    "garbage": "share before which random bytes come",
}
SECONDS = {"jitter": "most that a packet comes late, seconds", "drift": "how much faster its clock runs: 0.01 for 1 %%"}
SPANS = {"lead-off": "an electrode is off", "unplug": "the device is not there"}


class Options(Protocol):
    """Gives a parser the options of an action."""

    def __call__(self, parser: argparse.ArgumentParser) -> None: ...


class Action(NamedTuple):
    """An action: where it is done, what it is for, and its options."""

    module: str
    what: str
    options: Options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the actions and options of `holdover devices`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        action.options(actions.add_parser(name, help=action.what, description=action.what))


def run(args: argparse.Namespace) -> int:
    """Do what is asked.

    Raises
    ------
    HoldoverError
        The source cannot be opened, or a file not written.
    """
    code: int = importlib.import_module(ACTIONS[args.action].module).run(args)
    return code


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _source(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "source",
        nargs="*",
        metavar="KIND [key=value]",
        help="a kind of source and its options, as in a configuration: serial port=/dev/ttyUSB0 rate_hz=250",
    )
    add("--config", metavar="FILE", help="of a daemon: take the source of one of its streams instead")
    add("--stream", metavar="ID", help="which of them (default: the only one)")  # fmt: skip


def _probe(parser: argparse.ArgumentParser) -> None:
    _source(parser)
    parser.add_argument("--seconds", type=float, default=10.0, help="of signal (default: %(default)g)")
    parser.add_argument("--json", action="store_true", help="one JSON object")


def _record(parser: argparse.ArgumentParser) -> None:
    _source(parser)
    add = parser.add_argument
    add("-o", "--output", metavar="NAME", required=True, help="of the record: NAME.hea, NAME.dat, NAME.blm, NAME.alm")
    add("--seconds", type=float, metavar="S", help="of signal, then stop (default: until Ctrl-C, or the input ends)")
    add("--edf", action="store_true", help="at the end, write NAME.edf (EDF+) as well")
    add("--no-alarms", action="store_true", help="samples alone, no model")
    add("--model", help="a file, or the name of a shipped model (default: ecg_rhythm)")
    add("--lead", help="that the model reads (default: its own, or the only one)")


def _simulate(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("record", help="a recording: WFDB, EDF, CSV, NPZ")
    add("--as", dest="kind", required=True, choices=SIMULATED, help="the device's protocol")
    add("--port", help="serial: a path for the port (default: one in the temporary folder); tcp, udp: a port (9000)")
    add("--format", choices=FORMS, default="lines", help="serial, tcp, udp: what is sent (default: %(default)s)")
    add("--broker", default="localhost:1883", metavar="HOST:PORT", help="mqtt (default: %(default)s)")
    add("--topic", help="mqtt (default: holdover/samples/RECORD)")
    add("--lead", help="of the recording (default: all)")
    add("--start", help="seconds, or [hh:]mm:ss")
    add("--stop", help="the same")
    add("--speed", type=float, default=1.0, help="times real time (default: %(default)g)")
    for name, what in (SHARES | SECONDS).items():
        add(f"--{name}", type=float, default=0.0, metavar="X", help=what)
    add("--burst", type=float, default=1.0, metavar="N", help="packets that are lost in a row, on average")
    for name, what in SPANS.items():
        add(f"--{name}", action="append", default=[], metavar="A-B", help=f"from second A to B {what}; may be repeated")
    add("--seed", type=int, default=0, help="the same seed makes the same link (default: %(default)s)")


ACTIONS = {
    "list": Action("holdover.apps.device.listing", "kinds of source, what is plugged in, what is missing", _list),
    "probe": Action("holdover.apps.device.probe", "rate, size, noise, mains, electrode: a look at a signal", _probe),
    "record": Action("holdover.apps.device.record", "write a WFDB record while it streams, with its alarms", _record),
    "simulate": Action("holdover.apps.device.simulate", "play a recording through a device's own protocol", _simulate),
}
