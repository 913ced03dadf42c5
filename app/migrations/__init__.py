"""Alembic's scripts. Each revision module declares `phase`: "expand" (old code still works after it) or "contract"."""
