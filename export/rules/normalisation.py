"""Normalisation over features; over time it would need the whole sequence."""

import onnx_ir as ir

from holdover.export.fact import Running
from holdover.export.loom import Loom, attribute, stream_of
from holdover.export.refusal import NotStreamable
from holdover.export.rules.axes import over_running, same_node

_TIME = (
    "it normalises over the whole sequence: the output at the first step needs the last sample; normalise over "
    "features, or by statistics of the training data"
)


def batch_norm(loom: Loom, node: ir.Node) -> None:
    """Fixed scale and shift a channel."""
    if attribute(node, "training_mode", 0):
        raise NotStreamable("it is batch normalisation in training mode; export the model for inference (model.eval())")
    if isinstance(loom.fact(node.inputs[0]), Running):
        over_running(loom, node)
        return
    fact = stream_of(loom, node.inputs[0])
    if fact.axis == 1:
        raise NotStreamable("it has a scale for each time step; normalise over features")
    same_node(loom, node, fact)


def layer_norm(loom: Loom, node: ir.Node) -> None:
    """Over the last axes, time not among them."""
    if isinstance(loom.fact(node.inputs[0]), Running):
        over_running(loom, node)
        return
    fact = stream_of(loom, node.inputs[0])
    rank = loom.whole.rank(node.inputs[0])  # type: ignore[arg-type]
    if fact.axis >= attribute(node, "axis", -1) % rank:
        raise NotStreamable(_TIME)
    copies = loom.copy(node, [loom.new(v) for v in node.inputs])
    loom.bind(node.outputs[0], copies[0], fact)


def over_time(loom: Loom, node: ir.Node) -> None:
    """Instance and group normalisation take in every position."""
    if isinstance(loom.fact(node.inputs[0]), Running):
        over_running(loom, node)
        return
    fact = stream_of(loom, node.inputs[0])
    if fact.axis >= 1:
        raise NotStreamable(_TIME)
    same_node(loom, node, fact)


def lp_norm(loom: Loom, node: ir.Node) -> None:
    """Along one axis that is not time."""
    if isinstance(loom.fact(node.inputs[0]), Running):
        over_running(loom, node)
        return
    fact = stream_of(loom, node.inputs[0])
    if fact.axis == attribute(node, "axis", -1) % loom.whole.rank(node.inputs[0]):  # type: ignore[arg-type]
        raise NotStreamable(_TIME)
    same_node(loom, node, fact)


RULES = {
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "SimplifiedLayerNormalization": layer_norm,
    "RMSNormalization": layer_norm,
    "InstanceNormalization": over_time,
    "GroupNormalization": over_time,
    "MeanVarianceNormalization": over_time,
    "LpNormalization": lp_norm,
}
