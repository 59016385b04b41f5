"""Capture: how an application's connections come to the sidecar. By an nftables redirect, or by explicit listeners.

``captured.py`` is what the stories receive; ``accept_loop.py`` accepts; ``redirect_table.py`` writes the table's text
(pure) and ``redirect.py`` installs it; ``original_destination.py`` asks the kernel where a connection was going.
"""
