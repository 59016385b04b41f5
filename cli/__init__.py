"""The operator's command: one module a verb, each a client of the CA's admin API.

``main.py`` puts the verbs together; ``backends/admin_client.py`` is the only door to the CA; ``text/output.py`` the
only place that prints. ``ca serve`` and ``sidecar run`` replace this process by the component and share no code with
it.
"""
