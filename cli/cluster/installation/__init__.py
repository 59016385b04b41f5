"""What ``touchmark install``, ``upgrade`` and ``uninstall`` do in a cluster.

``bundle.py`` loads the objects, made from ``manifests/``; ``choices.py`` → ``rendering.py`` make them what was asked
for; ``planning.py`` tries and applies them, ``readiness.py`` waits for the CA, ``removal.py`` takes all of it away.
"""
