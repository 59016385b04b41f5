"""What the command does in a Kubernetes cluster, with its user's own kubeconfig and rights.

``kubeconfig.py`` → ``connection.py`` (the API server) → ``ca_pod.py`` and ``port_forward.py`` (the CA's admin API) and
``objects.py`` (the policies and programs that are written there). Only ``kubeconfig.py`` imports ``kubernetes``.
"""
