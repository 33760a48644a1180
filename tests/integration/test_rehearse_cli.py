"""`toolkit rehearse` as typed: a second package's rehearsal beside the image job's, and what is written where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from toolkit.embedded import servers as embedded
from toolkit.rehearse import certificate

Toolkit = Callable[..., subprocess.CompletedProcess[str]]

INCIDENT = Path(__file__).parents[2] / "runbooks" / "incidents" / "2025-10-11.yaml"

KEEPER = """
def feed(session):
    session.execute("INSERT INTO meal VALUES (1) ON CONFLICT DO NOTHING")
"""

ZOO = """
import psycopg
import zoo_keeper
from toolkit.rehearse.words import Actor, Mutant, Rehearsal, Scenario


def prepare(url):
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE meal (id int PRIMARY KEY)")


def raced(name, body, allowed=frozenset(), **settings):
    def act(seat):
        with seat.database.session() as session, session.transaction():
            body(session)
        return "fed"

    return {name: Scenario(
        name=name, about="two keepers feed the same animal", reset=lambda session: session.execute("DELETE FROM meal"),
        actors=tuple(Actor(name=one, act=act, job=True, settings=settings) for one in ("ann", "bob")), allowed=allowed,
    )}


def plain(session):
    session.execute("INSERT INTO meal VALUES (1)")


ZOO = Rehearsal(
    name="zoo", prepare=prepare, sources=("zoo_keeper",),
    scenarios=lambda options: raced("feeding", lambda session: zoo_keeper.feed(session)),
    table=lambda options: raced("twice", plain) | raced("unlogged", plain, {"23505"}, log_min_messages="panic"),
    mutants=(Mutant(name="no-conflict", about="two meals", module="zoo_keeper", old=" ON CONFLICT DO NOTHING", new="",
                    caught_by=("feeding",)),),
)
"""


@pytest.fixture
def toolkit(servers: embedded.Servers, tmp_path: Path) -> Toolkit:
    """The command line, where a package `zoo` brings a rehearsal too: the image job's is the first by name."""
    packages = tmp_path / "packages"
    about = packages / "zoo-1.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[freshfetch.rehearsals]\nzoo = zoo:ZOO\n")
    (packages / "zoo.py").write_text(ZOO)
    (packages / "zoo_keeper.py").write_text(KEEPER)
    environ = os.environ | {"PYTHONPATH": str(packages), "TOOLKIT_HOME": str(servers.valkey.data.parent)}

    def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "toolkit.cli", "rehearse", *arguments], env=environ | settings, cwd=tmp_path,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


def test_a_certificate_is_verified_by_its_own_rehearsal(toolkit: Toolkit) -> None:
    made = toolkit("certify", "--rehearsal", "zoo", "-o", "zoo.json")
    assert made.returncode == 0, made.stdout + made.stderr
    told = toolkit("verify", "zoo.json", "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    assert json.loads(told.stdout) == {
        "certificate": "zoo.json", "verified": True, "held": True, "differences": [],
    }  # fmt: skip


def test_the_same_code_on_the_same_server_gives_the_same_bytes_whatever_the_release_is_called(
    toolkit: Toolkit, tmp_path: Path
) -> None:
    for release in ("one", "other"):
        made = toolkit("certify", "--rehearsal", "zoo", "-o", f"{release}.json", TOOLKIT_RELEASE=release)
        assert made.returncode == 0, made.stdout + made.stderr
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()


def test_a_certificate_that_never_held_is_not_verified_and_says_why(toolkit: Toolkit, tmp_path: Path) -> None:
    toolkit("certify", "--rehearsal", "zoo", "-o", "zoo.json")
    made = certificate.read(tmp_path / "zoo.json")
    certificate.write(tmp_path / "zoo.json", msgspec.structs.replace(made, code="another", mutants={}))
    told = toolkit("verify", "zoo.json")
    assert told.returncode == 1
    assert told.stdout.startswith("✗ it never held\n✗ the code is not the one certified: another then, ")
    assert told.stderr == "next: toolkit rehearse certify --rehearsal zoo\n"


def test_a_saved_schedule_is_played_again_by_its_own_rehearsal(toolkit: Toolkit) -> None:
    raced = toolkit("race", "twice", "--rehearsal", "zoo", "--save", "race.json")
    assert raced.returncode == 1, raced.stderr
    assert "next: toolkit rehearse replay race.json" in raced.stderr
    again = toolkit("replay", "race.json", "--json")
    assert again.returncode == 1, again.stderr
    told = json.loads(again.stdout)
    assert told["findings"] == ["bob got 23505 meal_pkey"]
    assert [step["actor"] for step in told["story"]["steps"]][:2] == ["ann", "ann"]


@pytest.mark.parametrize(
    "arguments",
    [("race", "nope"), ("mutate", "nope"), ("race", "--rehearsal", "nope")],
    ids=" ".join,
)
def test_a_name_that_there_is_not_is_no_schedule_gone_wrong(
    toolkit: Toolkit, arguments: tuple[str, ...]
) -> None:
    refused = toolkit(*arguments)
    assert refused.returncode == 2
    assert "nope" in refused.stderr


def test_a_changed_certificate_is_refused_before_anything_is_run(toolkit: Toolkit, tmp_path: Path) -> None:
    file = tmp_path / "zoo.json"
    toolkit("certify", "--rehearsal", "zoo", "-o", "zoo.json")
    file.write_text(file.read_text().replace('"exhausted": true', '"exhausted": false'))
    refused = toolkit("verify", "zoo.json")
    assert refused.returncode == 2
    assert "zoo.json was changed after it was written" in refused.stderr


@pytest.mark.parametrize("option", ["--save", "--spec"])
def test_a_counterexample_is_written_of_one_scenario_only(toolkit: Toolkit, option: str) -> None:
    refused = toolkit("race", "--rehearsal", "zoo", option, "kept")
    assert refused.returncode == 2
    assert "name a SCENARIO" in refused.stderr


def test_a_race_points_to_no_file_that_it_did_not_write(toolkit: Toolkit, tmp_path: Path) -> None:
    """Its only fault is that the server's log lacks what the clients were told: no schedule of its own went wrong."""
    raced = toolkit("race", "unlogged", "--rehearsal", "zoo", "--save", "kept")
    assert raced.returncode == 1
    assert "server's log: DISAGREES" in raced.stdout
    assert "next:" not in raced.stderr
    assert not (tmp_path / "kept").exists()


def test_the_scenarios_are_told_as_json_of_the_rehearsal_that_is_named(toolkit: Toolkit) -> None:
    told = toolkit("list", "--rehearsal", "zoo", "--json")
    assert [(one["scenario"], one["actors"]) for one in json.loads(told.stdout)] == [
        (name, ["ann", "bob"]) for name in ("twice", "unlogged", "feeding")
    ]
    images = json.loads(toolkit("list", "--json").stdout)
    assert "delete-draft" in {one["scenario"] for one in images}


def test_the_incident_is_told_as_json(toolkit: Toolkit) -> None:
    done = toolkit("incident", str(INCIDENT), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["reproduced"], told["fixed"]) == (True, True)
    assert told["then"][0]["error"] == "23503 ProductImage_productDraftId_fkey"
    assert [run["ending"] for run in told["now"]][-1] == "skipped wrong_merchant"
