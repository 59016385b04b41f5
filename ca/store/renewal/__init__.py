"""Renewal keys, by which sidecars outside Kubernetes come back after an outage: which there are, and their table."""
