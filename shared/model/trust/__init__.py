"""Whom to trust: bundles, certificates and their verification, join tokens. Pure."""
