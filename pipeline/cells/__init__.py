"""Cells, variants x runners x targets x settings: planned, and opened in workers of their own."""
