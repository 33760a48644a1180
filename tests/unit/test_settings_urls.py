"""Addresses that are made of settings."""

from __future__ import annotations

import pytest

from toolkit.app import App
from toolkit.settings import Settings


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9464/metrics"),
        ("0.0.0.0", "http://127.0.0.1:9464/metrics"),  # noqa: S104  nobody is bound by this
        ("::", "http://[::1]:9464/metrics"),
        ("db-1", "http://db-1:9464/metrics"),
    ],
)
def test_this_hosts_metrics_are_asked_where_they_can_be_reached(host: str, url: str) -> None:
    assert Settings.from_env({"TOOLKIT_METRICS_HOST": host}).metrics_url == url


def test_any_port_has_no_address() -> None:
    assert Settings.from_env({"TOOLKIT_METRICS_PORT": "0"}).metrics_url == ""


def test_sqlalchemys_form_of_a_url_serves_rehearsals_too() -> None:
    settings = Settings.from_env({"DATABASE_URL": "postgresql+psycopg://app@db/shop"})
    with App(settings) as app:
        assert app.rehearsal_server(elsewhere=True) == ("postgresql://app@db/shop", None)
