"""The machine that a runner finds: its CPU, its packages, its files."""
