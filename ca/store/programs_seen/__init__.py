"""Programs that sidecars have seen, and those that were refused, in the store."""
