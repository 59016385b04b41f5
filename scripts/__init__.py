"""What a person or CI runs besides the Makefile."""
