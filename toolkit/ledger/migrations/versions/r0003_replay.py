"""Replay plans, their items and flights: the SQL stands in 0003_replay.sql."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from toolkit.ledger.database import run_script

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Run the script."""
    script = Path(__file__).parent.parent / "0003_replay.sql"
    run_script(op.get_bind(), script.read_text(encoding="utf-8"))
