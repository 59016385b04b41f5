"""Tests of who holds a socket, with real processes."""
