"""Tests of ca.store."""
