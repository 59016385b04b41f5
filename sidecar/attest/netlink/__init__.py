"""What the kernel knows of sockets, asked by netlink: ``sock_diag(7)``."""
