"""Alembic's migrations. They run by themselves when the store opens; none is ever changed after a release."""
