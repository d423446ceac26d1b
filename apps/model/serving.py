"""The model that a daemon runs: found by name or path, through the gate, rolled back where it did not prove itself."""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from holdover.apps.model.gate import Gate, read_stated
from holdover.apps.model.options import ModelsOptions, default_store
from holdover.apps.model.shipped import DEFAULT, find_model, shipped
from holdover.apps.model.shipped_hash import is_as_shipped
from holdover.apps.model.store import NAME, Entry, Model, ModelStore, StoreError
from holdover.runtime.errors import HoldoverError, ModelError

if TYPE_CHECKING:
    from holdover.apps.model.manifest import Stated
    from holdover.runtime.engine import Engine

log = logging.getLogger("holdover.daemon")

Standing = Literal["shipped", "file", "installed", "probation"]

LATE_S = 60.0
"""A model on probation that falls so far behind its signal has failed."""


class ServingModel:
    """A model that is loaded and may be run; `engine` is it.

    Parameters
    ----------
    name
        Of an installed or a shipped model, or a path; None: the default one. What is installed goes first.
    options
        `[models]` of the configuration.
    clock
        Seconds that only go on.

    Attributes
    ----------
    engine
        The model.
    standing
        "shipped", "file", "installed" or "probation".
    notice
        What whoever runs the daemon should hear of (a model was rolled back, and why), or "".

    Raises
    ------
    ModelError
        There is no such model, or the gate refuses it and there is none to go back to.
    """

    def __init__(
        self, name: str | None, options: ModelsOptions | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        options = options or ModelsOptions()
        self._key = Path(options.key).expanduser() if options.key else None
        self._probation_s = options.probation_s
        self._store = ModelStore(Path(options.store).expanduser() if options.store else default_store())
        self._name = name or DEFAULT
        self._clock, self._began = clock, math.inf
        self._model: Model | None = None
        self.standing: Standing = "file"
        self.notice = ""
        entry = self._store.entry(name) if name and NAME.fullmatch(name) else None
        self.engine: Engine = self._installed(entry) if entry else self._file(find_model(name))

    def ready(self) -> None:
        """The daemon runs: the time of the probation begins."""
        self._began = self._clock()

    def tick(self, late_s: float = 0.0) -> None:
        """End the probation once its time has passed, or badly where the streams are late; called now and then.

        Parameters
        ----------
        late_s
            How far behind the samples that have come the slowest stream is.
        """
        if self._model is None or math.isinf(self._began) or self.standing != "probation":
            return
        if late_s > LATE_S:
            self._failed(f"its streams were {late_s:.0f} s late")
        elif self._clock() - self._began >= self._probation_s:
            self._noted(self._store.passed)
            self.standing = "installed"
            log.info("model %s has passed its probation of %.0f s", self._name, self._probation_s)

    def ended(self, error: BaseException | None = None) -> None:
        """The daemon ends: what the model has not brought about is not held against it.

        Parameters
        ----------
        error
            What ended it: None where it was told to, or its inputs had ended. An error of the input, the ledger or the
            broker is forgiven too; one of the model, or one that nobody foresaw, is not.
        """
        innocent = error is None or (isinstance(error, HoldoverError) and not isinstance(error, ModelError))
        if innocent and self._model and self.standing == "probation":
            self._noted(self._store.forgive)

    def _failed(self, why: str) -> None:
        assert self._model is not None
        self._tell(f"model {self._name} fails its probation: {why}; the next start goes back to the one before")
        self.standing = "installed"
        try:
            self._store.failed(self._name, self._model.sha256, why)
        except StoreError as error:
            log.warning("%s", error)

    def _noted(self, change: Callable[[str, str], None]) -> None:
        assert self._model is not None
        try:
            change(self._name, self._model.sha256)
        except StoreError as error:
            log.warning("%s", error)

    def _installed(self, entry: Entry) -> "Engine":
        entry = self._counted(entry)
        model = entry.current
        if model is None:
            return self._file(find_model(self._name))
        try:
            engine = self._admitted(self._store.load(model), str(self._store.path(model)), self._store.manifest(model))
        except ModelError as error:
            return self._instead(entry, error)
        self._model, self.standing = model, "probation" if entry.probation else "installed"
        return engine

    def _counted(self, entry: Entry) -> Entry:
        """Count this start where the model is on probation, and roll back where that is over."""
        if not entry.probation:
            return entry
        try:
            found, why = self._store.begin(self._name, self._is_shipped)
        except StoreError as error:
            log.warning("%s; starts of a model on probation are not counted", error)
            return entry
        if why and found.current == entry.current:
            self._tell(f"model {self._name} fails its probation: {why}; there is none to go back to, it stays in use")
        elif why:
            self._tell(f"model {self._name} was rolled back to {_short(found)}: {why}")
        return found

    def _instead(self, entry: Entry, error: ModelError) -> "Engine":
        """Go back to the model before one that cannot be loaded."""
        if not entry.previous and not self._is_shipped:
            raise error
        self._tell(f"model {self._name} cannot be used ({error}); going back to {_short(Entry(entry.previous))}")
        if not entry.previous:
            return self._file(find_model(self._name))
        try:
            self._store.roll_back(self._name, str(error)[:500])
        except StoreError as refused:
            log.warning("%s", refused)
        return self._installed(Entry(entry.previous))

    def _file(self, path: Path) -> "Engine":
        from holdover.runtime.engine import load, read_model

        if is_as_shipped(path):
            self.standing = "shipped"
            return load(path)
        return self._admitted(read_model(path)[0], str(path), None)

    def _admitted(self, data: bytes, where: str, manifest: Path | None) -> "Engine":
        """Through the gate, and loaded from the same bytes."""
        import hashlib

        from holdover.runtime.engines.ort import OrtEngine

        stated: Stated | None = read_stated(Path(where), manifest, self._key)
        with Gate() as gate:
            gate.judge(data, stated).demand(where)
        return OrtEngine(data, hashlib.sha256(data).hexdigest(), where)

    @property
    def _is_shipped(self) -> bool:
        """Whether a model of this name comes with the package."""
        return self._name.replace("-", "_") in shipped()

    def _tell(self, notice: str) -> None:
        log.warning("%s", notice)
        self.notice = f"{self.notice}; {notice}" if self.notice else notice


def _short(entry: Entry) -> str:
    return f"{entry.current.model_version} ({entry.current.sha256[:8]})" if entry.current else "the shipped one"
