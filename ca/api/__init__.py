"""What the CA serves: sidecars' streams on its TLS port (``stream``), the admin API on a Unix socket (``admin``)."""
