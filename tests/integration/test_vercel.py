"""The Vercel adapter against a loopback server that answers by the published contract, failures included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest

from toolkit.errors import (
    DependencyUnreachable,
    NotFound,
    PartlyDone,
    SettingError,
    StillRunning,
    ToolkitError,
)
from toolkit.settings import Settings
from toolkit.toggle.vercel import Vercel
from toolkit.verify.adapters import vercel as hosting

TOKEN = "token-of-the-test"
Answer = tuple[int, dict[str, Any] | str, dict[str, str]]


@dataclass
class Project:
    """Vercel, as far as one project goes. `states` are what a new deployment goes through, one a look; `next_answers` come
    before anything else, one a request."""

    states: list[dict[str, Any]] = field(default_factory=list)
    next_answers: list[Answer] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, list[str]], Any]] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    env_failed: list[dict[str, Any]] = field(default_factory=list)
    hang: threading.Event | None = None
    last_alias: dict[str, Any] | None = None
    aliases: dict[str, str | None] = field(default_factory=dict)
    targets: dict[str, Any] = field(
        default_factory=lambda: {
            "production": {"id": "dpl_old", "name": "shop", "readyState": "READY", "url": "shop-old.test"}
        }
    )

    def answer(self, method: str, path: str, token: str, query: dict[str, list[str]], body: Any) -> Answer:
        """By the contract: bearer token, team, and the five calls."""
        self.requests.append((method, path, query, body))
        if self.hang is not None:
            self.hang.wait(10)
        if self.next_answers:
            return self.next_answers.pop(0)
        if token != f"Bearer {TOKEN}":
            return error(403, "forbidden", "Not authorized")
        if query.get("teamId") != ["team_1"]:
            return error(404, "not_found", "Project not found")
        return self._route(method, path, query, body)

    def _route(self, method: str, path: str, query: dict[str, list[str]], body: Any) -> Answer:
        match method, path.split("/")[1:]:
            case "GET", ["v9", "projects", "shop"]:
                return (
                    200,
                    {
                        "id": "prj_1",
                        "name": "shop",
                        "targets": self.targets,
                        "lastAliasRequest": self.last_alias,
                    },
                    {},
                )
            case "GET", ["v4", "aliases", host] if self.aliases.get(host, "") != "":
                to = self.aliases[host]
                more = {"redirect": "shop.test"} if to is None else {}
                return 200, {"alias": host, "deploymentId": to, "projectId": "prj_1", "uid": "1"} | more, {}
            case "POST", ["v10", "projects", "shop", "env"] if query.get("upsert") == ["true"]:
                if not self.env_failed:
                    self.env[body["key"]] = body["value"]
                return 201, {"created": {"key": body["key"]}, "failed": self.env_failed}, {}
            case "POST", ["v13", "deployments"] if query.get("forceNew") == ["1"]:
                assert {"name", "deploymentId", "target"} <= body.keys()
                return (
                    200,
                    {"id": "dpl_new", "name": body["name"], "url": "shop-new.test", "readyState": "QUEUED"},
                    {},
                )
            case "GET", ["v13", "deployments", "dpl_new"]:
                state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
                return (
                    200,
                    {"id": "dpl_new", "name": "shop", "url": "shop-new.test", "target": "production"} | state,
                    {},
                )
        return error(404, "not_found", f"no such thing: {method} {path}")


def error(status: int, code: str, message: str, **headers: str) -> Answer:
    """Vercel's error body."""
    return status, {"error": {"code": code, "message": message}}, headers


@pytest.fixture
def project() -> Project:
    return Project()


@pytest.fixture
def url(project: Project) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            parts = urlsplit(self.path)
            token = self.headers.get("Authorization", "")
            status, answer, headers = project.answer(
                self.command, parts.path, token, parse_qs(parts.query), body
            )
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = _do  # noqa: N815  http.server's words

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that has hung up is part of the test."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vercel(url: str, clock: Clock) -> Iterator[Vercel]:
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=5) as client:
        yield Vercel(client, "shop", "team_1", sleep=clock.sleep, monotonic=clock.monotonic)


def rebuild(vercel: Vercel, within: float = 600.0) -> Any:
    """The whole way."""
    vercel.set_variable("ASYNC_IMAGE_PROCESSING", "false", comment="why")
    started = vercel.redeploy(vercel.production())
    return vercel.follow(started.id, within=within)


BUILDING, STAGED = (
    {"readyState": "BUILDING"},
    {"readyState": "READY", "readySubstate": "STAGED", "aliasAssigned": None},
)
PROMOTED = {"readyState": "READY", "readySubstate": "PROMOTED", "aliasAssigned": 1760202000000}


def test_it_sets_the_variable_redeploys_what_serves_and_follows_until_promoted(
    project: Project, vercel: Vercel
) -> None:
    project.states = [{"readyState": "QUEUED"}, {"readyState": "INITIALIZING"}, BUILDING, STAGED, PROMOTED]
    ended = rebuild(vercel)
    assert (ended.id, ended.state, ended.promoted) == ("dpl_new", "READY", True)
    assert project.env == {"ASYNC_IMAGE_PROCESSING": "false"}
    variable = next(body for _, path, _, body in project.requests if path.endswith("/env"))
    assert variable == {
        "key": "ASYNC_IMAGE_PROCESSING", "value": "false", "type": "plain", "target": ["production"], "comment": "why",
    }  # fmt: skip
    assert ("POST", "/v13/deployments", {"forceNew": ["1"], "teamId": ["team_1"]},
            {"name": "shop", "deploymentId": "dpl_old", "target": "production"}) in project.requests  # fmt: skip
    assert not project.states[1:]


def test_an_answer_without_a_substate_is_judged_by_its_alias(project: Project, vercel: Vercel) -> None:
    project.states = [{"readyState": "READY"}, {"readyState": "READY", "aliasAssigned": 1760202000000}]
    assert rebuild(vercel).promoted


def test_ready_and_not_promoted_is_not_a_success(project: Project, vercel: Vercel) -> None:
    project.states = [STAGED]
    with pytest.raises(PartlyDone, match="READY and not promoted") as raised:
        rebuild(vercel, within=30)
    assert "promote" in raised.value.remedy


@pytest.mark.parametrize("state", ["ERROR", "CANCELED", "BLOCKED"])
def test_a_failed_build_ends_the_wait_and_says_why(
    project: Project, vercel: Vercel, clock: Clock, state: str
) -> None:
    project.states = [BUILDING, {"readyState": state, "errorMessage": "npm run build exited with 1"}]
    with pytest.raises(ToolkitError, match=f"{state}: npm run build"):
        rebuild(vercel)
    assert clock.now < 10


def test_a_build_that_never_ends_is_still_running(project: Project, vercel: Vercel) -> None:
    project.states = [BUILDING]
    with pytest.raises(StillRunning, match="BUILDING after") as raised:
        rebuild(vercel, within=30)
    assert raised.value.exit_code == 8


def test_a_variable_that_was_refused_within_a_201_is_an_error(project: Project, vercel: Vercel) -> None:
    project.env_failed = [{"error": {"code": "ENV_CONFLICT", "message": "it is a sensitive variable"}}]
    with pytest.raises(ToolkitError, match="sensitive"):
        rebuild(vercel)
    assert not any(path == "/v13/deployments" for _, path, _, _ in project.requests)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, SettingError), (403, SettingError), (404, NotFound), (400, ToolkitError)]
)
def test_a_refusal_is_told_with_vercels_own_words(
    project: Project, vercel: Vercel, status: int, kind: type[ToolkitError]
) -> None:
    project.next_answers = [error(status, "code", "in its own words")]
    with pytest.raises(kind, match="in its own words"):
        vercel.production()


def test_a_wrong_token_names_the_setting(url: str) -> None:
    with (
        httpx.Client(base_url=url, headers={"Authorization": "Bearer other"}) as client,
        pytest.raises(SettingError, match="Not authorized") as raised,
    ):
        Vercel(client, "shop", "team_1").production()
    assert "TOOLKIT_VERCEL_TOKEN" in raised.value.remedy


@pytest.mark.parametrize("said", ["7", "date"])
def test_retry_after_is_respected(project: Project, vercel: Vercel, clock: Clock, said: str) -> None:
    after = said if said == "7" else format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    project.next_answers = [error(429, "too_many_requests", "slow down", Retry_After=after)] * 2
    assert vercel.production().id == "dpl_old"
    assert all(6 <= slept <= 8 for slept in clock.slept)
    assert len(clock.slept) == 2


def test_a_wait_beyond_patience_is_not_waited_for(project: Project, vercel: Vercel, clock: Clock) -> None:
    project.next_answers = [error(429, "too_many_requests", "slow down", Retry_After="3600")]
    with pytest.raises(DependencyUnreachable, match="slow down"):
        vercel.production()
    assert clock.slept == []


def test_a_redeploy_is_not_repeated_after_a_server_error_but_a_look_is(
    project: Project, vercel: Vercel
) -> None:
    deployment = vercel.production()
    project.next_answers = [error(502, "bad_gateway", "oops")]
    with pytest.raises(DependencyUnreachable, match="oops"):
        vercel.redeploy(deployment)
    assert [path for method, path, _, _ in project.requests if method == "POST"] == ["/v13/deployments"]
    project.states, project.next_answers = [PROMOTED], [error(502, "bad_gateway", "oops")]
    assert vercel.deployment("dpl_new").promoted


@pytest.mark.parametrize("body", ["<html>gateway</html>", "[]", '{"error": "plain text"}'])
def test_a_body_that_is_not_what_it_should_be_is_told(project: Project, vercel: Vercel, body: str) -> None:
    project.next_answers = [(200, body, {})]
    with pytest.raises(ToolkitError, match="Vercel answered 200"):
        vercel.production()


def test_a_deployment_without_its_id_is_told(project: Project, vercel: Vercel) -> None:
    project.next_answers = [(200, {"readyState": "READY"}, {})]
    with pytest.raises(ToolkitError, match="not a deployment"):
        vercel.deployment("dpl_new")


def test_a_project_that_was_never_deployed_is_told(project: Project, vercel: Vercel) -> None:
    project.targets = {}
    with pytest.raises(NotFound, match="no production deployment"):
        vercel.production()


def test_a_hang_ends_in_time(project: Project, url: str) -> None:
    project.hang = threading.Event()
    with (
        httpx.Client(base_url=url, timeout=0.2) as client,
        pytest.raises(DependencyUnreachable, match="no answer in time"),
    ):
        Vercel(client, "shop").production()
    project.hang.set()


def test_a_missing_setting_is_named() -> None:
    with (
        pytest.raises(SettingError, match="TOOLKIT_VERCEL_TOKEN is not set"),
        Vercel.connect(Settings.from_env({})),
    ):
        pass


def test_the_token_is_never_shown() -> None:
    shown = Settings.from_env({"TOOLKIT_VERCEL_TOKEN": TOKEN}).describe()
    assert TOKEN not in json.dumps(shown)


@pytest.fixture
def off(url: str, database_url: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`toolkit toggle off --via vercel`."""

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "DATABASE_URL": database_url, "TOOLKIT_VERCEL_URL": url, "TOOLKIT_VERCEL_TOKEN": TOKEN,
            "TOOLKIT_VERCEL_TEAM": "team_1", "TOOLKIT_VERCEL_PROJECT": "shop", "TOOLKIT_OPERATOR": "ann@desk",
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-m", "toolkit.cli", "toggle", "off", "--via", "vercel", "--reason", "23503", *more],
            capture_output=True, text=True, timeout=60, check=False, env=environment,
        )  # fmt: skip

    return run


def test_the_command_goes_the_whole_way_and_leaves_an_act(
    project: Project, database_url: str, off: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    project.states = [PROMOTED]
    done = off()
    assert done.returncode == 0, done.stderr
    assert "ASYNC_IMAGE_PROCESSING=false serves production at https://shop-new.test" in done.stdout
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT who, reason, detail ->> 'via' FROM toolkit.audit").fetchone()
    assert row == ("ann@desk", "23503", "vercel")


def test_the_command_says_3_when_it_is_not_promoted(
    project: Project, off: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    project.states = [STAGED]
    done = off("--deadline", "1")
    assert done.returncode == 3
    assert "not promoted" in done.stderr


# What serves production, for verify-deploy


def serve(
    project: Project, *, commit: str = "e6828600aa", pinned: dict[str, Any] | None = None, **hosts: str | None
) -> None:
    """Production is dpl_new; the hosts (without `.test`) point at these deployments, None: redirects."""
    project.targets["production"] |= {"id": "dpl_new", "alias": [f"{host}.test" for host in hosts]}
    project.last_alias = pinned
    project.aliases = {f"{host}.test": to for host, to in hosts.items()}
    project.states = [PROMOTED | {"meta": {"githubCommitSha": commit}}]


def test_a_release_that_serves_production_at_every_host_has_nothing_wrong(
    project: Project, vercel: Vercel
) -> None:
    serve(project, shop="dpl_new", old=None)
    seen = hosting.look(vercel)
    assert (seen.deployment.state, seen.deployment.promoted, seen.deployment.commit) == (
        "READY",
        True,
        "e6828600aa",
    )
    assert (seen.hosts, seen.pinned) == ({"shop.test": "dpl_new"}, "")
    assert seen.wrong("e682860") == ()
    assert seen.wrong("v1.2.3") == ()
    assert seen.said == "Vercel: deployment dpl_new of commit e682860 is READY, promoted"


ROLLED_BACK = {
    "type": "rollback",
    "jobStatus": "succeeded",
    "fromDeploymentId": "dpl_x",
    "toDeploymentId": "dpl_new",
}


@pytest.mark.parametrize(
    ("given", "states", "word"),
    [
        ({"shop": "dpl_old"}, None, "shop.test at Vercel points at dpl_old, not at dpl_new"),
        ({"shop": ""}, None, "points at no deployment"),
        ({"shop": "dpl_new", "pinned": ROLLED_BACK}, None, "rolled back to dpl_new"),
        ({"shop": "dpl_new", "pinned": ROLLED_BACK | {"jobStatus": "in-progress"}}, None, "moving"),
        ({"shop": "dpl_new", "commit": "4811ec9000"}, None, "serves commit 4811ec9, not e682860"),
        ({"shop": "dpl_new"}, [STAGED], "not promoted"),
        ({"shop": "dpl_new"}, [BUILDING], "is BUILDING"),
    ],
)
def test_what_keeps_a_release_from_serving_is_named(
    project: Project, vercel: Vercel, given: dict[str, Any], states: list[dict[str, Any]] | None, word: str
) -> None:
    serve(project, **given)
    project.states = states or project.states
    told = hosting.look(vercel).wrong("e682860")
    assert len(told) == 1
    assert word in told[0]


@pytest.mark.parametrize(
    "after", [None, ROLLED_BACK | {"type": "promote"}, ROLLED_BACK | {"jobStatus": "failed"}]
)
def test_a_rollback_that_was_undone_or_failed_pins_nothing(
    project: Project, vercel: Vercel, after: dict[str, Any] | None
) -> None:
    serve(project, shop="dpl_new", pinned=after)
    assert hosting.look(vercel).wrong("e682860") == ()


def test_a_project_without_production_or_of_another_form_is_told(project: Project, vercel: Vercel) -> None:
    project.targets = {}
    with pytest.raises(NotFound, match="no production deployment"):
        hosting.look(vercel)
    project.next_answers = [(200, {"targets": ["production"]}, {})]
    with pytest.raises(ToolkitError, match="not a project"):
        hosting.look(vercel)
