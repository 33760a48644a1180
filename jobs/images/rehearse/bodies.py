"""Kept bodies: the incident's job and every half-way fix of it, each as it would write one image of one draft.

They are cores, for the table; the whole job of then is in jobs/images/museum.py. Each runs in one transaction, at the
isolation level of its connection: BEGIN, the body, COMMIT, against BEGIN, DELETE, COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jobs.images.rehearse import shop
from toolkit.ledger.database import Session
from toolkit.rehearse.words import Actor, Options, Scenario, Seat

Body = Callable[[Session, str], str]

_INSERT = """INSERT INTO "ProductImage" (id, "productDraftId", url, source, position) VALUES (%s, %s, %s, 'memory', 0)"""
_FROM_DRAFT = """INSERT INTO "ProductImage" (id, "productDraftId", url, source, position)
SELECT %s, id, %s, 'memory', 0 FROM "ProductDraft" WHERE id = %s"""
_FETCH = """SELECT id FROM "ProductDraft" WHERE id = %s"""
_LOCK = " FOR KEY SHARE"
_URL = "https://shop.example/1.jpg"


def stale_payload(session: Session, draft: str) -> str:
    """The incident: the draft's id comes from the payload, three minutes old."""
    session.execute(_INSERT, ("image-1", draft, _URL))
    return "processed"


def fetch_then_insert(session: Session, draft: str) -> str:
    """The fix as first shipped: look again, then write."""
    return _fetched(session, draft, _FETCH)


def insert_select(session: Session, draft: str) -> str:
    """Look and write in one statement, which still locks nothing."""
    return _attached(session, draft, _FROM_DRAFT)


def fetch_locked_then_insert(session: Session, draft: str) -> str:
    """Look with a lock that a delete must wait for, then write."""
    return _fetched(session, draft, _FETCH + _LOCK)


def insert_select_locked(session: Session, draft: str) -> str:
    """Lock and write in one statement: today's guarded write, at its core."""
    return _attached(session, draft, _FROM_DRAFT + _LOCK)


def _fetched(session: Session, draft: str, query: str) -> str:
    if session.execute(query, (draft,)).fetchone() is None:
        return "skipped"
    session.execute(_INSERT, ("image-1", draft, _URL))
    return "processed"


def _attached(session: Session, draft: str, statement: str) -> str:
    return "processed" if session.execute(statement, ("image-1", _URL, draft)).rowcount else "skipped"


BODIES: Mapping[str, tuple[str, Body]] = {
    "stale-payload": ("INSERT from a stale payload (the incident)", stale_payload),
    "fetch-then-insert": ("fetch again, then INSERT (the fix as first shipped)", fetch_then_insert),
    "insert-select": ("INSERT … SELECT, no lock", insert_select),
    "fetch-locked-then-insert": ("fetch again FOR KEY SHARE, then INSERT", fetch_locked_then_insert),
    "insert-select-locked": ("INSERT … SELECT … FOR KEY SHARE", insert_select_locked),
}


def performing(body: Body, draft: str = shop.DRAFTS[0]) -> Callable[[Seat], str]:
    """An actor's act: the body in one transaction."""

    def act(seat: Seat) -> str:
        with seat.database.session() as session, session.transaction():
            return body(session, draft)

    return act


def changing(*statements: str, delete: str = "committed") -> Callable[[Seat], str]:
    """An actor's act: the statements in one transaction, which commits unless `delete` is "rolled back"."""

    def act(seat: Seat) -> str:
        with seat.database.session() as session, session.transaction(force_rollback=delete == "rolled back"):
            for statement in statements:
                session.execute(statement)
        return "rolled back" if delete == "rolled back" else "committed"

    return act


def deleting(options: Options, draft: str = shop.DRAFTS[0]) -> tuple[str, ...]:
    """The statements that delete a draft, and create it again where the options want it."""
    statements = [f"""DELETE FROM "ProductDraft" WHERE id = '{draft}'"""]
    if options.recreate:
        statements.append(shop.draft_row(shop.MERCHANT, shop.ORDER, draft))
    return tuple(statements)


def table(options: Options) -> Mapping[str, Scenario]:
    """The kept bodies against a delete, as the table of the design has them."""
    reset = shop.starting_from(shop.START)
    return {
        name: Scenario(
            name=name,
            about=about,
            actors=(
                Actor(name="job", act=performing(body), job=True),
                Actor(
                    name="deleter",
                    act=changing(*deleting(options), delete=options.delete),
                    held=options.delete == "held open",
                ),
            ),
            reset=reset,
            inspect=_look,
            schema=shop.key_schema(options),
            isolation=options.isolation,
        )
        for name, (about, body) in BODIES.items()
    }


def _look(session: Session) -> Mapping[str, int]:
    found = shop.look(session)
    return {"images without a draft": found["images without a draft"], "~images": found["~images"]}
