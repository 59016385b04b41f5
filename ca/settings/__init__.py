"""What the CA is told at its start."""
