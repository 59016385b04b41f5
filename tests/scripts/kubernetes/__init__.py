"""Tests of what prepares the Kubernetes levels; the levels themselves prove the rest."""
