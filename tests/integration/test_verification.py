"""What verify-deploy says of a release's certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit import verification
from toolkit.app import App
from toolkit.rehearse import certificate, installed
from toolkit.rehearse.words import Options
from toolkit.settings import Settings

ZOO = """
from toolkit.rehearse.words import Rehearsal

ZOO = Rehearsal(name="zoo", prepare=print, scenarios=dict, table=dict, sources=("toolkit.rehearse.words",))
"""


def certified(folder: Path) -> str:
    """Of the release that is installed here."""
    settings = Settings.from_env({"TOOLKIT_CERTIFICATES": str(folder), "TOOLKIT_RELEASE": "r1"})
    with App(settings) as app:
        assert verification.certified(app, "r2") == "unknown here: release r1 is installed here"
        return verification.certified(app, "r1")


def write(path: Path, name: str) -> None:
    """A certificate of the code that is installed here."""
    race = certificate.Raced(
        scenario="s", schedules=1200, exhausted=True, reduced=False, outcomes={"job fed": 1200}, findings=()
    )
    made = certificate.Certificate(
        rehearsal=name, code=certificate.code_hash(installed.rehearsal(name).sources), server="18", options=Options(),
        races=(race,), table={}, mutants={"m": "s"},
    )  # fmt: skip
    certificate.write(path, made)


def test_each_rehearsal_has_a_certificate_of_its_own_and_none_is_believed_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    write(folder / "images.json", "images")
    figures = "certified, 1 scenarios, 1,200 schedules, 1 of 1 mutants noticed"
    assert certified(folder) == figures
    about = tmp_path / "zoo-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[freshfetch.rehearsals]\nzoo = zoo:ZOO\n")
    (tmp_path / "zoo.py").write_text(ZOO)
    monkeypatch.syspath_prepend(tmp_path)
    lacks = "zoo: no certificate of this code (toolkit rehearse certify --rehearsal zoo)"
    assert certified(folder) == f"images: {figures}; {lacks}"
    write(folder / "zoo.json", "zoo")
    assert certified(folder) == f"images: {figures}; zoo: {figures}"
    text = (folder / "zoo.json").read_text()
    (folder / "zoo.json").write_text(text.replace("1200", "9999"))
    told = certified(folder)
    assert told == f"images: {figures}; {lacks}; unreadable: zoo.json (toolkit rehearse verify says why)"
