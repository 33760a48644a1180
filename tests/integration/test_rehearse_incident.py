"""The incident of 11 October 2025, run again by its timeline."""

from __future__ import annotations

from pathlib import Path

from jobs.images.rehearse import REHEARSAL
from toolkit.embedded import servers as embedded
from toolkit.rehearse import incident, incident_file
from toolkit.rehearse.room import Room

FILE = Path(__file__).parents[2] / "runbooks" / "incidents" / "2025-10-11.yaml"


def test_the_incident_ends_as_the_report_says_and_todays_job_skips_with_the_same_bytes_twice(
    servers: embedded.Servers,
) -> None:
    timeline, node = incident_file.read(FILE)
    incident_file.check(FILE, node, timeline, REHEARSAL)
    with Room.open(servers.postgres.url, REHEARSAL.prepare) as room:
        report, again = (incident.rehearse(room, timeline, REHEARSAL.cast) for _ in range(2))
    assert report.reproduced
    assert all(run.error or run.harm for run in report.then)
    assert report.fixed
    first = report.then[0]
    assert (first.error, first.error_at, first.waited) == (
        "23503 ProductImage_productDraftId_fkey",
        "17:05:05",
        175,
    )
    assert [run.result for run in report.now] == [
        "skipped no_drafts",
        "skipped no_drafts",
        "skipped order_deleted",
        "skipped wrong_merchant",
    ]
    assert report.then[3].harm == ("1 image in another merchant's draft",)
    text = incident.told(report)
    assert "17:05:06 - ❌ BOOM! Draft doesn't exist anymore" in text
    assert text == incident.told(again)
