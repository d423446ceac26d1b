"""`holdover alerts`: receive alerts, store each once, show them, and run a command for each."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdover.apps.inbox import Inbox
    from holdover.apps.reception import Reception
    from holdover.runtime.mqtt import Link

SESSION_S = 7 * 24 * 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover alerts`."""
    parser.add_argument("--host", default="localhost", help="of the broker (default: %(default)s)")
    parser.add_argument("--port", type=int, default=1883, help="of the broker (default: %(default)s)")
    parser.add_argument("--base", default="holdover", help="first level of the topics (default: %(default)s)")
    parser.add_argument("--username", help="for a broker that asks")
    parser.add_argument("--password-file", metavar="FILE", help="its first line is the password")
    parser.add_argument(
        "--tls", action=argparse.BooleanOptionalAction, help="encrypt (default: for any other host than this)"
    )
    parser.add_argument("--ca-file", metavar="FILE", help="trust these certificates (PEM)")
    parser.add_argument("--mqtt", choices=("5", "3.1.1"), default="5", help="version (default: %(default)s)")
    parser.add_argument("--client-id", metavar="ID", help="name of the session at the broker (default: by host, store)")
    parser.add_argument(
        "--store", metavar="FILE", help="where alerts are kept (default: alerts.db in the state folder)"
    )
    parser.add_argument("--json", action="store_true", help="JSON lines also on a terminal")
    parser.add_argument(
        "--exec", metavar="CMD", dest="hook", help="run for each alert, which it reads as JSON on stdin"
    )
    parser.add_argument("--count", type=_positive, metavar="N", help="end after N new alerts")
    parser.add_argument("--wait", type=float, metavar="S", help="end after S seconds")


def run(args: argparse.Namespace) -> int:
    """Receive until told to stop; 0, or 1 where `--wait` ran out before `--count` was reached.

    Raises
    ------
    HoldoverError
        The options cannot be, the broker refuses, or the store cannot be written.
    """
    from holdover.apps.alert_view import choose_view
    from holdover.apps.hook import Hook
    from holdover.apps.inbox import Inbox, default_store
    from holdover.apps.reception import Reception

    store = Path(args.store) if args.store else default_store()
    link = _link(args, store)
    inbox = Inbox(store)
    view = choose_view(args.json)
    hook = Hook(args.hook) if args.hook else None
    reception = Reception(link, inbox, view, base=args.base, hook=hook, count=args.count)
    try:
        with _stopped_by_signal(reception):
            reception.run(time.monotonic() + args.wait if args.wait is not None else float("inf"))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        _close(reception, inbox)
    view.say(_summary(reception))
    return 1 if args.count and not reception.stopped and reception.tally["new"] < args.count else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subscriber alone; returns the exit status."""
    from holdover.runtime.errors import HoldoverError

    parser = argparse.ArgumentParser(prog="holdover alerts", description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except HoldoverError as error:
        print(f"holdover: {error}", file=sys.stderr)
        return error.exit_code


def _link(args: argparse.Namespace, store: Path) -> "Link":
    from holdover.runtime.mqtt import Link
    from holdover.runtime.mqtt_options import MqttOptions

    options = MqttOptions(
        host=args.host,
        port=args.port,
        base=args.base,
        username=args.username,
        password_file=args.password_file,
        tls=args.tls,
        ca_file=args.ca_file,
        version=args.mqtt,
    )
    return Link(options, args.client_id or _client_id(store), session_s=SESSION_S, manual_ack=True)


def _client_id(store: Path) -> str:
    """One session at the broker for each store, the same at each start."""
    import hashlib
    import platform

    key = f"{platform.node()}:{store.resolve()}"
    return f"holdover-alerts-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _close(reception: "Reception", inbox: "Inbox") -> None:
    reception.view.close()
    reception.close()
    inbox.close()


def _summary(reception: "Reception") -> str:
    tally = reception.tally
    parts = [f"{tally['new']} alerts"]
    parts += [
        f"{tally[kind]} {kind}" for kind in ("repeated", "unreadable", "retained", "missing", "failed") if tally[kind]
    ]
    return ", ".join(parts)


@contextmanager
def _stopped_by_signal(reception: "Reception") -> Iterator[None]:
    def stop(_number: int, _frame: object) -> None:
        reception.stopped = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}, expected 1 or more")
    return value


if __name__ == "__main__":
    sys.exit(main())
