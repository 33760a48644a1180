"""The detectors that are in use, as the settings say: the ledger always, the others where there is something to ask.

    TOOLKIT_VERIFY_METRICS    supervisors' /metrics; unset: this host's, if something listens there
    TOOLKIT_PROMETHEUS_URL    a Prometheus; unset: none
    TOOLKIT_VERIFY_LOGS       log files; unset: the embedded PostgreSQL's, where that is used

A source that was named and does not answer is in use, and does not answer: it never drops out by itself.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from toolkit.ledger.database import Database
from toolkit.settings import Settings
from toolkit.verify.adapters.counters import Counters
from toolkit.verify.adapters.ledger import Ledger
from toolkit.verify.adapters.logs import LogFile
from toolkit.verify.adapters.prometheus import Prometheus, PrometheusDetector
from toolkit.verify.detect import Detector

_KNOCK: Final = 0.5
"""Seconds to wait for whoever listens on this host."""


def detectors(
    settings: Settings,
    database: Database,
    *,
    constraints: frozenset[str] = frozenset(),
    server_log: Path | None = None,
    fresh: float = 60.0,
) -> list[Detector]:
    """`constraints`: those that the verified job may violate; `server_log`: the embedded PostgreSQL's; `fresh`: Rules.fresh."""
    found: list[Detector] = [Ledger(database)]
    if urls := settings.verify_metrics or _own_metrics(settings):
        found.append(Counters(tuple(urls), database))
    if settings.prometheus_url:
        server = Prometheus(settings.prometheus_url, settings.prometheus_token)
        found.append(PrometheusDetector(server, fresh))
    if settings.verify_logs or server_log:
        found += [LogFile(path, f"log {path}", constraints) for path in settings.verify_logs]
        if server_log and not settings.verify_logs:
            found.append(LogFile(str(server_log), "server log", constraints))
    return found


def _own_metrics(settings: Settings) -> tuple[str, ...]:
    """This host's /metrics, if anybody listens there."""
    if not (url := settings.metrics_url):
        return ()
    there = urlsplit(url)
    try:
        socket.create_connection((there.hostname, there.port), _KNOCK).close()
    except OSError:
        return ()
    return (url,)
