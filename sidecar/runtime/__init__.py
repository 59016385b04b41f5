"""Starts a sidecar, lets it run and ends it."""
