"""The only place in the CA that knows Kubernetes: what it reads there (watched), what it asks, what it keeps there.

``client`` talks to the API server, ``watch`` follows one kind of object, ``pods`` and ``services`` are what the CA
remembers of them, ``running`` starts and stops all of it. Nothing here is imported unless ``--kubernetes`` is given:
the client library alone takes 20 MiB.
"""
