"""Who holds a socket: one process quickly, or all of them, again and again.

- ``tables.py``: where a process keeps sockets, read from ``/proc``; which tasks are new.
- ``owner.py``: one holder for each of many sockets, in one walk for all that wait.
- ``walk.py``: the live processes one at a time, so that none can step past by starting the next one and ending.
- ``own_socket.py``: whether a program made its socket itself, or may have been given it.
- ``holders.py``: one pass over all processes: every holder, what is in flight, who can't be looked at.
- ``holder_check.py``: what a pass says about each socket that waits for it.
- ``clearance.py``: which processes a pass has cleared, and which tasks have come since.
"""
