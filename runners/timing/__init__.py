"""Measuring a session: what, for how long, under which conditions."""
