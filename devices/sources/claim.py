"""One reader for each device, on this machine: two would each get half of what it says."""

import socket

from holdover.devices.sources.device import LinkLost


class Claim:
    """A device that is this reader's own until `close`, or until the process ends.

    Parameters
    ----------
    device
        What it is called; the same for whoever would read from it.

    Raises
    ------
    LinkLost
        It is another reader's, of this process or another.

    Examples
    --------
    >>> one = Claim("doc")
    >>> Claim("doc")
    Traceback (most recent call last):
    holdover.devices.sources.device.LinkLost: doc is read by another stream, and can be read by one alone: take one out
    >>> one.close()
    >>> Claim("doc").close()
    """

    def __init__(self, device: str) -> None:
        # A name in Linux's abstract space: taken by one alone, and free again however its owner ends.
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.bind(f"\0holdover {device}")
        except OSError:
            self._socket.close()
            raise LinkLost(f"{device} is read by another stream, and can be read by one alone: take one out") from None

    def close(self) -> None:
        """Leave it to others."""
        self._socket.close()
