"""Edges: who talked to whom, hour by hour, and how much of that was seen."""
