"""The command line: a table of commands, each imported when it is asked for."""

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Sequence

from holdover import __version__

COMMANDS = {
    "run": ("holdover.apps.daemon", "the daemon: streams in, alerts over MQTT out"),
    "status": ("holdover.apps.status", "how a running daemon stands"),
    "service": ("holdover.apps.service", "the daemon under systemd: install, status, logs, uninstall"),
    "replay": ("holdover.apps.replay", "recordings in, annotations, alerts and a picture out"),
    "alerts": ("holdover.apps.subscribe", "receive alerts, keep each once, show them"),
    "score": ("holdover.apps.score", "compare annotations with a reference, by the field's rules"),
    "export": ("holdover.apps.export", "a trained model in, a proven streaming file out"),
    "verify": ("holdover.apps.verify", "repeat the proof of a streaming model"),
    "quantize": ("holdover.apps.quantize", "a model made smaller that still decides the same"),
    "inspect": ("holdover.apps.inspect", "what a model promises: contract, memory, delay, cost"),
    "models": ("holdover.apps.models", "install models from others, judged first; roll them back"),
    "devices": ("holdover.apps.devices", "what is plugged in; look at, record or simulate a signal"),
    "config": ("holdover.apps.config", "check a configuration, or print its schema"),
    "doctor": ("holdover.apps.doctor", "what of this machine is fit, and what would be slow"),
    "demo": ("holdover.apps.demo", "five real minutes of ECG through daemon, broker, subscriber"),
}

WITHOUT_MODELS = ("doctor", "config", "status", "alerts")
NEEDS_64_BIT = (
    "holdover: this Python is a 32-bit one, for which there is no onnxruntime; install a 64-bit system (on a Raspberry "
    "Pi: the 64-bit image), then holdover again. 'holdover doctor' tells more."
)

MIN_WIDTH, USUAL_WIDTH = 40, 80

EXITS = """\
exit codes:
  0 done   1 failed   2 usage or configuration   3 input   4 model   5 ledger
  6 broker   130 interrupted

holdover is no medical device: it is for research and education, not for
diagnosis or patient monitoring."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        return _top(argv)
    if sys.maxsize < 2**32 and argv[0] not in WITHOUT_MODELS:
        print(NEEDS_64_BIT, file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[argv[0]][0])
    parser = argparse.ArgumentParser(
        prog=f"holdover {argv[0]}",
        description="\n".join(textwrap.wrap(module.__doc__.split("\n\n")[0], 79)) if module.__doc__ else None,
        epilog=getattr(module, "EPILOG", None),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return _guarded(module.run, parser.parse_args(argv[1:]))


def _top(argv: list[str]) -> int:
    listed = "\n".join(f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="holdover",
        usage="holdover COMMAND ...",
        description=f"Streaming inference with carried memory, alerts over MQTT.\n\ncommands:\n{listed}\n\n"
        "'holdover COMMAND --help' tells more of each; 'holdover demo' shows it all.",
        epilog=EXITS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"holdover {__version__}")
    parser.add_argument("command", nargs="?", choices=list(COMMANDS), metavar="COMMAND", help=argparse.SUPPRESS)
    parser.parse_args(argv)
    parser.print_help()
    return 0


def _guarded(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    from holdover.runtime.errors import HoldoverError

    try:
        return run(args)
    except HoldoverError as error:
        print(_fitted(f"holdover: {error}"), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("holdover: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fitted(text: str) -> str:
    """Lines broken at words for a terminal; as they are in a pipe, where a program or a log reads line by line."""
    if not sys.stderr.isatty():
        return text
    said = os.environ.get("COLUMNS", "")
    width = int(said) if said.isdecimal() else os.get_terminal_size(sys.stderr.fileno()).columns
    width = max(width or USUAL_WIDTH, MIN_WIDTH)
    return "\n".join(part for line in text.splitlines() for part in _wrapped(line, width))


def _wrapped(line: str, width: int) -> list[str]:
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, width, subsequent_indent=indent, drop_whitespace=True, break_long_words=False,
                         break_on_hyphens=False) or [""]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
