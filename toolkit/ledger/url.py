"""DATABASE_URL: read once, and what is said of it. Nothing of it is quoted that may be part of a password."""

from __future__ import annotations

import re

import psycopg
from psycopg.conninfo import conninfo_to_dict

from toolkit.errors import DependencyUnreachable, SettingError
from toolkit.settings import masked

FORM = "postgresql://user:password@host:port/database"
_ENCODE = "write special characters of user and password percent-encoded: @ as %40, / as %2F, % as %25, a space as %20"


def libpq_url(url: str) -> str:
    """The URL as libpq takes it: SQLAlchemy's `+psycopg` is left out.

    Raises SettingError for one that cannot be used. Nothing of the URL is quoted that may be part of a password."""
    plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
    scheme, mark, rest = plain.partition("://")
    if not mark or not scheme.replace("+", "").isalnum():
        raise SettingError("DATABASE_URL cannot be read as a URL", remedy=f"set it to {FORM}")
    if scheme not in {"postgresql", "postgres"}:
        raise SettingError(
            f"DATABASE_URL names {scheme!r}", remedy="Freshfetch works on PostgreSQL: postgresql://…"
        )
    address, _, query = rest.partition("?")
    authority, _, path = address.partition("/")
    if authority.count("@") > 1 or "@" in path:  # libpq would take the password's tail for the host
        raise SettingError("DATABASE_URL has an @ or a / inside of user or password", remedy=_ENCODE)
    try:
        port = str(conninfo_to_dict(plain).get("port", ""))
    except psycopg.ProgrammingError as error:
        foreign = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
        if foreign and "@" not in query:
            raise SettingError(
                f"DATABASE_URL has a parameter that PostgreSQL does not know: {foreign[1]}",
                remedy="leave out parameters that only another library knows, such as Prisma's ?schema=public",
            ) from error
        raise SettingError(
            "DATABASE_URL cannot be read as a URL", remedy=f"set it to {FORM}; {_ENCODE}"
        ) from None
    if not all(one.isdecimal() or not one for one in port.split(",")):
        raise SettingError(
            "DATABASE_URL has a port that is not a number", remedy=f"set it to {FORM}; {_ENCODE}"
        )
    return plain


def unreachable(url: str, said: str) -> DependencyUnreachable:
    """What psycopg said when it could not connect, for people."""
    text = " ".join(said.replace("\n\tIs the server", ". Is the server").split())
    _, refused, why = text.partition("FATAL: ")
    if refused:
        return DependencyUnreachable(
            f"PostgreSQL at {masked(url)} refuses the connection: {why.strip()}",
            remedy="check user, password and database in DATABASE_URL; a server that starts or is full is there in a moment",
        )
    return DependencyUnreachable(
        f"PostgreSQL at {masked(url)} does not answer: {text}",
        remedy="check DATABASE_URL, or `toolkit up` for the embedded servers",
    )
