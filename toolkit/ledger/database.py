"""The way to PostgreSQL: one SQLAlchemy engine a process, READ COMMITTED, UTC, psycopg underneath.

`begin()` gives a SQLAlchemy connection in a transaction; `session()` a pooled psycopg connection in autocommit, for the
few statements of the hot path, which are sent in psycopg's pipeline mode. A connection that the server has closed is
thrown away, never retried behind the caller's back: `patiently` says where waiting for a restart is right.

SQLAlchemy is imported when an engine is built: a command that asks once does without (`Brief`).

Defaults: connect timeout 5 s; a network that swallows packets is noticed within 30 s; 5 pooled connections, at most 10 more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from toolkit.errors import DependencyUnreachable, SettingError
from toolkit.ledger.url import FORM, libpq_url, unreachable

if TYPE_CHECKING:
    import sqlalchemy as sa
    from sqlalchemy.engine import URL

T = TypeVar("T")
Session = psycopg.Connection[tuple[Any, ...]]

SESSION_UNREACHABLE = (psycopg.OperationalError, psycopg.InterfaceError)
"""What a stopped, restarting or overloaded server raises. Lock time-outs and deadlocks are OperationalErrors too."""


def is_connection_loss(error: BaseException) -> bool:
    """True when `error` says that the server went away or cannot be reached, not that a statement was wrong."""
    cause = cause_of(error)
    if isinstance(cause, psycopg.InterfaceError):
        return "closed" in str(cause) or "lost" in str(cause)
    if not isinstance(cause, psycopg.OperationalError):
        return False
    state = cause.sqlstate or "08000"  # psycopg raises without a state when the socket is gone
    return state[:2] in {"08", "57"} and state != "57014"  # 57014: a statement was cancelled


class Database:
    """One pool of connections to one database. Thread-safe. `close()` it at the end of the process."""

    def __init__(
        self, url: str, *, prepared_statements: bool = True, application_name: str = "freshfetch"
    ) -> None:
        import sqlalchemy as sa

        self.url = url
        address = _psycopg_url(url)
        # Sessions come straight from the pool: to wrap each in a SQLAlchemy connection, and to change its isolation level and
        # back, is CPU that every job would pay for.
        self._sessions = sa.create_engine(
            address,
            isolation_level="AUTOCOMMIT",
            pool_size=5,
            max_overflow=10,
            connect_args=_arguments(
                _options(address), prepared_statements=prepared_statements, application_name=application_name
            ),
        )
        self.engine = self._sessions.execution_options(isolation_level="READ COMMITTED")

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A SQLAlchemy connection inside one transaction: commits at the end, rolls back on an exception."""
        with self.reachable(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A psycopg connection in autocommit; `session.transaction()` and `session.pipeline()` are the caller's."""
        with self.reachable(), closing(self._sessions.raw_connection()) as pooled:
            session = cast("Session", pooled.driver_connection)
            try:
                yield session
            finally:
                # The server went away, or a time limit broke off a statement that still runs: not for the pool to reset.
                if session.closed or session.info.transaction_status is TransactionStatus.ACTIVE:
                    pooled.invalidate()

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turns "cannot connect" into DependencyUnreachable; errors of statements pass as they are."""
        try:
            yield
        except Exception as error:
            cause = cause_of(error)
            if (
                isinstance(cause, psycopg.OperationalError)
                and cause.sqlstate is None
                and ("connect" in str(cause) or "resolve host" in str(cause))
            ):
                raise unreachable(self.url, str(cause)) from error
            raise

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


class Brief(Database):
    """For a command that asks once and ends: every session is a connection of its own, and no SQLAlchemy is loaded.

    `url` is libpq's: postgresql://… `begin()` builds an engine for its one transaction.
    """

    def __init__(self, url: str, *, prepared_statements: bool = True) -> None:  # builds no engine of its own
        self.url = libpq_url(url)
        self._prepared = prepared_statements
        options = conninfo_to_dict(self.url).get("options") or ""
        self._arguments = _arguments(
            str(options), prepared_statements=prepared_statements, application_name="freshfetch"
        )

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A new connection, closed at the end."""
        with self.reachable(), psycopg.connect(self.url, autocommit=True, **self._arguments) as session:
            yield session

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction on an engine of its own."""
        with (
            closing(Database(self.url, prepared_statements=self._prepared)) as database,
            database.begin() as connection,
        ):
            yield connection

    def close(self) -> None:
        """Nothing is kept."""


class Pinned(Database):
    """One session of another Database, kept between uses: a run checks out one connection instead of one a step.

    After an error the session is given back, and the next use gets a new one. Not for sharing between threads.
    """

    def __init__(self, database: Database) -> None:  # builds no engine of its own
        self.url = database.url
        self._database = database
        self._held: ExitStack | None = None
        self._session: Session | None = None

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The kept session."""
        if self._session is None:
            self._held = ExitStack()
            self._session = self._held.enter_context(self._database.session())
        try:
            with self.reachable():
                yield self._session
        except BaseException:
            self.close()
            raise

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction on a connection of the other Database."""
        with self._database.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give the session back."""
        held, self._held, self._session = self._held, None, None
        if held is not None:
            held.close()


@contextmanager
def pipelined(session: Session) -> Iterator[None]:
    """One transaction in psycopg's pipeline: BEGIN travels with the first statement, COMMIT with the last; the server is
    waited for only where a result is read, and at the end. (`session.transaction()` in a pipeline waits at both edges.)"""
    try:
        with session.pipeline():
            session.execute("BEGIN")
            yield
            session.execute("COMMIT")
    except BaseException:
        if not session.closed:
            session.rollback()
        raise


def session_of(connection: sa.Connection) -> Session:
    """psycopg's connection inside SQLAlchemy's, in the same transaction."""
    return cast("Session", connection.connection.driver_connection)


def run_script(connection: sa.Connection, script: str) -> None:
    """Several statements as they stand, in the connection's transaction; `%` means nothing here."""
    session_of(connection).execute(script.encode())


def array_of(texts: Sequence[str]) -> str | list[str]:
    """Many texts as one parameter, an array of text. psycopg looks into each for what must be quoted, which takes longer than
    PostgreSQL takes to find its row; all of them are looked through at once here."""
    joined = '","'.join(texts)
    if not texts or "\\" in joined or joined.count('"') > 2 * (len(texts) - 1):
        return list(texts)
    return f'{{"{joined}"}}'


def patiently(action: Callable[[], T], *, within: float, first_wait: float = 0.05) -> T:
    """Do `action`, again while the server is away, waiting twice as long each time (at most 1 s), for `within` seconds.

    Only for actions that may be repeated. Raises the last error when time is up.
    """
    deadline = time.monotonic() + within
    wait = first_wait
    while True:
        try:
            return action()
        except Exception as error:
            lost = isinstance(error, DependencyUnreachable) or is_connection_loss(error)
            if not lost or time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)  # a server that restarts gives no signal to wait for
            wait = min(1.0, wait * 2)


def cause_of(error: BaseException) -> BaseException:
    """psycopg's error inside SQLAlchemy's; any other error is its own cause."""
    inside = getattr(error, "orig", None)
    return inside if isinstance(inside, psycopg.Error) else error


def _arguments(options: str, *, prepared_statements: bool, application_name: str) -> dict[str, Any]:
    """How psycopg connects. `options`: those that the URL asks for."""
    arguments: dict[str, Any] = {
        "connect_timeout": 5,
        # Else an answer that a firewall swallowed is waited for by the kernel's rules: from 15 minutes to 2 hours.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 4,
        "tcp_user_timeout": 30_000,
        "application_name": application_name,
        # A database whose default is another isolation level would turn a deleted draft into 40001.
        "options": f"{options} -c timezone=UTC -c default_transaction_isolation=read\\ committed".strip(),
    }
    return arguments if prepared_statements else arguments | {"prepare_threshold": None}


def _psycopg_url(url: str) -> URL:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    plain = libpq_url(url)
    try:
        return make_url(plain).set(drivername="postgresql+psycopg")
    except (ArgumentError, ValueError):
        raise SettingError("DATABASE_URL cannot be read as a URL", remedy=f"set it to {FORM}") from None


def _options(url: URL) -> str:
    """The options that the URL itself asks the server for."""
    given = url.query.get("options", "")
    return given if isinstance(given, str) else " ".join(given)
