"""The CA's memory: SQLite (WAL) or PostgreSQL behind one class, ``store.Store``; values in ``records.py``."""
