"""Protocol Buffers' wire format, read by a table, strictly and with a budget: for bytes that nobody vouches for.

Source: https://protobuf.dev/programming-guides/encoding/. What a lenient parser would take and merge (a single field
that stands twice, unknown fields, groups) is refused here, so that no two parsers can read two things in one file.
"""

from collections.abc import Mapping
from dataclasses import dataclass

MAX_FIELDS = 200_000
MAX_DEPTH = 40
MAX_TEXT = 4 << 20
MAX_NUMBERS = 10_000


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a message: its name, how it is read (a key of `WIRES`, "refused" or a message), and if it repeats."""

    name: str
    kind: str
    many: bool = False


Schema = Mapping[str, Mapping[int, Field]]
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
WIRES = {
    "int": {VARINT}, "float": {FIXED32}, "bytes": {LENGTH},
    "ints": {VARINT, LENGTH}, "floats": {FIXED32, LENGTH}, "doubles": {FIXED64, LENGTH},
}  # fmt: skip
"""Wire types that each kind of field may have; repeated numbers may be packed or not."""


class Malformed(ValueError):
    """Bytes that are not what the schema allows."""


class Message:
    """A message's fields by name, each a list in the order of the file; what is not there is an empty list."""

    __slots__ = ("kind", "values")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.values: dict[str, list[int | memoryview | Message]] = {}

    def numbers(self, name: str) -> list[int]:
        """The integers of a field, signed, packed or not.

        Raises
        ------
        Malformed
            A packed list that is cut short, or of more than `MAX_NUMBERS` bytes.
        """
        found: list[int] = []
        if sum(map(len, self.chunks(name))) > MAX_NUMBERS:
            raise Malformed(f"{name} of {self.kind} has more than {MAX_NUMBERS} bytes")
        for value in self.values.get(name, ()):
            found += [value] if isinstance(value, int) else unpacked(value) if isinstance(value, memoryview) else []
        return found

    def number(self, name: str, default: int = 0) -> int:
        """A single integer."""
        found = self.numbers(name)
        return found[0] if found else default

    def chunks(self, name: str) -> list[memoryview]:
        """The raw bytes of a field of texts, bytes or packed numbers."""
        return [value for value in self.values.get(name, ()) if isinstance(value, memoryview)]

    def text(self, name: str, default: str = "") -> str:
        """A single text; raises as `texts`."""
        found = self.texts(name)
        return found[0] if found else default

    def texts(self, name: str) -> list[str]:
        """The texts of a field; raises `Malformed` for one that is no UTF-8, or of more than `MAX_TEXT` bytes."""
        found = self.chunks(name)
        if any(len(value) > MAX_TEXT for value in found):
            raise Malformed(f"{name} of {self.kind} has more than {MAX_TEXT >> 20} MB")
        try:
            return [str(value, "utf-8") for value in found]
        except UnicodeDecodeError as error:
            raise Malformed(f"{name} of {self.kind} is no UTF-8") from error

    def messages(self, name: str) -> "list[Message]":
        """The messages of a field."""
        return [value for value in self.values.get(name, ()) if isinstance(value, Message)]


def parse(data: bytes | memoryview, kind: str, schema: Schema) -> Message:
    """Read a message.

    Parameters
    ----------
    data
        Its bytes, of any origin.
    kind
        Its name in the schema.

    Raises
    ------
    Malformed
        They end too early, hold a field that is not in the schema or of another wire type, one that may stand once
        stands twice, one is refused, or there are more than `MAX_FIELDS` or nested deeper than `MAX_DEPTH`.

    Examples
    --------
    >>> schema = {"Entry": {1: Field("key", "bytes"), 2: Field("count", "int")}}
    >>> entry = parse(bytes([0x0A, 2, 104, 105, 0x10, 0x96, 0x01]), "Entry", schema)
    >>> entry.text("key"), entry.number("count")
    ('hi', 150)
    """
    return _Reader(schema).message(memoryview(data), kind, 0)


class _Reader:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._left = MAX_FIELDS

    def message(self, data: memoryview, kind: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise Malformed(f"messages nested deeper than {MAX_DEPTH}")
        fields, found, at = self._schema[kind], Message(kind), 0
        while at < len(data):
            key, at = varint(data, at)
            field = fields.get(key >> 3)
            if field is None:
                raise Malformed(f"field {key >> 3} of {kind}, which is not known here")
            value, at = _value(data, at, key & 7)
            self._keep(found, field, value, key & 7, depth)
        return found

    def _keep(self, found: Message, field: Field, value: int | memoryview, wire: int, depth: int) -> None:
        self._left -= 1
        if self._left < 0:
            raise Malformed(f"more than {MAX_FIELDS} fields")
        if field.kind == "refused":
            raise Malformed(f"{found.kind} has {field.name}, which is not taken here")
        if wire not in WIRES.get(field.kind, {LENGTH}):
            raise Malformed(f"{field.name} of {found.kind} is of wire type {wire}")
        values = found.values.setdefault(field.name, [])
        if values and not field.many:
            raise Malformed(f"{field.name} of {found.kind} stands twice")
        if field.kind in WIRES or isinstance(value, int):
            values.append(value)
        else:
            values.append(self.message(value, field.kind, depth + 1))


def _value(data: memoryview, at: int, wire: int) -> tuple[int | memoryview, int]:
    if wire == VARINT:
        value, at = varint(data, at)
        return value - (1 << 64) if value >> 63 else value, at
    if wire == LENGTH:
        size, at = varint(data, at)
    elif wire in FIXED:
        size = FIXED[wire]
    else:
        raise Malformed(f"wire type {wire}")
    if size > len(data) - at:
        raise Malformed(f"a field of {size} bytes where {len(data) - at} are left")
    return data[at : at + size], at + size


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """An unsigned number of up to ten bytes, seven bits a byte, and the place after it; raises `Malformed`."""
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise Malformed("it ends within a number")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
    raise Malformed("a number of more than ten bytes")


def unpacked(data: memoryview) -> list[int]:
    """The signed integers of a packed field."""
    found: list[int] = []
    at = 0
    while at < len(data):
        value, at = varint(data, at)
        found.append(value - (1 << 64) if value >> 63 else value)
    return found
