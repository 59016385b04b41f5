"""Tests of the CA."""
