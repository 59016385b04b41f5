"""Tests of ca.store.audit."""
