"""From a selection to a frozen plan: jobs stream out of the ledger in the order of their ids, get their verdicts from live
rows in batches, and are written down. Memory does not grow with their number.

Default: 2,000 jobs at once, three round trips each batch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import msgspec

from toolkit.errors import NotFound
from toolkit.jobspec import Payload, Registry
from toolkit.ledger import replays
from toolkit.ledger.database import Session
from toolkit.ledger.replay_views import FAILED, Plan, Selection, Snapshot
from toolkit.replay.plan import Decoded, Judged, PlanHash, decide, decode, item

BATCH = 2000


class Assessed(msgspec.Struct, frozen=True, gc=False):
    """A job with its verdict, and what the verdict came from."""

    snapshot: Snapshot
    decoded: Decoded
    judged: Judged


def assess(
    session: Session, registry: Registry, snapshots: Sequence[Snapshot], *, release: str, force: bool
) -> list[Assessed]:
    """The verdicts on these jobs, in their order."""
    decoded = {one.job_id: decode(registry.specs, one) for one in snapshots}
    gone = _gone(session, registry, snapshots, decoded)
    return [
        Assessed(
            one,
            decoded[one.job_id],
            decide(one, decoded[one.job_id], gone.get(one.job_id, ""), release=release, force=force),
        )
        for one in snapshots
    ]


def make_plan(session: Session, registry: Registry, selection: Selection, *, who: str, release: str, reason: str,
              force: bool) -> Plan:  # fmt: skip
    """Judge the selected jobs and write the plan down; the caller is in a transaction, so a plan is there whole or not at
    all. Raises NotFound when a named job is not in the ledger."""
    replay_id = replays.new_plan(
        session, who=who, release=release, selection=selection.told(), reason=reason, forced=force
    )
    digest, verdicts = PlanHash(release, force=force), Counter[str]()
    chosen = (
        _named(session, selection.job_ids)
        if selection.named
        else replays.selected(session, selection, fetch=BATCH)
    )
    for snapshots in chosen:
        items = [
            item(one.snapshot, one.judged)
            for one in assess(session, registry, snapshots, release=release, force=force)
        ]
        for one in items:
            digest.add(one)
        verdicts.update(one.verdict for one in items)
        replays.add_items(session, replay_id, items)
    return replays.seal(session, replay_id, digest.text(), verdicts)


def _named(session: Session, job_ids: Sequence[str]) -> Iterator[list[Snapshot]]:
    ids = iter(sorted(set(job_ids)))
    while batch := list(islice(ids, BATCH)):
        found = replays.snapshots(session, batch)
        if missing := set(batch) - {one.job_id for one in found}:
            raise NotFound(f"the ledger has no job {', '.join(sorted(missing))}")
        yield found


def _gone(
    session: Session, registry: Registry, snapshots: Sequence[Snapshot], decoded: dict[str, Decoded]
) -> dict[str, str]:
    """Why jobs are no longer wanted, by live rows; asked only of failed jobs whose ids are known."""
    by_name: dict[str, list[tuple[str, Payload]]] = defaultdict(list)
    for one in snapshots:
        payload = decoded[one.job_id].payload
        if payload is not None and one.outcome in FAILED:
            by_name[one.job_name].append((one.job_id, payload))
    return {
        job_id: reason
        for name, some in by_name.items()
        for job_id, reason in _asked(session, registry, name, some)
    }


def _asked(
    session: Session, registry: Registry, name: str, some: Sequence[tuple[str, Payload]]
) -> Iterator[tuple[str, str]]:
    still_wanted = registry.get(name).still_wanted
    if still_wanted is not None:
        reasons = still_wanted(session, [payload for _, payload in some])
        yield from ((job_id, reason) for (job_id, _), reason in zip(some, reasons, strict=True))
