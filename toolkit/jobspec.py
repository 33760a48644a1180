"""JobSpec: all that is particular to one job, in one frozen value, and the registry of installed jobs.

A package joins by entry point, group `freshfetch.jobs`: name = job name, object = a JobSpec. `toolkit` never imports it
otherwise. Only names in the registry ever run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec

from toolkit.errors import PayloadRefused, UnknownJob, UsageError
from toolkit.run import CORE_SKIP_REASONS, Result

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer
    from sqlalchemy import Connection

    from toolkit.ledger.database import Session
    from toolkit.perform import JobContext
    from toolkit.settings import Settings
    from toolkit.telemetry.otlp import SpanRow

MAX_PAYLOAD_BYTES = 4096
"""Ids and a few settings fit many times; an object that was serialised into a payload does not."""

CONTROL: Final = "freshfetch-control"
"""Name of the toolkit's own job that plants a foreign key violation (toolkit/verify/control.py). Its runs are nobody's
business: whoever counts failures leaves them out."""
CONTROL_CONSTRAINT: Final = "freshfetch_control_fkey"
"""The constraint that it violates."""

Id = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.:-]+\Z", min_length=1, max_length=64)]
"""An id in a payload: no spaces, no braces, at most 64 characters."""


class Payload(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename="camel", omit_defaults=True
):
    """Base of payload types: ids, timestamps and immutable settings only; unknown fields are refused by name."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """At most `attempts` retries of transient failures; the n-th waits `base * 2**n` seconds, at most `cap`, with
    full-range jitter of ±`jitter` (a share of the wait) so that a thousand failures do not come back as one wave."""

    attempts: int = 3
    base: float = 5.0
    cap: float = 300.0
    jitter: float = 0.3

    def wait(self, retry: int, random: float) -> float:
        """Seconds before retry number `retry` (from 0); `random` is uniform in [0, 1)."""
        return min(self.cap, self.base * 2.0**retry) * (1 + self.jitter * (2 * random - 1))


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric of the catalog. `values` closes each label's list: every combination is created at 0 at start, and a
    value outside becomes `other`. An empty list means the label's values come from the registry (queue, job_name)."""

    name: str
    kind: Literal["counter", "histogram", "gauge"]
    help: str
    values: Mapping[str, tuple[str, ...]]
    buckets: tuple[float, ...] = ()
    from_counts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For a counter fed from a record's counts: count name → label values."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names, in the order of a Sample's labels."""
        return tuple(self.values)


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A log event: its dotted name (what JSON carries) and the line that a person reads on a terminal."""

    name: str
    line: str
    level: Literal["debug", "info", "warning", "error"] = "info"


Holds = Literal["id", "text", "url", "number", "plain"]
"""What a column holds, for redaction: `plain` (times, states, positions, labels of closed lists) is kept as it is."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one table that a job reads or writes, in an order that foreign keys allow; `columns` in the rows' order."""

    table: str
    columns: Mapping[str, Holds]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class CaseHooks:
    """What a failed job needs to be captured and run again elsewhere. `snapshot`: the rows it read, as they are now.
    `answers`: what the world outside answered in a run, as far as its spans and rows tell; plain mappings, one an answer,
    whose fields `answer_fields` classes. `resources`: what the body gets in place of that world. `bodies`: bodies of the
    past by name, for `toolkit rehearse diff`; each gets the payload as it was recorded, whatever its form."""

    snapshot: Callable[[Session, Any], Sequence[Rows]]
    answers: Callable[[Sequence[SpanRow], Sequence[Rows]], Sequence[Mapping[str, Any]]]
    answer_fields: Mapping[str, Holds]
    resources: Callable[[Sequence[Mapping[str, Any]]], AbstractContextManager[Any]]
    bodies: Mapping[str, Callable[[JobContext, Mapping[str, Any]], Result]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderSeen:
    """What became of a test order, from live rows. `asked`: what its job was to serve; `served`: what of it has its result;
    `strays`: results on what is not there; `reviews`: opened for it, of which one is wanted; `workflow`: seconds from its
    creation to the end of its workflow, None while that runs."""

    subject: str
    asked: int
    served: int
    strays: int
    reviews: int
    workflow: float | None


Ask = Callable[["Connection", Mapping[str, Any]], str]
"""Asks for the job in the connection's transaction, with this payload; returns its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyHooks:
    """What `verify-deploy` needs of a job.

    Test orders are marked: they belong to a merchant of their own, who has no other. `place(connection, ask, key, size, now)`
    writes one of `size` items through the job's own workflow, in the caller's transaction, and returns its subject (the same
    key twice raises AlreadyImported); `seen(session, subjects)` tells what became of each that is there; `clean(session,
    subjects)` removes them with all that hangs on them, and returns the rows; `left(session)` counts the rows of test orders
    that are still there.
    """

    place: Callable[[Connection, Ask, str, int, datetime], str]
    seen: Callable[[Session, Sequence[str]], Sequence[OrderSeen]]
    clean: Callable[[Session, Sequence[str]], int]
    left: Callable[[Session], int]
    approved: Callable[[Session, datetime, datetime], tuple[int, int]]
    """Results that users approved, and those they decided on, of what was made in this span; without test orders."""
    wrote: tuple[str, ...]
    """Names of counts: a run with one of them above 0 has reached the write."""
    promised: float
    """Seconds from asked to served that users were promised."""
    workflow: float
    """Seconds that the workflow before it may take."""
    budget: float
    """Seconds that 95 % of the runs may take at most, whatever the last release took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job. `body` gets a JobContext and the decoded payload and returns a Result; `resources` opens, once a
    process, what the body needs for its whole life (an HTTP client, a thread pool)."""

    name: str
    queue: str
    payload: type[Payload]
    body: Callable[[JobContext, Any], Result]
    resources: Callable[[Settings, Tracer], AbstractContextManager[Any]]
    timeout: float
    retry: RetryPolicy = RetryPolicy()
    skip_reasons: frozenset[str] = frozenset()
    constraints: frozenset[str] = frozenset()
    metrics: tuple[MetricSpec, ...] = ()
    in_app: tuple[str, ...] = ()
    """Module prefixes whose frames count in an error's fingerprint."""
    toggle: str = ""
    """The toggle that decides whether an order's job is left to the workers or done inline; '' for none."""
    create_schema: Callable[[Connection], None] | None = None
    """Creates the job's tables; called only on the embedded database and in tests."""
    still_wanted: Callable[[Session, Sequence[Any]], Sequence[str]] | None = None
    """For each of many decoded payloads, in order: '' while the job is wanted, else why it is gone (a skip reason). From
    live rows, in a few round trips whatever the number. None: always wanted."""
    upcast: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    """The ids inside a payload of an older form, as today's payload; raises PayloadRefused."""
    case: CaseHooks | None = None
    """None: its failed jobs cannot be captured."""
    verify: VerifyHooks | None = None
    """None: `verify-deploy` has nothing to try it with."""
    settings: Callable[[Settings], object] | None = None
    """Reads all settings that the job has of its own, by `Settings.section`; raises SettingError. `status` and a worker that
    starts ask it, so that a mistake there does not wait for the first job."""
    grants: str = ""
    """SQL that gives the worker role what the body needs; run by `toolkit init` when it may."""

    @property
    def all_skip_reasons(self) -> frozenset[str]:
        """The job's own reasons and the toolkit's."""
        return self.skip_reasons | CORE_SKIP_REASONS

    def decode(self, raw: bytes | str | Mapping[str, Any]) -> Payload:
        """The typed payload. Raises PayloadRefused naming the field that must not be there, is missing or malformed."""
        try:
            if isinstance(raw, bytes | str):
                if len(raw) > MAX_PAYLOAD_BYTES:
                    raise self._too_big(len(raw))
                return msgspec.json.decode(raw, type=self.payload)
            return msgspec.convert(raw, type=self.payload)
        except msgspec.ValidationError as error:
            raise self._refused(error) from error
        except msgspec.DecodeError as error:
            raise PayloadRefused(f"payload of {self.name} is not JSON: {error}") from error

    def encode(self, payload: Payload | Mapping[str, Any]) -> bytes:
        """The payload as JSON bytes, after the guard: a mapping is checked against the payload type first."""
        typed = payload if isinstance(payload, self.payload) else self.decode(payload)  # type: ignore[arg-type]
        raw = msgspec.json.encode(typed)
        if len(raw) > MAX_PAYLOAD_BYTES:
            raise self._too_big(len(raw))
        # A typed struct may have been built without validation: what goes on the wire is read back once.
        self.decode(raw)
        return raw

    def _too_big(self, size: int) -> PayloadRefused:
        return PayloadRefused(
            f"payload of {self.name} has {size:,} bytes; at most {MAX_PAYLOAD_BYTES:,} are taken",
            remedy="pass ids and fetch the rows when the job runs",
        )

    def _refused(self, error: msgspec.ValidationError) -> PayloadRefused:
        text = str(error)
        named = re.search(r"field `([^`]+)`", text) or re.search(r"at `\$\.([^`]+)`", text)
        field = named.group(1) if named else ""
        about = (
            f"payload of {self.name}: field {field!r}: {text}" if field else f"payload of {self.name}: {text}"
        )
        allowed = ", ".join(info.encode_name for info in msgspec.structs.fields(self.payload))
        return PayloadRefused(
            about,
            field=field,
            remedy=f"a payload carries only {allowed}; everything else is fetched when the job runs",
        )


@dataclass(frozen=True, slots=True)
class Registry:
    """The jobs that may run, by name. `own`: jobs of the toolkit itself, which run like any other and are nobody's business:
    they have no metrics, rules or rights of their own."""

    specs: Mapping[str, JobSpec]
    own: Mapping[str, JobSpec] = field(default_factory=dict)

    @classmethod
    def installed(cls) -> Registry:
        """Every JobSpec that an installed package offers in the entry point group `freshfetch.jobs`."""
        return cls.of(entry.load() for entry in entry_points(group="freshfetch.jobs"))

    @classmethod
    def named(cls, names: str) -> Registry:
        """The specs at `module:ATTRIBUTE,…`, or the installed ones when `names` is empty. Raises UsageError."""
        return cls.of(_spec_at(name.strip()) for name in names.split(",")) if names else cls.installed()

    @classmethod
    def of(cls, specs: Iterable[JobSpec]) -> Registry:
        """A registry of just these specs."""
        return cls({spec.name: spec for spec in specs})

    def get(self, name: str) -> JobSpec:
        """The spec of that name. Raises UnknownJob, naming those there are."""
        if spec := self.specs.get(name) or self.own.get(name):
            return spec
        raise UnknownJob(
            f"no job named {name!r} is registered",
            remedy=f"registered: {', '.join(sorted(self.specs)) or 'none'}",
        )

    @property
    def runnable(self) -> tuple[str, ...]:
        """The names of all of them, the toolkit's own too."""
        return (*self.specs, *self.own)

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that the registered jobs use, sorted."""
        return tuple(sorted({spec.queue for spec in self.specs.values()}))

    @property
    def toggles(self) -> tuple[str, ...]:
        """The toggles that govern registered jobs, sorted."""
        return tuple(sorted({spec.toggle for spec in self.specs.values() if spec.toggle}))

    def governed(self, toggle: str) -> tuple[str, ...]:
        """Names of the jobs that this toggle governs, sorted."""
        return tuple(sorted(spec.name for spec in self.specs.values() if spec.toggle == toggle))

    def __iter__(self):  # type: ignore[no-untyped-def]  # dataclass with slots: Iterator[JobSpec]
        return iter(self.specs.values())


def _spec_at(name: str) -> JobSpec:
    try:
        spec = EntryPoint(name, name, "freshfetch.jobs").load()
    except (
        ImportError,
        AttributeError,
    ) as error:  # AttributeError: also of what is no module:ATTRIBUTE at all
        raise UsageError(
            f"TOOLKIT_JOBS names {name!r}, which cannot be loaded: {error}",
            remedy="module:ATTRIBUTE of each JobSpec, by commas",
        ) from error
    if not isinstance(spec, JobSpec):
        raise UsageError(
            f"TOOLKIT_JOBS names {name!r}, which is no JobSpec",
            remedy="module:ATTRIBUTE of each JobSpec, by commas",
        )
    return spec
