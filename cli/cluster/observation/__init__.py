"""What the API server knows of what can't have been seen."""
