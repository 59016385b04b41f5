"""Tests on a real node: kubelet, containerd, kube-proxy and our images."""
