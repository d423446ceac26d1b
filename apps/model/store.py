"""Installed models: files by their SHA-256, and one document, replaced in one move, that says which is in use."""

import fcntl
import hashlib
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec
from msgspec.structs import replace

from holdover.runtime.engine import read_model
from holdover.runtime.errors import ModelError, UsageError

DOCUMENT = "store.json"
FILES = "files"
MAX_EVENTS = 1000
MAX_STARTS = 3
"""So often may a model be started without passing its probation."""
SCHEMA = "holdover.store/1"
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Trust = Literal["signed", "manifest", "unsigned"]
What = Literal["installed", "rolled back", "removed", "passed", "failed"]


class Model(msgspec.Struct, frozen=True):
    """An installed file: what its contract calls itself, how far it is vouched for, when it came."""

    sha256: str
    model_version: str
    trust: Trust
    installed: str
    bytes: int


class Probation(msgspec.Struct, frozen=True):
    """A model that has yet to prove itself: starts without an orderly end, and what it failed by, or ""."""

    starts: int = 0
    failed: str = ""

    @property
    def over(self) -> str:
        """Why the model is to be rolled back, or ""."""
        return self.failed or (
            f"it ended {self.starts} times before its probation did" if self.starts >= MAX_STARTS else ""
        )


class Entry(msgspec.Struct, frozen=True):
    """What is installed under one name; `probation` is that of `current`, None once it has passed."""

    current: Model | None = None
    previous: Model | None = None
    probation: Probation | None = None


class Event(msgspec.Struct, frozen=True):
    """A line of the journal: when, what, of which name, which file, and why."""

    at: str
    what: What
    name: str
    sha256: str = ""
    why: str = ""


class Document(msgspec.Struct, frozen=True):
    """All of the store but the files."""

    about: str = SCHEMA
    models: dict[str, Entry] = {}
    journal: list[Event] = []


class ModelStore:
    """A folder of installed models, shared by the command and by daemons.

    `store.json` is written beside itself and renamed, so that `current`, `previous`, probation and journal change in
    one move: whoever is killed half-way leaves the old one or the new one.

    Parameters
    ----------
    folder
        Need not be there until something is installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self) -> Document:
        """The document; an empty one where nothing was ever installed.

        Raises
        ------
        ModelError
            It cannot be read, or is none.
        """
        place = self.folder / DOCUMENT
        try:
            document = msgspec.json.decode(place.read_bytes(), type=Document)
        except FileNotFoundError:
            return Document()
        except OSError as error:
            raise ModelError(f"cannot read {place}: {error.strerror}; choose another folder with --store") from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise ModelError(
                f"{place} is not what holdover wrote ({str(error)[:100]}); move it away and install again: the "
                f"models are still in {self.folder / FILES}"
            ) from error
        if document.about != SCHEMA:
            raise ModelError(f"{place} is of the schema {document.about!r}, this holdover reads {SCHEMA}")
        return document

    def entry(self, name: str) -> Entry | None:
        """What is installed under a name, - and _ being one; None if nothing is."""
        models = self.read().models
        return next((found for key, found in models.items() if _same(key, name)), None)

    def path(self, model: Model) -> Path:
        """Where a file lies."""
        return self.folder / FILES / f"{model.sha256}.onnx"

    def load(self, model: Model) -> bytes:
        """A file's bytes; `ModelError` where they are not those that were installed."""
        data, sha256 = read_model(self.path(model))
        if sha256 != model.sha256:
            raise ModelError(f"{self.path(model)} is damaged: its SHA-256 is {sha256[:16]}...; install the model again")
        return data

    def manifest(self, model: Model) -> Path | None:
        """The manifest that came with a file, its signature beside it; None if none came."""
        place = self.folder / FILES / f"{model.sha256}.manifest.json"
        return place if place.exists() else None

    def install(
        self,
        name: str,
        data: bytes,
        model_version: str,
        trust: Trust,
        manifest: tuple[bytes, bytes | None] | None = None,
    ) -> Entry:
        """Put a file into the store and into use, on probation; what was in use becomes the previous one.

        Parameters
        ----------
        manifest
            Its bytes and its signature's.

        Raises
        ------
        ModelError
            The store cannot be written.
        UsageError
            The name cannot be one.
        """
        if not NAME.fullmatch(name):
            raise UsageError(
                f"a model's name is of A-Z a-z 0-9 _ -, up to 64; found {name[:80]!r}: give one with --name"
            )
        sha256 = hashlib.sha256(data).hexdigest()
        model = Model(sha256, model_version, trust, now(), len(data))
        with self._changing() as document:
            key = _key(document, name)
            old = document.models.get(key, Entry())
            previous = old.previous if old.current and old.current.sha256 == sha256 else old.current
            entry = Entry(model, previous, Probation())
            self._put_files(model, data, manifest)
            self._write(document, key, entry, Event(now(), "installed", key, sha256, trust))
        return entry

    def roll_back(self, name: str, why: str) -> Entry:
        """Take the previous file into use again; the one in use becomes the previous one, so that it can be undone.

        Raises
        ------
        UsageError
            There is no such name, or nothing before what it holds.
        """
        with self._changing() as document:
            key, entry = self._found(document, name)
            if not entry.current or not entry.previous:
                raise UsageError(f"there is nothing to roll {key} back to; 'holdover models remove {key}' removes it")
            back = Entry(entry.previous, entry.current, None)
            self._write(document, key, back, Event(now(), "rolled back", key, entry.current.sha256, why))
        return back

    def remove(self, name: str) -> None:
        """Forget a name, and its files where no other name holds them; `UsageError` where there is no such name."""
        with self._changing() as document:
            key, entry = self._found(document, name)
            sha256 = entry.current.sha256 if entry.current else ""
            self._write(document, key, None, Event(now(), "removed", key, sha256))

    def begin(self, name: str, can_do_without: bool = False) -> tuple[Entry, str]:
        """Count a start of what a name holds; roll back first where its probation is over.

        Parameters
        ----------
        can_do_without
            Whether something else stands in where nothing is left under the name: a shipped model.

        Returns
        -------
        Entry
            What to run.
        str
            Why what was in use is over, or "". Where there was nothing to roll back to, it is still in use.
        """
        with self._changing() as document:
            key, entry = self._found(document, name)
            why = entry.probation.over if entry.probation else ""
            if why and entry.current and (entry.previous or can_do_without):
                lost = entry.current.sha256
                entry = Entry(entry.previous)
                self._write(document, key, entry, Event(now(), "rolled back", key, lost, why))
            elif entry.probation and not why:
                entry = replace(entry, probation=Probation(entry.probation.starts + 1))
                self._write(document, key, entry)
        return entry, why

    def passed(self, name: str, sha256: str) -> None:
        """End a file's probation well."""
        self._probation(name, sha256, None, "passed", "")

    def failed(self, name: str, sha256: str, why: str) -> None:
        """Note what a file on probation failed by: the next start rolls it back."""
        self._probation(name, sha256, Probation(MAX_STARTS, why), "failed", why)

    def forgive(self, name: str, sha256: str) -> None:
        """Take back the count of a start that came to an orderly end."""
        entry = self.entry(name)
        if entry and entry.probation and not entry.probation.failed:
            self._probation(name, sha256, Probation(max(entry.probation.starts - 1, 0)), None, "")

    def _probation(self, name: str, sha256: str, probation: Probation | None, what: What | None, why: str) -> None:
        with self._changing() as document:
            key, entry = self._found(document, name)
            if entry.probation and entry.current and entry.current.sha256 == sha256:
                event = Event(now(), what, key, sha256, why) if what else None
                self._write(document, key, replace(entry, probation=probation), event)

    def _found(self, document: Document, name: str) -> tuple[str, Entry]:
        key = _key(document, name)
        if key not in document.models:
            names = ", ".join(document.models) or "none"
            raise UsageError(f"no model {name!r} is installed in {self.folder}; there are: {names}")
        return key, document.models[key]

    def _put_files(self, model: Model, data: bytes, manifest: tuple[bytes, bytes | None] | None) -> None:
        place = self.path(model)
        parts = {place: data}
        if manifest:
            parts[place.with_suffix(".manifest.json")] = manifest[0]
            parts |= {place.with_suffix(".manifest.json.sig"): manifest[1]} if manifest[1] else {}
        for path, part in parts.items():
            _write_whole(path, part, 0o444)

    def _write(self, document: Document, key: str, entry: Entry | None, event: Event | None = None) -> None:
        models = {name: kept for name, kept in document.models.items() if name != key} | ({key: entry} if entry else {})
        journal = [*document.journal, *([event] if event else [])][-MAX_EVENTS:]
        data = msgspec.json.format(msgspec.json.encode(Document(SCHEMA, models, journal)), indent=1)
        _write_whole(self.folder / DOCUMENT, data, 0o644)
        if event:
            self._clear(models)

    def _clear(self, models: dict[str, Entry]) -> None:
        """Delete files that no name holds."""
        kept = {m.sha256 for entry in models.values() for m in (entry.current, entry.previous) if m}
        for path in (self.folder / FILES).glob("*"):
            if path.name.partition(".")[0] not in kept:
                path.unlink(missing_ok=True)

    @contextmanager
    def _changing(self) -> Iterator[Document]:
        """Hold the store against others who would change it, and explain what the disk refuses."""
        try:
            (self.folder / FILES).mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield self.read()
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"cannot write the models' folder {self.folder}: {error.strerror}; choose another with --store, or in "
                "[models] of the configuration"
            ) from error


class StoreError(ModelError, OSError):
    """The store cannot be written."""


def now() -> str:
    """The time, ISO 8601, UTC, seconds."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def name_of(contract_name: str) -> str:
    """A model's own name as a name in the store: what cannot stand in one becomes -.

    Examples
    --------
    >>> name_of("ECG beats, v2")
    'ECG-beats-v2'
    """
    return re.sub(r"[^A-Za-z0-9_]+", "-", contract_name).strip("-")[:64]


def _same(one: str, other: str) -> bool:
    return one.replace("-", "_") == other.replace("-", "_")


def _key(document: Document, name: str) -> str:
    """The name as it is written in the store, or as it was given."""
    return next((key for key in document.models if _same(key, name)), name)


def _write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a file so that a reader finds the old one or the new one, also after a power cut."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new.", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, mode)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
