"""From trained weights to a streaming ONNX file with a contract."""
