"""What `make release` writes into ``dist/``."""
