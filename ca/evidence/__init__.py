"""What an asker shows: possession of a key (``csr.py``), what its sidecar saw of the process (``process.py``)."""
