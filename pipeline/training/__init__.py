"""Fine-tuning a model on a folder of images."""
