"""Kubernetes for the tests, without a registry: real programs from their Go modules, images from local parts.

``python -m scripts.kubernetes api`` prepares the API level (etcd, kube-apiserver, kubectl), ``… node`` the node level
(the remaining components and all images). What is built is kept outside the clone, see `cache`.
"""
