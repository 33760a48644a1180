"""A toggle as it stands, for people: the state, who sees what, and the jobs in flight. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg

from toolkit.errors import DependencyUnreachable
from toolkit.jobspec import Registry
from toolkit.ledger import toggles
from toolkit.ledger.database import SESSION_UNREACHABLE, Database
from toolkit.ledger.toggles import InFlight, SeenBy
from toolkit.toggle.decide import Known, Layer, decide, layer, variant
from toolkit.toggle.receipt import Receipt, receipt


@dataclass(frozen=True, slots=True)
class Standing:
    """`known.reached` False: the ledger does not answer, `known.why` says why, and the rest is empty. `switched_off`: the
    environment of whoever looks says NAME=false."""

    name: str
    known: Known
    switched_off: bool
    processes: tuple[SeenBy, ...]
    in_flight: InFlight | None

    @property
    def variant(self) -> str:
        """What a process with this environment that starts now would do: async, sync or split."""
        return variant(self.known, switched_off=self.switched_off)

    @property
    def layer(self) -> Layer:
        """Who decides that."""
        return layer(self.known, switched_off=self.switched_off)

    @property
    def receipt(self) -> Receipt:
        """Who goes by the present version."""
        return receipt(self.known.version, self.processes)

    @property
    def held(self) -> bool:
        """Jobs are kept back in the ledger right now."""
        until = self.known.toggle.held_until if self.known.toggle else None
        return until is not None and until > datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Step:
    """One layer's word on an order: `decides` when it is the one that counts."""

    layer: str
    says: str
    decides: bool


def look(database: Database, registry: Registry, name: str, *, switched_off: bool) -> Standing:
    """The toggle now; a ledger that does not answer is told, not raised."""
    try:
        with database.session() as session:
            found = toggles.read(session, (name,)).get(name)
            seen = tuple(toggles.seen_by(session, name))
            open_jobs = toggles.in_flight(session, registry.governed(name))
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return away(
            name,
            "schema toolkit is missing or older than this release: run `toolkit init`",
            switched_off=switched_off,
        )
    except (*SESSION_UNREACHABLE, DependencyUnreachable) as error:
        return away(name, " ".join(str(error).split()), switched_off=switched_off)
    return Standing(name, Known(reached=True, toggle=found), switched_off, seen, open_jobs)


def away(name: str, why: str, *, switched_off: bool) -> Standing:
    """A toggle whose ledger does not answer, and why."""
    return Standing(name, Known(stale_since=datetime.now(UTC), why=why), switched_off, (), None)


def explain(standing: Standing, *, order_id: str | None, merchant: str | None) -> list[Step]:
    """Each layer's word for that order, in their order of precedence. Pure."""
    name, known = standing.name, standing.known
    deciding = decide(
        name, known, switched_off=standing.switched_off, order_id=order_id, merchant=merchant
    ).layer
    below = decide(name, known, switched_off=False, order_id=order_id, merchant=merchant)
    if not known.reached:
        ledger = f"does not answer: {known.why}"
    elif known.toggle is None:
        ledger = "says nothing: never flipped"
    else:
        ledger = f"says {below.variant} (version {known.version}): {below.why}"
    return [
        Step(
            "environment",
            f"says {name}=false: sync" if standing.switched_off else f"does not say {name}=false",
            deciding is Layer.ENVIRONMENT,
        ),
        Step("ledger", ledger, deciding is Layer.LEDGER),
        Step("default", "async, when the ledger answers and says nothing", deciding is Layer.DEFAULT),
        Step("cold start", "sync, when the ledger has never answered this process", deciding is Layer.NONE),
    ]


def conflicts(standing: Standing) -> list[str]:
    """Where processes do not do what the ledger says, and why. Pure."""
    known = standing.known
    if not known.reached:
        return []
    ledger = variant(known, switched_off=False)
    told = []
    off = [one for one in standing.processes if one.connected and one.layer == Layer.ENVIRONMENT]
    if off and ledger != "sync":
        told.append(
            f"the ledger says {ledger}, and {_names(off)} stay sync: {standing.name}=false stands in their environment;"
            " unset it there and restart them"
        )
    behind = standing.receipt.laggards
    if behind:
        told.append(
            f"{_names(behind)} did not acknowledge version {known.version}: stopped, or hanging. An order that was in the making"
            " keeps its mode when they wake; before any other they read the ledger, since a value is used for 2 s only"
        )
    if standing.switched_off and ledger != "sync" and not off:
        told.append(
            f"{standing.name}=false stands in the environment of this command, and of no process that runs"
        )
    return told


def _names(processes: Sequence[SeenBy]) -> str:
    return ", ".join(f"{one.kind} {one.process}" for one in processes)
