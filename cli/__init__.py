"""The operator's command: one module per verb, each a client of the CA's admin API.

The packages stand on each other: ``commands`` → ``demo`` → ``backends`` → ``cluster`` → ``admin`` → ``machine`` →
``text``. ``admin/client.py`` is the only way to the CA, ``text/output.py`` the only place that prints. ``ca serve`` and
``sidecar run`` replace this process by the component and share no code with it.
"""
