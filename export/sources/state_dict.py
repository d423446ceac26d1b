"""Weights by torch's names, in a state_dict or a safetensors file, as a whole-sequence ONNX graph.

A file of weights says nothing of how the layers are joined. What is built is a stack: the recurrent layers one after
another, then the Linear layers, each norm where its width fits one place only, nothing in between.
"""

import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.export.original import Original, SourceOptions
from holdover.export.sources.torch_quiet import line, quiet
from holdover.export.sources.torch_stack import build, chain, listed
from holdover.runtime.errors import ModelError, UsageError

Array = NDArray[Any]

CODE = re.compile(r"GLOBAL|reduce for unrecognized|Can only (?:build|create)")
"""What torch says of a file that names more than tensors."""

ARCHIVES = {
    "/constants.pkl": "a TorchScript module",
    "/archive_format": "a program of torch.export",
    "/serialized_exported_program.json": "a program of torch.export",
}
"""Members of zips that torch writes, by the end of the name, and what the file is then."""


class RunsCodeError(UsageError):
    """A file of torch that holds more than tensors: opening it would run the code that it names."""


def read(path: str | Path, options: SourceOptions) -> Original:
    """Build a whole-sequence graph from weights.

    Parameters
    ----------
    path : str or Path
        A `.safetensors` file, or a `.pt` or `.pth` file with a state_dict, or with one dictionary that is one.
    options : SourceOptions
        `activation` of a plain recurrent layer.

    Returns
    -------
    Original
        Of kind "weights": input `x` (batch, time, features), output `y` (batch, time, width); opset 17, IR 8. The notes
        say what was assumed.

    Raises
    ------
    UsageError
        Weights that are no such stack: keys missing or not understood, shapes that do not fit.
    ModelError
        A file that is not there or cannot be read, or weights that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path} is no file; expected weights, as .safetensors, .pt or .pth")
    weights, notes = _weights(load_safetensors(path) if path.suffix == ".safetensors" else load_torch(path), path)
    layers, assumed = chain(weights, options)
    notes.append(f"assumed: {' -> '.join(layer.text for layer in layers)}: no activation between")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Original(build(layers), "weights", sha256, {"x": 1}, notes=(*notes, *assumed))


def load_safetensors(path: Path) -> Mapping[str, Any]:
    """Arrays of a safetensors file, by name.

    Raises
    ------
    UsageError
        The package safetensors is missing.
    ModelError
        The file is not one, or is cut short.
    """
    try:
        from safetensors import numpy as safetensors
    except ImportError as error:
        raise UsageError("a .safetensors file needs safetensors; pip install holdover[export]") from error
    try:
        loaded: Mapping[str, Any] = safetensors.load_file(path)
    except Exception as error:  # the reader's own errors, and TypeError for types that NumPy does not have
        raise ModelError(f"{path} cannot be read: {line(error)}; expected safetensors of float16, 32 or 64") from error
    return loaded


def load_torch(path: Path) -> Mapping[str, Any]:
    """What a file of torch holds, if that is tensors, numbers and text only.

    Raises
    ------
    RunsCodeError
        It holds something else, such as a module.
    UsageError
        torch is missing.
    ModelError
        The file is none of torch's, is cut short, or holds a program in place of weights.
    """
    try:
        import torch
    except ImportError as error:
        raise UsageError(f"{path} needs torch; pip install holdover[torch], or save it as .safetensors") from error
    _refuse_program(path)
    try:
        with quiet():
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:  # unpickling, zip, EOF, key and runtime errors
        if CODE.search(str(error)):
            raise RunsCodeError(
                f"{path} holds a pickled module, and opening it runs the code that it names; save its state_dict "
                "instead (torch.save(module.state_dict(), FILE)), or say --trust if you trust the file"
            ) from error
        raise ModelError(f"{path} cannot be read as torch's ({type(error).__name__}); is it cut short?") from error
    if not isinstance(found, Mapping):
        raise ModelError(f"{path} holds a {type(found).__name__}; expected a state_dict")
    return found


def _refuse_program(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    kind = next((kind for end, kind in ARCHIVES.items() if any(f"/{m}".endswith(end) for m in members)), None)
    if kind:
        raise ModelError(
            f"{path} is {kind}, whose recurrent layers are already taken apart, at one length of time; "
            "give the module it was made of (package.module:name) or its state_dict"
        )


def _weights(found: Mapping[str, Any], path: Path) -> tuple[dict[str, Array], list[str]]:
    """Arrays by name, in float32 where they are floats, from a state_dict or the one that a checkpoint holds."""
    notes = []
    if found and not any(map(_is_tensor, found.values())):
        inside = [k for k, v in found.items() if isinstance(v, Mapping) and v and all(map(_is_tensor, v.values()))]
        if len(inside) != 1:
            raise UsageError(f"{path} holds {listed(found)}; expected a state_dict, or one dictionary that is one")
        found, notes = found[inside[0]], [f"the weights are those under {inside[0]!r}"]
    odd = [k for k, v in found.items() if not _is_tensor(v)]
    if odd or not found:
        raise UsageError(f"{path} holds {listed(odd) if odd else 'nothing'}; expected tensors and nothing else")
    order = sorted(found, key=_natural) if path.suffix == ".safetensors" else found
    weights = {str(name): _array(found[name]) for name in order}
    bad = [k for k, v in weights.items() if v.dtype == np.float32 and not np.isfinite(v).all()]
    if bad:
        raise ModelError(f"{path}: {listed(bad)} holds NaN or infinity in float32; save weights that are finite")
    return weights, notes


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _array(value: Any) -> Array:
    """A NumPy array; of bfloat16 too, which NumPy does not have."""
    if hasattr(value, "detach"):
        value = (value.detach().float() if value.is_floating_point() else value.detach()).numpy()
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        return np.asarray(value, np.float32 if np.issubdtype(value.dtype, np.floating) else None)


def _natural(name: str) -> list[tuple[int, str]]:
    """layer2 before layer10, since safetensors keeps no order."""
    return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", name)]
