"""A Kubernetes cluster, with the user's own kubeconfig and rights.

``kubeconfig.py`` → ``connection.py`` (the API server) → ``ca_pod.py`` and ``port_forward.py`` (the CA's admin API);
``snapshot.py`` → ``examination.py`` and ``membership.py`` for ``doctor``. Only ``kubeconfig.py`` imports
``kubernetes``.
"""
