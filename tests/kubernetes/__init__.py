"""Tests against a real kube-apiserver, and in `node` against a real node."""
