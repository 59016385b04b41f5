"""Identities: workloads, programs, and SPIFFE IDs, our own and foreign ones. Pure."""
