"""Runners: from a model file to its outputs and to timing samples, in a worker process."""

import os

# onnxruntime's Linux wheels collect telemetry unless told not to before anything imports them,
# and onnxsim imports them, too. Every entrance to edgepipe leads through this package.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
