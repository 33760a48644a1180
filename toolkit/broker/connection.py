"""The way to Redis or Valkey: redis://, rediss://, unix://, and Sentinel as redis+sentinel://host:port,host:port/service/db.

Every call that can fail because the broker is away raises redis.exceptions.ConnectionError or TimeoutError; BROKER_AWAY
names them for callers that can wait. A broker that hangs counts as away after ANSWER_WITHIN (5 s), asked twice; before
anything is begun, `check` tells so after CHECK_WITHIN (1.5 s).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from toolkit.errors import DependencyUnreachable, SettingError
from toolkit.settings import masked

BROKER_AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
)
"""The broker is stopped, restarting, loading, out of reach, being failed over, or full."""

BROKER_TROUBLE = redis.exceptions.RedisError
"""All that the broker, or the way to it, may answer instead: also "out of memory" and "read only"."""

ANSWER_WITHIN = 5.0
"""Seconds for each answer of a broker that has accepted the connection, and once more. (RQ's workers set their own.)"""

CHECK_WITHIN = 1.5
"""Seconds for each step of a `check`: somebody waits for it."""

_SENTINEL = "redis+sentinel"


def connect(url: str, *, within: float = ANSWER_WITHIN, retries: int = 1) -> redis.Redis:
    """A client with a pool; it connects on first use. Raises SettingError for a URL that cannot be read."""
    options: dict[str, Any] = {
        "socket_connect_timeout": within,
        "socket_timeout": within,
        "retry": Retry(NoBackoff(), retries),
    }
    try:
        if urlsplit(url).scheme == _SENTINEL:
            return _through_sentinel(url, options)
        return redis.Redis.from_url(url, **options)
    except (
        ValueError,
        IndexError,
    ):  # neither is told: they quote what they take for the port, the tail of a password
        raise SettingError(
            f"REDIS_URL {masked(url)!r} cannot be read",
            remedy="set it to redis://host:6379/0 or redis+sentinel://host:26379,host:26379/service/0;"
            " write special characters of a password percent-encoded: @ as %40, / as %2F",
        ) from None


def check(url: str) -> None:
    """Raise DependencyUnreachable unless the broker answers a PING, SettingError for a URL that cannot be read."""
    try:
        with connect(url, within=CHECK_WITHIN, retries=0) as client:
            client.ping()
    except (*BROKER_AWAY, redis.exceptions.RedisError) as error:
        raise DependencyUnreachable(
            f"the broker at {masked(url)} does not answer: {error}",
            remedy="check REDIS_URL, or `toolkit up` for the embedded servers",
        ) from error


def _through_sentinel(url: str, options: dict[str, Any]) -> redis.Redis:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    nodes = [
        (host, int(port or 26379)) for host, _, port in (node.rpartition(":") for node in hosts.split(","))
    ]
    service, _, db = parts.path.strip("/").partition("/")
    if not service:
        raise ValueError("the path must name the Sentinel service")
    user, _, password = credentials.partition(":")
    login = {"username": unquote(user) or None, "password": unquote(password) or None} if credentials else {}
    sentinel = Sentinel(nodes, **options)  # type: ignore[no-untyped-call]
    client: redis.Redis = sentinel.master_for(service, db=int(db or 0), **options, **login)  # type: ignore[no-untyped-call]
    return client
