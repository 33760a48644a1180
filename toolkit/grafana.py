"""Dashboards → Grafana, over its HTTP API, for who cannot provision files there; and annotations that are kept up to date.

    with Grafana.connect(url, token) as grafana:
        grafana.folder("freshfetch", "Freshfetch")
        grafana.push(read(path.read_bytes()), folder="freshfetch")
        number = grafana.annotate(None, note)
        grafana.annotate(number, newer_note)

Made or overwritten by uid, so a second push changes nothing but the version. HTTP API, as published: GET and POST
/api/folders, POST /api/dashboards/db with `overwrite`; GET and POST /api/annotations, PATCH /api/annotations/{id}. Defaults:
10 s an answer, no second try.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx
import msgspec

from toolkit.errors import DependencyUnreachable, InputFileError, Refused, ToolkitError, UsageError

TIMEOUT: Final = 10.0

_EDITOR: Final = (
    "make a service account with the role Editor (Administration → Users and access) and give its token:"
    " TOOLKIT_GRAFANA_TOKEN"
)


@dataclass(frozen=True, slots=True)
class Pushed:
    """A dashboard as Grafana has it now; `url` is whole."""

    uid: str
    title: str
    url: str
    version: int


@dataclass(frozen=True, slots=True)
class Note:
    """An annotation of the whole organisation, from `begin` to `end`. `tags` and `begin` tell it from every other one."""

    text: str
    tags: tuple[str, ...]
    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Grafana:
    """One Grafana, as the holder of a token."""

    client: httpx.Client

    @classmethod
    @contextmanager
    def connect(cls, url: str, token: str) -> Iterator[Grafana]:
        """Talk to the Grafana at `url` (with its path, if it is served below one). Raises UsageError for what is no URL."""
        if not url.startswith(("http://", "https://")):
            raise UsageError(f"{url!r} is no URL", remedy="give it whole: https://grafana.example")
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT) as client:
            yield cls(client)

    def folder(self, uid: str, title: str) -> None:
        """Make the folder, unless there is one of that uid. Raises as `push`."""
        found = self._ask("GET", f"/api/folders/{uid}", allowed={404})
        if found is None:
            # Somebody else may make it at the same moment: 409 and 412 say that it is there now.
            self._ask("POST", "/api/folders", {"uid": uid, "title": title}, allowed={409, 412})

    def push(self, dashboard: dict[str, Any], *, folder: str) -> Pushed:
        """Make or overwrite the dashboard of that uid.

        Raises DependencyUnreachable, UsageError (URL or token), Refused (Grafana will not), ToolkitError."""
        body = {
            "dashboard": dashboard | {"id": None}, "folderUid": folder, "overwrite": True, "message": "toolkit dashboards push",
        }  # fmt: skip
        told = self._ask("POST", "/api/dashboards/db", body) or {}
        where = httpx.URL(str(self.client.base_url)).copy_with(path=told.get("url") or "/")
        return Pushed(dashboard["uid"], dashboard["title"], str(where), int(told.get("version", 0)))

    def annotate(self, known: str | None, note: Note) -> str:
        """Make the annotation, or bring it up to date; returns its id. `known` is its id from the last time, if that was kept;
        without one it is looked for, since whoever made it may have died before the id was kept. Raises as `push`."""
        span = {"time": _milliseconds(note.begin), "timeEnd": _milliseconds(note.end)}
        body = span | {"text": note.text, "tags": list(note.tags)}
        number = known or self._annotated(note)
        # 404: somebody has deleted it. Then there is a new one.
        if number and self._ask("PATCH", f"/api/annotations/{number}", body, allowed={404}) is not None:
            return number
        told = self._ask("POST", "/api/annotations", body) or {}
        return str(told.get("id", ""))

    def _annotated(self, note: Note) -> str:
        begin = str(_milliseconds(note.begin))
        query = httpx.QueryParams(
            {"from": begin, "to": begin, "type": "annotation", "limit": "100", "tags": note.tags}
        )
        found = self._ask("GET", f"/api/annotations?{query}", kind=list) or []
        ids = [str(one["id"]) for one in found if one.get("time") == int(begin)]
        return ids[0] if ids else ""

    def _ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        allowed: frozenset[int] | set[int] = frozenset(),
        kind: type[dict[str, Any] | list[Any]] = dict,
    ) -> Any:
        """The answer, a dictionary or what `kind` says; None for an allowed status."""
        try:
            answer = self.client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise DependencyUnreachable(
                f"Grafana at {self.client.base_url} does not answer: {str(error) or type(error).__name__}",
                remedy="see that the URL is right and that Grafana runs there",
            ) from error
        try:
            told = msgspec.json.decode(answer.content)
        except msgspec.DecodeError:
            told = None
        if answer.is_success and isinstance(told, kind):
            return told
        if answer.status_code in allowed and isinstance(told, dict):
            return None
        raise self._refused(answer.status_code, told)

    def _refused(self, status: int, told: Any) -> ToolkitError:
        message = str(told.get("message", "")) if isinstance(told, dict) else ""
        said = f"{self.client.base_url} answered {status}{f': {message}' if message else ''}"
        if status == 401:
            return UsageError(f"Grafana does not know the token: {said}", remedy=_EDITOR)
        if status == 403:
            return Refused(f"the token may not do that: {said}", remedy=_EDITOR)
        if "provisioned" in message.lower():
            return Refused(
                f"the dashboard is provisioned from a file: {said}",
                remedy="change the file instead, or take it out of Grafana's provisioning",
            )
        if not isinstance(told, dict):
            return UsageError(
                f"that is no Grafana: {said}", remedy="give the URL that Grafana's start page has"
            )
        if status in {409, 412}:
            return Refused(
                f"Grafana holds another one in its place: {said}",
                remedy="rename or delete the dashboard of the same title in that folder",
            )
        return ToolkitError(f"Grafana refused: {said}", remedy="see Grafana's log")


def _milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def read(content: bytes, name: str, *, runbooks: str = "") -> dict[str, Any]:
    """A dashboard from its file, with links to runbooks that begin at `runbooks`. Raises InputFileError."""
    try:
        dashboard = msgspec.json.decode(content, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InputFileError(f"{name} is no dashboard: {error}") from error
    if not dashboard.get("uid") or not dashboard.get("title"):
        raise InputFileError(f"{name} is no dashboard: it has no uid or title")
    for variable in dashboard.get("templating", {}).get("list", ()):
        if runbooks and variable.get("name") == "runbooks":
            variable["query"] = runbooks
            variable["current"] = {"text": runbooks, "value": runbooks, "selected": True}
    return dashboard
