"""Telling systemd: ready, alive, stopping (sd_notify(3)); nothing where no one listens."""

import os
import socket


def notify(message: str) -> None:
    """Send "READY=1", "WATCHDOG=1", "STATUS=..." or "STOPPING=1" to the service manager, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(message.encode(), address)
        except OSError:
            return


def watchdog_s() -> float | None:
    """How often systemd wants to hear that we live, half its limit, in seconds; None if it does not ask."""
    limit_us = os.environ.get("WATCHDOG_USEC", "")
    return int(limit_us) / 2e6 if limit_us.isdigit() else None
