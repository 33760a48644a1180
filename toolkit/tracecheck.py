"""Do metric, spans and log tell of the same run? The way from one to the other, walked for one run. Reads only.

    check(run, job_id, spans=…, metrics=[url], log="worker.log", receiver="http://tempo:3200/api/traces/{trace_id}")

Each trail is found, missing, or not looked for (nobody said where), with its evidence. Known weakness: a bucket keeps its
newest exemplar only, so that of an older run may be missing though all is well; the evidence says so.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import httpx

from toolkit.errors import DependencyUnreachable, InputFileError
from toolkit.ledger.views import RunView
from toolkit.logscan import source
from toolkit.run import Mode
from toolkit.telemetry import catalog
from toolkit.telemetry.exemplars import ACCEPT, Exemplar, read_exemplars
from toolkit.telemetry.otlp import MalformedSpans, SpanRow, read_spans

TIMEOUT: Final = 5.0
MOST_LINES: Final = 1000
"""Log lines of a run that are counted at most."""
_PROTOBUF: Final = "application/protobuf"


class State(StrEnum):
    """What came of looking for a trail."""

    FOUND = "found"
    MISSING = "missing"
    UNASKED = "not looked for"


@dataclass(frozen=True, slots=True)
class Trail:
    """One of: exemplar, spans, receiver, log."""

    name: str
    state: State
    evidence: str


def check(
    run: RunView,
    job_id: str,
    *,
    spans: Sequence[SpanRow],
    metrics: Sequence[str],
    log: str,
    receiver: str,
    exported_to: str,
) -> list[Trail]:
    """Look for all trails of a run. `metrics`: addresses of /metrics; `log`: a file; `receiver`: a file, or a URL with
    `{trace_id}`; `exported_to`: where spans are sent, '' for nowhere. Raises InputFileError, DependencyUnreachable."""
    trails = [exemplar(run, _scraped(metrics)), _kept(run, spans)]
    if receiver:
        trails.append(_received(run, receiver))
    elif exported_to:
        trails.append(
            Trail(
                "receiver", State.UNASKED, f"spans go to {exported_to}; name where it keeps them: --receiver"
            )
        )
    trails.append(_logged(run, job_id, log) if log else Trail("log", State.UNASKED, "name the log: --log"))
    return trails


# The exemplar


def _scraped(urls: Iterable[str]) -> list[Exemplar]:
    found = []
    for url in urls:
        try:
            answer = httpx.get(url, headers={"Accept": ACCEPT}, timeout=TIMEOUT)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise DependencyUnreachable(
                f"{url} does not answer: {error}",
                remedy="name the /metrics of a running `toolkit worker`: --metrics",
            ) from error
        found += read_exemplars(answer.text)
    return found


def exemplar(run: RunView, scraped: Sequence[Exemplar]) -> Trail:
    """The run's exemplar among those scraped. Pure."""
    own = [one for one in scraped if one.trace_id == run.trace_id]
    if own:
        named = sorted({one.metric for one in own})
        duration = next((one for one in own if one.metric == catalog.RUN_DURATION.name), own[0])
        bucket = f"{duration.metric}{{outcome={duration.labels.get('outcome', '')}, le={duration.labels.get('le', '')}}}"
        return Trail(
            "exemplar",
            State.FOUND,
            f"{bucket} observed {duration.value:.6f} s; on {len(named)} metrics: {', '.join(named)}",
        )
    if run.mode == Mode.SYNC:
        why = "the run was inline: its metrics were in the importer's process, which nobody scrapes"
    else:
        others = sum(one.metric == catalog.RUN_DURATION.name for one in scraped)
        why = (
            f"{others} runs have theirs; a bucket keeps its newest only"
            if others
            else "no run has one: has a supervisor restarted since?"
        )
    return Trail("exemplar", State.MISSING, f"none of trace {run.trace_id or '(the run has none)'}: {why}")


# Spans


def _kept(run: RunView, spans: Sequence[SpanRow]) -> Trail:
    """The spans that the ledger keeps."""
    own = [span for span in spans if span.trace_id == run.trace_id]
    root = next((span for span in own if span.attributes.get(catalog.RUN_ID) == run.run_id), None)
    if root is None:
        return Trail(
            "spans",
            State.MISSING,
            f"the ledger keeps {len(own)} spans of the trace, the run's is not among them",
        )
    same = root.attributes.get(catalog.JOB_OUTCOME) == run.outcome
    said = "the same outcome" if same else f"another outcome ({root.attributes.get(catalog.JOB_OUTCOME)})"
    return Trail(
        "spans", State.FOUND if same else State.MISSING,
        f"{len(own)} kept in the ledger, root {root.name!r} {root.span_id} with {said}",
    )  # fmt: skip


def _received(run: RunView, receiver: str) -> Trail:
    if not run.span_id:
        return Trail("receiver", State.MISSING, "the run has no span")
    if receiver.startswith(("http://", "https://")):
        return _asked(run, receiver.replace("{trace_id}", run.trace_id))
    needles = _forms(run.span_id)
    lines = sum(1 for _ in _lines(receiver, needles))
    state = State.FOUND if lines else State.MISSING
    return Trail("receiver", state, f"{lines} lines of {receiver} name span {run.span_id}")


def _asked(run: RunView, url: str) -> Trail:
    try:
        answer = httpx.get(url, headers={"Accept": f"{_PROTOBUF}, application/json;q=0.5"}, timeout=TIMEOUT)
    except httpx.HTTPError as error:
        raise DependencyUnreachable(
            f"{url} does not answer: {error}", remedy="see that --receiver is right"
        ) from error
    if not answer.is_success:
        return Trail("receiver", State.MISSING, f"{url} answered {answer.status_code}")
    if answer.headers.get("content-type", "").startswith(_PROTOBUF):
        try:
            found = any(span.span_id == run.span_id for span in read_spans(answer.content))
        except MalformedSpans as error:
            return Trail("receiver", State.MISSING, f"{url}: {error}")
    else:
        found = any(form in answer.content for form in _forms(run.span_id))
    said = "has" if found else "does not have"
    return Trail("receiver", State.FOUND if found else State.MISSING, f"{url} {said} span {run.span_id}")


def _forms(span_id: str) -> tuple[bytes, ...]:
    """A span id as receivers write it: hex in small or big letters, or base64."""
    return span_id.encode(), span_id.upper().encode(), base64.b64encode(bytes.fromhex(span_id))


# The log


def _logged(run: RunView, job_id: str, log: str) -> Trail:
    """Lines that name the run or its trace; on a console only the end of the job's id stands."""
    needles = [one.encode() for one in (run.run_id, run.trace_id) if one]
    found = list(_lines(log, needles))
    ended = [line for line in found if run.run_id.encode() in line]
    if not found:
        found = ended = list(_lines(log, [f" {job_id[-8:]} ".encode()]))
    if not ended:
        return Trail(
            "log",
            State.MISSING,
            f"{len(found)} lines of {log} name the trace, none the end of run {run.run_id}",
        )
    last = ended[-1].decode("utf-8", "replace").strip()
    return Trail("log", State.FOUND, f"{len(found)} lines of {log}; the last: {last[:120]}")


def _lines(name: str, needles: Sequence[bytes]) -> Iterator[bytes]:
    """The lines of a file, plain or gzip, that hold one of the needles; at most MOST_LINES."""
    if name == "-":
        raise InputFileError("a log on stdin can be read only once", remedy="give a file")
    told = 0
    with source.opened(name) as blocks:
        for block in blocks:
            if not any(needle in block for needle in needles):
                continue
            for line in block.splitlines():
                if any(needle in line for needle in needles):
                    yield line
                    told += 1
                    if told == MOST_LINES:
                        return
