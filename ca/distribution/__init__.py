"""Distribution: which sidecar needs what, what waits to be sent to it, and what it has acknowledged.

A *session* is one authenticated stream. Its *outbox* holds what waits to be sent, newest state only. The *hub* knows
all sessions and who subscribed to which namespace or watches which address. The *directory* says which workload is at
an address. The *survey* asks every session for its live connections. Nothing here reads a socket: ``ca/api`` does.
"""
