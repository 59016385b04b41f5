"""The stream to the CA: ``opening.py`` opens it, ``feed.py`` keeps it, ``dispatch.py`` routes its messages.

The sidecar's parts reach the CA through ``uplink.py`` alone.
"""
