"""Modules of the user's own: how they are called, what goes in and comes out, what they hold."""
