"""The proof on paper: which code, on which server, in which scenarios, how many schedules, and which sabotage was noticed.

A certificate holds no times of day and no names of machines or releases: the same code on the same server gives the same
bytes, so `verify` runs everything again and compares. The code hash covers the sources of the modules that the rehearsal
names, and the SQL files beside them where one is a package.

Certificates of a repository are kept in one folder, `runbooks/certificates/`, one file a rehearsal and server version; any
folder will do for `held_for`. The file carries a digest of the certificate, so a changed or cut file is refused. Known
weakness: the digest is no signature; who makes it anew is believed, and only `verify` runs the proof again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

from toolkit.errors import InputFileError
from toolkit.rehearse.mutants import Verdict
from toolkit.rehearse.race import RaceReport
from toolkit.rehearse.words import Options, Rehearsal


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
    code: str
    server: str
    options: Options
    races: tuple[Raced, ...]
    table: dict[str, tuple[int, int]]
    """Kept body → schedules, and those in which the job got 23503."""
    mutants: dict[str, str]
    """Mutant → the scenario that noticed it; '' for none."""
    format: int = 2

    @property
    def holds(self) -> bool:
        """True when every scenario was exhausted without a finding, and every mutant was noticed."""
        return (
            all(race.exhausted and not race.findings for race in self.races)
            and bool(self.mutants)
            and all(self.mutants.values())
        )


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file. `digest`: SHA-256 of the certificate's JSON, without white space."""

    digest: str
    certificate: Certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a folder's certificates say of the code that is installed here. `path`: the one that counts, None when the folder
    has none of this rehearsal; `same_code`: it is about exactly this code; `holds`: it says that all is well. `schedules`
    are all of its scenarios'; `noticed` of its `mutants` were noticed. `unreadable`: files that cannot be believed, whosever
    they are."""

    path: Path | None = None
    same_code: bool = False
    holds: bool = False
    code: str = ""
    server: str = ""
    scenarios: int = 0
    schedules: int = 0
    mutants: int = 0
    noticed: int = 0
    unreadable: tuple[Path, ...] = ()


def held_for(folder: Path, rehearsal: Rehearsal) -> Held:
    """The certificate for the code that is installed here, from the *.json of a folder (which need not exist): one of exactly
    this code before others, one that holds before others, then the last by name. Reads files and hashes sources; runs
    nothing. Raises InputFileError when a module that the rehearsal names is not installed."""
    code = code_hash(rehearsal.sources)
    found: list[tuple[bool, bool, Path, Certificate]] = []
    unreadable: list[Path] = []
    for path in sorted(folder.glob("*.json")):
        try:
            one = read(path)
        except InputFileError:
            unreadable.append(path)
            continue
        if one.rehearsal == rehearsal.name:
            found.append((one.code == code, one.holds, path, one))
    if not found:
        return Held(code=code, unreadable=tuple(unreadable))
    same_code, holds, path, best = max(found, key=lambda item: item[:3])
    return Held(
        path=path, same_code=same_code, holds=holds, code=code, server=best.server, scenarios=len(best.races),
        schedules=sum(race.schedules for race in best.races), mutants=len(best.mutants),
        noticed=sum(bool(by) for by in best.mutants.values()), unreadable=tuple(unreadable),
    )  # fmt: skip


def code_hash(modules: Iterable[str]) -> str:
    """SHA-256 of the modules' sources, by name, without importing them; of a package, its SQL files too."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        try:
            spec = find_spec(name)
        except ModuleNotFoundError:  # not even its package
            spec = None
        if spec is None or spec.origin is None:
            raise InputFileError(f"there is no module {name} to certify")
        source = Path(spec.origin)
        beside = sorted(source.parent.glob("*.sql")) if spec.submodule_search_locations else []
        for path in (source, *beside):
            raw = path.read_bytes()
            digest.update(f"{name} {path.name} {len(raw)}\n".encode() + raw)
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
    """What is not as the certificate says, in words; empty when all is. Pure."""
    before, after = _facts(then), _facts(now)
    return [
        f"{name}: {before.get(name, 'not there')} then, {after.get(name, 'not there')} now"
        for name in before | after
        if before.get(name) != after.get(name)
    ]


def _facts(certificate: Certificate) -> dict[str, str]:
    """All that it says, each fact by its name."""
    options = msgspec.structs.asdict(certificate.options)
    return {
        "rehearsal": certificate.rehearsal,
        "code": certificate.code,
        "server": certificate.server,
        **{f"option {name}": str(value) for name, value in options.items()},
        **{
            f"table {body}": f"{got} of {played} schedules"
            for body, (played, got) in certificate.table.items()
        },
        **{f"scenario {race.scenario}": _said(race) for race in certificate.races},
        **{f"mutant {name}": f"noticed by {by or 'nobody'}" for name, by in certificate.mutants.items()},
    }


def _said(race: Raced) -> str:
    how = f"{'' if race.exhausted else 'not '}exhausted{', reduced' if race.reduced else ''}"
    ends = "; ".join(f"{number}× {end}" for end, number in race.outcomes.items())
    return f"{race.schedules} schedules, {how} ({ends}), findings: {'; '.join(race.findings) or 'none'}"


def write(path: Path, certificate: Certificate) -> None:
    """The same bytes for the same certificate."""
    sealed = _Sealed(digest=_digest(certificate), certificate=certificate)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n")


def _digest(certificate: Certificate) -> str:
    return hashlib.sha256(msgspec.json.encode(certificate)).hexdigest()


def read(path: Path) -> Certificate:
    """Raises InputFileError, also when the certificate is not the one that was written."""
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
    except OSError as error:
        raise InputFileError(
            f"{path} cannot be read: {error.strerror}", remedy="give a file that exists"
        ) from error
    except msgspec.DecodeError as error:
        raise InputFileError(
            f"{path} is not a certificate: {error}", remedy="write one with `toolkit rehearse certify`"
        ) from error
    if sealed.digest != _digest(sealed.certificate):
        raise InputFileError(
            f"{path} was changed after it was written: it is not what its digest says",
            remedy="make it anew with `toolkit rehearse certify`",
        )
    return sealed.certificate
