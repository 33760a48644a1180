"""verify-deploy: deployments, verifications, test orders: the SQL stands in 0005_verify.sql."""

from __future__ import annotations

from pathlib import Path

from alembic import op

from toolkit.ledger.database import run_script

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Run the script."""
    script = Path(__file__).parent.parent / "0005_verify.sql"
    run_script(op.get_bind(), script.read_text(encoding="utf-8"))
