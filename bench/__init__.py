"""Side by side with other proxies, on one machine, in one run: ``python -m bench``.

A *subject* is a pair of proxies with mutual TLS between them. A *work* is one kind of load. A *sample* is one number of
one round; a *figure* is what the rounds come to. Nothing here is imported by the product. Everything listens on
127.0.0.0/8 only, and every process is started, tracked and ended by the run that needs it.

A subject that can't be measured yields an error and no figures: no number is ever filled in.
"""
