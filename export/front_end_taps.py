"""Taps of an FIR filter, from a file or a contract."""

import re
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from holdover.runtime.errors import UsageError

MAX_TAPS = 1024
MAX_FILE_BYTES = 1 << 20
LARGEST = float(np.finfo(np.float32).max)


def taps_of(path: str) -> list[float]:
    """Taps from a file: .npy, or text with commas or lines between the numbers.

    Raises
    ------
    UsageError
        The file cannot be read, or holds something else than 1 to `MAX_TAPS` finite numbers.
    """
    try:
        size = Path(path).stat().st_size
        if size > MAX_FILE_BYTES:
            raise UsageError(f"--fir {path}: the file has {size} bytes; expected at most {MAX_TAPS} taps")
        taps = _npy(path) if Path(path).suffix == ".npy" else _text(path)
    except UsageError:
        raise
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:  # NumPy parses a header as Python
        raise UsageError(f"--fir {path}: it cannot be read as numbers ({error}); expected .npy, or text with commas "
                         "or lines between the taps") from error  # fmt: skip
    check_taps(taps)
    return taps


def _npy(path: str) -> list[float]:
    # Mapped, so that a header that lies about the size is refused and not allocated.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"it holds {array.dtype}, not real numbers")
    if array.squeeze().ndim > 1:
        raise ValueError(f"it has shape {array.shape}, not one axis")
    return [float(v) for v in array.reshape(-1)]


def _text(path: str) -> list[float]:
    words = re.split(r"[\s,;]+", Path(path).read_text(encoding="utf-8").strip())
    return [float(w) for w in words if w]


def check_taps(taps: Any) -> None:
    """Refuse what is no FIR filter.

    Raises
    ------
    UsageError
        Not a list of 1 to `MAX_TAPS` numbers that single precision can hold, or nothing but zeros.
    """
    number = int | float
    if not isinstance(taps, list) or not all(isinstance(t, number) and not isinstance(t, bool) for t in taps):
        raise UsageError("the taps of the FIR filter are not a list of numbers")
    if not 1 <= len(taps) <= MAX_TAPS:
        raise UsageError(f"the FIR filter has {len(taps)} taps; expected 1 to {MAX_TAPS}")
    if bad := [t for t in taps if not abs(t) <= LARGEST]:
        raise UsageError(f"the FIR filter has a tap of {bad[0]:g} ({len(bad)} of {len(taps)} are not finite in single "
                         "precision); design it again")  # fmt: skip
    if not any(taps):
        raise UsageError("all taps of the FIR filter are 0: nothing of the signal would be left")
