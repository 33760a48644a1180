"""The toggle, its history and its acknowledgements: the SQL stands in 0004_toggle.sql."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from toolkit.ledger.database import run_script

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Run the script."""
    script = Path(__file__).parent.parent / "0004_toggle.sql"
    run_script(op.get_bind(), script.read_text(encoding="utf-8"))
