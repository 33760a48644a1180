"""The proof on paper: which code, on which server, in which scenarios, how many schedules, and which sabotage was noticed.

A certificate holds no times of day and no names of machines: the same code on the same server gives the same bytes, so
`verify` runs everything again and compares. The code hash covers the sources of the modules that the rehearsal names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

import msgspec

from toolkit.errors import InputFileError
from toolkit.rehearse.mutants import Verdict
from toolkit.rehearse.race import RaceReport
from toolkit.rehearse.words import Options


class Raced(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scenario's line."""

    scenario: str
    schedules: int
    exhausted: bool
    reduced: bool
    outcomes: dict[str, int]
    findings: tuple[str, ...]


class Certificate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was proven, of what."""

    rehearsal: str
    release: str
    code: str
    server: str
    options: Options
    races: tuple[Raced, ...]
    table: dict[str, tuple[int, int]]
    """Kept body → schedules, and those in which the job got 23503."""
    mutants: dict[str, str]
    """Mutant → the scenario that noticed it; '' for none."""
    format: int = 1

    @property
    def holds(self) -> bool:
        """True when every scenario was exhausted without a finding, and every mutant was noticed."""
        return (
            all(race.exhausted and not race.findings for race in self.races)
            and bool(self.mutants)
            and all(self.mutants.values())
        )


def code_hash(modules: Iterable[str]) -> str:
    """SHA-256 of the modules' sources, by name, without importing them."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise InputFileError(f"there is no module {name} to certify")
        raw = Path(spec.origin).read_bytes()
        digest.update(f"{name} {len(raw)}\n".encode() + raw)
    return digest.hexdigest()


def raced(report: RaceReport) -> Raced:
    """A report as the certificate keeps it."""
    outcomes: dict[str, int] = {}
    for one in report.outcomes:
        name = ", ".join(f"{who} {end}" for who, end in one.endings.items())
        outcomes[name] = outcomes.get(name, 0) + one.schedules
    return Raced(
        scenario=report.scenario,
        schedules=report.schedules,
        exhausted=report.exhausted,
        reduced=report.reduced,
        outcomes=outcomes,
        findings=report.findings,
    )


def noticed(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Mutant → scenario."""
    return {verdict.mutant: verdict.by for verdict in verdicts}


def differences(then: Certificate, now: Certificate) -> list[str]:
    """What is not as the certificate says; empty when all is. Pure."""
    found = [
        f"{name}: {getattr(then, name)!r} then, {getattr(now, name)!r} now"
        for name in ("rehearsal", "code", "server", "options", "table")
        if getattr(then, name) != getattr(now, name)
    ]
    before = {race.scenario: race for race in then.races}
    after = {race.scenario: race for race in now.races}
    found += [
        f"scenario {name}: {_said(before.get(name))} then, {_said(after.get(name))} now"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    ]
    found += [
        f"mutant {name}: {then.mutants.get(name, 'unknown')!r} then, {now.mutants.get(name, 'unknown')!r} now"
        for name in sorted(then.mutants.keys() | now.mutants.keys())
        if then.mutants.get(name) != now.mutants.get(name)
    ]
    return found


def _said(race: Raced | None) -> str:
    if race is None:
        return "not there"
    what = "exhausted" if race.exhausted else "not exhausted"
    return f"{race.schedules} schedules, {what}, {len(race.findings)} findings, {race.outcomes}"


def write(path: Path, certificate: Certificate) -> None:
    """The same bytes for the same certificate."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(certificate), indent=1) + b"\n")


def read(path: Path) -> Certificate:
    """Raises InputFileError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Certificate)
    except OSError as error:
        raise InputFileError(
            f"{path} cannot be read: {error.strerror}", remedy="give a file that exists"
        ) from error
    except msgspec.DecodeError as error:
        raise InputFileError(
            f"{path} is not a certificate: {error}", remedy="write one with `toolkit rehearse certify`"
        ) from error
