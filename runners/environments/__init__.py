"""Environments of their own, for runners that cannot share this one."""
