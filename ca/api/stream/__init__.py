"""A sidecar's WebSocket: ``endpoint`` accepts it, ``joining`` opens its session, ``conversation`` carries it on."""
