"""The CA's admin API: its client, and what its answers say about the mesh."""
