"""A `.keras` file (Keras 3) as a whole-sequence graph, read without Keras, TensorFlow or torch.

Keras's own export of recurrent layers with a free time axis is wrong on the torch backend (3.15), without a word; the
weights in the file are right.
"""

import hashlib
import json
import zipfile
import zlib
from pathlib import Path

import onnx

from holdover.export.original import Original, SourceOptions
from holdover.export.sources.keras_config import Config
from holdover.export.sources.keras_graph import Reading
from holdover.export.sources.keras_weights import MOST_BYTES, open_weights
from holdover.runtime.errors import ModelError, UsageError

MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)
"""What a configuration leads to that is not as Keras writes it: keys missing, values of another kind."""
MEMBERS = ("metadata.json", "config.json", "model.weights.h5")


def read(path: str | Path, options: SourceOptions) -> Original:
    """Read a `.keras` file.

    Parameters
    ----------
    path : str or Path
        What `model.save("model.keras")` of Keras 3 wrote: a Sequential or functional model of known layers
        (`keras_graph.KNOWN`).
    options : SourceOptions
        `input_shape` says where the time axis is, if not after the batch.

    Returns
    -------
    Original
        Opset 17, batch and time free, inputs and outputs named as the model's layers.

    Raises
    ------
    ModelError
        The file is damaged, or holds a layer that is not known.
    UsageError
        `input_shape` is not the file's.
    """
    path = Path(path)
    where = path.name
    parts = _members(path, where)
    config = _document(parts["config.json"], where)
    _check_version(_document(parts["metadata.json"], where), where)
    reading = Reading(options)
    weights = open_weights(parts["model.weights.h5"], where)
    try:
        reading.whole(config, weights)
    except MALFORMED as error:
        if isinstance(error, ModelError | UsageError):
            raise
        layer = f"layer {reading.graph.scope!r}" if reading.graph.scope else "the model"
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(
            f"{where}: the configuration of {layer} is not as Keras 3 writes it ({reason}); save it again"
        ) from error
    model = reading.graph.model(_name(config))
    _check_graph(model, where)
    return Original(
        model, "keras", _sha256(path), time_axes=reading.time_axes, notes=tuple(dict.fromkeys(reading.graph.notes))
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _members(path: Path, where: str) -> dict[str, bytes]:
    """The three files inside."""
    if path.is_dir():
        raise ModelError(f"{where} is a folder; expected the single file that model.save('model.keras') writes")
    try:
        with path.open("rb") as file:
            if file.read(8) == b"\x89HDF\r\n\x1a\n":
                raise ModelError(
                    f"{where} is an HDF5 file of Keras 2 or of weights alone; in Keras 3, load the model and save it"
                    " with model.save('model.keras')"
                )
        with zipfile.ZipFile(path) as archive:
            return {name: _member(archive, name, where) for name in MEMBERS}
    except zipfile.BadZipFile as error:
        raise ModelError(f"{where} is not a .keras file, or a truncated one ({error}); save the model again") from error
    except OSError as error:
        raise ModelError(f"{where} cannot be read ({error})") from error


def _member(archive: zipfile.ZipFile, name: str, where: str) -> bytes:
    try:
        size = archive.getinfo(name).file_size
        if size > MOST_BYTES:
            raise ModelError(f"{where}: {name} unpacks to {size} bytes, at most {MOST_BYTES} are read")
        return archive.read(name)
    except KeyError as error:
        raise ModelError(f"{where} has no {name}; expected a file of model.save('model.keras')") from error
    except (zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted, or packed in an unknown way
        raise ModelError(f"{where}: {name} cannot be unpacked ({error}); save the model again") from error


def _document(data: bytes, where: str) -> Config:
    try:
        found = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where}: its configuration is not JSON ({error}); save the model again") from error
    if not isinstance(found, dict):
        raise ModelError(f"{where}: its configuration is a {type(found).__name__}, expected an object")
    return found


def _no_number(name: str) -> float:
    """NaN and Infinity, which Python's reader takes."""
    raise ValueError(f"{name} is no number")


def _check_graph(model: onnx.ModelProto, where: str) -> None:
    """What a setting of the wrong kind leads to, such as an epsilon that is text."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(
            f"{where}: its configuration does not make a valid graph ({error}); save the model again"
        ) from error


def _check_version(metadata: Config, where: str) -> None:
    version = str(metadata.get("keras_version"))
    if not version.startswith("3."):
        raise ModelError(f"{where} was saved by Keras {version}; load it in Keras 3 and save it again")


def _name(config: Config) -> str:
    return str(config["config"].get("name", "keras"))
