"""Tests of ca.evidence."""
