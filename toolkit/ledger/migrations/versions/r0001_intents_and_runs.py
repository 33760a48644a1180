"""Intents, runs, recent traces, and the functions that move them: the SQL stands in 0001_intents_and_runs.sql."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from toolkit.ledger.database import run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables and functions. There is no downgrade: the ledger is the truth and is not thrown away."""
    script = Path(__file__).parent.parent / "0001_intents_and_runs.sql"
    run_script(op.get_bind(), script.read_text(encoding="utf-8"))
