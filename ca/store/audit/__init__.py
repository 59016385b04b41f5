"""The audit log in the store: who acts, the chained lines, and their table."""
