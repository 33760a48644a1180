"""What every test's database has from the start."""

from __future__ import annotations


def prepare_template(url: str) -> None:
    """Fill the template database, once a session: migrations, roles, catalog tables."""
