"""A ledger as four weeks leave it: four releases in 27 days, a fifth that has the last day with a quarter of all runs, and a
sixth, deployed five minutes ago.

Of a thousand jobs 30 are skipped, 3 fail of some of 40 kinds, 20 are tried twice as the shop did not answer, 1 is lost with its
worker first, 1 replayed, 1 delivered once more. Release r2 has an incident: of 60 jobs one fails with SQLSTATE 23503. r6 brings
an error that was never seen: of 100 jobs one is lost to a signal. Each release has a verification
with 60 test orders; the jobs of the last 8 s are open. What the last day wrote was begun and then finished, row by row, and
not vacuumed since; the rest is as autovacuum leaves it.

Known weakness: every job is the image job, and a day has no night.
"""

from __future__ import annotations

from typing import Final

import psycopg

from jobs.images.spec import SPEC

BUSY: Final = "r5"
"""The release of the last day but for its last five minutes."""
NEW: Final = "r6"
"""The release of the last five minutes."""

_JOBS = f"""
CREATE TEMP TABLE job AS SELECT n, md5('job' || n)::uuid::text AS job_id, at, at > now() - interval '8 s' AS open,
    CASE WHEN at >= now() - interval '5 min' THEN '{NEW}' WHEN at >= now() - interval '1 day' THEN '{BUSY}'
         ELSE 'r' || least(4, 1 + floor(extract(epoch FROM at - now() + interval '28 days') / 583200)) END AS release
FROM (SELECT n, CASE WHEN n <= old THEN now() - interval '28 days' + n * (interval '27 days' / old)
                     ELSE now() - interval '1 day' + (n - old) * (interval '1 day' / (jobs - old)) END AS at
      FROM (SELECT %(jobs)s::int AS jobs, %(jobs)s::int * 3 / 4 AS old) size, generate_series(1, jobs) n) spread;
"""  # noqa: S608  every part is written here

# One row a run, as its end leaves it. `kind`: t tried again, l lost, c lost to a crash, i the incident's, f failed, s skipped,
# p processed, n not needed.
_ENDED = """
CREATE TEMP TABLE ended AS
SELECT job_id, n, number, release, at + number * interval '2 s' AS began, 1.5 + n % 100 * 0.01 AS took,
    gen_random_uuid() AS run_id, kind,
    CASE kind WHEN 't' THEN 'transient' WHEN 's' THEN 'no_drafts' WHEN 'n' THEN 'already_done' WHEN 'p' THEN ''
              WHEN 'l' THEN 'lease_expired' WHEN 'c' THEN 'killed' ELSE 'error' END AS reason,
    CASE WHEN kind IN ('t', 'i', 'f') THEN 'failed' WHEN kind IN ('s', 'n') THEN 'skipped' WHEN kind IN ('l', 'c') THEN 'lost'
         ELSE 'processed' END AS outcome
FROM (SELECT *, CASE WHEN n % 50 = 49 AND number = 1 THEN 't' WHEN n % 1000 = 1 AND number = 2 THEN 'n'
                     WHEN n % 1000 = 2 AND number = 1 THEN 'f' WHEN release = 'r2' AND n % 60 = 7 THEN 'i'
                     WHEN release = 'r6' AND n % 100 = 56 AND number = 1 THEN 'c'
                     WHEN n % 1000 = 6 AND number = 1 THEN 'l' WHEN n % 1000 IN (3, 4, 5) THEN 'f'
                     WHEN n % 1000 BETWEEN 10 AND 39 THEN 's' ELSE 'p' END AS kind
      FROM job, generate_series(1, CASE WHEN n % 50 = 49 OR n % 1000 IN (1, 2, 6) OR release = 'r6' AND n % 100 = 56 THEN 2
                                        ELSE 1 END) number
      WHERE NOT open) told;
CREATE INDEX ON ended (run_id);
CREATE INDEX ON ended (n);
ANALYZE job, ended;
"""

_ASKED = f"""
INSERT INTO toolkit.intent (job_id, job_name, queue, payload, release, created_at, due_at, pushed_at, pushes)
SELECT job_id, '{SPEC.name}', '{SPEC.queue}', jsonb_build_object('purchaseOrderId', 'c' || left(md5('order' || n), 24),
       'merchantId', 'c' || left(md5('merchant' || n %% 500), 24)), release, at, at, at + interval '20 ms', 1
FROM job WHERE n > %(after)s AND n <= %(until)s ORDER BY n
"""  # noqa: S608
_BEGUN = f"""
INSERT INTO toolkit.run (run_id, job_id, job_name, queue, number, mode, worker, host, release, queue_wait, started_at, trace_id,
    lease_until)
SELECT run_id, job_id, '{SPEC.name}', '{SPEC.queue}', number, 'async', 'w' || n %% 8, 'h' || n %% 2, release,
    0.05 + n %% 7 * 0.02, began, md5('trace' || n || number), began + interval '30 s'
FROM ended WHERE n > %(after)s AND n <= %(until)s ORDER BY n, number
"""  # noqa: S608
_FINISHED = """
UPDATE toolkit.run r SET outcome = e.outcome, reason = e.reason, duration = took, finished_at = began + took * interval '1 s',
    lease_until = NULL, counts = CASE kind WHEN 'p' THEN '{"attached": 5, "images_product_page": 15}' ELSE '{}' END::jsonb,
    error_type = CASE kind WHEN 't' THEN 'connect_timeout' WHEN 'i' THEN 'ForeignKeyViolation' WHEN 'f' THEN 'ValueError'
                           WHEN 'l' THEN 'LeaseExpired' WHEN 'c' THEN 'SIGSEGV' END,
    error_message = CASE kind WHEN 't' THEN 'the shop does not answer' WHEN 'i' THEN 'no such draft' WHEN 'f' THEN 'page' END,
    fingerprint = CASE kind WHEN 't' THEN 'f00dfeed0001' WHEN 'i' THEN 'f00dfeed0002'
                            WHEN 'f' THEN left(md5('kind' || n / 1000 %% 40), 12) END,
    sqlstate = CASE kind WHEN 'i' THEN '23503' END,
    constraint_name = CASE kind WHEN 'i' THEN 'ProductImage_productDraftId_fkey' END,
    retry_at = CASE kind WHEN 't' THEN began + interval '2 s' END,
    replay_of = CASE WHEN n %% 1000 = 2 AND e.number = 2 THEN r.run_id END
FROM ended e WHERE e.run_id = r.run_id AND n > %(after)s AND n <= %(until)s;
"""
_DONE = """
UPDATE toolkit.intent i SET done_at = r.finished_at, outcome = r.outcome FROM toolkit.run r
WHERE r.job_id = i.job_id AND i.done_at IS NULL AND r.retry_at IS NULL AND r.reason <> 'already_done' AND r.outcome <> 'lost'
"""

_DEPLOYED = """
INSERT INTO toolkit.deployment (release, at, who) SELECT release, min(at), 'bench' FROM job GROUP BY release;
INSERT INTO toolkit.verification (release, since, asked, who, started_at, finished_at, verdict)
SELECT release, at, '{}', 'bench', at + interval '5 min', at + interval '10 min', 'proven' FROM toolkit.deployment ORDER BY at;
UPDATE toolkit.verification SET finished_at = NULL, verdict = 'pending' WHERE release = %(new)s;
INSERT INTO toolkit.test_order (verification_id, number, purpose, job_id, subject, placed_at, cleaned_at)
SELECT verification_id, place, CASE place WHEN 1 THEN 'probe' ELSE 'top-up' END, job_id, 'c' || left(md5('order' || n), 24),
    at, at
FROM toolkit.verification JOIN (SELECT *, row_number() OVER (PARTITION BY release ORDER BY n) AS place FROM job WHERE NOT open) j
    USING (release) WHERE place <= 60;
"""


def fill(url: str, jobs: int) -> int:
    """Fill an empty ledger; the runs that it has then. `jobs`: at least 10,000, so that the last five minutes have some."""
    with psycopg.connect(url, autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute("SET work_mem = '256MB'")
        # A vacuum in the midst of it would make it another ledger each time.
        connection.execute("ALTER TABLE toolkit.run SET (autovacuum_enabled = off)")
        connection.execute("ALTER TABLE toolkit.intent SET (autovacuum_enabled = off)")
        connection.execute(_JOBS, {"jobs": jobs})
        connection.execute(_ENDED)
        old = jobs * 3 // 4
        for after, until in ((0, old), (old, jobs)):
            span = {"after": after, "until": until}
            for statement in (_ASKED, _BEGUN, _FINISHED):
                connection.execute(statement, span)
            connection.execute(_DONE)
            if until == old:
                # Rows of the last day are not to lie in the holes of rows of a month ago.
                connection.execute("VACUUM FULL toolkit.intent, toolkit.run")
                connection.execute("VACUUM ANALYZE toolkit.intent, toolkit.run")
        connection.execute(_DEPLOYED, {"new": NEW})
        connection.execute("ANALYZE")
        row = connection.execute("SELECT count(*) FROM toolkit.run").fetchone()
        connection.execute("CHECKPOINT")
    assert row is not None
    return int(row[0])
