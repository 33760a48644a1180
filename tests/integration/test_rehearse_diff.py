"""Old beside new: every captured case with two bodies. What was fine and fails now is told, and turns the exit code to 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobs.images.job import process_images
from jobs.images.payload import ImagePayload
from tests.brokering import REGISTRY
from toolkit.embedded import servers as embedded
from toolkit.errors import InputFileError, UsageError
from toolkit.perform import JobContext
from toolkit.rehearse.case import case_room
from toolkit.rehearse.case_file import Case, Ending, encode, read
from toolkit.rehearse.diff import Beside, Verdict, beside, cases_in, left, verdict
from toolkit.rehearse.room import Room
from toolkit.run import Result

FOLDER = Path(__file__).parent.parent / "cases"
INCIDENT = "incident-2025-10-11-stale-payload"
FKEY = "ProductImage_productDraftId_fkey"
HERE = __name__


def twice(context: JobContext, payload: ImagePayload) -> Result:
    """A body that is to be: it writes a row that nobody asked for, and then does its work."""
    context.guarded_write(
        lambda write: write.session.execute("INSERT INTO \"Merchant\" (id, name) VALUES ('stray', 'Stray')")
    )
    return process_images(context, payload)


def broken(context: JobContext, payload: ImagePayload) -> Result:
    """A body that is to be, and breaks."""
    raise KeyError(payload.purchase_order_id)


@pytest.fixture(scope="module")
def room(servers: embedded.Servers) -> Iterator[Room]:
    with case_room(REGISTRY, servers.postgres.url) as opened:
        yield opened


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> str:
    """This module's name, by which its bodies can be found."""
    monkeypatch.setitem(sys.modules, "bodies_to_be", sys.modules[HERE])
    return "bodies_to_be"


def compared(case: Case, room: Room, *, old: str, new: str) -> Beside:
    return beside("it", case, REGISTRY, room, old=old, new=new, release="test")


def healthy() -> Case:
    """A case in which nothing is wrong: its draft is there, its search finds two images, the shop has no further index."""
    case = read(FOLDER / "one-image-a-source.json")
    return msgspec.structs.replace(case, unique=())


def test_the_incident_is_better_today_and_neither_body_leaves_a_row(room: Room) -> None:
    done = compared(read(FOLDER / f"{INCIDENT}.json"), room, old="stale", new="current")
    assert (done.verdict, done.rows) == (Verdict.BETTER, ())
    assert (done.old.sqlstate, done.old.constraint) == ("23503", FKEY)
    assert done.new == Ending(outcome="skipped", reason="no_drafts")


def test_where_nothing_goes_wrong_the_body_of_then_and_todays_leave_the_same_rows(room: Room) -> None:
    for old in ("stale", "first-fix"):
        done = compared(healthy(), room, old=old, new="current")
        assert (done.old.outcome, done.verdict, done.rows) == ("processed", Verdict.SAME, ())


def test_what_only_one_body_left_is_told_by_table(room: Room) -> None:
    done = compared(read(FOLDER / "one-image-a-source.json"), room, old="stale", new="current")
    assert done.verdict is Verdict.SAME
    (images,) = (
        done.rows
    )  # the body of then commits each image by itself: the second one's error comes too late
    assert (images.table, len(images.old), len(images.new)) == ("ProductImage", 1, 0)
    assert images.old[0]["productDraftId"] == "id000001"


def test_a_stray_row_of_the_new_body_is_told(room: Room, here: str) -> None:
    done = compared(healthy(), room, old="current", new=f"{here}:twice")
    assert done.verdict is Verdict.SAME
    assert [(one.table, one.old, one.new) for one in done.rows] == [
        ("Merchant", (), ({"id": "stray", "name": "Stray"},))
    ]


def test_a_new_body_that_breaks_is_worse(room: Room, here: str) -> None:
    done = compared(healthy(), room, old="current", new=f"{here}:broken")
    assert done.verdict is Verdict.WORSE
    assert done.new.error_type == "KeyError"
    assert {one.table for one in done.rows} == {"ProductImage", "ImageReviewSession", "ImageReviewItem"}
    assert not any(one.new for one in done.rows)


FINE, SKIPPED = Ending(outcome="processed"), Ending(outcome="skipped", reason="no_drafts")
FAILED, LOST = Ending(outcome="failed", reason="error"), Ending(outcome="lost", reason="killed")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (FAILED, SKIPPED, Verdict.BETTER),
        (FINE, FAILED, Verdict.WORSE),
        (SKIPPED, LOST, Verdict.WORSE),
        (FAILED, FAILED, Verdict.SAME),
        (SKIPPED, SKIPPED, Verdict.SAME),
        (FINE, SKIPPED, Verdict.OTHER),
        (FAILED, LOST, Verdict.OTHER),
    ],
    ids=lambda one: one.outcome if isinstance(one, Ending) else one,
)
def test_only_what_was_fine_and_fails_is_worse(old: Ending, new: Ending, said: Verdict) -> None:
    assert verdict(old, new) is said


def test_a_row_that_is_there_twice_is_not_the_same_as_once() -> None:
    one, two = Counter(['{"id":1}']), Counter(['{"id":1}', '{"id":1}'])
    (told,) = left({"t": one}, {"t": two})
    assert (told.old, told.new) == ((), ({"id": 1},))
    assert left({"t": two}, {"t": two}) == ()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("stael", "there are: current, stale, first-fix"),
        ("no.such.module:body", "PYTHONPATH"),
        ("jobs.images.job:no_such_body", "PYTHONPATH"),
        ("jobs.images.words:NAME", "called with"),
    ],
)
def test_a_body_that_is_not_there_is_refused_in_words(room: Room, name: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        compared(healthy(), room, old="stale", new=name)
    assert says in caught.value.remedy


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="holds no case"):
        cases_in(tmp_path)
    assert len(cases_in(FOLDER)) >= 3


def test_the_command_says_by_its_exit_code_whether_something_got_worse(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOOLKIT_", "OTEL_"))}
    (tmp_path / "empty").mkdir()
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "healthy.json").write_bytes(encode(healthy()))
    (tmp_path / "to_be.py").write_text("def breaks(context, payload):\n    raise KeyError('broken')\n")
    environ = kept | {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "PYTHONPATH": str(tmp_path)}

    def diff(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "toolkit.cli", "rehearse", "diff", "--on-database-url", *arguments],
            env=environ, cwd=FOLDER.parent.parent, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    done = diff("--cases", "tests/cases", "--old", "stale", "--new", "current", "--json")
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = {one["case"]: one for one in json.loads(done.stdout)["cases"]}
    assert told.keys() == {path.stem for path in FOLDER.glob("*.json")}
    assert (told[INCIDENT]["verdict"], told[INCIDENT]["old"]["sqlstate"]) == ("better", "23503")

    # Sabotage: the same cases the other way round, and a new body that breaks what was fine.
    assert diff("--old", "current", "--new", "stale").returncode == 1
    done = diff("--cases", str(tmp_path / "cases"), "--old", "current", "--new", "to_be:breaks")
    assert done.returncode == 1, done.stderr
    assert "healthy\tprocessed\tfailed error KeyError\tworse\t-5 +0" in done.stdout
    assert "    - id=" in done.stdout

    done = diff("--cases", str(tmp_path / "empty"), "--old", "stale")
    assert (done.returncode, "holds no case" in done.stderr) == (2, True)
