"""The wire: what matters is not lost while the supervisor lives, spans never wait, and losses are counted."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.run import Failure, Mode, Outcome, Run, RunRecord, Sample
from toolkit.telemetry.wire import (
    Began,
    Dropped,
    Ended,
    Message,
    Ready,
    Receiver,
    Sender,
    Spans,
    socketpair,
)

NOW = datetime(2025, 10, 11, 17, 5, 6, 789, tzinfo=UTC)
RUN = Run(
    run_id="r1", fence=1, job_id="j1", job_name="job", queue="images", number=1, mode=Mode.ASYNC, release="1",
    asked_at=NOW, started_at=NOW, queue_wait=0.1,
)  # fmt: skip
RECORD = RunRecord(
    run_id="r1", job_id="j1", job_name="job", queue="images", number=1, mode=Mode.ASYNC, release="1",
    worker="w", host="h", outcome=Outcome.FAILED, reason="integrity", counts={"attached": 3},
    samples=(Sample("m", ("a", "b"), 0.5),),
    failure=Failure(reason="integrity", error_type="E", sqlstate="23503"),
    asked_at=NOW, started_at=NOW, finished_at=NOW, duration=0.2, queue_wait=0.1, trace_id="4" * 32,
    retry_in=5.0,
)  # fmt: skip
WITHIN = 10.0


class Clock:
    """Time that stands still until a sender has waited."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.3
        return self.now


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socketpair()
    with ours, theirs:
        yield ours, theirs


def collect(receiver: Receiver, until: int) -> list[Message]:
    found: list[Message] = []
    while len(found) < until and not receiver.eof:
        ready, _, _ = select.select([receiver], [], [], WITHIN)
        assert ready, f"nothing came within {WITHIN} s; so far {len(found)} of {until}"
        found += receiver.read()
    return found


def fill(sender: Sender) -> int:
    """Send spans until one is dropped; how many went, the last of them perhaps only in part."""
    sent = 0
    while not sender._lost:
        sender.spans("t", "j", "r", b"x" * 50_000, 12)
        sent += 1
    return sent - 1


def test_messages_arrive_as_they_were_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = Sender(pair[1]), Receiver(pair[0])
    sender.ready(7)
    sender.began(RUN, 60.0, "4" * 32)
    sender.ended(RECORD)
    sender.spans("4" * 32, "j1", "r1", b"\x00\xff", 12)
    sender.spans("4" * 32, "j1", "r1", b"", 0)
    assert collect(receiver, 4) == [
        Ready(7), Began("r1", "j1", "job", 60.0, "4" * 32), Ended(RECORD),
        Spans("4" * 32, "j1", "r1", b"\x00\xff", 12),
    ]  # fmt: skip
    assert receiver.read() == []


def test_the_end_of_the_worker_is_seen_after_its_last_message(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = Sender(pair[1]), Receiver(pair[0])
    sender.ended(RECORD)
    sender.close()
    assert collect(receiver, 1) == [Ended(RECORD)]
    while not receiver.eof:
        assert receiver.read() == []


def test_a_message_torn_by_a_kill_is_no_message(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = Sender(pair[1]), Receiver(pair[0])
    frame = sender._frame(Ended(RECORD))
    pair[1].send(frame + frame[:-1])
    pair[1].close()
    assert collect(receiver, 2) == [Ended(RECORD)]
    assert receiver.eof


@given(st.lists(st.integers(1, 400), max_size=20))
def test_frames_may_come_in_any_pieces(cuts: list[int]) -> None:
    ours, theirs = socketpair()
    with ours, theirs:
        sender, receiver = Sender(theirs), Receiver(ours)
        sent: list[Message] = [Ready(1), Ended(RECORD), Spans("t", "j", "r", b"x" * 300, 3), Ready(2)]
        data = b"".join(sender._frame(message) for message in sent)
        found: list[Message] = []
        for cut in cuts:
            found += receiver.feed(data[:cut])
            data = data[cut:]
        assert found + receiver.feed(data) == sent


def test_spans_never_wait_and_their_loss_is_told_with_the_next_message(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = Sender(pair[1], clock=Clock()), Receiver(pair[0])
    sent = fill(sender)
    sender.spans("t", "j", "r", b"x" * 50_000, 12)
    assert sender._lost == {("spans", "socket_full"): 24}
    got = collect(receiver, sent - 1)
    sender.ended(RECORD)
    got += collect(receiver, sent + 2 - len(got))
    assert [type(message) for message in got[:sent]] == [Spans] * sent
    assert got[sent:] == [Dropped("spans", "socket_full", 24), Ended(RECORD)]
    assert sender._lost == {}


def test_a_record_waits_for_a_supervisor_that_is_slow(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = Sender(pair[1], patience=WITHIN), Receiver(pair[0])
    sent = fill(sender)
    ending = threading.Thread(target=sender.ended, args=(RECORD,))
    ending.start()
    assert collect(receiver, sent + 2)[-1] == Ended(RECORD)
    ending.join(WITHIN)
    assert not ending.is_alive()


def test_a_record_is_given_up_and_counted_when_the_supervisor_never_reads(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = Sender(pair[1], patience=0.01), Receiver(pair[0])
    sent = fill(sender)
    for _ in range(3):
        sender.ended(RECORD)
    assert sender._lost["records", "socket_full"] == 3
    got = collect(receiver, sent - 1)
    sender.ready(1)
    got += collect(receiver, sent + 3 - len(got))
    assert got[sent:] == [Dropped("spans", "socket_full", 12), Dropped("records", "socket_full", 3), Ready(1)]


def test_a_frame_that_was_begun_is_completed_before_anything_else(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    sender, receiver = Sender(pair[1]), Receiver(pair[0])
    large = b"x" * 3_000_000
    sender.spans("t", "j", "r", large, 9)
    assert sender._tail, "larger than any send buffer here"
    sender.spans("t", "j", "r", b"dropped", 5)
    ending = threading.Thread(target=sender.ended, args=(RECORD,))
    ending.start()
    assert collect(receiver, 3) == [
        Spans("t", "j", "r", large, 9),
        Dropped("spans", "socket_full", 5),
        Ended(RECORD),
    ]
    ending.join(WITHIN)


def test_a_supervisor_that_is_gone_fails_nothing(pair: tuple[socket.socket, socket.socket]) -> None:
    sender = Sender(pair[1])
    pair[0].close()
    sender.ended(RECORD)
    sender.ended(RECORD)
    sender.spans("t", "j", "r", b"x", 4)
    assert sender._lost == {("records", "socket_closed"): 2, ("spans", "socket_closed"): 4}


def test_drops_of_the_span_buffer_travel_along(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = Sender(pair[1]), Receiver(pair[0])
    sender.dropped("spans", "buffer_full", 3)
    sender.dropped("spans", "buffer_full", 0)
    sender.ready(1)
    assert collect(receiver, 2) == [Dropped("spans", "buffer_full", 3), Ready(1)]


@pytest.mark.parametrize(
    "payload", [b"\xc1", msgspec.msgpack.encode([99, "x"]), msgspec.msgpack.encode({"a": 1}), b""]
)
def test_a_frame_that_cannot_be_understood_is_counted_and_the_next_one_read(payload: bytes) -> None:
    ours, theirs = socketpair()
    with ours, theirs:
        sender, receiver = Sender(theirs), Receiver(ours)
        found = receiver.feed(struct.pack("<I", len(payload)) + payload + sender._frame(Ready(1)))
    assert found == [Dropped("records", "malformed", 1), Ready(1)]


def test_a_length_beyond_belief_ends_the_stream(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver = Receiver(pair[0])
    assert receiver.feed(b"\xff\xff\xff\xff" + b"x" * 10) == [Dropped("records", "malformed", 1)]
    assert receiver.eof


def test_threads_do_not_mix_their_frames(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = Sender(pair[1], patience=WITHIN), Receiver(pair[0])
    threads = [threading.Thread(target=lambda: [sender.ended(RECORD) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert collect(receiver, 800) == [Ended(RECORD)] * 800
    for thread in threads:
        thread.join(WITHIN)
