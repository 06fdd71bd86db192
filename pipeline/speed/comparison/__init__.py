"""compare: architectures side by side, each at its best on this machine."""
