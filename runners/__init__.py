"""Runners: from a model file to its outputs and to timing samples, in a worker process."""
