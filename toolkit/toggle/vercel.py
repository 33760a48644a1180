"""A project at Vercel: set an environment variable of production, redeploy, and follow the deployment until it serves.

    with Vercel.connect(settings) as vercel:
        vercel.set_variable("ASYNC_IMAGE_PROCESSING", "false", comment="why")
        started = vercel.redeploy(vercel.production())
        vercel.follow(started.id, within=600, told=print)

A running deployment keeps the variables that it was built with, so setting one without a redeploy changes nothing. READY means
built; it serves when its substate is PROMOTED. After a rollback, or with automatic domain assignment off, a deployment is READY
and stays STAGED: that is an error here, not a success.

HTTP API, as published: GET /v9/projects/{id}; POST /v10/projects/{id}/env?upsert=true; POST /v13/deployments?forceNew=1;
GET /v13/deployments/{id}. Retry-After is respected, within the caller's time. Defaults: 10 s an answer, a look every 2 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from toolkit.errors import (
    DependencyUnreachable,
    NotFound,
    PartlyDone,
    SettingError,
    StillRunning,
    ToolkitError,
)
from toolkit.settings import Settings

TIMEOUT: Final = 10.0
LOOK: Final = 2.0
PATIENCE: Final = 60.0
"""Seconds that one call may spend on waiting as Retry-After says."""
_FAILED = frozenset({"ERROR", "CANCELED", "BLOCKED", "DELETED"})
_COMMITS = ("githubCommitSha", "gitlabCommitSha", "bitbucketCommitSha")
_AGAIN = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Deployment:
    """A deployment. `state`: QUEUED, INITIALIZING, BUILDING, READY, ERROR, CANCELED, BLOCKED; `promoted`: production
    traffic goes there; `commit` is the git commit it was built from, when Vercel knows it."""

    id: str
    name: str
    url: str
    state: str
    promoted: bool
    target: str = ""
    error: str = ""
    commit: str = ""


@dataclass(frozen=True, slots=True)
class Vercel:
    """One project. `sleep` waits between two looks."""

    client: httpx.Client
    project: str
    team: str = ""
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic

    @classmethod
    @contextmanager
    def connect(cls, settings: Settings) -> Iterator[Vercel]:
        """From TOOLKIT_VERCEL_TOKEN, _PROJECT, _TEAM and _URL. Raises SettingError when one is missing."""
        for value, variable in (
            (settings.vercel_token, "TOOLKIT_VERCEL_TOKEN"),
            (settings.vercel_project, "TOOLKIT_VERCEL_PROJECT"),
        ):
            if not value:
                raise SettingError(
                    f"{variable} is not set", remedy=f"set {variable}; an access token is made in Vercel's account settings"
                )  # fmt: skip
        with httpx.Client(
            base_url=settings.vercel_url,
            headers={"Authorization": f"Bearer {settings.vercel_token}"},
            timeout=TIMEOUT,
            follow_redirects=False,
        ) as client:
            yield cls(client, settings.vercel_project, settings.vercel_team)

    def production(self) -> Deployment:
        """The deployment that serves production now; after a rollback it is not the newest one. Raises NotFound."""
        answer = self.call("GET", f"/v9/projects/{self.project}", again=True)
        found = (answer.get("targets") or {}).get("production")
        if not found:
            raise NotFound(
                f"project {self.project} has no production deployment",
                remedy="deploy it once; the variable is read then",
            )
        return _deployment({"name": answer.get("name", self.project), "target": "production"} | found)

    def set_variable(self, key: str, value: str, *, comment: str = "") -> None:
        """Set a variable of production, whether it exists or not. Deployments made later see it."""
        body = {
            "key": key, "value": value, "type": "plain", "target": ["production"], "comment": comment[:500],
        }  # fmt: skip
        answer = self.call("POST", f"/v10/projects/{self.project}/env", {"upsert": "true"}, body, again=True)
        failed = answer.get("failed") or []  # 201, and refused all the same
        if failed:
            told = failed[0].get("error") or {}
            raise ToolkitError(
                f"Vercel did not set {key}: {told.get('message') or told.get('code') or failed[0]}",
                remedy="set it in the project's settings, Environment Variables",
            )

    def redeploy(self, deployment: Deployment) -> Deployment:
        """Build the same source again with the present variables, for production."""
        body = {"name": deployment.name, "deploymentId": deployment.id, "target": "production"}
        return _deployment(self.call("POST", "/v13/deployments", {"forceNew": "1"}, body, again=False))

    def deployment(self, deployment_id: str) -> Deployment:
        """How a deployment stands."""
        return _deployment(self.call("GET", f"/v13/deployments/{deployment_id}", again=True))

    def follow(
        self, deployment_id: str, *, within: float, told: Callable[[Deployment, float], None] | None = None
    ) -> Deployment:
        """Look until it is READY and promoted; `told` gets each look and the seconds since the first.

        Raises ToolkitError when the build failed, PartlyDone when it is READY and not promoted by then, StillRunning when
        it is not READY by then.
        """
        began = self.monotonic()
        while True:
            now = self.deployment(deployment_id)
            waited = self.monotonic() - began
            if told is not None:
                told(now, waited)
            if now.state == "READY" and now.promoted:
                return now
            if now.state in _FAILED:
                raise ToolkitError(
                    f"deployment {now.id} ended as {now.state}{f': {now.error}' if now.error else ''}",
                    remedy=f"production serves what it served before; see the build log of https://{now.url}",
                )
            if waited + LOOK > within:
                raise self._late(now, waited)
            self.sleep(LOOK)

    def _late(self, now: Deployment, waited: float) -> ToolkitError:
        if now.state == "READY":
            return PartlyDone(
                f"deployment {now.id} is READY and not promoted after {waited:.0f} s: production still serves the old one",
                remedy=f"promote https://{now.url} (Vercel dashboard, or `vercel promote {now.id}`)",
            )
        return StillRunning(
            f"deployment {now.id} is {now.state} after {waited:.0f} s",
            remedy=f"look again: https://{now.url}",
        )

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        again: bool,
    ) -> dict[str, Any]:
        """One call of the HTTP API. `again`: it may be repeated after a failure that passes; a 429 was refused, and always may.

        Raises DependencyUnreachable, SettingError (token), NotFound, ToolkitError."""
        params = {**(query or {}), **({"teamId": self.team} if self.team else {})}
        began, wait = self.monotonic(), 1.0
        while True:
            response = self._send(method, path, params, body)
            left = PATIENCE - (self.monotonic() - began)
            if response.status_code in _AGAIN and (again or response.status_code == 429):
                asked = _retry_after(response, datetime.now(UTC))
                pause = wait if asked is None else asked
                if pause <= left:
                    self.sleep(pause)
                    wait *= 2
                    continue
            return _answer(response)

    def _send(
        self, method: str, path: str, params: Mapping[str, str], body: Mapping[str, Any] | None
    ) -> httpx.Response:
        try:
            return self.client.request(method, path, params=params, json=body)
        except httpx.HTTPError as error:
            what = "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error)
            raise DependencyUnreachable(
                f"Vercel does not answer {method} {path}: {what}",
                remedy="nothing is known of this call; look at the project's deployments before trying again"
                if method == "POST"
                else "check TOOLKIT_VERCEL_URL and the network",
            ) from error


def _answer(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if response.is_success and isinstance(answer, dict) and "error" not in answer:
        return answer
    about = (answer.get("error") if isinstance(answer, dict) else None) or {}
    if not isinstance(about, dict):
        about = {"message": str(about)}
    message = about.get("message") or about.get("code") or f"not JSON: {response.text[:80]!r}"
    told = f"Vercel answered {response.status_code} to {response.request.method} {response.request.url.path}: {message}"
    if response.status_code in {401, 403}:
        raise SettingError(
            told, remedy="check TOOLKIT_VERCEL_TOKEN (its scope), TOOLKIT_VERCEL_TEAM and TOOLKIT_VERCEL_PROJECT"
        )  # fmt: skip
    if response.status_code == 404:
        raise NotFound(told, remedy="check TOOLKIT_VERCEL_PROJECT and TOOLKIT_VERCEL_TEAM")
    if response.status_code in _AGAIN:
        raise DependencyUnreachable(told, remedy="try again later; see Vercel's status page")
    raise ToolkitError(told, remedy="see the project in Vercel's dashboard")


def _retry_after(response: httpx.Response, now: datetime) -> float | None:
    """Seconds that the server asks to wait: a number or a date; None when it says nothing of use."""
    text = response.headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError):
        return None


def _deployment(answer: Mapping[str, Any]) -> Deployment:
    """Parse it once. An older answer has `state` for `readyState`, and no substate: then the alias decides."""
    try:
        substate = answer.get("readySubstate")
        meta = answer.get("meta") or {}
        return Deployment(
            id=str(answer.get("id") or answer["uid"]),
            name=str(answer["name"]),
            url=str(answer.get("url", "")),
            state=str(answer.get("readyState") or answer.get("status") or answer.get("state") or "UNKNOWN"),
            promoted=substate == "PROMOTED" if substate else bool(answer.get("aliasAssigned")),
            target=str(answer.get("target") or ""),
            error=str(answer.get("errorMessage") or answer.get("errorCode") or ""),
            commit=next((str(meta[key]) for key in _COMMITS if meta.get(key)), ""),
        )
    except (KeyError, AttributeError) as error:
        raise ToolkitError(
            f"Vercel's answer is not a deployment: {error} is missing", remedy="check TOOLKIT_VERCEL_URL"
        ) from error
