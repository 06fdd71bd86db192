"""Bundles: the archive, its index and signature, and running what is in one."""
