"""The real cause of each alert, and what ends it outside of the toolkit (a release is rolled back, a shop comes back).

`start`: how the worker is started; `prepare`: a healthy state before the clock starts; `cause`: what goes wrong; `relieve`:
runs after the first block of the runbook's mitigation.
"""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import psutil

from scripts.drilling.receiver import until
from scripts.drilling.stack import ROOT, Stack

Step = Callable[[Stack], object]


def _nothing(_: Stack) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One drill."""

    cause: Step
    prepare: Step = _nothing
    relieve: Step = _nothing
    environ: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 60.0
    """How long the page may take, in drill seconds."""


# Correctness


def _draft_goes_while_searched(stack: Stack) -> None:
    with stack.shop.hold("MUG-01") as held:
        drafts = stack.order()
        until(held.reached.is_set, within=60, what="the search")
        stack.execute('DELETE FROM "ProductDraft" WHERE id = %s', drafts["MUG-01"])


def _fixed_release(stack: Stack) -> None:
    stack.stop_worker()
    stack.start_worker()


def _cleaner(stack: Stack) -> None:
    stack.traffic(lambda _: stack.order(delete=True), 0.3)


def _good_orders(stack: Stack, count: int = 12) -> None:
    stack.calm()
    for _ in range(count):
        stack.order()


def _redesign(stack: Stack) -> None:
    """The shop's pages are all there, and name no images any more."""
    products = stack.shop.products
    stack.shop.products = {
        sku: dataclasses.replace(product, shape="no_image", images=0) for sku, product in products.items()
    }
    stack.traffic(lambda _: stack.order(tuple(products)), 0.5)


def _design_back(stack: Stack) -> None:
    stack.calm()
    stack.shop.products = {sku: dataclasses.replace(product, shape="json_ld", images=2, ending="jpg")
                           for sku, product in stack.shop.products.items()}  # fmt: skip


def _some_runs(stack: Stack) -> None:
    for _ in range(6):
        stack.order()
    until(lambda: stack.value("job_runs_total", outcome="processed") >= 6, within=20, what="six runs")


def _ledger_cleaned(stack: Stack) -> None:
    stack.execute("DELETE FROM toolkit.intent WHERE done_at IS NOT NULL")


# Budget


def _shop_on_fire(stack: Stack) -> None:
    stack.shop.fail("500")
    stack.traffic(lambda _: stack.order(), 0.5)


def _shop_back(stack: Stack) -> None:
    stack.calm()
    stack.shop.heal()


def _bad_column(stack: Stack) -> None:
    """A migration of the shop's forbids what the images of one product are."""
    stack.execute(
        "ALTER TABLE \"ProductImage\" ADD CONSTRAINT no_boards CHECK (url NOT LIKE '%BOARD%') NOT VALID"
    )


def _one_in_twelve(stack: Stack) -> None:
    _bad_column(stack)
    stack.traffic(lambda number: stack.order(("BOARD-04",) if number % 11 == 0 else ("MUG-01",)), 0.12)


def _column_back(stack: Stack) -> None:
    stack.calm()
    stack.execute('ALTER TABLE "ProductImage" DROP CONSTRAINT no_boards')


# Progress


def _freeze(stack: Stack) -> None:
    for worker in stack.workers():
        worker.send_signal(signal.SIGSTOP)
    for _ in range(3):
        stack.order()


def _wave(stack: Stack) -> None:
    stack.orders(250)


def _three_deaths(stack: Stack) -> None:
    """A job that costs three workers their lives, one after the other, while it searches."""
    with stack.shop.hold("MUG-01"):
        stack.order()
        for deaths in range(3):
            until(lambda: _searching(stack), within=60, what="a search")[0].kill()
            until(partial(_lost_more_than, stack, deaths), within=30, what="a lost run")


def _lost_more_than(stack: Stack, runs: int) -> bool:
    return stack.value("job_runs_total", outcome="lost") > runs


def _searching(stack: Stack) -> list[psutil.Process]:
    """The worker processes that have a connection to the shop."""
    port = int(stack.shop.url.rpartition(":")[2])
    return [
        worker
        for worker in stack.workers()
        if worker.is_running()
        and any(one.raddr and one.raddr.port == port for one in worker.net_connections("tcp"))
    ]


def _supervisor_killed(stack: Stack) -> None:
    stack.supervisors[0].kill()


def _broker_killed(stack: Stack) -> None:
    psutil.Process(stack.found.valkey.pid).kill()
    stack.order()


def _one_bad_order(stack: Stack) -> None:
    _bad_column(stack)
    stack.order(("BOARD-04",))


def _lease(stack: Stack) -> None:
    typed = [
        "toggle",
        "off",
        "ASYNC_IMAGE_PROCESSING",
        "--for",
        "2s",
        "--reason",
        "the shop's page is slow today",
    ]
    subprocess.run(
        [sys.executable, "-m", "toolkit.cli", *typed],
        cwd=ROOT, env=stack.environment, check=True, capture_output=True,
    )  # fmt: skip


# Itself


def _credentials_expire(stack: Stack) -> None:
    stack.collector.status = 401
    stack.traffic(lambda _: stack.order(), 0.4)


def _collector_takes_it(stack: Stack) -> None:
    stack.collector.status = 200


def _monitor_killed(stack: Stack) -> None:
    assert stack.monitor is not None
    stack.monitor.kill()
    stack.monitor.wait()


def _monitor_back(stack: Stack) -> None:
    stack.start_monitor()


SCENARIOS: Final[Mapping[str, Scenario]] = {
    "FailedBacklogUnresolved": Scenario(cause=_one_bad_order, relieve=_column_back, seconds=110),
    "ErrorBudgetBurnSlow": Scenario(cause=_one_in_twelve, relieve=_column_back, seconds=90),
    "NoSuccess": Scenario(cause=_shop_on_fire, relieve=_shop_back, seconds=90),
    "LedgerCountersDisagree": Scenario(prepare=_some_runs, cause=_ledger_cleaned),
    "SkipRatioHigh": Scenario(cause=_cleaner, relieve=_good_orders),
    "ImagesMissing": Scenario(cause=_redesign, relieve=_design_back),
    "TelemetryDropping": Scenario(cause=_credentials_expire, relieve=_collector_takes_it),
    "RunsLost": Scenario(cause=_three_deaths),
    "QueueWaitHigh": Scenario(
        cause=_wave, environ={"PROCESSES": "1", "TOOLKIT_IMAGES_SEARCH_CONCURRENCY": "1"}
    ),
    "ForeignKeyErrors": Scenario(
        cause=_draft_goes_while_searched,
        relieve=_fixed_release,
        environ={"TOOLKIT_JOBS": "scripts.drilling.incident:SPEC"},
    ),
    "ErrorBudgetBurnFast": Scenario(cause=_shop_on_fire, relieve=_shop_back),
    "QueueStuck": Scenario(cause=_freeze),
    "WorkersAbsent": Scenario(cause=_supervisor_killed),
    "IntentsNotPushed": Scenario(cause=_broker_killed),
    "ToggleLeaseOver": Scenario(cause=_lease),
    "Watchdog": Scenario(cause=_monitor_killed, relieve=_monitor_back),
}
"""By alert, the longest first, since several run side by side."""
