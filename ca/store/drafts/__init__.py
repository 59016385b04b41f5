"""Draft policies, which are evaluated beside those in force: their table."""
