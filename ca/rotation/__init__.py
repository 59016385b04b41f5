"""Replaces the issuing authority or the root: the steps (``rotation.py``), and what each waits for."""
