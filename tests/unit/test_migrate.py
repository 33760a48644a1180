"""The revision that a release wants is told without Alembic, and must be Alembic's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from alembic.script import ScriptDirectory

from toolkit.ledger import migrate

MIGRATIONS = Path(migrate.__file__).parent / "migrations"


def test_the_revision_by_file_name_is_the_one_that_alembic_would_migrate_to() -> None:
    scripts = ScriptDirectory(str(MIGRATIONS))

    assert migrate.head() == scripts.get_current_head()
    assert migrate.revisions() == {script.revision for script in scripts.walk_revisions()}


def test_asking_for_the_revision_does_not_load_alembic() -> None:
    asked = (
        "import sys; from toolkit.ledger import migrate; migrate.head(); sys.exit('alembic' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0
