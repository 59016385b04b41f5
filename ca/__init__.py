"""The control plane: authenticates sidecars, decides what they may hold, signs it, records it, rotates its keys.

Start at ``issuance.py`` (request → authenticate → check evidence → decide → sign → record), then
``rotation/rotation.py``.
"""
