"""The page of ``touchmark ui``: a small server for this user's browser, and what it serves (``static/``)."""
