"""Tests of attestation, with real processes."""
