"""Backups of the store: written while the CA works, encrypted to a key that isn't in them, and restored."""
