"""The past of a namespace's mode, rules and approvals, and when a mode that is on trial ends: their tables."""
