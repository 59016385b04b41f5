"""The API server: asked (``client.py``), followed (``watch.py``), and used to elect a leader (``lease.py``)."""
