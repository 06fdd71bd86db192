"""Processes that hold one session each, and how they are talked to."""
