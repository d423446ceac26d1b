"""The models that come with the package, by name."""

from importlib.resources import files
from pathlib import Path

from holdover.runtime.errors import ModelError

DEFAULT = "ecg_rhythm"
FILE = "model.onnx"


def shipped() -> dict[str, Path]:
    """The model files in the package by the names of their folders, sorted.

    Examples
    --------
    >>> "ecg_rhythm" in shipped()
    True
    """
    place = files("holdover.models")
    if not isinstance(place, Path):  # a zip file or several folders: nothing that an engine could open
        return {}
    return {file.parent.name: file for file in sorted(place.glob(f"*/{FILE}"))}


def find_model(name_or_path: str | None = None) -> Path:
    """The file of a model that is named as shipped (with - or _), or by its path; None: the default one.

    Raises
    ------
    ModelError
        There is neither such a name nor such a file.
    """
    known = shipped()
    name = DEFAULT if name_or_path is None else name_or_path
    found = known.get(name.replace("-", "_"))
    if found:
        return found
    path = Path(name).expanduser()
    if name_or_path is None or not path.exists():
        names = ", ".join(known) or "none"
        raise ModelError(f"there is no model {name!r}: give the path of an ONNX file, or a shipped model ({names})")
    return path
