"""Who may ask what of the admin API: ``roles.py`` is the table, ``callers.py`` who asks, ``guard.py`` joins them."""
