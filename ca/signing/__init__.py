"""Signing, in a process of its own where there is a processor for it: the request's check, the leaf, its re-check."""
