"""Credentials: key and chain of one identity, in memory only; obtained on first use, renewed at half-life."""
