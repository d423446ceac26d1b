"""The weights of a Keras file: HDF5, one group a layer, one numbered data set a variable."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holdover.runtime.errors import ModelError, UsageError

Array = NDArray[Any]
MOST_BYTES = 1 << 30


def open_weights(data: bytes, where: str) -> "Weights":
    """The root of `model.weights.h5`.

    Raises
    ------
    ModelError
        The bytes are no HDF5 file, or a truncated one.
    UsageError
        The reader of HDF5 is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UsageError(f"{where} needs h5py to be read; pip install 'holdover[keras]'") from error
    try:
        return Weights(h5py.File(io.BytesIO(data), "r"), "", where)
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{where}: its weights cannot be read as HDF5 ({error}); save the model again") from error


@dataclass(frozen=True)
class Weights:
    """A place in the tree of weights.

    Attributes
    ----------
    file : h5py.File
        Open for reading.
    path : str
        Of the group.
    where : str
        The Keras file, for messages.
    """

    file: Any
    path: str
    where: str

    def child(self, name: str) -> "Weights":
        """A group below."""
        return Weights(self.file, f"{self.path}/{name}".lstrip("/"), self.where)

    def take(self, *shapes: tuple[int, ...], owner: str = "") -> list[Array]:
        """The variables of this group, float32, in the order in which the layer made them.

        Parameters
        ----------
        shapes : tuple of int
            What the configuration says of each; there must be exactly as many.
        owner : str
            The layer's name, where the file is to say the same.

        Raises
        ------
        ModelError
            A variable is missing, left over, of another shape, not finite, or kept outside of the file.
        """
        group = self._find(f"{self.path}/vars")
        names = sorted(group, key=lambda name: (len(name), name)) if group is not None else []
        if len(names) != len(shapes):
            found = f"{len(names)} weights" if names else "no weights"
            raise ModelError(f"{self.where}: {found} at {self.path}, expected {len(shapes)}; save the model again")
        self._check_owner(group, owner)
        return [self._read(f"{self.path}/vars/{name}", shape) for name, shape in zip(names, shapes, strict=True)]

    def _check_owner(self, group: Any, owner: str) -> None:
        """Later versions of Keras 3 (not yet 3.3) write the layer's name beside its weights."""
        name = group.attrs.get("name", owner) if group is not None else owner
        if owner and name != owner:
            raise ModelError(f"{self.where}: {self.path} holds the weights of layer {name!r}, expected {owner!r}")

    def _find(self, path: str) -> Any:
        """The object at a path, or None; a link out of the file is refused, since it would read other files."""
        import h5py

        at = self.file
        for step in path.strip("/").split("/"):
            link = at.get(step, getlink=True) if isinstance(at, h5py.Group) else None
            if link is None:
                return None
            if not isinstance(link, h5py.HardLink):
                raise ModelError(f"{self.where}: {path} is a link to elsewhere; save the model again")
            at = at[step]
        return at

    def _read(self, path: str, shape: tuple[int, ...]) -> Array:
        import h5py

        data = self._find(path)
        if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external or data.dtype.kind not in "fi":
            raise ModelError(f"{self.where}: {path} holds no plain numbers; save the model again")
        if data.shape != shape:
            raise ModelError(f"{self.where}: {path} has shape {data.shape}, its layer's configuration says {shape}")
        if data.nbytes > MOST_BYTES:
            raise ModelError(f"{self.where}: {path} has {data.nbytes} bytes, at most {MOST_BYTES} are read")
        try:
            with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
                value = np.asarray(data[()], np.float32)
        except (OSError, RuntimeError) as error:
            raise ModelError(f"{self.where}: {path} cannot be read ({error}); the file is damaged") from error
        if not np.isfinite(value).all():
            raise ModelError(f"{self.where}: {path} contains values that are not finite; train or save it again")
        return value
