"""Logs: JSON lines in a pipe, readable ones on a terminal, no secret, no exception twice, never a failure."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from toolkit.jobspec import LogEvent
from toolkit.telemetry import catalog
from toolkit.telemetry.catalog import emit
from toolkit.telemetry.logs import configure, get_logger
from toolkit.telemetry.traces import Tracing

AT = datetime(2025, 10, 11, 17, 5, 6, 789, tzinfo=UTC)
SEARCHING = LogEvent("image.searching", "🔍 [{n}/{total}] Searching images for: {product}")
SAVED = LogEvent("image.saved", "   💾 Saved {count} images to database")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers = list(root.handlers)
    yield
    root.handlers[:] = handlers
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def pipe(**options: Any) -> io.StringIO:
    stream = io.StringIO()
    configure(stream=stream, release="1.2.3", now=lambda: AT, **options)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_pipe_gets_one_json_line_an_event_with_its_keys_at_the_top() -> None:
    stream = pipe()
    log = get_logger(worker="w1").bind(job_id="j1", job_name="background-image-processing", queue="images")
    with Tracing("s", "1").tracer.start_as_current_span("perform") as span:
        emit(log, SEARCHING, n=1, total=5, product="Mug\nred 🖼️")
    (line,) = lines(stream)
    context = span.get_span_context()
    assert line == {
        "timestamp": "2025-10-11T17:05:06.000789Z", "level": "info", "event": "image.searching",
        "release": "1.2.3", "trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}",
        "trace_flags": "03", "worker": "w1", "job_id": "j1", "job_name": "background-image-processing",
        "queue": "images", "n": 1, "total": 5, "product": "Mug\nred 🖼️",
    }  # fmt: skip


def test_outside_of_a_span_there_are_no_ids() -> None:
    stream = pipe()
    emit(get_logger(), SAVED, count=3)
    assert "trace_id" not in lines(stream)[0]


def test_a_terminal_gets_the_reports_lines() -> None:
    stream = Terminal()
    configure(stream=stream, release="1", colour=False, now=lambda: AT)
    log = get_logger().bind(job_id="0a1b2c3d-0000-4000-8000-9f8e7d6c5b4a")
    emit(log, SEARCHING, n=1, total=5, product="Product Name")
    emit(log, SAVED, count=3)
    shown = [line[9:] for line in stream.getvalue().splitlines()]
    assert shown == [
        "7d6c5b4a 🔍 [1/5] Searching images for: Product Name",
        "7d6c5b4a    💾 Saved 3 images to database",
    ]


def test_colours_are_for_terminals_only_and_can_be_refused() -> None:
    def shown(stream: io.StringIO, **options: Any) -> str:
        configure(stream=stream, release="1", style="console", **options)
        get_logger().error("something")
        return stream.getvalue()

    assert "\x1b[31m" in shown(Terminal())
    assert "\x1b" not in shown(Terminal(), colour=False)
    assert "\x1b" not in shown(io.StringIO())


def test_a_line_with_a_missing_or_wrong_field_is_still_told() -> None:
    stream = Terminal()
    configure(stream=stream, release="1", colour=False)
    emit(get_logger(), SEARCHING, n=1)
    emit(get_logger(), catalog.RUN_PROCESSED, job_name="x", duration="long")
    first, second = stream.getvalue().splitlines()
    assert "[1/?] Searching images for: ?" in first
    assert "run.processed duration=long" in second


KEYS = (
    "password", "DB_PASSWORD", "clientSecret", "access_token", "Authorization", "Set-Cookie", "api_key",
    "apiKey", "dsn",
)  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_values_of_secret_keys_are_masked_however_deep(key: str) -> None:
    stream = pipe()
    get_logger().info("e", **{key: "hunter2"}, deep={"list": [{key: "hunter2"}]})
    assert "hunter2" not in stream.getvalue()
    assert lines(stream)[0]["deep"]["list"][0][key] == "***"


TEXTS = (
    "postgresql://user:hunter2@host/db", "redis://:hunter2@host",
    "password=hunter2 host=x",
    "https://x.example/p?token=hunter2&a=1",
    "Authorization: Bearer hunter2hunter2", '{"api_key": "hunter2"}',
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_credentials_inside_of_texts_are_masked(text: str) -> None:
    stream = pipe()
    get_logger().info("e", about=text, more=[text])
    assert "hunter2" not in stream.getvalue()


def test_what_is_no_secret_stays() -> None:
    stream = pipe()
    texts = [
        "https://cdn.example/img@2x.png?w=10",
        "ratio=1.5",
        "http://127.0.0.1:80/a",
        "17:05:00",
        "a@b.example",
    ]
    get_logger().info("e", texts=texts, job_id="j", run_id="r")
    assert lines(stream)[0]["texts"] == texts


@dataclass
class Connection:
    host: str
    password: str


def test_objects_are_told_as_data_and_masked_too() -> None:
    stream = pipe()
    get_logger().info(
        "e", at=AT, connection=Connection("h", "hunter2"), odd=object(), ids={1}, number=float("nan")
    )
    (line,) = lines(stream)
    assert line["connection"] == {"host": "h", "password": "***"}
    assert line["at"].startswith("2025-10-11T17:05:06")
    assert line["ids"] == [1]
    assert line["number"] is None


def test_text_that_is_no_unicode_is_told_all_the_same() -> None:
    stream = pipe()
    get_logger().info("e", text="\ud800")
    assert lines(stream)[0]["event"] == "e"


def fail() -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        raise RuntimeError("password=hunter2") from error


def test_an_exception_is_structured_and_told_once() -> None:
    stream = pipe()
    log = get_logger()
    try:
        fail()
    except RuntimeError as error:
        log.error("first", exc_info=error)  # noqa: TRY400  structlog, not logging
        log.error("second", exc_info=True)
        logging.getLogger("rq.worker").exception("third")
    first, second = lines(stream)
    assert first["exception"]["type"] == "RuntimeError"
    assert first["exception"]["frames"][-1]["function"] == "fail"
    assert first["exception"]["cause"]["type"] == "KeyError"
    assert "frames" not in second["exception"]
    assert "hunter2" not in stream.getvalue()


def test_a_terminal_shows_the_traceback_once() -> None:
    stream = Terminal()
    configure(stream=stream, release="1", colour=False)
    try:
        fail()
    except RuntimeError as error:
        get_logger().error("first", exc_info=error)
        get_logger().error("second", exc_info=error)
    assert stream.getvalue().count("Traceback (most recent call last)") == 2, "the cause's and its own"
    assert stream.getvalue().count("in fail") == 2


def test_other_libraries_warnings_join_the_stream_with_the_jobs_ids() -> None:
    stream = pipe()
    with structlog.contextvars.bound_contextvars(job_id="j1"):
        logging.getLogger("rq.worker").warning("redis://u:hunter2@h: %s", "gone")
    logging.getLogger("rq.worker").info("not told")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("log.message", "rq.worker", "warning")
    assert line["message"] == "redis://u:***@h: gone"
    assert line["job_id"] == "j1"


def test_configuring_twice_does_not_tell_twice() -> None:
    pipe()
    stream = pipe()
    logging.getLogger("rq").warning("x")
    assert len(lines(stream)) == 1


def test_debug_is_silent_unless_asked_for() -> None:
    stream = pipe()
    emit(get_logger(), catalog.RUN_STARTED, job_name="x", number=1)
    assert stream.getvalue() == ""
    stream = pipe(level=logging.DEBUG)
    emit(get_logger(), catalog.RUN_STARTED, job_name="x", number=1)
    assert lines(stream)[0]["event"] == "run.started"


def test_a_reader_that_went_away_never_fails_the_job() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        configure(stream=stream, release="1")
        emit(get_logger(), SAVED, count=3)


def test_lines_go_straight_to_the_descriptor() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, os.fdopen(reader) as received:
        configure(stream=stream, release="1")
        emit(get_logger(), SAVED, count=3)
        assert json.loads(received.readline())["count"] == 3
