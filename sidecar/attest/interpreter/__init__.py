"""Programs that run what they are told: which main script an interpreter names."""
