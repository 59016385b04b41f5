"""``MeshPolicy`` and ``Program`` objects: written into the store by the leader, their status written back."""
