"""A job's own settings are read before its first run, and a misspelt one is not passed over in silence."""

from __future__ import annotations

import pytest

from toolkit.app import App
from toolkit.errors import SettingError
from toolkit.settings import Settings


def unread(**environ: str) -> dict[str, str]:
    with App(Settings.from_env(environ)) as app:
        return app.unread_settings()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TOOLKIT_IMAGES_DEADLIN", "TOOLKIT_IMAGES_DEADLINE"),
        ("TOOLKIT_IMAGE_DEADLINE", "TOOLKIT_IMAGES_DEADLINE"),
        ("TOOLKIT_OPERTOR", "TOOLKIT_OPERATOR"),
    ],
)
def test_a_misspelt_setting_is_told_with_the_one_that_was_meant(variable: str, meant: str) -> None:
    assert unread(**{variable: "3"}) == {variable: meant}


def test_settings_that_are_read_or_somebody_elses_are_no_mistakes() -> None:
    assert unread(TOOLKIT_IMAGES_DEADLINE="3", TOOLKIT_OPERATOR="ann", TOOLKIT_ELSEWHERE="x") == {}


def test_a_jobs_setting_that_cannot_be_used_is_told_before_a_job_meets_it() -> None:
    with pytest.raises(SettingError, match="TOOLKIT_IMAGES_DEADLINE='abc' cannot be used"):
        unread(TOOLKIT_IMAGES_DEADLINE="abc")
