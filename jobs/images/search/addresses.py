"""Connections to public addresses only, each within its thread's deadline: the network backend under the HTTP client.

Product URLs come from outside, so a host may resolve to the database's network. Checking a name first and connecting
later asks the resolver twice and can be answered twice (DNS rebinding); here the address that was checked is the address
that is connected to, for redirects and images too. The deadline is held here as well, because only here every read, also
of headers that drip in byte by byte, goes through one place.

Known weakness: a resolver that hangs keeps its (daemon) thread until the system gives up; the caller does not wait for it.
"""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore

from jobs.images.search.protocol import SearchOutcome, TransientKind, Unusable
from toolkit.errors import TransientError

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_NO_SUCH_HOST = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}

Clock = Callable[[], float]


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, also when IPv6 wraps an IPv4 one (mapped, NAT64, 6to4, Teredo)."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        return ip.is_global and not ip.is_multicast
    if ip.ipv4_mapped is not None:
        return is_public(str(ip.ipv4_mapped))
    if ip in _NAT64:
        return is_public(str(IPv4Address(int(ip) & 0xFFFFFFFF)))
    if (
        ip.sixtofour is not None
    ):  # whether such an address itself counts as global differs between Python's releases
        return is_public(str(ip.sixtofour))
    return ip in _GLOBAL_UNICAST and ip.is_global and all(is_public(str(one)) for one in ip.teredo or ())


class Deadline:
    """The time by which everything that a thread does must be done. Nested deadlines can only be earlier."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._at: ContextVar[float] = ContextVar("deadline", default=float("inf"))

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Everything inside ends in `seconds`, or with a timeout."""
        token = self._at.set(min(self._at.get(), self._clock() + seconds))
        try:
            yield
        finally:
            self._at.reset(token)

    def left(self) -> float:
        """Seconds left; infinite outside `within`, 0 or less when it is over."""
        return self._at.get() - self._clock()

    def clamp(self, timeout: float | None, over: type[Exception]) -> float | None:
        """`timeout` or what is left, whichever is less. Raises `over` when nothing is left."""
        left = self.left()
        if left <= 0:
            raise over("the deadline of the search is over")
        if left == float("inf"):
            return timeout
        return left if timeout is None else min(timeout, left)


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to addresses that pass `allowed`, and to none other."""

    def __init__(self, deadline: Deadline, allowed: Callable[[str], bool]) -> None:
        self._deadline = deadline
        self._allowed = allowed
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve, refuse, connect; the allowed addresses are tried in the resolver's order."""
        found = _resolve(host, port, self._deadline.clamp(timeout, httpcore.ConnectTimeout))
        addresses = [one for one in found if self._allowed(one)]
        if not addresses:
            raise Unusable(f"{host} has no public address", SearchOutcome.REFUSED_ADDRESS)
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in addresses:
            left = self._deadline.clamp(timeout, httpcore.ConnectTimeout)
            try:
                stream = self._plain.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self._deadline)
        raise failure


class _Stream(httpcore.NetworkStream):
    """A connection whose every wait is clamped to the deadline of the thread that uses it just now."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.clamp(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._deadline.clamp(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.clamp(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _resolve(host: str, port: int, timeout: float | None) -> list[str]:
    """The host's addresses. getaddrinfo knows no timeout, so it runs beside, and is left behind when it is late."""
    answer: queue.SimpleQueue[list[str] | OSError | UnicodeError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            answer.put(error)
        else:
            answer.put(list(dict.fromkeys(str(row[4][0]) for row in rows)))

    try:
        return [str(_literal(host))]
    except ValueError:
        threading.Thread(target=ask, name="resolve", daemon=True).start()
    try:
        told = answer.get(timeout=timeout)
    except queue.Empty:
        raise TransientError(f"the resolver is silent about {host}", kind=TransientKind.DNS) from None
    if isinstance(told, list):
        return told
    if isinstance(told, socket.gaierror) and told.errno not in _NO_SUCH_HOST:
        raise TransientError(f"{host} could not be resolved: {told}", kind=TransientKind.DNS) from told
    if isinstance(told, socket.gaierror | UnicodeError):
        raise Unusable(f"there is no host {host}", SearchOutcome.NOT_FOUND) from told
    raise TransientError(f"{host} could not be resolved: {told}", kind=TransientKind.DNS) from told


def _literal(host: str) -> IPv4Address | IPv6Address:
    return ip_address(host.strip("[]"))
