"""Tests of ca.authenticate."""
