"""What Prometheus's own tools say of the rules, their tests, the live exposition and the routes."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from tests import alert_lint as lint
from tests.hosts import worker_host
from tests.prometheus import tools

FILES = sorted(lint.RULES.glob("*.yml"))
TESTS = sorted((lint.RULES / "tests").glob("*.yml"))
MONITORING = lint.RULES.parent


@pytest.fixture(scope="module")
def bin_folder() -> Path:
    return tools()


def call(program: Path, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments], input=given, capture_output=True, text=True, check=False, timeout=120
    )


def test_promtools_lint_finds_nothing(bin_folder: Path) -> None:
    checked = call(bin_folder / "promtool", "check", "rules", "--lint=all", "--lint-fatal", *FILES)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    checked = call(
        bin_folder / "promtool",
        "check",
        "config",
        "--lint=all",
        "--lint-fatal",
        MONITORING / "prometheus.yml",
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_fires_and_stays_quiet_as_its_tests_say(bin_folder: Path) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, tested in zip(
            TESTS,
            pool.map(lambda path: call(bin_folder / "promtool", "test", "rules", path), TESTS),
            strict=True,
        ):
            assert tested.returncode == 0, path.name + tested.stdout + tested.stderr


def test_a_broken_rule_fails_its_test(bin_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(lint.RULES, tmp_path / "rules")
    broken = tmp_path / "rules" / "progress.yml"
    broken.write_text(broken.read_text().replace("> 2 * 60", "> 4 * 60"))
    tested = call(
        bin_folder / "promtool", "test", "rules", tmp_path / "rules" / "tests" / "IntentsNotPushed.yml"
    )
    assert tested.returncode != 0


def test_every_alert_has_a_case_that_fires_and_one_that_is_quiet() -> None:
    for name in lint.alerts():
        document = yaml.safe_load((lint.RULES / "tests" / f"{name}.yml").read_text())
        samples = [sample["exp_samples"] for test in document["tests"] for sample in test["promql_expr_test"]]
        assert any("firing" in str(one) for one in samples), name
        assert name == "Watchdog" or [] in samples, name
        assert any("alert_rule_test" in test for test in document["tests"]), f"{name}: its texts"
    assert {path.stem for path in TESTS} == lint.alerts().keys()


def test_the_live_exposition_is_without_findings(
    bin_folder: Path, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with worker_host(database_url, redis_url, tmp_path / "host") as host:
        text = host.get("/metrics").text
    checked = call(bin_folder / "promtool", "check", "metrics", given=text)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert all(f"# TYPE {name.removesuffix('_total')}" in text for name in lint.published())


def test_metrics_that_break_the_conventions_are_found(bin_folder: Path) -> None:
    assert call(
        bin_folder / "promtool", "check", "metrics", given="# TYPE fetches counter\nfetches 1\n"
    ).returncode


def test_alertmanager_takes_its_configuration(bin_folder: Path) -> None:
    checked = call(bin_folder / "amtool", "check-config", MONITORING / "alertmanager.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("alert", sorted(lint.alerts()))
def test_every_alert_goes_where_its_severity_says(bin_folder: Path, alert: str) -> None:
    labels = {"alertname": alert, **lint.alerts()[alert]["labels"]}
    asked = call(
        bin_folder / "amtool", "config", "routes", "test", f"--config.file={MONITORING / 'alertmanager.yml'}",
        *(f"{name}={value}" for name, value in labels.items()),
    )  # fmt: skip
    assert (
        asked.stdout.strip()
        == {"critical": "pager", "warning": "tickets", "none": "heartbeat"}[labels["severity"]]
    )


def test_inhibition_names_alerts_that_exist() -> None:
    rules = yaml.safe_load((MONITORING / "alertmanager.yml").read_text())["inhibit_rules"]
    for rule in rules:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            _, _, value = matcher.partition("=")
            assert set(value.lstrip("~").strip(' "').split("|")) <= lint.alerts().keys(), matcher
