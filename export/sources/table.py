"""Which reader takes what the user names."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

from holdover.export.original import Original, SourceOptions
from holdover.runtime.errors import SourceError, UsageError

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
    return _reader(spec)(spec, options)


def _reader(spec: str) -> Callable[[str, SourceOptions], Original]:
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
