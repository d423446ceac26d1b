"""Which reader takes what the user names."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

from holdover.export.original import Original, SourceOptions
from holdover.runtime.errors import ModelError, SourceError, UsageError

READERS = {
    ".onnx": "onnx_file",
    ".keras": "keras_file",
    ".npz": "weights_npz",
    ".safetensors": "state_dict",
    ".pt": "torch_module",
    ".pth": "torch_module",
    ".pt2": "torch_module",
}
"""Module by ending."""

KNOWN = (
    "model.onnx, model.keras, weights.npz (raw, textbook form), weights.safetensors or .pt (a PyTorch state_dict or "
    "module), or package.module:factory (a PyTorch module)"
)
NO_MODELS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, which stands for the model; run 'git lfs pull' to fetch it"),
    (b"<!doctype html", "is a web page; download the model itself (the raw file)"),
    (b"<html", "is a web page; download the model itself (the raw file)"),
)
"""How files begin that are often taken for models, and what they are."""
_PYTHON = re.compile(r"(?P<folder>.*/)?(?P<module>[^/:]+)\.py(:(?P<factory>\w*))?")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def read(spec: str, options: SourceOptions) -> Original:
    """Read a model by path or by the name of the function that makes it.

    Raises
    ------
    UsageError
        It is of no kind that is known.
    SourceError
        There is no such file.
    ModelError
        The reader cannot take it, with the reason.
    """
    reader = _reader(spec)
    if Path(spec).is_file():
        _check_beginning(Path(spec))
    return reader(spec, options)


def _check_beginning(path: Path) -> None:
    """Say what a file is that cannot be a model of any kind."""
    with path.open("rb") as file:
        data = file.read(512)
    if not data:
        raise ModelError(f"{path} is empty; expected a model: export or download it again")
    for beginning, what in NO_MODELS:
        if data.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(beginning):
            raise ModelError(f"{path} {what}")


def _hint(spec: str) -> str | None:
    """What to give for a Python file."""
    found = _PYTHON.fullmatch(spec)
    if found is None:
        return None
    factory = found["factory"] or "factory"
    folder = f" from the folder {found['folder']}" if found["folder"] else ""
    return f"{spec} is a Python file; give {found['module']}:{factory}{folder}, {factory} what makes the PyTorch module"


def _reader(spec: str) -> Callable[[str, SourceOptions], Original]:
    if hint := _hint(spec):
        raise UsageError(hint)
    name = READERS.get(Path(spec).suffix.lower())
    if name is None and _FACTORY.fullmatch(spec) and not Path(spec).exists():
        name = "torch_module"
    if name is None and Path(spec).suffix.lower() in (".h5", ".hdf5"):
        name = "keras_file"
    if name is None:
        found = "is a folder" if Path(spec).is_dir() else "is of no kind that is known"
        raise UsageError(f"{spec} {found}; expected {KNOWN}")
    if ":" not in spec and not Path(spec).exists():
        raise SourceError(f"there is no file {spec}; expected {KNOWN}")
    module = importlib.import_module(f"holdover.export.sources.{name}")
    reader: Callable[[str, SourceOptions], Original] = module.read
    return reader
