"""Settings: read once from the environment, frozen, passed in everywhere. The only home of `os.environ`.

A setting that cannot be used raises SettingError naming the variable, the value and what would do. `describe()` tells
what is in force and where each value came from, with secrets masked.
"""

from __future__ import annotations

import dataclasses
import getpass
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from toolkit import redact
from toolkit.errors import SettingError

T = TypeVar("T")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_PASSWORD = re.compile(r"^(\w[\w+.-]*://[^:]*):.*@", re.DOTALL)
_REACHED_AS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  nobody is bound by this


def flag(text: str) -> bool:
    """true/false, yes/no, on/off, 1/0. Raises ValueError saying what would do, as the two below."""
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("set it to true or false")


def positive_seconds(text: str) -> float:
    """Seconds, above 0 and finite."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise ValueError("set it to a number of seconds above 0")
    return number


def count(text: str) -> int:
    """A whole number from 1."""
    number = int(text) if text.strip().isdecimal() else 0
    if number < 1:
        raise ValueError("set it to a whole number from 1")
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise ValueError("a port from 0 (any free one) to 65535")
    return number


def _gzip(text: str) -> bool:
    if text not in {"gzip", "none"}:
        raise ValueError("gzip or none")
    return text == "gzip"


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _list(text: str) -> tuple[str, ...]:
    return tuple(one.strip() for one in text.split(",") if one.strip())


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("a whole URL: http://host:port")
    return text.rstrip("/")


def _urls(text: str) -> tuple[str, ...]:
    return tuple(_url(one) for one in _list(text))


def _text(text: str) -> str:
    return text


def default_release() -> str:
    """The installed version of Freshfetch, used when TOOLKIT_RELEASE names none."""
    try:
        return version("freshfetch")
    except PackageNotFoundError:
        return "unknown"


def default_operator() -> str:
    """user@host; the number where the user has no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def setting(
    variable: str,
    parse: Callable[[str], Any],
    default: Any,
    wanted: str,
    meaning: str,
    *,
    secret: bool = False,
) -> Any:
    """One setting: its variable, how it is parsed, what would be accepted, and what it means."""
    about = {"variable": variable, "parse": parse, "wanted": wanted, "meaning": meaning, "secret": secret}
    if callable(default):
        return field(default_factory=default, metadata=about)
    return field(default=default, metadata=about)


class _Noting(dict[str, str]):
    """Settings of jobs that note which of them is asked for."""

    def __init__(self, sections: Mapping[str, str]) -> None:
        super().__init__(sections)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """As a dictionary's."""
        self.asked.add(key)
        return super().get(key, default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the environment decides. Times are in seconds."""

    database_url: str | None = setting(
        "DATABASE_URL", _text, None, "postgresql://user:password@host/database",
        "the catalog's PostgreSQL; unset: the embedded one", secret=True,
    )  # fmt: skip
    redis_url: str | None = setting(
        "REDIS_URL", _text, None, "redis://, rediss://, unix:// or redis+sentinel://host:port,host:port/service/db",
        "the broker; unset: the embedded Valkey", secret=True,
    )  # fmt: skip
    home: Path = setting(
        "TOOLKIT_HOME", _path, lambda: Path(platformdirs.user_state_path("freshfetch")), "a folder",
        "state of the embedded servers",
    )  # fmt: skip
    async_image_processing: bool = setting(
        "ASYNC_IMAGE_PROCESSING",
        flag,
        True,
        "true or false",
        "false: always sync, whatever `toolkit toggle` says; true: as the ledger says",
    )
    release: str = setting(
        "TOOLKIT_RELEASE", _text, default_release, "a version or commit", "the release that runs"
    )
    processes: int = setting(
        "TOOLKIT_PROCESSES", count, 2, "a whole number from 1", "worker processes a host"
    )
    lease: float = setting(
        "TOOLKIT_LEASE",
        positive_seconds,
        30.0,
        "seconds",
        "after which a silent host's runs are given up as lost",
    )
    metrics_host: str = setting(
        "TOOLKIT_METRICS_HOST", _text, "127.0.0.1", "an address", "where /metrics listens"
    )
    metrics_port: int = setting(
        "TOOLKIT_METRICS_PORT", _port, 9464, "a port; 0: any free one", "where /metrics listens"
    )
    otlp_endpoint: str | None = setting(
        "OTEL_EXPORTER_OTLP_ENDPOINT", _text, None, "http://host:4318", "where spans are sent by OTLP/HTTP"
    )
    otlp_headers: str = setting(
        "OTEL_EXPORTER_OTLP_HEADERS",
        _text,
        "",
        "key=value,key=value",
        "headers of the OTLP request",
        secret=True,
    )
    otlp_gzip: bool = setting(
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        _gzip,
        True,
        "gzip or none",
        "whether what is sent is compressed",
    )
    service_name: str = setting(
        "OTEL_SERVICE_NAME", _text, "freshfetch", "a name", "service.name of the spans"
    )
    log_format: str = setting(
        "TOOLKIT_LOG_FORMAT",
        _text,
        "auto",
        "auto, console or json",
        "auto: console on a terminal, JSON in a pipe",
    )
    prepared_statements: bool = setting(
        "TOOLKIT_PREPARED_STATEMENTS",
        flag,
        True,
        "true or false",
        "false behind a transaction pooler without them",
    )
    operator: str = setting(
        "TOOLKIT_OPERATOR",
        _text,
        default_operator,
        "a name",
        "who acts, for the audit",
    )
    jobs: str = setting(
        "TOOLKIT_JOBS", _text, "", "module:SPEC,module:SPEC", "JobSpecs to run in place of the installed ones"
    )
    vercel_token: str = setting(
        "TOOLKIT_VERCEL_TOKEN", _text, "", "an access token", "for `toolkit toggle --via vercel`", secret=True
    )
    vercel_team: str = setting("TOOLKIT_VERCEL_TEAM", _text, "", "a team id", "the project's team at Vercel")
    vercel_project: str = setting(
        "TOOLKIT_VERCEL_PROJECT", _text, "", "a project's id or name", "the importer's project at Vercel"
    )
    vercel_url: str = setting(
        "TOOLKIT_VERCEL_URL", _text, "https://api.vercel.com", "a URL", "where Vercel's HTTP API answers"
    )
    prometheus_url: str = setting(
        "TOOLKIT_PROMETHEUS_URL",
        _url,
        "",
        "a whole URL: http://host:9090",
        "the Prometheus that verify-deploy asks",
    )
    prometheus_token: str = setting(
        "TOOLKIT_PROMETHEUS_TOKEN",
        _text,
        "",
        "a bearer token",
        "for a Prometheus that wants one",
        secret=True,
    )
    verify_metrics: tuple[str, ...] = setting(
        "TOOLKIT_VERIFY_METRICS", _urls, (), "http://host:9464/metrics,http://…",
        "every supervisor's /metrics, for verify-deploy; unset: this host's, if it answers",
    )  # fmt: skip
    verify_logs: tuple[str, ...] = setting(
        "TOOLKIT_VERIFY_LOGS", _list, (), "path,path",
        "logs that verify-deploy reads; unset: the embedded PostgreSQL's",
    )  # fmt: skip
    grafana_url: str = setting(
        "TOOLKIT_GRAFANA_URL",
        _url,
        "",
        "a whole URL: https://host/path",
        "where verify-deploy leaves an annotation",
    )
    grafana_token: str = setting(
        "TOOLKIT_GRAFANA_TOKEN",
        _text,
        "",
        "a service account's token, role Editor",
        "for Grafana",
        secret=True,
    )
    certificates: Path = setting(
        "TOOLKIT_CERTIFICATES", _path, lambda: Path("runbooks/certificates").absolute(), "a folder",
        "certificates of `toolkit rehearse certify`, for verify-deploy",
    )  # fmt: skip
    no_color: bool = setting("NO_COLOR", bool, False, "anything", "no colours on a terminal")
    sections: Mapping[str, str] = field(
        default_factory=dict, metadata={"meaning": "TOOLKIT_… settings of jobs"}
    )
    given: frozenset[str] = frozenset()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Parse the environment. Raises SettingError for the first value that cannot be used."""
        source = os.environ if environ is None else environ
        values: dict[str, Any] = {}
        given: set[str] = set()
        for item in dataclasses.fields(cls):
            variable: str = item.metadata.get("variable", "")
            text = source.get(variable, "")
            if not text:
                continue
            try:
                values[item.name] = item.metadata["parse"](text)
            except ValueError as error:
                raise SettingError(
                    f"{variable}={text!r} cannot be used", remedy=f"set it to {item.metadata['wanted']}"
                ) from error
            given.add(variable)
        if values.get("log_format", "auto") not in {"auto", "console", "json"}:
            raise SettingError(
                f"TOOLKIT_LOG_FORMAT={values['log_format']!r} cannot be used",
                remedy="set it to auto, console or json",
            )
        known = {item.metadata.get("variable") for item in dataclasses.fields(cls)}
        sections = {k: v for k, v in source.items() if k.startswith("TOOLKIT_") and k not in known}
        return cls(**values, sections=sections, given=frozenset(given))

    @property
    def metrics_url(self) -> str:
        """This host's /metrics, as a caller on this host reaches it; '' when TOOLKIT_METRICS_PORT is 0: any port."""
        if not self.metrics_port:
            return ""
        host = _REACHED_AS.get(self.metrics_host, self.metrics_host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.metrics_port}/metrics"

    def switched_off(self, toggle: str) -> bool:
        """True when the environment turns this toggle off: `NAME=false`. Nothing can turn it on again but the environment."""
        return any(
            item.metadata.get("variable") == toggle and getattr(self, item.name) is False
            for item in dataclasses.fields(self)
        )

    def section(self, name: str, variable: str, parse: Callable[[str], T], default: T) -> T:
        """A job's own setting, `TOOLKIT_<name>_<variable>`; raises SettingError when it does not parse."""
        key = f"TOOLKIT_{name}_{variable}"
        text = self.sections.get(key, "")
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise SettingError(f"{key}={text!r} cannot be used", remedy=str(error)) from error

    def unread(self, readers: Iterable[Callable[[Settings], object]]) -> dict[str, str]:
        """Variables that neither the toolkit nor any of the jobs' `readers` asks for, though their name is near to one that is:
        the variable and the one that was meant. Raises SettingError for a job's setting that cannot be used."""
        noting = _Noting(self.sections)
        asking = dataclasses.replace(self, sections=noting)
        for read in readers:
            read(asking)
        known = noting.asked | {item.metadata.get("variable", "") for item in dataclasses.fields(self)}
        return {
            variable: near[0]
            for variable in sorted(self.sections.keys() - known)
            if (near := get_close_matches(variable, known, n=1, cutoff=0.9))
        }

    def for_child(self, *, database_url: str, redis_url: str) -> dict[str, str]:
        """The environment of a worker process: this one's, with the servers that were found."""
        return dict(os.environ) | {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "TOOLKIT_RELEASE": self.release,
            "PYTHONUNBUFFERED": "1",
        }

    def describe(self) -> list[dict[str, str]]:
        """What is in force: variable, value (secrets masked), source (`environment` or `default`), meaning."""
        rows: list[dict[str, str]] = []
        for item in dataclasses.fields(self):
            variable = item.metadata.get("variable")
            if variable is None:
                continue
            value = getattr(self, item.name)
            shown = "" if value is None else ", ".join(value) if isinstance(value, tuple) else str(value)
            rows.append(
                {
                    "variable": variable,
                    "value": masked(shown) if item.metadata["secret"] else redact.text(shown),
                    "source": "environment" if variable in self.given else "default",
                    "meaning": item.metadata["meaning"],
                }
            )
        for variable, value in sorted(self.sections.items()):
            shown = redact.MASK if redact.secret_key(variable) else redact.text(value)
            row = {
                "variable": variable,
                "value": shown,
                "source": "environment",
                "meaning": "a job's own setting",
            }
            rows.append(row)
        return rows


def masked(text: str) -> str:
    """A secret setting as it may be shown: a URL without its password, anything else hidden whole. The password ends at the
    last @: one that was not percent-encoded may have more of them, slashes and spaces."""
    return redact.text(_PASSWORD.sub(r"\1:***@", text)) if "://" in text else "***" if text else text
