"""Bundles in an OCI registry or a folder: push, pull, and what says which release is the newest."""
