"""Programs that run what they are told: dynamic loaders, and which main script an interpreter names."""
