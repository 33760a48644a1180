"""What a rehearsed run tells, kept here instead of told to anybody: its log lines and its record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolkit.run import Run, RunRecord


class QuietLog:
    """A log that hands its readable lines to `tell`, and shows nothing."""

    def __init__(self, tell: Callable[[str], None] = lambda _line: None) -> None:
        self._tell = tell

    def bind(self, **_: object) -> QuietLog:
        """The same log."""
        return self

    def _keep(self, _event: str, _line: str = "", **fields: object) -> None:
        self._tell(_line.format_map(_Told(fields)))

    debug = info = warning = error = _keep


class _Told(dict[str, object]):
    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


@dataclass(slots=True)
class KeptRecord:
    """A sink that keeps the record of the run."""

    uncounted: bool = False
    record: RunRecord | None = None

    def began(self, run: Run, timeout: float, trace_id: str) -> None:
        """Nobody watches."""

    def ended(self, ended: RunRecord) -> None:
        """Keep it."""
        self.record = ended

    def spans(self, trace_id: str, job_id: str, run_id: str, data: bytes, count: int) -> None:
        """Nobody draws them."""

    def dropped(self, signal: str, reason: str, count: int = 1) -> None:
        """Nobody counts."""
