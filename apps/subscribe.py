"""`holdover alerts`: receive alerts, store each once, show them, and run a command or call a web address for each."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter

    from holdover.apps.subscriber.alert_filter import AlertFilter
    from holdover.apps.subscriber.errands import Runner
    from holdover.apps.subscriber.reception import Reception
    from holdover.runtime.mqtt import Link

SESSION_S = 7 * 24 * 3600
CREDENTIAL = "mqtt-password"
COUNTED = ("repeated", "not shown", "unreadable", "retained", "foreign", "missing", "given up", "hook failed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options of `holdover alerts`."""
    _add_broker(parser.add_argument_group("broker"))
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("--store", metavar="FILE", help="where alerts are kept (default: alerts.db in the state folder)")
    shown.add_argument("--since", metavar="TIME", help="first what was received since: 2026-11-23T06:00, 30m, 2h, 7d")
    shown.add_argument("--no-follow", action="store_true", help="only what is stored (all of it without --since)")
    shown.add_argument("--priority", choices=("high", "medium", "low", "info"), help="this one and graver ones")
    shown.add_argument(
        "--stream", action="append", default=[], metavar="NODE/STREAM", help="only these: 'pi/ecg', '*/ecg'; repeatable"
    )
    shown.add_argument("--json", action="store_true", help="JSON lines also on a terminal")
    shown.add_argument("--count", type=_positive, metavar="N", help="end after N new alerts that are shown")
    shown.add_argument("--wait", type=float, metavar="S", help="end after S seconds")
    done = parser.add_argument_group("what is done for each alert that is shown")
    done.add_argument("--exec", metavar="CMD", dest="hook", help="run this; it reads the alert as JSON on stdin")
    done.add_argument("--webhook", metavar="URL", help="post it there as JSON; https unless it is this machine")
    done.add_argument("--webhook-token-file", metavar="FILE", help="its first line is sent as a bearer token")
    done.add_argument(
        "--hook-tries", type=_count, metavar="N", help="give up for an alert after N failures; 0: never (default: 10)"
    )
    done.add_argument("--allow-plain-webhook", action="store_true", help="also http:// to another machine")


def _add_broker(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--host", default="localhost", help="of the broker (default: %(default)s)")
    group.add_argument("--port", type=int, default=1883, help="of the broker (default: %(default)s)")
    group.add_argument("--base", default="holdover", help="first level of the topics (default: %(default)s)")
    group.add_argument("--username", help="for a broker that asks")
    group.add_argument(
        "--password-file", metavar="FILE", help="its first line is the password (default: systemd's mqtt-password)"
    )
    group.add_argument("--allow-plain-password", action="store_true", help="send it to another machine without TLS")
    group.add_argument(
        "--tls", action=argparse.BooleanOptionalAction, help="encrypt (default: for any other host than this)"
    )
    group.add_argument("--ca-file", metavar="FILE", help="trust these certificates (PEM)")
    group.add_argument("--cert-file", metavar="FILE", help="show this certificate to the broker (PEM)")
    group.add_argument("--key-file", metavar="FILE", help="its key (PEM)")
    group.add_argument("--mqtt", choices=("5", "3.1.1"), default="5", help="version (default: %(default)s)")
    group.add_argument("--confirm", action="store_true", help="tell the nodes of each alert that is stored")
    group.add_argument("--client-id", metavar="ID", help="name of the session at the broker (default: by host, store)")


def run(args: argparse.Namespace) -> int:
    """Show what is stored if asked, then receive until told to stop.

    Returns
    -------
    int
        0, or 1 where `--wait` ran out before `--count` was reached.

    Raises
    ------
    HoldoverError
        The options cannot be, the broker refuses, or the store cannot be read or written.
    """
    from holdover.apps.subscriber.alert_filter import make_filter, moment
    from holdover.apps.subscriber.inbox_file import default_store

    store = Path(args.store) if args.store else default_store()
    only = make_filter(args.priority, args.stream)
    since = None if args.since is None else moment(args.since)
    try:
        if args.no_follow:
            return _look_back(args, store, only, float("-inf") if since is None else since)
        return _follow(args, store, only, since)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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


def _look_back(args: argparse.Namespace, store: Path, only: "AlertFilter", since: float) -> int:
    """What is stored, while another process may be receiving."""
    from holdover.apps.subscriber.alert_view import choose_view
    from holdover.apps.subscriber.history import show
    from holdover.apps.subscriber.inbox_file import open_to_read
    from holdover.runtime.errors import UsageError

    if given := [name for name in ("hook", "webhook", "hook_tries", "count", "wait", "confirm") if getattr(args, name)]:
        option = {"hook": "exec"}.get(given[0], given[0]).replace("_", "-")
        raise UsageError(f"--{option} is about new alerts, and --no-follow shows stored ones: leave one of them out")
    view = choose_view(args.json, live=False)
    with closing(open_to_read(store)) as db:
        tally = show(db, store, view, only, since)
    view.say(_counted(tally["shown"], tally))
    return 0


def _follow(args: argparse.Namespace, store: Path, only: "AlertFilter", since: float | None) -> int:
    from holdover.apps.subscriber.alert_view import choose_view
    from holdover.apps.subscriber.errands import TRIES
    from holdover.apps.subscriber.history import show
    from holdover.apps.subscriber.inbox import Inbox
    from holdover.apps.subscriber.reception import Reception

    link, hooks = _link(args, store), _hooks(args)
    with ExitStack() as stack:
        inbox = stack.enter_context(closing(Inbox(store)))
        view = stack.enter_context(closing(choose_view(args.json)))
        reception = Reception(
            link, inbox, view, base=args.base, hooks=hooks, only=only, count=args.count, confirm=args.confirm,
            tries=TRIES if args.hook_tries is None else args.hook_tries,
        )  # fmt: skip
        stack.enter_context(_stopped_by_signal(reception))
        stack.enter_context(closing(reception))
        if since is not None:
            show(inbox.db, store, view, only, since)
        reception.run(time.monotonic() + args.wait if args.wait is not None else float("inf"))
    view.say(_summary(reception))
    return 1 if args.count and not reception.stopped and reception.tally["new"] < args.count else 0


def _link(args: argparse.Namespace, store: Path) -> "Link":
    from holdover.runtime.mqtt import Link
    from holdover.runtime.mqtt_options import MqttOptions

    options = MqttOptions(
        host=args.host,
        port=args.port,
        base=args.base,
        username=args.username,
        password_file=args.password_file or (_credential() if args.username else None),
        tls=args.tls,
        ca_file=args.ca_file,
        cert_file=args.cert_file,
        key_file=args.key_file,
        version=args.mqtt,
        allow_plain_password=args.allow_plain_password,
    )
    return Link(options, args.client_id or _client_id(store), session_s=SESSION_S, manual_ack=True)


def _hooks(args: argparse.Namespace) -> "dict[str, Runner]":
    from holdover.apps.subscriber.hook import Hook
    from holdover.apps.subscriber.webhook import Webhook
    from holdover.runtime.errors import UsageError

    hooks: dict[str, Runner] = {}
    if args.hook:
        hooks["exec"] = Hook(args.hook)
    if args.webhook:
        hooks["webhook"] = Webhook(
            args.webhook, token_file=args.webhook_token_file, allow_plain=args.allow_plain_webhook
        )
    elif args.webhook_token_file or args.allow_plain_webhook:
        raise UsageError("--webhook-token-file and --allow-plain-webhook belong to --webhook URL: give that too")
    if args.hook_tries is not None and not hooks:
        raise UsageError("--hook-tries belongs to --exec or --webhook: give one of them too")
    return hooks


def _credential() -> str | None:
    """The password that systemd handed to this service (LoadCredential=mqtt-password:FILE), if it did."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = Path(folder, CREDENTIAL) if folder else None
    return str(path) if path and path.is_file() else None


def _client_id(store: Path) -> str:
    """One session at the broker for each store, the same at each start."""
    import hashlib
    import platform

    key = f"{platform.node()}:{store.resolve()}"
    return f"holdover-alerts-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _summary(reception: "Reception") -> str:
    text, waiting = _counted(reception.tally["new"], reception.tally), reception.errands.waiting
    return text + (f", {waiting} wait for the next start" if waiting else "")


def _counted(alerts: int, tally: "Counter[str]") -> str:
    return ", ".join([f"{alerts} alerts", *(f"{tally[kind]} {kind}" for kind in COUNTED if tally[kind] > 0)])


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
    return _at_least(1, text)


def _count(text: str) -> int:
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}, expected {least} or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
