"""torch at hand and quiet, and what goes wrong in it as one line."""

import contextlib
import importlib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from holdover.runtime.errors import UsageError


def need_torch() -> None:
    """Import what an export needs.

    Raises
    ------
    UsageError
        torch or onnxscript is not installed.
    """
    for name in ("torch", "onnxscript"):
        try:
            with quiet():
                importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"a PyTorch module needs {name} ({line(error)}); pip install holdover[torch]") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings, log lines and prints of torch, and of the user's module, from the user."""
    disabled = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(disabled)


def line(error: BaseException) -> str:
    """The first line that an error says, and the next where that only announces it; colours dropped.

    Examples
    --------
    >>> line(ValueError("Found these:\\n- x is 3.\\nMore at ..."))
    'Found these: - x is 3.'
    """
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split("\n")
    said = [text.strip() for text in lines if text.strip()] or ["no message"]
    return " ".join(said[: 2 if said[0].endswith(":") else 1])


def failure(error: BaseException) -> str:
    """Kind and first line of an error in the user's code, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {line(error)}{where}"
