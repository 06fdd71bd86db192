"""Runners: from a model file to its outputs and to timing samples, in a worker process."""

import os
import sys

# onnxruntime's Linux wheels collect telemetry unless told not to before anything imports them,
# and onnxsim imports them, too. Every entrance to edgepipe leads through this package.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# openvino reports each import through this package if it finds it, and does without if not.
sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
