"""Every operator's act, append only: the SQL stands in 0002_audit.sql."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from toolkit.ledger.database import run_script

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Run the script."""
    script = Path(__file__).parent.parent / "0002_audit.sql"
    run_script(op.get_bind(), script.read_text(encoding="utf-8"))
