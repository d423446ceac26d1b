"""The rule of each operator."""

from collections.abc import Callable

import onnx_ir as ir

from holdover.export.loom import Loom
from holdover.export.rules import (
    attention,
    axes,
    bidirectional,
    convolution,
    cumulative,
    elementwise,
    heads,
    loop,
    normalisation,
    pad,
    product,
    recurrent,
    scan,
    slices,
)

Rule = Callable[[Loom, ir.Node], None]

RULES: dict[str, Rule] = {
    **elementwise.RULES,
    **axes.RULES,
    **slices.RULES,
    **pad.RULES,
    **product.RULES,
    **normalisation.RULES,
    **convolution.RULES,
    **recurrent.RULES,
    **heads.RULES,
    **cumulative.RULES,
    **attention.RULES,
    **scan.RULES,
    **loop.RULES,
    **bidirectional.RULES,
}
"""Rule by operator."""
