"""What the CA, the sidecar and the command line have in common: a pure model and a small runtime."""
