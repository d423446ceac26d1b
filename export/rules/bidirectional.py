"""A bounded stand-in for the backward half of a bidirectional layer."""

import onnx_ir as ir

from holdover.export.fact import Stream
from holdover.export.loom import Loom
from holdover.export.refusal import NotStreamable


def bounded(loom: Loom, node: ir.Node, fact: Stream) -> None:
    """The backward half sees so many frames ahead."""
    raise NotStreamable("bounded look-ahead is not there yet")
