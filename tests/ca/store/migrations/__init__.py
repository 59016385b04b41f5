"""Tests of ca.store.migrations."""
