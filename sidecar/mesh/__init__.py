"""What the CA last said of the mesh: who is at an address, which policy holds, whom to trust. No I/O of its own."""
