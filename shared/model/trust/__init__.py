"""Trust: bundles, certificates and their verification, join tokens. Pure."""
