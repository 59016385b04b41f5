"""Attestation: which program holds this end of a connection, as far as the kernel tells.

The sentence: connection → socket → processes → program. ``attestor.py`` tells it; the other modules are its steps:

- ``netlink/sock_diag.py`` (pure): the netlink messages; ``netlink/kernel_sockets.py``: the socket that they travel on.
- ``process_text.py`` (pure): what ``/proc`` files say; ``process.py``: one process, held by descriptors;
  ``memory.py``: the memory that it has until its next ``execve``.
- ``holding/``: which processes hold a socket: one of them quickly, or all of them.
- ``executable.py``: an executable hashed through its descriptor, and the bounded cache of hashes.
- ``claimed.py``: whether the executable that a process names is to be believed; ``mounts.py``: whose file it is.
- ``origin.py``: whether a process comes from its container or from an exec session.
- ``interpreter/main_script.py`` (pure): what an interpreter says it runs; ``script_file.py``: that file, opened.

A process ID alone proves nothing here: it is reused, and ``execve`` keeps it. Not verified by anything in this package:
code that was injected into a process, shared libraries, and what an ``exec`` before the first look replaced.
"""
