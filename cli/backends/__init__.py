"""What verbs read and write: the CA on this machine, or a cluster.

``session.py`` opens it by its ``target.py``; ``base.py`` says what keeps policies, ``local.py`` and ``cluster.py`` do.
"""
