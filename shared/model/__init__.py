"""The domain, without I/O, clock or randomness: identities, programs, trust, policy, decisions, messages.

Every component enforces, explains and simulates with these same values and functions. Nothing here opens a file or a
socket, asks for the time or draws a random number: what varies is an argument.
"""
