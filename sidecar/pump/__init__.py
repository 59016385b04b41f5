"""Moves bytes between an application's connection and a tunnel, a plain connection or a TLS one.

Each pump has two directions, each in a state of ``states.py``, and one future for its end (``ends.py``). Back-pressure:
what a sink doesn't take at once is kept, and its source isn't read until the rest is written. A half-close is passed on
behind the last byte.
"""
