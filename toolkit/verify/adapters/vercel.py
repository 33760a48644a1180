"""What Vercel serves in production, for the check that the deployment is live.

    hosted = look(vercel)
    hosted.wrong("e682860")      # sentences; empty: that release serves, at every host

HTTP API, as published: GET /v9/projects/{id} (`targets.production` with its `alias` hosts, `lastAliasRequest`),
GET /v13/deployments/{id}, GET /v4/aliases/{host}. After an instant rollback Vercel gives no host to a new deployment until
one is promoted: the last alias request is then of type `rollback`. Known weakness: a release that is no git commit cannot be
compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from toolkit.errors import NotFound, ToolkitError
from toolkit.toggle.vercel import Deployment, Vercel

HOSTS: Final = 5
"""Production hosts that are looked at."""
_COMMIT: Final = re.compile(r"[0-9a-f]{7,40}")
_MOVING: Final = frozenset({"pending", "in-progress"})


@dataclass(frozen=True, slots=True)
class Hosted:
    """The production deployment. `hosts`: production host → id of the deployment that it points at, '' for none;
    `pinned`: id of the deployment that production was rolled back to, '' for none; `moving`: hosts are moving right now."""

    deployment: Deployment
    hosts: Mapping[str, str]
    pinned: str = ""
    moving: bool = False

    @property
    def said(self) -> str:
        """It in a few words."""
        one = self.deployment
        of = f" of commit {one.commit[:7]}" if one.commit else ""
        return f"Vercel: deployment {one.id}{of} is {one.state}{', promoted' if one.promoted else ''}"

    def wrong(self, release: str) -> tuple[str, ...]:
        """What keeps this release from serving production, one sentence each."""
        one, found = self.deployment, []
        if one.state != "READY":
            found.append(f"deployment {one.id} at Vercel is {one.state}")
        elif not one.promoted:
            found.append(f"deployment {one.id} at Vercel is READY and not promoted: vercel promote {one.id}")
        if self.moving:
            found.append("Vercel is moving production's hosts right now")
        elif self.pinned:
            found.append(f"Vercel is rolled back to {self.pinned}: nothing new serves until it is promoted")
        found += [
            f"{host} at Vercel points at {other or 'no deployment'}, not at {one.id}"
            for host, other in self.hosts.items()
            if other != one.id
        ]
        if _other_commit(one.commit, release):
            found.append(f"Vercel serves commit {one.commit[:7]}, not {release}")
        return tuple(found)


def look(vercel: Vercel) -> Hosted:
    """Ask Vercel: the project, the deployment, and up to HOSTS hosts. Raises as Vercel.call; NotFound without a production
    deployment."""
    project = vercel.call("GET", f"/v9/projects/{vercel.project}", {"rollbackInfo": "true"}, again=True)
    try:
        serving = (project.get("targets") or {}).get("production") or {}
        if not serving.get("id"):
            raise NotFound(
                f"project {vercel.project} has no production deployment",
                remedy="deploy it once: vercel --prod",
            )
        moved = project.get("lastAliasRequest") or project.get("lastRollbackTarget") or {}
        hosts = [str(host) for host in serving.get("alias") or ()][:HOSTS]
        status, kind = moved.get("jobStatus"), moved.get("type", "rollback")
        pinned = str(moved.get("toDeploymentId", "")) if (kind, status) == ("rollback", "succeeded") else ""
    except (AttributeError, TypeError) as error:
        raise ToolkitError("Vercel's answer is not a project", remedy="check TOOLKIT_VERCEL_URL") from error
    return Hosted(
        deployment=vercel.deployment(str(serving["id"])),
        hosts={host: to for host in hosts if (to := _alias(vercel, host)) is not None},
        pinned=pinned,
        moving=status in _MOVING,
    )


def _alias(vercel: Vercel, host: str) -> str | None:
    """The deployment that a host points at; None for a host that only redirects to another."""
    try:
        alias: dict[str, Any] = vercel.call("GET", f"/v4/aliases/{host}", again=True)
    except NotFound:
        return ""
    return None if alias.get("redirect") else str(alias.get("deploymentId") or "")


def _other_commit(commit: str, release: str) -> bool:
    """True when both are commits, and not the same."""
    if not (_COMMIT.fullmatch(commit) and _COMMIT.fullmatch(release)):
        return False
    return not (commit.startswith(release) or release.startswith(commit))
