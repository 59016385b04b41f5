"""The stage of the end-to-end tests: pods, the CA, sidecars, programs, strangers, and what the records say.

``pods`` makes namespaces; ``programs`` runs real programs in them (``actor`` is what they execute); ``admin`` talks to
the CA; ``records`` reads decisions; ``mesh`` puts CA, sidecars and programs together; ``strangers`` speaks the tunnel's
protocol by hand; ``proofs`` ties tests to reason codes. Everything that is started is ended by its process ID, and dies
with this process, however that ends.
"""
