"""From permissive to explicit: what stands against it, what would change that, and what policies say in vain."""
