"""onnxruntime, one thread and quiet."""

from typing import Any

import onnx

from holdover.runtime.errors import ModelError


def session(model: onnx.ModelProto, optimize: bool = True) -> Any:
    """An onnxruntime session with one thread, quiet.

    Raises
    ------
    ModelError
        onnxruntime cannot load the graph.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Else onnxruntime makes uint8 of int8 here and there, on x86 alone, and then rounds sums otherwise than the stream.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen types of its own, all of Exception alone
        raise ModelError(f"onnxruntime cannot load the graph: {' '.join(str(error).split())[:300]}") from error
