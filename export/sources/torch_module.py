"""A PyTorch module by the name that it is imported under, or from a file."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdover.export.original import Original, SourceOptions
from holdover.export.sources import state_dict
from holdover.export.sources.torch_export import export
from holdover.export.sources.torch_quiet import failure, line, need_torch, quiet
from holdover.runtime.errors import ModelError, UsageError

SUFFIXES = (".pt", ".pth", ".pt2")
EXPECTED = "a .pt or .pth file, or package.module:name"


def read(spec: str, options: SourceOptions) -> Original:
    """Read a PyTorch module.

    Parameters
    ----------
    spec : str
        `package.module:name`, where name is an nn.Module, its class, or a function that gives one and needs no
        arguments; imported with the current folder on the path. Or a `.pt` or `.pth` file of a module or a state_dict.
    options : SourceOptions
        `input_shape` where the shape cannot be found by trying, `trust` for a file that holds a pickled module.

    Returns
    -------
    Original
        Of kind "torch"; of kind "weights" from a state_dict.

    Raises
    ------
    UsageError
        No such name, or a file that may not be opened without `trust`, or weights that are no plain stack.
    ModelError
        What is there cannot be read or exported, or the exporter gave a wrong graph.
    """
    need_torch()
    path = Path(spec)
    if ":" in spec and path.suffix not in SUFFIXES and not path.is_file():
        return export(_imported(spec), options)
    module = _from_file(path, options)
    return state_dict.read(path, options) if module is None else export(module, options)


def _imported(spec: str) -> Any:
    from torch import nn

    place, _, name = spec.partition(":")
    with _here(), quiet():
        found = _attribute(_package(place, spec), place, name)
        if isinstance(found, nn.Module):
            return found
        if not callable(found):
            raise UsageError(
                f"{spec} is of type {type(found).__name__}; expected an nn.Module or a function that gives one"
            )
        try:
            made = found()
        except (Exception, SystemExit) as error:  # whatever the user's function does
            raise UsageError(f"{spec}() failed: {failure(error)}; it is called without arguments") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{spec}() gave something of type {type(made).__name__}; expected an nn.Module")
    return made


@contextlib.contextmanager
def _here() -> Iterator[None]:
    """The current folder first on the path, for as long as it is needed."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def _package(place: str, spec: str) -> Any:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name and f"{place}.".startswith(f"{error.name}."):
            raise UsageError(f"{spec}: no module {place} in the current folder or among those installed") from error
        raise UsageError(f"{spec}: importing {place} failed: {line(error)}; install what it needs") from error
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise UsageError(f"{spec}: importing {place} failed: {failure(error)}") from error


def _attribute(package: Any, place: str, name: str) -> Any:
    if hasattr(package, name):
        return getattr(package, name)
    from torch import nn

    kinds = {k: v if isinstance(v, type) else type(v) for k, v in vars(package).items()}
    known = [k for k, kind in kinds.items() if issubclass(kind, nn.Module)]
    raise UsageError(f"{place} has no {name!r}; its modules of torch: {', '.join(known) or 'none'}")


def _from_file(path: Path, options: SourceOptions) -> Any:
    """The module in a file; None where the file holds a state_dict."""
    if not path.is_file():
        raise ModelError(f"{path} is no file; expected {EXPECTED}")
    try:
        state_dict.load_torch(path)
    except state_dict.RunsCodeError:
        if not options.trust:
            raise
        return _unpickled(path)
    return None


def _unpickled(path: Path) -> Any:
    import torch

    try:
        with _here(), quiet():
            found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling calls whatever the file names
        raise ModelError(f"{path} cannot be opened: {failure(error)}") from error
    if not isinstance(found, torch.nn.Module):
        raise ModelError(f"{path} holds a {type(found).__name__}; expected an nn.Module or a state_dict")
    return found
