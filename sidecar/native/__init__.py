"""The inner loop in C: optional, with the same behaviour as the Python beside it.

``loop.c`` moves bytes that need no decision; everything else stays with the pumps. ``build.py`` compiles it with the
system's compiler, ``engine.py`` says whether it is used.
"""
