"""Decisions out of the house: what the CA has stored is also sent to a log store. I/O."""
