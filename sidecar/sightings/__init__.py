"""What the CA is told of each program that was seen, once, for the people who approve it."""
