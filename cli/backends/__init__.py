"""Where a verb finds what it reads and writes: the CA on this machine, or a cluster."""
