"""Whoever only looks goes by RQ's names without importing RQ: they must be RQ's own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from rq import Queue
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE
from rq.job import Job
from rq.registry import (
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.utils import utcformat, utcparse
from rq.worker import BaseWorker
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from toolkit.broker import keys


@pytest.mark.parametrize(
    ("ours", "rqs"),
    [
        (keys.QUEUE, f"{Queue.redis_queue_namespace_prefix}x"),
        (keys.JOB, Job.key_for("x")),
        (keys.STARTED, StartedJobRegistry.key_template.format("x")),
        (keys.SCHEDULED, ScheduledJobRegistry.key_template.format("x")),
        (keys.DEFERRED, DeferredJobRegistry.key_template.format("x")),
        (keys.FAILED, FailedJobRegistry.key_template.format("x")),
        (keys.FINISHED, FinishedJobRegistry.key_template.format("x")),
        (keys.WORKERS, WORKERS_BY_QUEUE_KEY % "x"),
        (f"{keys.WORKER}{{}}", f"{BaseWorker.redis_worker_namespace_prefix}x"),
        (keys.EXECUTIONS, WORKER_EXECUTIONS_KEY_TEMPLATE.format("x")),
    ],
)
def test_a_name_is_rqs_own(ours: str, rqs: str) -> None:
    assert ours.format("x") == rqs


@pytest.mark.parametrize(
    "text", [utcformat(datetime(2025, 10, 11, 17, 5, 0, 42, UTC)), "2025-10-11T17:05:00Z"]
)
def test_a_time_is_read_as_rq_reads_it(text: str) -> None:
    assert keys.moment(text) == utcparse(text)
