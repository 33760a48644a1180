"""Dashboards and annotations against a loopback server that answers by Grafana's published contract, failures included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dashboards.__main__ import FOLDER
from tests import receipts
from tests.receipts import HOSTILE, START, but
from toolkit import verification
from toolkit.app import App
from toolkit.errors import DependencyUnreachable, InputFileError, Refused, ToolkitError, UsageError
from toolkit.grafana import Grafana, read
from toolkit.ledger import verifications
from toolkit.settings import Settings
from toolkit.verify.adapters.grafana import publish

TOKEN = "glsa_of_the_test"
BOARD = {"uid": "one", "title": "One", "id": 7, "panels": []}


@dataclass
class Contract:
    """Grafana's folders and dashboards. `refuse`: (status, body) instead of what it would answer to a POST."""

    folders: dict[str, str] = field(default_factory=dict)
    dashboards: dict[str, tuple[str, int, dict[str, Any]]] = field(default_factory=dict)
    refuse: tuple[int, str] | None = None
    race: bool = False
    url: str = ""
    annotations: dict[int, dict[str, Any]] = field(default_factory=dict)

    def answer(self, method: str, path: str, token: str, body: Any) -> tuple[int, str]:  # noqa: PLR0911  one a call
        """By the contract: a bearer token, folders, dashboards, annotations."""
        if token != f"Bearer {TOKEN}":
            return 401, json.dumps({"message": "Invalid API key"})
        if method == "POST" and self.refuse is not None:
            return self.refuse
        if method == "GET" and path.startswith("/api/folders/"):
            uid = path.rpartition("/")[2]
            found = uid in self.folders
            return (
                (200, json.dumps({"uid": uid}))
                if found
                else (404, json.dumps({"message": "folder not found"}))
            )
        if path.startswith("/api/annotations"):
            return self.annotate(method, path, body)
        if (method, path) == ("POST", "/api/folders"):
            return self.make(body)
        if (method, path) == ("POST", "/api/dashboards/db"):
            return self.save(body)
        return 404, "<html>not found</html>"

    def annotate(self, method: str, path: str, body: Any) -> tuple[int, str]:
        """Made by POST, changed by PATCH, found by time and by all of its tags."""
        if method == "GET":
            query = parse_qs(urlsplit(path).query)
            begin, end = int(query["from"][0]), int(query["to"][0])
            found = [
                {"id": number, **one}
                for number, one in self.annotations.items()
                if one["time"] <= end and one["timeEnd"] >= begin and set(query["tags"]) <= set(one["tags"])
            ]
            return 200, json.dumps(found)
        if method == "POST":
            number = len(self.annotations) + 1
            self.annotations[number] = body
            return 200, json.dumps({"message": "Annotation added", "id": number})
        number = int(path.rpartition("/")[2])
        if number not in self.annotations:
            return 404, json.dumps({"message": "Could not find annotation to update"})
        self.annotations[number] |= body
        return 200, json.dumps({"message": "Annotation patched"})

    def make(self, body: Any) -> tuple[int, str]:
        if self.race:
            return 409, json.dumps({"message": "a folder with that name already exists"})
        self.folders[body["uid"]] = body["title"]
        return 200, json.dumps(body)

    def save(self, body: Any) -> tuple[int, str]:
        given = body["dashboard"]
        if body["folderUid"] not in self.folders:
            return 400, json.dumps({"message": "folder not found"})
        if given["id"] is not None:
            return 404, json.dumps({"message": "Dashboard not found"})
        before = self.dashboards.get(given["uid"])
        if before and not body["overwrite"]:
            return 412, json.dumps({"message": "The dashboard has been changed by someone else"})
        version = before[1] + 1 if before else 1
        self.dashboards[given["uid"]] = (body["folderUid"], version, given)
        return 200, json.dumps(
            {
                "uid": given["uid"],
                "version": version,
                "url": f"/grafana/d/{given['uid']}/x",
                "status": "success",
            }
        )


@pytest.fixture
def grafana() -> Iterator[Contract]:
    contract = Contract()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path = self.path.removeprefix("/grafana")
            status, text = contract.answer(self.command, path, self.headers.get("Authorization", ""), body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_PATCH = do_GET  # noqa: N815  http.server's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the parameter's name is inherited
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    contract.url = f"http://127.0.0.1:{server.server_address[1]}/grafana"
    yield contract
    server.shutdown()
    thread.join()
    server.server_close()


def push(contract: Contract, *, token: str = TOKEN) -> None:
    with Grafana.connect(contract.url, token) as client:
        client.folder("freshfetch", "Freshfetch")
        client.push(dict(BOARD), folder="freshfetch")


def test_all_dashboards_are_made_in_their_folder_and_overwritten_the_second_time(grafana: Contract) -> None:
    environment = os.environ | {"TOOLKIT_GRAFANA_TOKEN": TOKEN}
    call = [sys.executable, "-m", "toolkit.cli", "dashboards", "push", "--url", grafana.url, "--json",
            "--runbooks", "https://runbooks.test"]  # fmt: skip
    for version in (1, 2):
        told = subprocess.run(call, env=environment, capture_output=True, check=False)
        assert told.returncode == 0, told.stderr
        pushed = json.loads(told.stdout)
        assert {one["uid"] for one in pushed} == {path.stem for path in FOLDER.glob("*.json")}
        assert {one["version"] for one in pushed} == {version}
        assert all(one["url"] == f"{grafana.url}/d/{one['uid']}/x" for one in pushed)
    assert grafana.folders == {"freshfetch": "Freshfetch"}
    folder, _, sent = grafana.dashboards["freshfetch-image-jobs"]
    committed = json.loads((FOLDER / "freshfetch-image-jobs.json").read_text())
    assert (folder, sent["panels"]) == ("freshfetch", committed["panels"])
    runbooks = next(one for one in sent["templating"]["list"] if one["name"] == "runbooks")
    assert runbooks["query"] == "https://runbooks.test"


def test_a_folder_that_somebody_makes_at_the_same_moment_is_no_error(grafana: Contract) -> None:
    grafana.race = True
    with Grafana.connect(grafana.url, TOKEN) as client:
        client.folder("freshfetch", "Freshfetch")


@pytest.mark.parametrize(
    ("refusal", "error", "word"),
    [
        ((403, '{"message": "You need additional permissions"}'), Refused, "Editor"),
        ((400, '{"message": "Cannot save provisioned dashboard"}'), Refused, "provisioning"),
        ((412, '{"message": "name-exists"}'), Refused, "same title"),
        ((500, '{"message": "database is locked"}'), ToolkitError, "log"),
        ((502, "<html>bad gateway</html>"), UsageError, "URL"),
        ((302, ""), UsageError, "URL"),
    ],
)
def test_a_refusal_says_what_to_do(
    grafana: Contract, refusal: tuple[int, str], error: type[ToolkitError], word: str
) -> None:
    grafana.folders["freshfetch"] = "Freshfetch"
    grafana.refuse = refusal
    with pytest.raises(error, match=str(refusal[0])) as caught:
        push(grafana)
    assert type(caught.value) is error
    assert word in caught.value.remedy


def test_an_unknown_token_is_said_and_not_shown(grafana: Contract) -> None:
    with pytest.raises(UsageError, match="does not know the token") as caught:
        push(grafana, token="glsa_wrong")
    assert "glsa_wrong" not in f"{caught.value} {caught.value.remedy}"


def test_a_grafana_that_is_away_is_a_dependency_that_cannot_be_reached() -> None:
    with Grafana.connect("http://127.0.0.1:9", TOKEN) as client, pytest.raises(DependencyUnreachable):
        client.folder("freshfetch", "Freshfetch")


def test_a_file_that_is_no_dashboard_is_named_before_anything_is_sent(
    grafana: Contract, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(json.dumps(BOARD))
    (tmp_path / "b.json").write_text("[]")
    told = subprocess.run(
        [sys.executable, "-m", "toolkit.cli", "dashboards", "push", "--url", grafana.url, "--token", TOKEN, "--from", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 2
    assert "b.json" in told.stderr
    assert grafana.dashboards == {}
    with pytest.raises(InputFileError, match="uid"):
        read(b"{}", "c.json")


# A verification's annotation


def test_two_publishes_leave_one_annotation_that_says_the_newer_verdict(grafana: Contract) -> None:
    first, warning = publish(grafana.url, TOKEN, None, receipts.pending())
    assert (first, warning) == ("1", "")
    second, warning = publish(grafana.url, TOKEN, first, receipts.proven())
    assert (second, warning) == (first, "")
    (one,) = grafana.annotations.values()
    assert one["text"].startswith("proven so far: release e682860")
    assert one["tags"] == ["freshfetch", "verify-deploy", "release:e682860", "verification:7"]
    assert (one["time"], one["timeEnd"]) == (START.timestamp() * 1000, (START.timestamp() + 1800) * 1000)


def test_an_annotation_whose_id_was_never_kept_is_found_again(grafana: Contract) -> None:
    publish(grafana.url, TOKEN, None, receipts.pending())
    other = but(receipts.pending(), verification_id=8)
    assert publish(grafana.url, TOKEN, None, other) == ("2", "")
    assert publish(grafana.url, TOKEN, None, receipts.proven()) == ("1", "")
    assert len(grafana.annotations) == 2


def test_an_annotation_that_somebody_deleted_is_made_again(grafana: Contract) -> None:
    assert publish(grafana.url, TOKEN, "41", receipts.proven()) == ("1", "")


def test_an_annotation_is_no_markup_and_holds_no_secret(grafana: Contract) -> None:
    publish(grafana.url, TOKEN, None, but(receipts.regression(), release=HOSTILE))
    (one,) = grafana.annotations.values()
    assert "<" not in one["text"]
    assert "hunter2" not in json.dumps(one)


@pytest.mark.parametrize("refusal", [(403, '{"message": "no"}'), (500, '{"message": "no"}'), (502, "<html>")])
def test_a_grafana_that_refuses_costs_a_warning_and_keeps_the_id(
    grafana: Contract, refusal: tuple[int, str]
) -> None:
    grafana.refuse = refusal
    annotation, warning = publish(grafana.url, TOKEN, None, receipts.proven())
    assert annotation is None
    assert f"answered {refusal[0]}" in warning
    assert publish(grafana.url, "glsa_wrong", "1", receipts.proven())[0] == "1"


def test_a_grafana_that_is_away_costs_a_warning_and_not_the_verdict() -> None:
    annotation, warning = publish("http://127.0.0.1:9", TOKEN, "5", receipts.proven())
    assert annotation == "5"
    assert "does not answer" in warning
    assert TOKEN not in warning


def test_a_verification_keeps_the_id_of_its_annotation_in_the_ledger(
    grafana: Contract, database_url: str, redis_url: str
) -> None:
    environ = {
        "DATABASE_URL": database_url, "REDIS_URL": redis_url, "TOOLKIT_GRAFANA_URL": grafana.url, "TOOLKIT_GRAFANA_TOKEN": TOKEN,
    }  # fmt: skip
    with App(Settings.from_env(environ)) as app:
        with app.database.session() as session:
            begun = verifications.begin(session, "e682860", START, "{}", who="ann").verification_id
        for one in (receipts.pending(), receipts.proven()):
            assert verification.publish(app, but(one, verification_id=begun)) == []
        with app.database.session() as session:
            found = verifications.find(session, begun)
    assert found is not None
    assert found.annotation == "1"
    assert [one["text"].split(":")[0] for one in grafana.annotations.values()] == ["proven so far"]
    with App(Settings.from_env(environ | {"TOOLKIT_GRAFANA_URL": "http://127.0.0.1:9"})) as app:
        (trouble,) = verification.publish(app, but(receipts.proven(), verification_id=begun))
    assert "does not answer" in trouble
