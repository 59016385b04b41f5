"""The one stream to the CA: dialled in ``ca_dial.py``, kept in ``feed.py``; ``dispatch.py`` routes its messages."""
