"""What rehearsals read and write: mutants, certificates, timelines."""

from __future__ import annotations

import dataclasses
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from jobs.images.rehearse import REHEARSAL
from toolkit.errors import InputFileError
from toolkit.rehearse import certificate, incident, incident_file
from toolkit.rehearse.mutants import mutated
from toolkit.rehearse.words import Mutant, Options

TIMELINE = Path(__file__).parents[2] / "runbooks" / "incidents" / "2025-10-11.yaml"


@pytest.mark.parametrize("mutant", REHEARSAL.mutants, ids=lambda one: one.name)
def test_a_mutant_fits_the_source_and_stays_python(mutant: Mutant) -> None:
    spec = find_spec(mutant.module)
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).read_text(encoding="utf-8")
    changed = mutated(source, mutant)
    assert changed != source
    compile(changed, spec.origin, "exec")


def test_a_mutant_that_does_not_fit_is_refused() -> None:
    mutant = dataclasses.replace(REHEARSAL.mutants[0], old="nothing of the kind")
    with pytest.raises(ValueError, match="does not fit"):
        mutated("source", mutant)


CERTIFICATE = certificate.Certificate(
    rehearsal="images",
    code="c",
    server="18",
    options=Options(),
    races=(
        certificate.Raced(
            scenario="s",
            schedules=3,
            exhausted=True,
            reduced=False,
            outcomes={"job processed": 3},
            findings=(),
        ),
    ),
    table={"stale": (14, 7)},
    mutants={"no-lock": "s"},
)


def test_a_certificate_holds_only_when_all_was_seen_nothing_found_and_every_mutant_noticed() -> None:
    assert CERTIFICATE.holds
    race = CERTIFICATE.races[0]
    for changed in (
        {"races": (msgspec.structs.replace(race, exhausted=False),)},
        {"races": (msgspec.structs.replace(race, findings=("images lost: 1",)),)},
        {"mutants": {"no-lock": ""}},
        {"mutants": {}},
    ):
        assert not msgspec.structs.replace(CERTIFICATE, **changed).holds


def test_a_certificate_comes_back_from_its_file_and_every_difference_is_named(tmp_path: Path) -> None:
    certificate.write(tmp_path / "c.json", CERTIFICATE)
    assert certificate.read(tmp_path / "c.json") == CERTIFICATE
    race = msgspec.structs.replace(CERTIFICATE.races[0], schedules=4)
    now = msgspec.structs.replace(CERTIFICATE, code="d", races=(race,), mutants={"no-lock": ""})
    assert [one.split(":")[0] for one in certificate.differences(CERTIFICATE, now)] == [
        "code",
        "scenario s",
        "mutant no-lock",
    ]
    assert certificate.differences(CERTIFICATE, CERTIFICATE) == []


def test_what_differs_is_said_in_words() -> None:
    race = msgspec.structs.replace(
        CERTIFICATE.races[0], schedules=5, outcomes={"job processed": 3, "job skipped": 2}
    )
    now = msgspec.structs.replace(
        CERTIFICATE, options=Options(deferrable=True), races=(race,), table={"stale": (14, 0)}, mutants={}
    )
    was = "3 schedules, exhausted (3× job processed), findings: none"
    is_now = "5 schedules, exhausted (3× job processed; 2× job skipped), findings: none"
    assert certificate.differences(CERTIFICATE, now) == [
        "option deferrable: False then, True now",
        "table stale: 7 of 14 schedules then, 0 of 14 schedules now",
        f"scenario s: {was} then, {is_now} now",
        "mutant no-lock: noticed by s then, not there now",
    ]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"schedules": 3', '"schedules": 13', "was changed after it was written"),
        ('"exhausted": true', '"exhausted": false', "was changed after it was written"),
        ('"no-lock": "s"\n', "", "is not a certificate"),
    ],
    ids=["figure", "word", "cut"],
)
def test_a_certificate_that_was_changed_in_its_file_is_not_believed(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    file = tmp_path / "c.json"
    certificate.write(file, OURS)
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new) if new else text.partition(old)[0])
    with pytest.raises(InputFileError, match=says):
        certificate.read(file)
    assert certificate.held_for(tmp_path, SMALL) == certificate.Held(code=OURS.code, unreadable=(file,))


def test_the_code_hash_changes_with_the_code() -> None:
    one, other = REHEARSAL.sources[:2]
    assert certificate.code_hash([one]) != certificate.code_hash([one, other])
    assert certificate.code_hash([one, other]) == certificate.code_hash([other, one])


def test_the_code_hash_of_a_package_changes_with_its_sql(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "certified_package"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    hashes = [certificate.code_hash(["certified_package"])]
    for statement in ("SELECT 1;", "SELECT 2;"):
        (folder / "1.sql").write_text(statement)
        hashes.append(certificate.code_hash(["certified_package"]))
    assert len(set(hashes)) == 3
    with pytest.raises(InputFileError, match="no module"):
        certificate.code_hash(["no_such_package.at_all"])


SMALL = dataclasses.replace(REHEARSAL, sources=("toolkit.rehearse.words",))
OURS = msgspec.structs.replace(CERTIFICATE, code=certificate.code_hash(SMALL.sources))


def test_a_certificate_of_exactly_this_code_is_found_with_its_figures(tmp_path: Path) -> None:
    assert certificate.held_for(tmp_path / "none", SMALL) == certificate.Held(code=OURS.code)
    certificate.write(tmp_path / "z-older.json", CERTIFICATE)
    held = certificate.held_for(tmp_path, SMALL)
    assert (held.path, held.same_code, held.holds) == (tmp_path / "z-older.json", False, True)
    certificate.write(tmp_path / "ours.json", OURS)
    held = certificate.held_for(tmp_path, SMALL)
    assert (held.path, held.same_code, held.holds) == (tmp_path / "ours.json", True, True)
    assert (held.server, held.scenarios, held.schedules, held.mutants, held.noticed) == ("18", 1, 3, 1, 1)


def test_a_certificate_that_does_not_hold_or_is_another_rehearsals_proves_nothing(tmp_path: Path) -> None:
    certificate.write(tmp_path / "theirs.json", msgspec.structs.replace(OURS, rehearsal="theirs"))
    (tmp_path / "broken.json").write_text("{}")
    held = certificate.held_for(tmp_path, SMALL)
    assert held == certificate.Held(code=OURS.code, unreadable=(tmp_path / "broken.json",))
    certificate.write(tmp_path / "ours.json", msgspec.structs.replace(OURS, mutants={"no-lock": ""}))
    held = certificate.held_for(tmp_path, SMALL)
    assert (held.same_code, held.holds, held.noticed) == (True, False, 0)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("at: 17:02:05", "at: 17:02", 17, "Expected a time of day, HH:MM:SS$"),
        ("date: 2025-10-11", "date: 11.10.2025", 4, "Expected a date, YYYY-MM-DD$"),
        ("date: 2025-10-11", "date: 2025-02-30", 4, "there is no 2025-02-30"),
        ('sqlstate: "23503"', "sqlstate: fk", 10, "Expected an SQLSTATE: five digits and capitals$"),
        ("do: enqueue", "do: ring", 19, "'ring' is no verb"),
        ("say: Workflow completes", "says: Workflow completes", 23, "unknown field `says`"),
        ("at: 17:02:10", "at: 17:01:10", 20, "earlier"),
        ("reasons: [deletion, transformation", "reasons: [deletion, weather", 8, "'weather' is no reason"),
        ("then: stale", "then: newest", 6, "'newest' is no body"),
        ("title: Foreign key", "title: [Foreign key", 4, "not YAML"),
        ("do: job writes", "do: enqueue", 13, "do: job writes"),
    ],
)
def test_a_timeline_is_refused_by_line(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    text = TIMELINE.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file = tmp_path / "timeline.yaml"
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(InputFileError, match=says) as caught:
        _read_and_checked(file)
    assert caught.value.line == line


def test_a_timeline_that_cannot_be_read_is_told_without_error_numbers(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"nope\.yaml cannot be read: No such file or directory$"):
        incident_file.read(tmp_path / "nope.yaml")


def test_an_incident_that_ends_otherwise_is_told_with_what_came_and_what_was_expected() -> None:
    timeline, _ = incident_file.read(TIMELINE)
    got = incident.Run(
        body=timeline.then,
        reason=timeline.reasons[0],
        lines=(),
        ending="failed",
        error="23503 a_fkey",
        error_at="17:05:05",
    )
    clean = dataclasses.replace(got, body=timeline.now, ending="skipped no_drafts", error="", error_at="")
    for sqlstate, told in (
        ("23503", "reproduced: yes (23503 a_fkey at 17:05:05)"),
        ("23505", "reproduced: NO (23503 a_fkey at 17:05:05; expected 23505 a_fkey at 17:05:05)"),
    ):
        expect = incident_file.Expected(sqlstate, "a_fkey", "17:05:05")
        changed = msgspec.structs.replace(timeline, expect=expect)
        report = incident.Report(changed, REHEARSAL.cast, (got,), (clean,))
        assert told in incident.told(report).splitlines()


def _read_and_checked(file: Path) -> None:
    timeline, node = incident_file.read(file)
    incident_file.check(file, node, timeline, REHEARSAL)
