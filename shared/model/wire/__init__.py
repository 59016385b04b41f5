"""What is sent: the sidecars' stream (``messages.py``, ``protocol.py``) and the admin API (``admin*.py``). Pure."""
