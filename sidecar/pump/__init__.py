"""Moves bytes between an application's connection and a tunnel, a plain connection or a TLS one."""
