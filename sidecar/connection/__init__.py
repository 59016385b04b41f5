"""One application connection, from before its first decision until its record."""
