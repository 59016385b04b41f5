"""Who asks: by a join token (``join_token.py``), afterwards by the sidecar's own certificate."""
