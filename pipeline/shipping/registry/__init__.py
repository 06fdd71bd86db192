"""Bundles in an OCI registry or an OCI layout, and which of them is the newest."""
