"""What injection does to a pod: start at ``patch.py``. Pure."""
