"""Mutants of the image job: each takes away one thing that keeps it right, in the source, and some scenario must notice."""

from __future__ import annotations

from toolkit.rehearse.words import Mutant

_ATTACH, _FETCH, _JOB, _PERFORM = (
    "jobs.images.attach",
    "jobs.images.fetch",
    "jobs.images.job",
    "toolkit.perform",
)

_SAVEPOINT = (
    '(session.execute("SAVEPOINT locks"), session.execute(\'SELECT FROM "ProductDraft" WHERE id = ANY(%(drafts)s)'
    ' FOR KEY SHARE NOWAIT\', values), session.execute("ROLLBACK TO SAVEPOINT locks"),'
    ' session.execute(_ATTACH.replace("FOR KEY SHARE OF d NOWAIT", ""), values))[-1].fetchall()'
)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        name="no-lock",
        about="the drafts are not locked",
        module=_ATTACH,
        old="FOR KEY SHARE OF d NOWAIT",
        new="",
        caught_by=("delete-draft", "delete-order"),
    ),
    Mutant(
        name="lock-in-savepoint",
        about="the drafts are locked inside a savepoint that is rolled back",
        module=_ATTACH,
        old="session.execute(_ATTACH, values).fetchall()",
        new=_SAVEPOINT,
        caught_by=("delete-draft", "delete-order"),
    ),
    Mutant(
        name="skip-locked",
        about="a draft that is locked counts as gone",
        module=_ATTACH,
        old="FOR KEY SHARE OF d NOWAIT",
        new="FOR KEY SHARE OF d SKIP LOCKED",
        caught_by=("delete-rolled-back",),
    ),
    Mutant(
        name="no-order-lock",
        about="the order is not locked before its drafts",
        module=_ATTACH,
        old="    FOR KEY SHARE OF o NOWAIT\n",
        new="",
        caught_by=("move-order",),
    ),
    Mutant(
        name="no-skip-at-write",
        about="images are inserted for drafts that are gone, too",
        module=_ATTACH,
        old="    JOIN alive ON alive.id = c.draft\n",
        new="",
        caught_by=("delete-draft",),
    ),
    Mutant(
        name="no-skip-at-fetch",
        about="a run that finds nothing to do says that it processed",
        module=_JOB,
        old="if reason := nothing_to_do(page):",
        new="if reason := None:",
        caught_by=("delete-order", "delete-all-drafts"),
    ),
    Mutant(
        name="no-merchant-of-draft",
        about="whose draft it is, is not asked again at the write",
        module=_ATTACH,
        old=' AND d."merchantId" = %(merchant)s\n',
        new="\n",
        caught_by=("move-draft",),
    ),
    Mutant(
        name="no-merchant-of-order",
        about="whose order it is, is not asked again at the write",
        module=_ATTACH,
        old='JOIN tenant ON o."merchantId" = tenant.id WHERE',
        new="JOIN tenant ON true WHERE",
        caught_by=("move-order-only",),
    ),
    Mutant(
        name="no-merchant-at-fetch",
        about="drafts of other merchants are fetched and searched for",
        module=_FETCH,
        old=' AND d."merchantId" = %(merchant)s AND d.id >',
        new=" AND d.id >",
        caught_by=("tenant-mix-up",),
    ),
    Mutant(
        name="no-fence",
        about="a run that was given up may still write",
        module=_PERFORM,
        old=r"runs\.hold\(session, [^)]*\)",
        new="pass",
        pattern=True,
        caught_by=("given-up",),
    ),
    Mutant(
        name="no-derived-key",
        about="an image's id is made anew at each write",
        module=_ATTACH,
        old='derived_id("image", ',
        new='derived_id("image", __import__("secrets").token_hex(8), ',
        caught_by=("two-jobs",),
    ),
    Mutant(
        name="no-conflict-clause",
        about="a second write of the same image is an error",
        module=_ATTACH,
        old='    ON CONFLICT (id) DO NOTHING\n    RETURNING id, "productDraftId", source',
        new='    RETURNING id, "productDraftId", source',
        caught_by=("two-jobs",),
    ),
    Mutant(
        name="finish-early",
        about="the first of two writes finishes the run",
        module=_JOB,
        old="last=page.last and left == 0",
        new="last=page.last",
        caught_by=("crash-between-writes",),
    ),
    Mutant(
        name="one-image-is-all",
        about="a delivery that finds one draft's images there leaves the others alone",
        module=_JOB,
        old="all(draft.has_images for",
        new="any(draft.has_images for",
        caught_by=("crash-between-writes",),
    ),
    Mutant(
        name="no-review-conflict-clause",
        about="a second write opens the review session anew",
        module=_ATTACH,
        old="    ON CONFLICT (id) DO NOTHING\n), items AS",
        new="), items AS",
        caught_by=("crash-between-writes",),
    ),
)
