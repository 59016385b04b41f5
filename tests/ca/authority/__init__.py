"""Tests of ca.authority."""
