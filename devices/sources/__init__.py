"""Where samples come from: one file for each kind, found by entry point, so that others can bring their own."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from holdover.runtime.chunk import Source
from holdover.runtime.errors import SourceError

GROUP = "holdover.sources"
SUFFIXES = {
    ".hea": "wfdb", ".dat": "wfdb", ".csv": "csv", ".tsv": "csv", ".txt": "csv",
    ".npz": "npz", ".npy": "npz", ".edf": "edf",
}  # fmt: skip
"""The kind of a file by its extension."""
NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "wfdb": ("replay", ("wfdb",)), "edf": ("replay", ("edfio",)),
    "serial": ("serial", ("serial",)), "polar": ("polar", ("bleak",)),
    "ads1115": ("board", ("smbus2",)), "ads1292r": ("board", ("spidev",)), "max30003": ("board", ("spidev",)),
    "lsl": ("lsl", ("mne_lsl",)), "brainflow": ("brainflow", ("brainflow",)),
}  # fmt: skip
"""By kind: the extra of holdover that brings what it needs beyond the runtime, and the modules that are needed."""


def kinds() -> list[str]:
    """The kinds of source that are installed, sorted."""
    return sorted(entry_points(group=GROUP).names)


def open_source(kind: str, options: Mapping[str, Any]) -> Source:
    """Open a source by its kind.

    Raises
    ------
    SourceError
        If the kind is unknown, the options are not its options, what it needs is not installed, or it cannot be
        opened; the message says which, and what to do.
    """
    factory = _load(_entry(kind))
    _check_options(kind, factory, options)
    try:
        source: Source = factory(**options)
    except ImportError as error:
        raise _missing(kind, error) from None
    return source


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Hold options against what a kind of source takes, without opening it; raises `SourceError` as `open_source`."""
    _check_options(kind, _load(_entry(kind)), options)


class Found(NamedTuple):
    """A device that is plugged in, or what it could be reached by: in words, and as options of its kind."""

    what: str
    options: dict[str, Any]


def find(kind: str) -> list[Found]:
    """What is there of a kind: what the function `find` beside the kind's own gives, if there is one.

    A source of another package brings such a function in the module that its entry point names.
    """
    module = import_module(_entry(kind).module)
    finder: Callable[[], list[Found]] | None = getattr(module, "find", None)
    return finder() if finder else []


def needs(kind: str) -> str:
    """What is missing to use a kind, and what to do, in words; "" if nothing is."""
    extra, modules = NEEDS.get(kind, ("", ()))
    missing = [name for name in modules if find_spec(name) is None]
    return f"needs {', '.join(missing)}: pip install 'holdover[{extra}]'" if missing else ""


def package(kind: str) -> str:
    """The name of the package that brings a kind."""
    dist = _entry(kind).dist
    return dist.name if dist else "unknown"


def open_file(path: str | Path, **options: Any) -> Source:
    """Open a recording, its kind by its extension; options go to that kind.

    Raises
    ------
    SourceError
        If the extension is not known, or the kind refuses the file.
    """
    return open_source(kind_of(path), {"path": path, **options})


def kind_of(path: str | Path) -> str:
    """The kind of a file: by a WFDB header beside it, else by its extension; SourceError if neither tells."""
    path = Path(path).expanduser()
    kind = SUFFIXES.get(path.suffix.lower())
    if kind:
        return kind
    if path.with_name(path.name + ".hea").is_file() or path.with_suffix(".hea").is_file():
        return "wfdb"
    if not path.suffix and not path.exists():
        raise SourceError(f"there is no {path}, nor a WFDB header {path}.hea")
    known = ", ".join(SUFFIXES)
    raise SourceError(f"{path}: {path.suffix or 'no extension'} is not a kind of recording; expected one of {known}")


def records_in(folder: str | Path) -> list[Path]:
    """The recordings in a folder, sorted: its WFDB headers, or if it has none, its files of the other kinds.

    Raises
    ------
    SourceError
        If there is no such folder, or no recording in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise SourceError(f"{folder} is not a folder")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    headers = [file for file in files if file.suffix == ".hea"]
    found = headers or [file for file in files if file.suffix.lower() != ".dat"]
    if not found:
        raise SourceError(f"{folder} holds no recordings; expected files ending in {', '.join(SUFFIXES)}")
    return found


def _entry(kind: str) -> EntryPoint:
    found = entry_points(group=GROUP, name=kind)
    if found:
        return next(iter(found))
    from difflib import get_close_matches

    near = get_close_matches(kind, kinds(), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise SourceError(f"there is no source {kind!r}{hint} (installed: {', '.join(kinds()) or 'none'})")


def _load(entry: EntryPoint) -> Callable[..., Source]:
    try:
        factory: Callable[..., Source] = entry.load()
    except ImportError as error:
        raise _missing(entry.name, error) from None
    return factory


def _check_options(kind: str, factory: Callable[..., Source], options: Mapping[str, Any]) -> None:
    from difflib import get_close_matches
    from inspect import signature

    known = signature(factory).parameters
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"its options are {', '.join(known)}"
            raise SourceError(f"source {kind!r} has no option {name!r}; {hint}")
    try:
        signature(factory).bind(**options)
    except TypeError as error:
        raise SourceError(f"source {kind!r}: {error}; its options are {', '.join(known)}") from None


def _missing(kind: str, error: ImportError) -> SourceError:
    missing = needs(kind) or f"needs {error.name or error}, which is not installed"
    return SourceError(f"source {kind!r} {missing}")
