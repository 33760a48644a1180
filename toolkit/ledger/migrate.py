"""Bring schema `toolkit` to this release's revision, safely when two hosts do it at once, and write the roles.

One transaction holds an advisory lock, so the second caller waits and then finds nothing to do. The catalog's tables are
never touched here. Alembic, and SQLAlchemy with it, is imported to migrate only: every command asks for the revision as it
starts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from toolkit.errors import NotInitialised, SettingError
from toolkit.jobspec import MAX_PAYLOAD_BYTES, JobSpec, Registry
from toolkit.ledger.database import Database, Session, run_script, session_of

_LOCK = 0x66726573  # "fres": the advisory lock of migrations
_ROLES = Path(__file__).parent / "roles.sql"
_MIGRATIONS = Path(__file__).parent / "migrations"
_NOT_GRANTED = (
    psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedObject,
)
_JSON_TYPES = {"string", "integer", "number", "boolean"}


@dataclass(frozen=True, slots=True)
class Migrated:
    """What `migrate` did: revisions before and after, and roles' state (`created` or why not)."""

    before: str | None
    after: str
    roles: str


def head() -> str:
    """The revision that this release wants."""
    return max(revisions())


def revisions() -> set[str]:
    """Every revision that this release knows: they are numbered in their order, and each file is named by its own."""
    return {path.name[1:5] for path in (_MIGRATIONS / "versions").glob("r[0-9]*.py")}


def current(session: Session) -> str | None:
    """The database's revision, or None before the first `toolkit init`. Reads only."""
    there: Any = session.execute("SELECT to_regclass('toolkit.alembic_version')").fetchone()
    if there[0] is None:
        return None
    row = session.execute("SELECT version_num FROM toolkit.alembic_version").fetchone()
    return str(row[0]) if row else None


def require(database: Database) -> None:
    """Raise NotInitialised unless the schema is at this release's revision."""
    with database.session() as session:
        found = current(session)
    wanted = head()
    if found != wanted:
        state = "is missing" if found is None else f"is at revision {found}, this release wants {wanted}"
        raise NotInitialised(f"schema toolkit {state}", remedy="run `toolkit init`")


def migrate(database: Database, registry: Registry) -> Migrated:
    """Migrate, register the jobs' payload rules, write roles and grants. Raises NotInitialised on a newer schema."""
    from alembic import command  # noqa: PLC0415  a tenth of a second that only a migration is worth
    from alembic.config import Config  # noqa: PLC0415

    wanted = head()
    with database.begin() as connection:
        session = session_of(connection)
        session.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        session.execute("CREATE SCHEMA IF NOT EXISTS toolkit")
        before = current(session)
        if before is not None and before not in revisions():
            raise NotInitialised(
                f"schema toolkit is at revision {before}, newer than this release ({wanted})",
                remedy="upgrade Freshfetch on this host; the schema is never moved back",
            )
        if before != wanted:
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        for spec in registry:
            _register(session, spec)
    return Migrated(before=before, after=wanted, roles=_write_roles(database, registry))


def _write_roles(database: Database, registry: Registry) -> str:
    """Roles are the cluster's, and may need rights that this login lacks, or tables that a job's own grants name may not be
    there: then say so and go on."""
    scripts = [_ROLES.read_text(encoding="utf-8"), *(spec.grants for spec in registry if spec.grants)]
    missing: list[str] = []
    for script in scripts:
        try:
            with database.begin() as connection:
                session_of(connection).execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                run_script(connection, script)
        except _NOT_GRANTED as error:
            missing.append(" ".join(str(error).split()))
    return f"not written: {'; '.join(missing)}" if missing else "written"


def _register(session: Session, spec: JobSpec) -> None:
    session.execute(
        "INSERT INTO toolkit.job_type (name, queue, fields, max_bytes) VALUES (%s, %s, %s::jsonb, %s)"
        " ON CONFLICT (name) DO UPDATE SET queue = excluded.queue, fields = excluded.fields, max_bytes = excluded.max_bytes",
        (spec.name, spec.queue, msgspec.json.encode(payload_fields(spec)).decode(), MAX_PAYLOAD_BYTES),
    )


def payload_fields(spec: JobSpec) -> dict[str, dict[str, Any]]:
    """The payload type's rules as `toolkit.check_payload` reads them. Raises SettingError for a nested field: what is
    nested is an object, and objects go stale."""
    schema = msgspec.json.schema(spec.payload)
    schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    fields: dict[str, dict[str, Any]] = {}
    for name, rule in schema["properties"].items():
        options = [option for option in rule.get("anyOf", [rule]) if option.get("type") != "null"]
        if len(options) != 1 or options[0].get("type") not in _JSON_TYPES:
            raise SettingError(f"job {spec.name}: payload field {name} is not an id, a number or a flag",
                               remedy="pass an id and fetch the row when the job runs")  # fmt: skip
        fields[name] = {
            "type": "number" if options[0]["type"] == "integer" else options[0]["type"],
            "required": name in schema.get("required", ()),
            "max_length": options[0].get("maxLength", 256),
            "pattern": options[0].get("pattern", ""),
        }
    return fields
