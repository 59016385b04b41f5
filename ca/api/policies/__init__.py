"""Admin endpoints about policies that aren't in force."""
