"""Tests of what prepares other tests."""
