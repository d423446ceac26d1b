"""Where a command writes: looked at before hours of work, so that no file costs another one."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from holdover.runtime.errors import UsageError


def check_places(writes: Mapping[str, str | None], reads: Iterable[str | None]) -> None:
    """Refuse places where a file cannot be, or is that must stay.

    Parameters
    ----------
    writes : mapping of str to str
        Path by option; None: not given.
    reads : iterable of str
        What the command reads; not all of it need be a path.

    Raises
    ------
    UsageError
        No such folder, a folder, no plain file, a file that is read, or the same file twice; by any link.
    """
    taken = {path: "what is read, and needed to prove it again" for path in reads if path}
    for option, path in writes.items():
        if path is None:
            continue
        try:
            _check(option, Path(path), taken)
        except UsageError:
            raise
        except (OSError, ValueError) as error:  # names that no file can have
            raise UsageError(f"{option} {path!r} cannot be a file: {error}") from error
        taken[path] = f"the file of {option}"


def _check(option: str, path: Path, taken: Mapping[str, str]) -> None:
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the file to write, such as {path / 'model.onnx'}")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder} to write {path.name} into")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no plain file; expected one that can be replaced")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"the folder {folder} cannot be written into")
    for other, what in taken.items():
        if _same(path, Path(other)):
            raise UsageError(f"{option} {path} would overwrite {what}: choose another name")


def _same(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()


def write(files: Mapping[str, bytes]) -> None:
    """Write files, all of them or none.

    Raises
    ------
    UsageError
        One of them cannot be written.
    """
    from holdover.export.contract_io import write_together

    try:
        write_together(list(files.items()))
    except OSError as error:
        raise UsageError(f"cannot write {' and '.join(files)}: {error.strerror}; nothing was written") from error
