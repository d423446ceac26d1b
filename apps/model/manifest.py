"""What a model's maker says of the file, in a file beside it: its SHA-256, what it gives; and a signature over that."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from holdover.runtime.errors import ModelError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SCHEMA = "holdover.manifest/1"
SUFFIX, SIGNED = ".manifest.json", ".sig"
MAX_BYTES = 16 << 20
MAX_SAMPLES = 1_000_000
INSTALL = "pip install 'holdover[sign]'"

Array = NDArray[np.float32]


class GoldenOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one output gave: (frames, width), float32, little-endian, in base64."""

    frames: int
    width: int
    data: str

    @classmethod
    def of(cls, values: Array) -> "GoldenOutput":
        """Wrap (frames, width)."""
        frames, width = values.shape
        return cls(frames, width, base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode())

    def values(self) -> Array:
        """The numbers, (frames, width); `ValueError` where they are not what the shape says, or not finite."""
        raw = base64.b64decode(self.data, validate=True)
        if self.frames < 0 or self.width < 1 or len(raw) != 4 * self.frames * self.width:
            raise ValueError(f"{len(raw)} bytes for {self.frames} frames of {self.width}")
        found = np.frombuffer(raw, "<f4").reshape(self.frames, self.width)
        if not np.isfinite(found).all():
            raise ValueError("numbers that are not finite")
        return found


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model gives for the first `samples` of `trial_signal`, by output."""

    samples: int
    outputs: dict[str, GoldenOutput]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"about": "schema"}):
    """A statement about one model file."""

    name: str
    model_version: str
    sha256: str
    bytes: int
    about: str = SCHEMA
    golden: Golden | None = None


@dataclass(frozen=True, slots=True)
class Stated:
    """A manifest, its bytes as they were read, and whether a key vouches for them."""

    manifest: Manifest
    data: bytes
    signature: bytes | None
    signed: bool


def trial_signal(samples: int, channels: int) -> Array:
    """A signal that is the same on every machine, (samples, channels): a triangle wave, noise, and a pulse at times.

    All of it follows from integers and sums of powers of two, so that no library's sine or generator has a say. The
    noise is Knuth's multiplicative hash of the sample's number (The Art of Computer Programming 3, section 6.4).

    Examples
    --------
    >>> trial_signal(3, 1).tolist()
    [[0.75], [0.76171875], [0.74609375]]
    """
    n = np.arange(samples, dtype=np.uint64)[:, np.newaxis] + np.uint64(7919) * np.arange(channels, dtype=np.uint64)
    triangle = np.abs((n % 256).astype(np.float32) - 128) / 256 - np.float32(0.25)
    hashed = ((n * np.uint64(2654435761)) % np.uint64(1 << 32)) >> np.uint64(29)
    pulse = (n % 128 < 4).astype(np.float32)
    return np.asarray(triangle + hashed.astype(np.float32) / 256 + pulse - np.float32(0.5), np.float32)


def beside(path: Path) -> Path:
    """Where the manifest of a model file lies if nobody says where."""
    return path.with_name(path.name + SUFFIX)


def read(path: Path, key: Path | None = None) -> Stated:
    """Read a manifest and, where a key is given, hold its signature against it.

    Parameters
    ----------
    path
        The manifest; its signature is the same name with `.sig`: 64 bytes, Ed25519 (RFC 8032) over the file as it is.
    key
        A public key, PEM.

    Raises
    ------
    ModelError
        It cannot be read, says something impossible, or the signature is missing or not of that key.
    UsageError
        The key is none, or the library for signatures is not installed.
    """
    data = _bytes(path, MAX_BYTES)
    signature = _signature(path)
    if key:
        check_signature(data, signature, key, path)
    return Stated(decode(data, path), data, signature, signed=bool(key))


def decode(data: bytes, where: Path | str = "the manifest") -> Manifest:
    """A manifest from its bytes; `ModelError` where they are none."""
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{where} is not a manifest ({str(error)[:200]}); write one with 'holdover models manifest'"
        ) from error
    if found.about != SCHEMA:
        raise ModelError(
            f"{where} is of the schema {found.about[:64]!r}, this holdover reads {SCHEMA}: update one of them"
        )
    return found


def encode(manifest: Manifest) -> bytes:
    """The bytes of a manifest, always the same for the same content."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def golden_of(document: Any) -> Golden:
    """Golden vectors from a contract's `verification`; `ValueError` where they are none."""
    try:
        return msgspec.convert(document, Golden)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(str(error)) from error


def check_signature(data: bytes, signature: bytes | None, key: Path, where: Path | str) -> None:
    """Hold an Ed25519 signature against bytes; raises as `read`."""
    public = _public(key)
    if signature is None:
        raise ModelError(
            f"{where} has no signature ({Path(where).name}{SIGNED} beside it), and {key} must vouch for it: ask its "
            "maker for one, or leave the key away to trust the manifest as it is"
        )
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, data)
    except InvalidSignature as error:
        raise ModelError(
            f"the signature of {where} is not of the key {key}, or the manifest was changed: do not use the model; "
            "fetch both again, from whom you trust"
        ) from error


def sign(data: bytes, key: Path) -> bytes:
    """The Ed25519 signature of bytes by a private key in PEM, 64 bytes; raises `UsageError`."""
    return _private(key).sign(data)


def _signature(path: Path) -> bytes | None:
    place = path.with_name(path.name + SIGNED)
    return _bytes(place, 4096) if place.exists() else None


def _bytes(path: Path, at_most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(at_most + 1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}; give the path of a manifest") from error
    if len(data) > at_most:
        raise ModelError(f"{path} has more than {at_most} bytes; expected a manifest, or its signature")
    return data


def _public(key: Path) -> "Ed25519PublicKey":
    serialization, kinds = _library()
    try:
        found = serialization.load_pem_public_key(_key_bytes(key))
    except (ValueError, TypeError, _unsupported()) as error:
        raise UsageError(f"{key} is not a public key in PEM; expected 'openssl pkey -in KEY -pubout'") from error
    if not isinstance(found, kinds.Ed25519PublicKey):
        raise UsageError(f"{key} is a key of another kind; expected Ed25519: openssl genpkey -algorithm ed25519")
    return cast("Ed25519PublicKey", found)


def _private(key: Path) -> "Ed25519PrivateKey":
    serialization, kinds = _library()
    try:
        found = serialization.load_pem_private_key(_key_bytes(key), None)
    except (ValueError, TypeError, _unsupported()) as error:
        raise UsageError(f"{key} is not a private key in PEM without a password: sign with openssl instead") from error
    if not isinstance(found, kinds.Ed25519PrivateKey):
        raise UsageError(f"{key} is a key of another kind; expected Ed25519: openssl genpkey -algorithm ed25519")
    return cast("Ed25519PrivateKey", found)


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise UsageError(f"signatures need the library cryptography: {INSTALL}") from error
    return serialization, ed25519


def _unsupported() -> type[Exception]:
    from cryptography.exceptions import UnsupportedAlgorithm

    return UnsupportedAlgorithm


def _key_bytes(key: Path) -> bytes:
    try:
        return key.read_bytes()[: 1 << 16]
    except OSError as error:
        raise UsageError(f"cannot read the key {key}: {error.strerror}; give the path of a PEM file") from error
