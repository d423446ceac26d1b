"""What a rule carries from beat to beat, named once."""

from collections import deque
from typing import Any, ClassVar

from holdover.runtime.snapshot import Memory


class Carried:
    """Attributes that are snapshotted and restored by name: plain values, lists, deques, and parts that can do both."""

    carried: ClassVar[tuple[str, ...]] = ()

    def snapshot(self) -> Memory:
        """What is carried."""
        return {name: _plain(getattr(self, name)) for name in self.carried}

    def restore(self, memory: Memory) -> None:
        """Take up what `snapshot` gave; `KeyError` where something is missing."""
        for name in self.carried:
            setattr(self, name, _again(getattr(self, name), memory[name]))


def _plain(value: Any) -> Any:
    if hasattr(value, "snapshot"):
        return value.snapshot()
    return [_plain(item) for item in value] if isinstance(value, deque | list) else value


def _again(now: Any, value: Any) -> Any:
    if hasattr(now, "restore"):
        now.restore(value)
        return now
    if isinstance(now, list) and now and (hasattr(now[0], "restore") or isinstance(now[0], deque)):
        return [_again(part, item) for part, item in zip(now, value, strict=True)]
    return deque(value, maxlen=now.maxlen) if isinstance(now, deque) else value
