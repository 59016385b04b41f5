"""The inner loop in C: optional, with the same behaviour as the Python beside it.

``moves.c`` moves bytes that need no decision; everything else stays with the pumps. It is called from Python
(``loop.c``), or by a thread that has established connections lent to it (``mover.c``; ``mover_type.c`` is its face
towards Python). ``look.c`` makes attestation's looks. ``build.py`` compiles all of it with the system's compiler into
one extension, ``engine.py`` says whether it is used.
"""
