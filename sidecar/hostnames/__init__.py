"""Host names of egress rules: which addresses they have now, by the sidecar's own nameservers.

``HostNames`` (``host_names.py``) is what the rest of the sidecar sees. Nothing here trusts what a program has asked for
or was answered: neither its packets nor the pod's ``/etc/hosts``, which a program may be able to write, is looked at.
"""
