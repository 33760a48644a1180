"""Replay in the ledger: failed jobs by selection, what is known of them, plans, and the move to asked again.

Choosing and planning stream: memory does not grow with the number of jobs. What moves jobs is for a transaction that
holds them (`lock`).

Known weakness: a selection without `since` reads every run that ever failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from toolkit.errors import NotFound
from toolkit.ledger.database import Session
from toolkit.ledger.replay_views import FAILED, Flight, Item, Landed, LastRun, Plan, Selection, Snapshot
from toolkit.run import CORE_SKIP_REASONS

_TELLING = "NOT (coalesce(r.outcome, '') = 'skipped' AND r.reason = ANY(%(core)s))"
"""SQL: run `r` tells how its job fares; it is not a delivery that another run had made needless."""

_CANDIDATES = f"""
SELECT i.job_id FROM toolkit.intent i
CROSS JOIN LATERAL (SELECT * FROM toolkit.run r WHERE r.job_id = i.job_id AND {_TELLING} ORDER BY r.number DESC LIMIT 1) r
WHERE i.done_at IS NOT NULL AND i.outcome = ANY(%(failed)s)
  AND i.job_id IN (SELECT b.job_id FROM toolkit.run b WHERE b.outcome IN ('failed', 'lost')
                   AND (%(since)s::timestamptz IS NULL OR b.started_at >= %(since)s))
  AND (%(fingerprint)s = '' OR starts_with(r.fingerprint, %(fingerprint)s))
  AND (%(error)s = '' OR lower(r.error_type) = lower(%(error)s) OR strpos(lower(r.error_message), lower(%(error)s)) > 0)
  AND (%(sqlstate)s = '' OR r.sqlstate = %(sqlstate)s)
  AND (%(job_name)s = '' OR i.job_name = %(job_name)s)
  AND (%(merchant)s = '' OR i.payload ->> 'merchantId' = %(merchant)s)
  AND (%(release)s = '' OR r.release = %(release)s)
  AND (%(since)s::timestamptz IS NULL OR r.started_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR r.started_at < %(until)s)
ORDER BY i.job_id"""

_LAST_RUN = """jsonb_build_object('run_id', {0}.run_id, 'number', {0}.number, 'outcome', coalesce({0}.outcome, ''),
        'reason', {0}.reason, 'error_type', coalesce({0}.error_type, ''), 'fingerprint', coalesce({0}.fingerprint, ''),
        'release', {0}.release, 'worker', {0}.worker, 'started_at', {0}.started_at,
        'lease_left', coalesce(extract(epoch FROM {0}.lease_until - clock_timestamp()), 0))"""

_SNAPSHOTS = f"""
SELECT i.job_id, i.job_name, i.payload::text,
    CASE WHEN i.done_at IS NULL THEN '' ELSE coalesce(i.outcome, 'processed') END,
    i.pushed_at IS NOT NULL, extract(epoch FROM i.due_at - clock_timestamp())::float8,
    CASE WHEN r.run_id IS NOT NULL THEN {_LAST_RUN.format("r")}::text ELSE 'null' END,
    CASE WHEN f.run_id IS NOT NULL THEN {_LAST_RUN.format("f")}::text ELSE 'null' END,
    coalesce(a.holder, ''), coalesce(extract(epoch FROM clock_timestamp() - a.started_at), 0)::float8
FROM unnest(%(ids)s::text[]) AS asked (job_id) JOIN toolkit.intent i USING (job_id)
LEFT JOIN LATERAL (SELECT * FROM toolkit.run r WHERE r.job_id = i.job_id AND {_TELLING}
                   ORDER BY r.number DESC LIMIT 1) r ON true
LEFT JOIN toolkit.run f ON f.run_id = r.replay_of
LEFT JOIN toolkit.flight a ON a.job_id = i.job_id AND a.landed_at IS NULL
ORDER BY i.job_id"""

_RUN = msgspec.json.Decoder(LastRun | None)

_PLAN = (
    "SELECT replay_id, hash, planned_at, planned_by, release, selection, reason, forced, verdicts, remainder_of,"
    " started_at, started_by, coalesce(ending, '') AS ending FROM toolkit.replay"
)


def candidates(session: Session, selection: Selection, *, fetch: int = 2000) -> Iterator[str]:
    """The ids of failed jobs that meet the selection, in order; `fetch` of them in memory. The caller is in a transaction."""
    values = {name: getattr(selection, name) for name in Selection.__dataclass_fields__ if name != "job_ids"}
    with session.cursor(name="candidates") as cursor:
        cursor.itersize = fetch
        cursor.execute(_CANDIDATES, values | {"core": sorted(CORE_SKIP_REASONS), "failed": list(FAILED)})
        for row in cursor:
            yield row[0]


def snapshots(session: Session, job_ids: Sequence[str]) -> list[Snapshot]:
    """What the ledger knows of these jobs now, in the order of their ids; unknown ones are left out."""
    rows: Sequence[Any] = session.execute(
        _SNAPSHOTS, {"ids": list(job_ids), "core": sorted(CORE_SKIP_REASONS)}
    ).fetchall()
    return [
        Snapshot(
            job_id=row[0], job_name=row[1], payload=row[2], outcome=row[3], pushed=row[4], due_in=row[5],
            last=_RUN.decode(row[6]), replayed=_RUN.decode(row[7]),
            holder=row[8], in_air=row[9],
        )
        for row in rows
    ]  # fmt: skip


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
    session.execute(
        "INSERT INTO toolkit.replay_item (replay_id, job_id, verdict, detail, run_id)"
        " SELECT %s, job_id, verdict, detail, nullif(run_id, '')::uuid"
        " FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS i (job_id, verdict, detail, run_id)",
        (
            replay_id,
            [item.job_id for item in items],
            [item.verdict for item in items],
            [item.detail for item in items],
            [item.run_id for item in items],
        ),
    )


def seal(session: Session, replay_id: int, digest: str, verdicts: Mapping[str, int]) -> Plan:
    """The plan is complete."""
    session.execute(
        "UPDATE toolkit.replay SET hash = %s, verdicts = %s WHERE replay_id = %s",
        (digest, Jsonb(dict(verdicts)), replay_id),
    )
    return plan(session, replay_id)


def plan(session: Session, replay_id: int) -> Plan:
    """The plan of that id, which exists."""
    with session.cursor(row_factory=class_row(Plan)) as cursor:
        found = cursor.execute(f"{_PLAN} WHERE replay_id = %s", (replay_id,)).fetchone()
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
            "SELECT job_id, verdict, detail, coalesce(run_id::text, '') AS run_id FROM toolkit.replay_item"
            " WHERE replay_id = %s AND job_id > %s ORDER BY job_id LIMIT %s",
            (replay_id, after, limit),
        ).fetchall()


def open_items(
    session: Session, replay_id: int, verdicts: Sequence[str], limit: int, *, after: str = ""
) -> list[Item]:
    """Up to `limit` jobs that still have to be carried out, in order, after that id."""
    with session.cursor(row_factory=class_row(Item)) as cursor:
        return cursor.execute(
            "SELECT job_id, verdict, detail, coalesce(run_id::text, '') AS run_id FROM toolkit.replay_item"
            " WHERE replay_id = %s AND job_id > %s AND settled_at IS NULL AND verdict = ANY(%s) ORDER BY job_id LIMIT %s",
            (replay_id, after, list(verdicts), limit),
        ).fetchall()


def count_open(session: Session, replay_id: int, verdicts: Sequence[str]) -> int:
    """How many jobs of a plan still have to be carried out."""
    row: Any = session.execute(
        "SELECT count(*) FROM toolkit.replay_item WHERE replay_id = %s AND settled_at IS NULL AND verdict = ANY(%s)",
        (replay_id, list(verdicts)),
    ).fetchone()
    return int(row[0])


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
    strength = "NO KEY UPDATE" if alone else "SHARE"
    session.execute(f"SELECT FROM toolkit.replay WHERE replay_id = %s FOR {strength}", (replay_id,))
    return plan(session, replay_id)


def lock(session: Session, job_ids: Sequence[str]) -> None:
    """Hold these jobs until the transaction ends: no other replay decides about them, no run begins. Waits."""
    session.execute("SELECT toolkit.lock_jobs(%s)", (list(job_ids),))


def reopen(session: Session, replay_id: int, holder: str, moves: Sequence[tuple[Snapshot, str | None]]) -> set[str]:  # fmt: skip
    """Move jobs that this transaction holds to asked again, with their payload in a newer form where one is given.
    Returns those that were moved."""
    rows = session.execute(
        "SELECT toolkit.reopen_jobs(%s, %s, %s, %s::uuid[], %s, %s::jsonb[])",
        (
            replay_id,
            holder,
            [job.job_id for job, _ in moves],
            [job.last.run_id if job.last else None for job, _ in moves],
            [job.last.number if job.last else 0 for job, _ in moves],
            [payload for _, payload in moves],
        ),
    ).fetchall()
    return {row[0] for row in rows}


def settle(session: Session, replay_id: int, judged: Sequence[Item]) -> None:
    """These jobs of the plan are carried out; their verdicts are those under lock."""
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
            " WHERE f.job_id = %s ORDER BY f.flight_id",
            (job_id,),
        ).fetchall()


def lock_waits(session: Session) -> int:
    """How many sessions of this database wait for a lock right now."""
    row: Any = session.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ).fetchone()
    return int(row[0])
