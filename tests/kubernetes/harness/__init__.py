"""Real Kubernetes parts for tests: `api_server` (etcd and kube-apiserver on loopback), `node` (a whole node).

The programs come from `scripts.kubernetes`, which `make test-kubernetes` and `make test-node` run first.
"""
