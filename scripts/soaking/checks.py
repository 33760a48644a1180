"""What must be true after a soak, each as a question to the catalog, the ledger, the metrics, the spans, or PostgreSQL's log.

A check gives the offending things in words, none when all is well. tests/integration/test_soak_checks.py proves that each
can turn red.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import psycopg

ORPHANS = """
SELECT i.id FROM "ProductImage" i LEFT JOIN "ProductDraft" d ON d.id = i."productDraftId" WHERE d.id IS NULL
"""
"""Images without a draft."""

MISSING = """
SELECT d.id || ': ' || count(i.id) || ' of ' || (regexp_match(d.title, '\\d+$'))[1] || ' images'
FROM "ProductDraft" d JOIN "PurchaseOrder" o ON o.id = d."purchaseOrderId" LEFT JOIN "ProductImage" i ON i."productDraftId" = d.id
WHERE NOT EXISTS (SELECT FROM toolkit.intent t WHERE t.payload ->> 'purchaseOrderId' = o.id AND t.outcome = 'lost')
GROUP BY d.id, o.id
HAVING count(i.id) <> (regexp_match(d.title, '\\d+$'))[1]::int
   AND NOT (count(i.id) = 0 AND 'm-other' IN (d."merchantId", o."merchantId"))
"""
"""Surviving drafts that have not exactly their images; one that was sold has them or none, as the sale came after or before."""

REVIEWS = """
SELECT o.id || ': ' || count(s.id) || ' review sessions, ' || pictures.images || ' images'
FROM "PurchaseOrder" o LEFT JOIN "ImageReviewSession" s ON s."purchaseOrderId" = o.id
CROSS JOIN LATERAL (SELECT count(*) AS images FROM "ProductImage" i JOIN "ProductDraft" d ON d.id = i."productDraftId"
                    WHERE d."purchaseOrderId" = o.id) pictures
GROUP BY o.id, pictures.images HAVING count(s.id) > 1 OR (count(s.id) = 0 AND pictures.images > 0)
"""
"""Orders that have images and not exactly one review session, or more than one in any case."""

ITEMS = """
SELECT i.id || ': in ' || count(r.id) || ' reviews' FROM "ProductImage" i LEFT JOIN "ImageReviewItem" r ON r."imageId" = i.id
GROUP BY i.id HAVING count(r.id) <> 1
"""
"""Images that are not in exactly one review."""

FOREIGN_KEY_ERRORS = "SELECT job_id || ': ' || constraint_name FROM toolkit.run WHERE sqlstate = '23503'"
FAILED = "SELECT job_id || ': ' || reason || ' ' || coalesce(error_message, '') FROM toolkit.run WHERE outcome = 'failed'"
WORKERS = "SELECT DISTINCT worker FROM toolkit.run"
DONE = "SELECT 'done', count(*) FROM toolkit.intent WHERE done_at IS NOT NULL"
OPEN = "SELECT job_id FROM toolkit.intent WHERE done_at IS NULL"

LEDGER_RUNS = "SELECT outcome, count(*) FROM toolkit.run GROUP BY 1"
LEDGER_SKIPS = "SELECT reason, count(*) FROM toolkit.run WHERE outcome = 'skipped' GROUP BY 1"
LEDGER_DRAFTS = """
SELECT key, sum(value::int) FROM toolkit.run, jsonb_each_text(counts) WHERE key NOT LIKE 'images\\_%' GROUP BY 1
"""
LEDGER_IMAGES = """
SELECT 'memory', coalesce(sum((counts ->> 'images_memory')::int), 0) FROM toolkit.run
"""
LEDGER_ROOTS = "SELECT run_id::text FROM toolkit.run WHERE outcome <> 'lost'"


def offenders(connection: psycopg.Connection, query: str) -> list[str]:
    """The first column of a check's answer."""
    return [row[0] for row in connection.execute(query).fetchall()]


def counted(connection: psycopg.Connection, query: str) -> Counter[str]:
    """(name, count) rows of the ledger; what is 0 is left out."""
    return Counter({name: int(number) for name, number in connection.execute(query).fetchall() if number})


def differences(left: Mapping[str, int], right: Mapping[str, int]) -> list[str]:
    """Where two counts differ: `name: 3 and 4`."""
    return [
        f"{name}: {left.get(name, 0)} and {right.get(name, 0)}"
        for name in sorted({*left, *right})
        if left.get(name, 0) != right.get(name, 0)
    ]


def scraped(exposition: str, metric: str, label: str) -> Counter[str]:
    """A counter of /metrics, summed by one label; what is 0 is left out."""
    found: Counter[str] = Counter()
    for labels, value in re.findall(rf"^{metric}\{{(.*)\}} (\S+)$", exposition, re.MULTILINE):
        name = re.search(rf'{label}="([^"]*)"', labels)
        if name and float(value):
            found[name.group(1)] += int(float(value))
    return found


def spans_apart(runs: Iterable[str], roots: Counter[str], most_missing: int = 0) -> list[str]:
    """Runs that have not exactly one root span. Up to `most_missing` of them may have none: what a worker had not sent when
    it was killed is gone."""
    wanted = set(runs)
    twice = [f"{run}: {number} root spans" for run, number in roots.items() if number > 1]
    strange = [f"{run}: a root span of no run that ended" for run in roots.keys() - wanted]
    missing = [f"{run}: no root span" for run in wanted - roots.keys()]
    return twice + strange + (missing if len(missing) > most_missing else [])


def logged(log: Path, sqlstate: str, *, without: str = "") -> list[str]:
    """Errors of this SQLSTATE in PostgreSQL's log (`time [pid] SQLSTATE application ERROR: …`); none of application
    `without`."""
    pattern = re.compile(rf"^\S+ \S+ \S+ \[\d+\] {sqlstate} (\S*) (?:ERROR|FATAL|PANIC):")
    return [
        line
        for line in log.read_text(errors="replace").splitlines()
        if (found := pattern.match(line)) and (not without or found.group(1) != without)
    ]
