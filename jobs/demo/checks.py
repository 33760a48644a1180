"""What the demo looked at, and what was not as it must be."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Checks:
    """Counts what was compared, and keeps each difference in words."""

    made: int = 0
    differences: list[str] = field(default_factory=list)

    def equal(self, what: str, seen: object, wanted: object) -> None:
        """Compare, and note a difference."""
        self.made += 1
        if seen != wanted:
            self.differences.append(f"{what}: {seen!r}, and must be {wanted!r}")
