"""Is the deployment live? Everybody who works or asks is of the expected release, schema and toggle are as it wants them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from toolkit.errors import ToolkitError
from toolkit.ledger import liveness
from toolkit.ledger.liveness import Asked, LastRun, Process
from toolkit.ledger.migrate import current, head
from toolkit.ledger.reading import reading
from toolkit.verify.check import ROLLING, Check, Phase, Scene
from toolkit.verify.rules import Rules
from toolkit.verify.verdict import Judgement, Verdict

LATELY: Final = timedelta(minutes=2)
"""A run or an order of an old release this long ago says that it still works."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What runs. `schema`: the database's revision and the one that this release wants; `versions`: toggle → versions that
    connected processes go by; `hosting`: what Vercel says is wrong, and `hosted` what it says."""

    release: str
    marked: datetime
    now: datetime
    processes: Sequence[Process]
    runs: Sequence[LastRun]
    asked: Sequence[Asked]
    schema: tuple[str | None, str]
    hosted: str = ""
    hosting: Sequence[str] = ()
    hosting_away: str = ""

    @property
    def versions(self) -> dict[str, set[int]]:
        """Versions of each toggle that living processes go by; a process that has not read one yet does not count."""
        found: dict[str, set[int]] = {}
        for process in self.processes:
            if process.connected and process.version is not None:
                found.setdefault(process.toggle, set()).add(process.version)
        return found


def look(scene: Scene) -> Facts:
    """The ledger, and Vercel where it is configured."""
    target = scene.target
    hosted, hosting, away = _hosting(scene)
    with reading(scene.database) as session:
        return Facts(
            release=target.release,
            marked=target.since,
            now=target.now,
            processes=liveness.processes(session),
            runs=liveness.last_runs(session, max(target.since, target.now - LATELY)),
            asked=liveness.asked_by(session, max(target.since, target.now - LATELY), scene.spec.name),
            schema=(current(session), head()),
            hosted=hosted,
            hosting=hosting,
            hosting_away=away,
        )


def _hosting(scene: Scene) -> tuple[str, Sequence[str], str]:
    """What Vercel says, what of it is wrong, and why it says nothing; all empty where it is not configured."""
    if scene.hosting is None:
        return "", (), ""
    try:
        hosted = scene.hosting()
    except ToolkitError as error:
        return "", (), f"Vercel: {error}"
    return hosted.said, hosted.wrong(scene.target.release), ""


def judge(facts: Facts, _rules: Rules) -> Judgement:
    """Pure: proven when somebody of the release works and nobody of another does."""
    old = _others(facts)
    wrong = [*facts.hosting]
    if facts.schema[0] != facts.schema[1]:
        wrong.append(
            f"schema toolkit is at revision {facts.schema[0] or 'none'}, {facts.schema[1]} is wanted: toolkit init"
        )
    split = [name for name, versions in facts.versions.items() if len(versions) > 1]
    alive = sum(one.connected and one.release == facts.release for one in facts.processes)
    ran = any(run.release == facts.release for run in facts.runs)
    evidence = {
        "processes": alive,
        "schema": facts.schema[0],
        "toggles": {name: sorted(versions) for name, versions in facts.versions.items()},
        "others": old,
        "vercel": facts.hosted,
    }
    said = f"{alive} {'process' if alive == 1 else 'processes'} of {facts.release} at work, none of another"
    verdict = Verdict.PROVEN
    if old:
        said = f"still at work: {'; '.join(old)}"
    elif not alive and not ran:
        said = f"nobody of release {facts.release} is at work"
    if wrong:
        verdict, said = Verdict.REGRESSION, "; ".join([*wrong, *old])
    elif old or not (alive or ran):
        # A rolling deployment replaces one process after the other.
        rolling = facts.now - facts.marked < ROLLING
        verdict = Verdict.PENDING if rolling else Verdict.REGRESSION
    elif split:
        verdict, said = Verdict.PENDING, f"processes go by different versions of {', '.join(split)}"
    elif facts.hosting_away:
        verdict, said = Verdict.INCONCLUSIVE, facts.hosting_away
    steps = ("toolkit status",) if verdict is not Verdict.PROVEN else ()
    return Judgement(
        verdict=verdict,
        said=said,
        evidence=evidence,
        notes=(facts.hosted,) if facts.hosted else (),
        unreachable=("vercel",) if facts.hosting_away else (),
        jobs=tuple(run.job_id for run in facts.runs if run.release != facts.release),
        next=steps,
    )


def _others(facts: Facts) -> list[str]:
    """Who of another release is at work, named."""
    named = {
        f"{one.kind} {one.pid} on {one.host} (release {one.release or 'unknown'})": None
        for one in facts.processes
        if one.connected and one.release != facts.release
    }
    known = {one.release for one in facts.processes if one.connected}
    for run in facts.runs:
        if run.release not in {facts.release, *known}:
            named[f"worker {run.worker} on {run.host} (release {run.release or 'unknown'})"] = None
    for asked in facts.asked:
        # A program that asks by SQL need not say its release.
        if asked.release and asked.release not in {facts.release, *known}:
            named[f"an importer of release {asked.release}, which asked for {asked.jobs} jobs"] = None
    return list(named)


CHECK = Check(
    name="deployment-live",
    phase=Phase.IMMEDIATE,
    symptom="a fix was deployed, and the old code went on working beside it",
    rule="every worker and importer is of this release; schema, toggle and hosting are as it wants them",
    runbook="WorkersAbsent",
    look=look,
    judge=judge,
    confounded=frozenset({"deployment", "rollback"}),
)
