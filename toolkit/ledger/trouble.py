"""Errors of PostgreSQL by what a caller can do about them, from psycopg and through SQLAlchemy. Apart from
`toolkit.ledger.database`, for commands that do without SQLAlchemy."""

from __future__ import annotations

import psycopg
from sqlalchemy import exc

from toolkit.ledger.database import SESSION_UNREACHABLE

UNREACHABLE = (*SESSION_UNREACHABLE, exc.OperationalError, exc.InterfaceError)
"""SESSION_UNREACHABLE, told by either."""
TROUBLE = (psycopg.Error, exc.SQLAlchemyError)
"""All that PostgreSQL, or the way to it, may answer instead of doing what it was asked: also "permission denied"."""
