"""Who asks: by a join token (``join_token.py``) or a pod's token (``pod.py``), afterwards by its own certificate."""
