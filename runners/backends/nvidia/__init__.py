"""ONNX Runtime on NVIDIA GPUs: the CUDA and TensorRT providers, and buffers that stay there."""
