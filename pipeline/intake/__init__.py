"""The way in for an ONNX file that somebody else made."""
