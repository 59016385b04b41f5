"""The release before this one, as ``scripts/keep_release.sh`` kept it, and tests that today's works with it."""
