"""`holdover devices probe`: a few seconds of a source, drawn as they come, and what is to be said of them."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from holdover.apps.device.look import Look, measure, short, strip, verdicts
from holdover.apps.device.options import source_of
from holdover.runtime.chunk import Source
from holdover.runtime.errors import UsageError

PATIENCE_S = 15.0
"""How long a device may take until its first sample."""
STRIP_S = 5.0
DRAW_S = 0.2


def run(args: argparse.Namespace) -> int:
    """Look at a source for a while; 0 if all is as it should be, 1 if not, 3 if nothing came."""
    from holdover.apps.feed import open_table

    if not args.seconds > 0:
        raise UsageError("--seconds is above 0")
    source = open_table(source_of(args))
    look = Look(source.rate_hz, source.channels, source.units, source.length is None)
    try:
        with _drawn(source, look, args.json) as draw:
            watch(source, look, args.seconds, draw)
    finally:
        source.close()
    if args.json:
        _tell_json(source, look)
    else:
        tell(source, look)
    if not look.samples:
        return 3
    return 0 if all(fine for fine, _ in verdicts(look)) else 1


def watch(source: Source, look: Look, seconds: float, draw: Callable[[], None]) -> None:
    """Take chunks until there are so many seconds of signal, the input ends, or nothing comes."""
    began = time.monotonic()
    for chunk in source.chunks():
        now = time.monotonic()
        look.push(chunk, now)
        draw()
        if look.samples + look.holes >= seconds * source.rate_hz:
            return
        if now - began > seconds + PATIENCE_S:
            return


@contextmanager
def _drawn(source: Source, look: Look, quiet: bool) -> Iterator[Callable[[], None]]:
    """The newest seconds as a strip for each channel, drawn over again in a terminal; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    drawn = 0.0

    def picture() -> Text:
        lines = []
        x = look.window[-int(STRIP_S * source.rate_hz) :]
        for i, (name, unit) in enumerate(zip(source.channels, source.units, strict=True)):
            found = measure(look.window[:, i], source.rate_hz)
            size = f"{short(found.size)} {unit}" if found else ""
            lines.append(f"{name[:6]:<6} {strip(x[:, i], max(console.width - 22, 10))} {size:>12}")
        hz = look.measured_hz
        came = look.samples / source.rate_hz
        lines.append(f"{came:5.1f} s of signal" + (f", {hz:.1f} Hz as it arrives" if hz else ""))
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    with Live(picture(), console=console, auto_refresh=False, transient=True) as live:

        def draw() -> None:
            nonlocal drawn
            if time.monotonic() - drawn > DRAW_S:
                drawn = time.monotonic()
                live.update(picture(), refresh=True)

        yield draw


def tell(source: Source, look: Look) -> None:
    print(f"{source.name}: {', '.join(source.channels)}, {source.rate_hz:g} Hz stated")
    if not look.samples:
        print("bad   no sample came: is the sensor on, and is anything sent?")
        return
    for fine, text in verdicts(look):
        print(f"{'ok' if fine else 'bad':<5} {text}")


def _tell_json(source: Source, look: Look) -> None:
    import json

    channels: dict[str, Any] = {}
    for i, (name, unit) in enumerate(zip(source.channels, source.units, strict=True)):
        found = measure(look.window[:, i], source.rate_hz)
        values = {"size": found.size, "middle": found.middle, "noise": found.noise} if found else {}
        mains = {f"mains_{hz:g}_hz": value for hz, value in found.mains.items()} if found else {}
        channels[name] = {"unit": unit, **values, **mains}
    said = [{"ok": fine, "text": text} for fine, text in verdicts(look)]
    print(json.dumps({
        "source": source.name, "rate_hz": source.rate_hz, "measured_hz": look.measured_hz, "samples": look.samples,
        "missing": look.missing, "holes": look.holes, "lead_off": look.off, "back": look.back,
        "faults": look.faults, "channels": channels, "verdicts": said,
    }, indent=1))  # fmt: skip
