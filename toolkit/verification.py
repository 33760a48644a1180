"""verify-deploy, put together: which release, since when, which checks; and what is done about a regression."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import psutil

from toolkit.app import App
from toolkit.errors import UsageError
from toolkit.jobspec import JobSpec
from toolkit.ledger import liveness, toggles, verifications
from toolkit.ledger.database import Database
from toolkit.ledger.reading import clock, reading
from toolkit.ledger.verifications import Verification
from toolkit.rehearse import installed
from toolkit.rehearse.certificate import Held, held_for
from toolkit.run import Mode
from toolkit.toggle.plan import Request, plan
from toolkit.toggle.vercel import Vercel
from toolkit.verify.adapters import grafana
from toolkit.verify.adapters.vercel import Hosted, look
from toolkit.verify.asked import Asked
from toolkit.verify.check import Check, Phase, Scene, Target
from toolkit.verify.checks import CHECKS
from toolkit.verify.detect import Detector
from toolkit.verify.detectors import detectors
from toolkit.verify.dry import Asks, asks
from toolkit.verify.orders import OrderDesk
from toolkit.verify.publish import spans
from toolkit.verify.rescue import is_off
from toolkit.verify.rules import Rules
from toolkit.verify.runner import Verifier
from toolkit.verify.verdict import Receipt
from toolkit.verify.window import Window, due, window


def spec_of(app: App, job_name: str = "") -> JobSpec:
    """The job that is verified: the named one, or the only one that says how. Raises UsageError, UnknownJob."""
    if job_name:
        return app.registry.get(job_name)
    ready: list[JobSpec] = [spec for spec in app.registry if spec.verify is not None]
    if len(ready) != 1:
        names = ", ".join(spec.name for spec in ready) or "none"
        raise UsageError(
            "no job, or more than one, can be verified", remedy=f"name it with --job-name: {names}"
        )
    return ready[0]


def window_of(
    app: App, release: str | None, since: Callable[[datetime], datetime] | None
) -> tuple[Window, datetime]:
    """The window to verify, and the database's time. Without a release: the one that was marked last, else TOOLKIT_RELEASE.
    Raises UsageError for a release that nobody has seen, and for a window that has not begun."""
    with reading(app.database) as session:
        now = clock(session)
        marked = verifications.deployments(session)
        chosen = release or (marked[0].release if marked else app.settings.release)
        first = verifications.first_run(session, chosen)
        found = window(chosen, marked, first, now)
        seen = {one.release for one in marked} | {one.release for one in liveness.processes(session)}
    if release and first is None and release not in seen:
        known = ", ".join(dict.fromkeys(one.release for one in marked)) or "none"
        raise UsageError(
            f"release {release} was never marked, never ran, and no process of it is at work",
            remedy=f"marked are: {known}; mark it once it is deployed: toolkit verify-deploy mark --release ID",
        )
    if since is not None:
        found = Window(chosen, since(now), "--since")
    if found.since > now:
        raise UsageError(
            f"evidence of release {chosen} counts from {found.since:%Y-%m-%d %H:%M:%S} UTC ({found.what}), and it is"
            f" {now:%Y-%m-%d %H:%M:%S} UTC",
            remedy="wait until then, or name another time: --since 15m",
        )
    return found, now


def chosen(asked: Asked) -> tuple[Check, ...]:
    """The checks that were asked for. Raises UsageError for a name that there is not."""
    known = {check.name for check in CHECKS}
    for name in asked.checks:
        if name not in known:
            raise UsageError(f"there is no check {name}", remedy=f"checks: {', '.join(sorted(known))}")
    if asked.checks:
        return tuple(check for check in CHECKS if check.name in asked.checks)
    return tuple(check for check in CHECKS if check.phase.value in asked.phases)


def phases(named: Sequence[str], found: Window, now: datetime) -> tuple[str, ...]:
    """The phases to look at: those named, or those whose time has come."""
    if "all" in named:
        return tuple(phase.value for phase in Phase)
    return tuple(named) or tuple(phase.value for phase in due(found.since, now)[0])


def begin(app: App, found: Window, asked: Asked) -> Verification:
    """A new verification in the ledger; none where no broker can be found, which would leave it pending for good."""
    _ = app.broker  # raises SettingError, DependencyUnreachable
    with app.database.session() as session:
        return verifications.begin(
            session, found.release, found.since, asked.encode(), who=app.settings.operator
        )


def find(app: App, verification_id: int) -> Verification:
    """That verification. Raises UsageError: exit code 1 would say regression."""
    with app.database.session() as session:
        verification = verifications.find(session, verification_id)
    if verification is None:
        raise UsageError(f"there is no verification {verification_id}", remedy="toolkit verify-deploy --list")
    return verification


def elsewhere(app: App, verification: Verification) -> bool:
    """True while another process looks at it."""
    return bool(verification.runner) and not _dead(verification.runner, app.host)


def verifier(app: App, verification: Verification, asked: Asked, what: str) -> Verifier:
    """What looks at it, in this process."""
    spec = spec_of(app, asked.job_name)
    settings, rules = app.settings, Rules().but(asked.rules)
    desk = OrderDesk(
        database=app.database,
        spec=spec,
        verification_id=verification.verification_id,
        release=verification.release,
        tracing=app.tracing,
        now=lambda: datetime.now(UTC),
        inline=lambda job_id: app.inline.perform(job_id, mode=Mode.SYNC),
        spans=lambda trace_id, job_id, data, count: app.inline_sink().spans(
            trace_id, job_id, "", data, count
        ),
        switched_off=settings.switched_off(spec.toggle),
        here=settings.release,
    )
    return Verifier(
        verification=verification,
        asked=asked,
        what=what,
        checks=chosen(asked),
        rules=rules,
        database=app.database,
        broker=app.broker,
        registry=app.registry,
        spec=spec,
        desk=desk,
        detectors=detectors(
            settings, app.database, constraints=spec.constraints, server_log=app.server_log, fresh=rules.fresh
        ),
        hosting=_hosting(app),
        certificate=certified(app, verification.release),
        runner=f"{app.host}.{os.getpid()}",
        gone=verification.runner if _dead(verification.runner, app.host) else "",
    )


def _hosting(app: App) -> Callable[[], Hosted] | None:
    """How to ask Vercel; None where it is not configured."""
    settings = app.settings
    if not (settings.vercel_token and settings.vercel_project):
        return None

    def hosted() -> Hosted:
        with Vercel.connect(settings) as vercel:
            return look(vercel)

    return hosted


def certified(app: App, release: str) -> str:
    """Whether this release has a certificate of its races, for people, for each rehearsal that is installed; it can be told only
    of the code that is installed here."""
    if app.settings.release != release:
        return f"unknown here: release {app.settings.release} is installed here"
    held = {
        name: held_for(app.settings.certificates, one) for name, one in sorted(installed.rehearsals().items())
    }
    said = [
        f"{name}: {_certified(one, f' --rehearsal {name}')}" if len(held) > 1 else _certified(one)
        for name, one in held.items()
    ]
    unreadable = dict.fromkeys(path.name for one in held.values() for path in one.unreadable)
    return "; ".join(
        [*said, *(f"unreadable: {name} (toolkit rehearse verify says why)" for name in unreadable)]
    )


def _certified(held: Held, which: str = "") -> str:
    if held.path is None or not held.same_code:
        return f"no certificate of this code (toolkit rehearse certify{which})"
    said = f"{held.scenarios} scenarios, {held.schedules:,} schedules, {held.noticed} of {held.mutants} mutants noticed"
    return f"certified, {said}" if held.holds else f"the certificate DOES NOT HOLD: {said}"


def _dead(runner: str, host: str) -> bool:
    """True for a runner of this host whose process is not there any more, or only waits to be buried."""
    where, _, pid = runner.rpartition(".")
    if where != host or not pid.isdecimal():
        return False
    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def rescue(app: App, asked: Asked, receipt: Receipt) -> str:
    """Switch the job's toggle off because of a regression: once a verification, pins to async with it. Returns what was done,
    for people. Raises FlipLost, DependencyUnreachable and psycopg's errors; a flip that failed can be tried again."""
    toggle = spec_of(app, asked.job_name).toggle
    named = ", ".join(finding.check for finding in receipt.findings if finding.verdict.exit_code == 1)
    reason = f"verify-deploy {receipt.verification_id}: regression of {receipt.release}: {named}"
    # Another runner waits at `rescue_once` until this flip is done, or has failed and is its own to try.
    with app.database.session() as session, session.transaction():
        standing = toggles.read(session, [toggle]).get(toggle)
        if is_off(standing):
            return f"{toggle} is off already"
        if not verifications.rescue_once(session, receipt.verification_id):
            return f"{toggle} was switched off by this verification before; nothing is done twice"
        planned = plan(
            toggle,
            standing,
            Request(on=False, reason=reason),
            switched_off=app.settings.switched_off(toggle),
            reclaim_hold=0.0,
        )
        flipped = app.flipper.flip(toggle, planned, jobs=app.registry.governed(toggle), reason=reason)
    seen = app.flipper.await_receipt(flipped, within=10.0)
    late = f", {len(seen.laggards)} have not" if seen.laggards else ""
    return (
        f"{toggle} is off (version {flipped.version}); {len(seen.acknowledged)} processes acknowledged{late}"
    )


def dry(app: App, found: Window, asked: Asked) -> list[Asks]:
    """The checks that would be looked at, and what they would ask."""
    with reading(app.database) as session:
        now = clock(session)
        proven = verifications.last_proven(session, other_than=found.release)
    target = Target(
        0, found.release, found.since, now, (), proven.release if proven else "",
        (proven.since, proven.finished_at or now) if proven else None,
    )  # fmt: skip
    spec = spec_of(app, asked.job_name)

    rules = Rules().but(asked.rules)

    def scene(database: Database) -> Scene:
        return Scene(
            target=target, rules=rules, registry=app.registry, spec=spec, database=database, broker=app.broker,
        )  # fmt: skip

    def sources(database: Database) -> Sequence[Detector]:
        return detectors(
            app.settings, database, constraints=spec.constraints, server_log=app.server_log, fresh=rules.fresh
        )

    return list(asks(chosen(asked), scene, app.database, sources))


def runbooks() -> dict[str, str]:
    """The page of each check."""
    return {check.name: f"runbooks/{check.runbook}.md" for check in CHECKS}


def publish(app: App, receipt: Receipt) -> list[str]:
    """Tell the outside: spans to the collector, an annotation to Grafana, each where it is configured. Returns what could not
    be told; the verdict stands all the same."""
    spans(app.tracing.tracer, receipt)
    data, count = app.tracing.take()
    app.export(data, count)
    return [trouble for trouble in (_annotate(app, receipt),) if trouble]


def _annotate(app: App, receipt: Receipt) -> str:
    """One annotation a verification, brought up to date; '' when it is there, or no Grafana is configured."""
    settings = app.settings
    if not (settings.grafana_url and settings.grafana_token):
        return ""
    with reading(app.database) as session:
        known = verifications.find(session, receipt.verification_id)
    annotation, trouble = grafana.publish(
        settings.grafana_url, settings.grafana_token, known.annotation if known else None, receipt
    )
    if annotation and (known is None or annotation != known.annotation):
        with app.database.session() as session:
            verifications.annotate(session, receipt.verification_id, annotation)
    return trouble
