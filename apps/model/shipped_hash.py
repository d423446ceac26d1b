"""Whether a model file is the one that came with the package."""

import base64
import hashlib
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from holdover.apps.model.shipped import shipped


def is_as_shipped(path: Path) -> bool:
    """Whether a file is a shipped model, unchanged since it was installed.

    The installer's RECORD holds its SHA-256. Where the package runs from its source tree, RECORD does not list it, and
    the file is as good as the code beside it.

    Examples
    --------
    >>> is_as_shipped(shipped()["ecg_rhythm"])
    True
    """
    if path not in shipped().values():
        return False
    promised = _promised(path)
    return promised is None or promised == _sha256(path)


def _promised(path: Path) -> str | None:
    """The SHA-256 that RECORD holds for a file, in its spelling (base64 for URLs, unpadded: PEP 376); None if none."""
    try:
        listed = files("holdover") or []
    except PackageNotFoundError:
        return None
    ending = "/".join(("holdover", *path.parts[-3:]))
    return next((f.hash.value for f in listed if f.as_posix() == ending and f.hash), None)


def _sha256(path: Path) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
