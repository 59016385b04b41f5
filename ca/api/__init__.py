"""The CA's two doors: the sidecars' TLS port (``stream.py``) and the operator's Unix socket (``admin*.py``)."""
