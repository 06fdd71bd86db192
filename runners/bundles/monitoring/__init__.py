"""Heartbeats of a bundle on its box: goldens replayed, live inputs counted, two files written."""
