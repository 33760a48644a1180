"""Replay in the ledger: failed jobs by selection, what is known of them, plans, and the move to asked again.

Choosing and planning stream: memory does not grow with the number of jobs. What moves jobs is for a transaction that
holds them (`take`). A job of a plan is open until it has a flight of that plan, or was found under lock to be no more for it
(`settle`).

Known weakness: a selection without `since` reads every run that ever failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, LiteralString

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from toolkit.errors import NotFound
from toolkit.jobspec import CONTROL
from toolkit.ledger.database import Session, array_of
from toolkit.ledger.replay_views import Flight, Item, Landed, LastRun, Plan, Selection, Snapshot
from toolkit.run import CORE_SKIP_REASONS

_TELLING = "NOT (coalesce(r.outcome, '') = 'skipped' AND r.reason = ANY(%(core)s))"
"""SQL: run `r` tells how its job fares; it is not a delivery that another run had made needless."""

_FAILURE = """
  AND (%(fingerprint)s = '' OR starts_with(r.fingerprint, %(fingerprint)s))
  AND (%(error)s = '' OR lower(r.error_type) = lower(%(error)s) OR strpos(lower(r.error_message), lower(%(error)s)) > 0)
  AND (%(sqlstate)s = '' OR r.sqlstate = %(sqlstate)s)
  AND (%(job_name)s = '' OR i.job_name = %(job_name)s)
  AND (%(merchant)s = '' OR i.payload ->> 'merchantId' = %(merchant)s)
  AND (%(release)s = '' OR r.release = %(release)s)
  AND (%(since)s::timestamptz IS NULL OR r.started_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR r.started_at < %(until)s)"""

_RUN = """{0}.run_id::text, {0}.number, coalesce({0}.outcome, ''), {0}.reason, coalesce({0}.error_type, ''),
    coalesce({0}.fingerprint, ''), {0}.release, {0}.worker,
    CASE WHEN {0}.lease_until IS NULL THEN 0 ELSE extract(epoch FROM {0}.lease_until - clock_timestamp()) END::float8"""

_SNAPSHOT = f"""
SELECT i.job_id, i.job_name, i.payload::text,
    CASE WHEN i.done_at IS NULL THEN '' ELSE coalesce(i.outcome, 'processed') END, i.pushed_at IS NOT NULL,
    CASE WHEN i.done_at IS NULL THEN extract(epoch FROM i.due_at - clock_timestamp()) ELSE 0 END::float8,
    coalesce(a.holder, ''), coalesce(extract(epoch FROM clock_timestamp() - a.started_at), 0)::float8,
    CASE WHEN i.done_at IS NULL AND i.pushed_at IS NULL THEN coalesce((SELECT min(t.name) FROM toolkit.toggle t
        WHERE i.job_name = ANY(t.jobs) AND t.held_until > clock_timestamp()), '') ELSE '' END,
    {_RUN.format("r")}, {_RUN.format("f")}, {{more}}
FROM {{jobs}}
LEFT JOIN LATERAL (SELECT * FROM toolkit.run r WHERE r.job_id = i.job_id AND {_TELLING}
                   ORDER BY r.number DESC LIMIT 1) r ON true
LEFT JOIN toolkit.run f ON f.run_id = r.replay_of
LEFT JOIN LATERAL (SELECT * FROM toolkit.flight a WHERE a.job_id = i.job_id AND a.landed_at IS NULL LIMIT 1) a ON true
WHERE {{which}}
ORDER BY i.job_id"""
"""LIMIT 1 where there is one at most: each job's flight is looked up, where a join would read every flight in the air."""

_NAMED = _SNAPSHOT.format(more="''", jobs="toolkit.intent i", which="i.job_id = ANY(%(ids)s)")
_SELECTED = _SNAPSHOT.format(
    more="''",
    jobs="toolkit.intent i",
    which="i.done_at IS NOT NULL AND i.outcome IN ('failed', 'lost') AND r.run_id IS NOT NULL"
    f" AND i.job_name <> '{CONTROL}'"  # planted ones are made good by nobody
    " AND i.job_id IN (SELECT b.job_id FROM toolkit.run b WHERE b.outcome IN ('failed', 'lost')"
    "                  AND (%(since)s::timestamptz IS NULL OR b.started_at >= %(since)s))" + _FAILURE,
)

_OPEN = """p.replay_id = %(replay_id)s AND p.job_id > %(after)s AND p.settled_at IS NULL AND p.verdict = ANY(%(verdicts)s)
  AND NOT EXISTS (SELECT FROM toolkit.flight o WHERE o.job_id = p.job_id AND o.replay_id = p.replay_id OFFSET 0)"""
"""SQL: job `p` of a plan still has to be carried out. OFFSET keeps the planner from reading every flight for a batch."""

_TAKEN = _SNAPSHOT.format(
    more="coalesce(p.run_id::text, '')",
    jobs="toolkit.replay_item p JOIN toolkit.intent i USING (job_id)",
    which=_OPEN + " AND p.job_id <= %(last)s",
)

_ITEM = (
    "SELECT p.job_id, p.verdict, p.detail, coalesce(p.run_id::text, '') AS run_id FROM toolkit.replay_item p"
)

_CORE = sorted(CORE_SKIP_REASONS)

_PLAN = (
    "SELECT replay_id, hash, planned_at, planned_by, release, selection, reason, forced, verdicts, remainder_of,"
    " started_at, started_by, coalesce(ending, '') AS ending FROM toolkit.replay"
)


def selected(session: Session, selection: Selection, *, fetch: int) -> Iterator[list[Snapshot]]:
    """The failed jobs that meet the selection, in the order of their ids, `fetch` at a time. The caller is in a
    transaction."""
    values = {name: getattr(selection, name) for name in Selection.__dataclass_fields__ if name != "job_ids"}
    with session.cursor(name="selected") as cursor:
        cursor.execute(_SELECTED, values | {"core": _CORE})
        while rows := cursor.fetchmany(fetch):
            yield [_snapshot(row) for row in rows]


def snapshots(session: Session, job_ids: Sequence[str]) -> list[Snapshot]:
    """What the ledger knows of these jobs now, in the order of their ids; unknown ones are left out."""
    rows = session.execute(_NAMED, {"ids": list(job_ids), "core": _CORE}).fetchall()
    return [_snapshot(row) for row in rows]


def _snapshot(row: Sequence[Any]) -> Snapshot:
    last = LastRun(*row[9:18]) if row[9] is not None else None
    replayed = LastRun(*row[18:27]) if row[18] is not None else None
    job_id, job_name, payload, outcome, pushed, due_in, holder, in_air, held_by = row[:9]
    return Snapshot(
        job_id, job_name, payload, outcome, pushed, due_in, last, replayed, holder, in_air, held_by
    )


def new_plan(session: Session, *, who: str, release: str, selection: Mapping[str, Any], reason: str, forced: bool,
             remainder_of: int | None = None) -> int:  # fmt: skip
    """An empty plan; its id. `seal` names it."""
    row: Any = session.execute(
        "INSERT INTO toolkit.replay (hash, planned_by, release, selection, reason, forced, remainder_of)"
        " VALUES ('', %s, %s, %s, %s, %s, %s) RETURNING replay_id",
        (who, release, Jsonb(dict(selection)), reason, forced, remainder_of),
    ).fetchone()
    return int(row[0])


def add_items(session: Session, replay_id: int, items: Sequence[Item]) -> None:
    """More jobs of a plan that is being made."""
    columns = "replay_id, job_id, verdict, detail, run_id"
    with session.cursor() as cursor, cursor.copy(f"COPY toolkit.replay_item ({columns}) FROM STDIN") as copy:
        for item in items:
            copy.write_row((replay_id, item.job_id, item.verdict, item.detail, item.run_id or None))


def seal(session: Session, replay_id: int, digest: str, verdicts: Mapping[str, int]) -> Plan:
    """The plan is complete."""
    session.execute(
        "UPDATE toolkit.replay SET hash = %s, verdicts = %s WHERE replay_id = %s",
        (digest, Jsonb(dict(verdicts)), replay_id),
    )
    return plan(session, replay_id)


def plan(session: Session, replay_id: int, *, lock: LiteralString = "") -> Plan:
    """The plan of that id, which exists."""
    with session.cursor(row_factory=class_row(Plan)) as cursor:
        found = cursor.execute(f"{_PLAN} WHERE replay_id = %s {lock}", (replay_id,)).fetchone()
    assert found is not None  # noqa: S101  nothing deletes plans
    return found


def find_plan(session: Session, digest: str) -> Plan:
    """The newest plan whose hash begins so. Raises NotFound."""
    with session.cursor(row_factory=class_row(Plan)) as cursor:
        found = cursor.execute(
            f"{_PLAN} WHERE starts_with(hash, %s) AND hash <> '' ORDER BY replay_id DESC LIMIT 1", (digest,)
        ).fetchone()
    if found is None:
        raise NotFound(f"there is no plan {digest}", remedy="`toolkit replay history` lists the plans")
    return found


def unfinished(session: Session) -> list[Plan]:
    """Plans that were begun and neither finished nor stopped: interrupted, or being carried out right now. Oldest first."""
    with session.cursor(row_factory=class_row(Plan)) as cursor:
        return cursor.execute(
            f"{_PLAN} WHERE started_at IS NOT NULL AND finished_at IS NULL ORDER BY replay_id"
        ).fetchall()


def recent(session: Session, limit: int) -> list[Plan]:
    """The newest plans, newest first."""
    with session.cursor(row_factory=class_row(Plan)) as cursor:
        return cursor.execute(
            f"{_PLAN} WHERE hash <> '' ORDER BY replay_id DESC LIMIT %s", (limit,)
        ).fetchall()


def items(session: Session, replay_id: int, limit: int, *, after: str = "") -> list[Item]:
    """Up to `limit` of a plan's jobs, in order."""
    with session.cursor(row_factory=class_row(Item)) as cursor:
        return cursor.execute(
            f"{_ITEM} WHERE p.replay_id = %s AND p.job_id > %s ORDER BY p.job_id LIMIT %s",
            (replay_id, after, limit),
        ).fetchall()


def open_items(
    session: Session, replay_id: int, verdicts: Sequence[str], limit: int, *, after: str = ""
) -> list[Item]:
    """Up to `limit` jobs that still have to be carried out, in order, after that id."""
    with session.cursor(row_factory=class_row(Item)) as cursor:
        return cursor.execute(
            f"{_ITEM} WHERE {_OPEN} ORDER BY p.job_id LIMIT %(limit)s",
            {"replay_id": replay_id, "after": after, "verdicts": list(verdicts), "limit": limit},
        ).fetchall()


def count_open(session: Session, replay_id: int, verdicts: Sequence[str]) -> int:
    """How many jobs of a plan still have to be carried out."""
    row: Any = session.execute(
        f"SELECT count(*) FROM toolkit.replay_item p WHERE {_OPEN}",
        {"replay_id": replay_id, "after": "", "verdicts": list(verdicts)},
    ).fetchone()
    return int(row[0])


def careful(session: Session, lock_timeout: str) -> None:
    """From here to the end of the transaction: wait so long for a lock, and find a batch by index. A plan that was just made
    has no statistics; without them PostgreSQL thinks it small, and would read and sort all of it for each batch."""
    session.execute(
        "SELECT set_config('lock_timeout', %s, true), set_config('enable_sort', 'off', true),"
        " set_config('enable_bitmapscan', 'off', true)",
        (lock_timeout,),
    )


def take(
    session: Session, replay_id: int, verdicts: Sequence[str], limit: int, *, after: str
) -> tuple[str, list[tuple[Snapshot, str]]]:
    """Hold up to `limit` jobs that still have to be carried out, in order, after that id, until the transaction ends: no other
    replay decides about them meanwhile. Returns the last one's id ('' when none is left), and those that nobody else had
    carried out by the time that they were held, as they are then, each with the failed run that was planned. Waits."""
    values = {"replay_id": replay_id, "after": after, "verdicts": list(verdicts), "core": _CORE}
    row: Any = session.execute(
        f"WITH wanted AS (SELECT p.job_id FROM toolkit.replay_item p WHERE {_OPEN} ORDER BY p.job_id LIMIT %(limit)s)"
        " SELECT max(job_id), toolkit.lock_jobs(array_agg(job_id)) FROM wanted",
        values | {"limit": limit},
    ).fetchone()
    if row[0] is None:
        return "", []
    # A statement of its own: it sees what was committed while the one above waited.
    rows = session.execute(_TAKEN, values | {"last": row[0]}).fetchall()
    return row[0], [(_snapshot(one), one[-1]) for one in rows]


def start(session: Session, replay_id: int, who: str, reason: str, *, forced: bool) -> bool:
    """Somebody carries the plan out now; True when nobody had begun it."""
    row: Any = session.execute(
        "UPDATE toolkit.replay r SET started_at = coalesce(r.started_at, clock_timestamp()), started_by = %s,"
        " reason = coalesce(nullif(%s, ''), r.reason), forced = r.forced OR %s"
        " FROM (SELECT * FROM toolkit.replay WHERE replay_id = %s FOR UPDATE) before"
        " WHERE r.replay_id = before.replay_id RETURNING before.started_at IS NULL",
        (who, reason, forced, replay_id),
    ).fetchone()
    return bool(row[0])


def finish(session: Session, replay_id: int, ending: str) -> None:
    """Nothing of the plan is left to be carried out: `done`, or `stopped` and left to another plan."""
    session.execute(
        "UPDATE toolkit.replay SET finished_at = clock_timestamp(), ending = %s WHERE replay_id = %s AND finished_at IS NULL",
        (ending, replay_id),
    )


def hold_plan(session: Session, replay_id: int, *, alone: bool = False) -> Plan:
    """The plan, kept from being stopped until the transaction ends; `alone`: nobody carries it out meanwhile either."""
    return plan(session, replay_id, lock="FOR NO KEY UPDATE" if alone else "FOR SHARE")


def reopen(
    session: Session, replay_id: int, holder: str, moves: Sequence[tuple[Snapshot, str | None]]
) -> list[str]:
    """Move jobs that this transaction holds to asked again, with their payload in a newer form where one is given.
    Returns those that were moved."""
    last = [job.last for job, _ in moves]
    rows = session.execute(
        "SELECT toolkit.reopen_jobs(%s, %s, %s, %s::uuid[], %s::integer[], %s::jsonb[])",
        (
            replay_id,
            holder,
            array_of([job.job_id for job, _ in moves]),
            # Numbers and uuids need no quoting.
            f"{{{','.join(run.run_id if run else 'NULL' for run in last)}}}",
            f"{{{','.join(str(run.number) if run else '0' for run in last)}}}",
            [payload for _, payload in moves] if any(payload for _, payload in moves) else [],
        ),
    ).fetchall()
    return [row[0] for row in rows]


def settle(session: Session, replay_id: int, judged: Sequence[Item]) -> None:
    """These jobs of the plan are not moved: their verdicts under lock say why. (A job that is moved has a flight.)"""
    session.execute(
        "UPDATE toolkit.replay_item i SET settled_at = clock_timestamp(), settled = n.verdict, settled_detail = n.detail"
        " FROM unnest(%s::text[], %s::text[], %s::text[]) AS n (job_id, verdict, detail)"
        " WHERE i.replay_id = %s AND i.job_id = n.job_id",
        (
            [item.job_id for item in judged],
            [item.verdict for item in judged],
            [item.detail for item in judged],
            replay_id,
        ),
    )


def landed(session: Session, replay_id: int) -> Landed:
    """What became of a plan's flights so far."""
    rows: Sequence[Any] = session.execute(
        "SELECT coalesce(outcome, ''), count(*) FROM toolkit.flight WHERE replay_id = %s GROUP BY 1",
        (replay_id,),
    ).fetchall()
    found: dict[str, int] = dict(rows)
    return Landed(in_air=found.pop("", 0), outcomes=found)


def flights(session: Session, job_id: str) -> list[Flight]:
    """Every replay of a job, oldest first."""
    with session.cursor(row_factory=class_row(Flight)) as cursor:
        return cursor.execute(
            "SELECT f.job_id, coalesce(f.replay_of::text, '') AS replay_of, p.hash, f.holder, p.reason, f.started_at,"
            " f.landed_at, coalesce(f.outcome, '') AS outcome FROM toolkit.flight f JOIN toolkit.replay p USING (replay_id)"
            " WHERE f.job_id = %s ORDER BY f.after",
            (job_id,),
        ).fetchall()


def lock_waits(session: Session) -> int:
    """How many sessions of this database wait for a lock right now."""
    row: Any = session.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    return int(row[0])
