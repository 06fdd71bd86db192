"""Exporters: from an ``nn.Module`` to a model file. Heavy libraries load inside functions."""
