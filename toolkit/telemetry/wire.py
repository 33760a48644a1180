"""The socket pair between a worker process and its supervisor: messages, their sender, their receiver.

    ours, theirs = socketpair()                    # before the fork sender = Sender(theirs)
    # in the worker; a Sink receiver = Receiver(ours)                      # in the supervisor: select on it,
    then `for message in receiver.read()`

A byte stream of frames (4 bytes of length, little-endian, then msgpack), not SOCK_SEQPACKET: macOS has none,
and its messages may not be larger than the send buffer (about 200 KB), which the spans of a large job are.

`began` and `ended` wait at most PATIENCE (1 s) for a supervisor that does not read; `spans` never waits. What
is not sent is counted and reported with the next message that is (telemetry_dropped_total). A frame that was
begun is always completed first, so that the stream stays readable. Known weakness: what a killed worker had
not sent is gone."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable

import msgspec

from toolkit.run import Run, RunRecord

PATIENCE = 1.0
"""Seconds that a sender waits for room, for messages that matter."""
MAX_FRAME = 64 * 1024 * 1024
"""Bytes of one message; a longer one means that the stream is broken."""
SEND_BUFFER = 1024 * 1024
"""Bytes asked of the kernel for messages on their way; Linux grants about 200 KB unless net.core.wmem_max is
raised.
"""
_READ = 256 * 1024
_LENGTH = struct.Struct("<I")


class Ready(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The worker process is up."""

    pid: int


class Began(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A run holds its job; past `timeout` seconds its process may be killed."""

    run_id: str
    job_id: str
    job_name: str
    timeout: float
    trace_id: str


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A run ended."""

    record: RunRecord


class Spans(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Finished spans: an OTLP ExportTraceServiceRequest, and how many spans are in it."""

    trace_id: str
    job_id: str
    run_id: str
    data: bytes
    count: int


class Dropped(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Telemetry that was lost on the way: signal and reason as in the catalog."""

    signal: str
    reason: str
    count: int


Message = Ready | Began | Ended | Spans | Dropped


def socketpair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, the supervisor's and the worker's. Both close on exec."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return ours, theirs


class Sender:
    """The worker's end. Safe to use from many threads."""

    uncounted = False

    def __init__(
        self, sock: socket.socket, *, patience: float = PATIENCE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._patience = patience
        self._clock = clock
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Lock()
        self._tail = memoryview(b"")  # what is left of a frame that was begun
        self._lost: dict[tuple[str, str], int] = {}
        self._closed = False

    def ready(self, pid: int) -> None:
        """The worker process is up."""
        self._send(Ready(pid), "records", 1)

    def began(self, run: Run, timeout: float, trace_id: str) -> None:
        """A run holds its job now."""
        self._send(Began(run.run_id, run.job_id, run.job_name, timeout, trace_id), "records", 1)

    def ended(self, ended: RunRecord) -> None:
        """A run ended."""
        self._send(Ended(ended), "records", 1)

    def spans(self, trace_id: str, job_id: str, run_id: str, data: bytes, count: int) -> None:
        """Finished spans; dropped when there is no room right now."""
        if data:
            self._send(Spans(trace_id, job_id, run_id, data, count), "spans", count, waits=False)

    def dropped(self, signal: str, reason: str, count: int = 1) -> None:
        """Count telemetry that was lost before it came here; told with the next message."""
        if count:
            with self._lock:
                self._count(signal, reason, count)

    def close(self) -> None:
        """Complete what was begun, then close this end; the supervisor sees the end of the stream."""
        with self._lock:
            self._flush(self._clock() + self._patience)
            self._closed = True
            self._sock.close()

    def _send(self, message: Message, signal: str, count: int, *, waits: bool = True) -> None:
        with self._lock:
            deadline = self._clock() + self._patience if waits else 0.0
            if not self._flush(deadline):
                self._count(signal, "socket_closed" if self._closed else "socket_full", count)
                return
            lost, self._lost = self._lost, {}
            frames = [self._frame(Dropped(*what, n)) for what, n in lost.items()]
            told = self._start(b"".join([*frames, self._frame(message)]), deadline)
            if not told:
                self._lost = lost
                self._count(signal, "socket_closed" if self._closed else "socket_full", count)

    def _frame(self, message: Message) -> bytes:
        buffer = bytearray(4)
        self._encoder.encode_into(message, buffer, 4)
        _LENGTH.pack_into(buffer, 0, len(buffer) - 4)
        return bytes(buffer)

    def _start(self, data: bytes, deadline: float) -> bool:
        """Send these frames, or nothing of them. Once begun they count as sent: the rest follows first of
        all.
        """
        self._tail = memoryview(data)
        if self._flush(deadline):
            return True
        begun = len(self._tail) < len(data) and not self._closed
        if not begun:
            self._tail = memoryview(b"")
        return begun

    def _flush(self, deadline: float) -> bool:
        """Send what is left over. True when nothing is; False when there is no room by then, or no reader."""
        while self._tail and not self._closed:
            try:
                self._tail = self._tail[self._sock.send(self._tail) :]
            except BlockingIOError:
                remaining = deadline - self._clock()
                if remaining <= 0 or not _writable(self._sock, remaining):
                    return False
            except OSError:
                self._closed = True
        return not self._closed

    def _count(self, signal: str, reason: str, count: int) -> None:
        self._lost[signal, reason] = self._lost.get((signal, reason), 0) + count


def _writable(sock: socket.socket, timeout: float) -> bool:
    poll = select.poll()  # not select(): descriptors may be above 1023
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(timeout * 1000))


class Receiver:
    """The supervisor's end. `eof` turns true when the worker has closed its own or is gone."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._decoder = msgspec.msgpack.Decoder(Message)
        self._buffer = bytearray()
        self.eof = False

    def fileno(self) -> int:
        """For select, poll and selectors."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close this end."""
        self._sock.close()

    def read(self) -> list[Message]:
        """The complete messages that have come, without waiting; [] when there are none."""
        while not self.eof:
            try:
                data = self._sock.recv(_READ)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.eof = True
            self._buffer += data
            if len(data) < _READ:
                break  # whatever comes meanwhile is reported by the next select
        return self._messages()

    def feed(self, data: bytes) -> list[Message]:
        """Add bytes that came otherwise; the messages that are complete now."""
        self._buffer += data
        return self._messages()

    def _messages(self) -> list[Message]:
        found: list[Message] = []
        at, end = 0, len(self._buffer)
        with memoryview(self._buffer) as view:
            while end - at >= 4:
                (size,) = _LENGTH.unpack_from(view, at)
                if size > MAX_FRAME:
                    found.append(Dropped("records", "malformed", 1))
                    self.eof = True  # nothing after this can be understood
                    at = end
                    break
                if end - at - 4 < size:
                    break
                found.append(self._decode(view[at + 4 : at + 4 + size]))
                at += 4 + size
        del self._buffer[:at]
        return found

    def _decode(self, frame: memoryview) -> Message:
        try:
            message: Message = self._decoder.decode(frame)
        except msgspec.MsgspecError:
            return Dropped("records", "malformed", 1)
        return message
