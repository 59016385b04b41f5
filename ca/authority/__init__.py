"""Authorities: made in ``founding.py``, held ready to sign in ``authorities.py``. ``ca/rotation/rotation.py`` replaces
them."""
