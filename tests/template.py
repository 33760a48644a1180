"""What every test's database has from the start."""

from __future__ import annotations

from jobs import catalog
from toolkit.jobspec import Registry
from toolkit.ledger.database import Database
from toolkit.ledger.migrate import migrate


def prepare_template(url: str) -> None:
    """Fill the template database, once a session: catalog tables, migrations, roles."""
    database = Database(url)
    with database.begin() as connection:
        catalog.create(connection)
    migrate(database, Registry.installed())
    database.close()
