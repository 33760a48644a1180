"""Old pickles are read as plain data: what is plain comes out the same, and nothing of what is hostile ever runs."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import pickle
import pickletools
import struct
import threading
import types
import uuid
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from toolkit.broker.pickles.read import decode
from toolkit.broker.pickles.words import Limits, Undecodable

PROTOCOLS = range(6)
FEW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

keys = st.one_of(
    st.text(), st.integers(), st.binary(max_size=9), st.booleans(), st.none(), st.tuples(st.text())
)
leaves = st.one_of(
    keys, st.floats(allow_nan=False), st.frozensets(keys, max_size=4), st.sets(keys, max_size=4)
)
plain = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(keys, inner, max_size=5),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=3).map(lambda items: [items, items, (items, {"again": items})]),
    ),
    max_leaves=25,
)


@FEW
@given(value=plain, protocol=st.sampled_from(PROTOCOLS))
def test_plain_data_comes_out_as_pickle_gives_it(value: Any, protocol: int) -> None:
    raw = pickle.dumps(value, protocol)
    assert repr(decode(raw)) == repr(value) or decode(raw) == pickle.loads(raw) == value  # noqa: S301  our own
    assert decode(pickletools.optimize(raw)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_python_pickler_is_understood_as_the_c_one_is(protocol: int) -> None:
    value = {
        "ids": [1, 2**70, -1, 1.5, True, None],
        "b": b"\0\xff",
        "t": (1, ("x",) * 2),
        "s": {1, 2},
        "ü": bytearray(b"\xe9"),
    }
    assert decode(pickle._dumps(value, protocol)) == value  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_known_shapes_come_out_as_text(protocol: int) -> None:
    number = uuid.UUID("12345678-1234-5678-1234-567812345678")
    moment = dt.datetime(2025, 10, 11, 17, 15, 22, 5, tzinfo=dt.UTC)
    given_ = [moment, moment.date(), dt.time(3, 4), dt.timedelta(hours=2), Decimal("1.50"), number]
    assert decode(pickle.dumps(given_, protocol)) == [
        "2025-10-11T17:15:22.000005+00:00", "2025-10-11", "03:04:00", "2:00:00", "1.50", str(number),
    ]  # fmt: skip
    containers = [OrderedDict(a=1), defaultdict(list, a=[1]), deque([1, 2])]
    assert decode(pickle.dumps(containers, protocol)) == [{"a": 1}, {"a": [1]}, [1, 2]]


class Base(DeclarativeBase):
    """The shop's old models."""


class OldOrder(Base):
    __tablename__ = "old_order"
    id: Mapped[str] = mapped_column(primary_key=True)
    drafts: Mapped[list[OldDraft]] = relationship(back_populates="order")


class OldDraft(Base):
    __tablename__ = "old_draft"
    id: Mapped[str] = mapped_column(primary_key=True)
    order_id: Mapped[str] = mapped_column(sa.ForeignKey("old_order.id"))
    order: Mapped[OldOrder] = relationship(back_populates="drafts")


class Status(Enum):
    DRAFT = "draft"

    def __reduce_ex__(self, protocol: int) -> tuple[type[Status], tuple[str]]:
        """As most releases of Python pickle an Enum; the first ones of 3.11 name `getattr`, which is refused."""
        return type(self), (self.value,)


@dataclass
class PlainDraft:
    id: str
    status: Status = Status.DRAFT
    images: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SlottedDraft:
    id: str


def scalars(value: Any) -> set[Any]:
    """Every scalar anywhere in plain data."""
    if isinstance(value, dict):
        return set().union(*(scalars(part) for pair in value.items() for part in pair))
    if isinstance(value, list | tuple | set | frozenset):
        return set().union(*map(scalars, value))
    return {value}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_orm_rows_can_be_looked_into(protocol: int) -> None:
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        order = OldOrder(id="po1", drafts=[OldDraft(id="d1"), OldDraft(id="d2")])
        session.add(order)
        session.flush()
        seen = decode(pickle.dumps({"productDrafts": list(order.drafts)}, protocol))
    engine.dispose()
    first = seen["productDrafts"][0]
    assert first["__class__"] == f"{__name__}.OldDraft"
    assert (first["state"]["id"], first["state"]["order_id"]) == ("d1", "po1")
    assert {"d1", "d2", "po1"} <= scalars(seen)


@pytest.mark.parametrize("protocol", PROTOCOLS[2:])
def test_dataclasses_and_enums_are_records(protocol: int) -> None:
    drafts = [PlainDraft("d1"), SlottedDraft("d2"), types.SimpleNamespace(id="d3")]
    first, second, third = decode(pickle.dumps(drafts, protocol))
    assert first["state"] == {
        "id": "d1",
        "status": {"__class__": f"{__name__}.Status", "args": ["draft"]},
        "images": [],
    }
    assert second == {"__class__": f"{__name__}.SlottedDraft", "state": ["d2"]}
    assert third == {"__class__": "types.SimpleNamespace", "state": {"id": "d3"}}


def test_rows_that_hold_each_other_are_told_once() -> None:
    one, two = PlainDraft("d1"), PlainDraft("d2")
    one.images, two.images = [two], [one]  # type: ignore[list-item]
    seen = decode(pickle.dumps([one, two]))
    assert seen[0]["state"]["images"][0]["state"]["id"] == "d2"
    assert seen[1] == {"__class__": f"{__name__}.PlainDraft", "state": {"id": "d2"}}


# -- hostile ------------------------------------------------------------------------------------------------------

PROOF = "it-ran"
COMMAND = f"touch {PROOF}"


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


class Bomb:
    """Runs a command when it is unpickled; `inside` is what reduces so."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


system = Bomb(os.system, (COMMAND,))
HOSTILE: dict[str, tuple[bytes, str]] = {
    **{f"os.system, protocol {p}": (pickle.dumps(system, p), "posix.system") for p in PROTOCOLS},
    "deep inside": (pickle.dumps({"a": [({"b": (system,)},)]}), "posix.system"),
    "in a key": (b"}(cos\nsystem\n(S'" + COMMAND.encode() + b"'\ntRNu.", "os.system"),
    "in the state of an object": (pickle.dumps(PlainDraft(system)), "posix.system"),  # type: ignore[arg-type]
    "behind a good value": (b"(S'good'\ncos\nsystem\n(S'" + COMMAND.encode() + b"'\ntRl.", "os.system"),
    "popped, so that it leaves no trace": (b"cos\nsystem\n(S'" + COMMAND.encode() + b"'\ntR0N.", "os.system"),
    "INST": (b"(S'" + COMMAND.encode() + b"'\nios\nsystem\n.", "os.system"),
    "OBJ": (b"(cos\nsystem\nS'" + COMMAND.encode() + b"'\no.", "os.system"),
    "NEWOBJ": (b"\x80\x02csubprocess\nPopen\n(S'" + COMMAND.encode() + b"'\nt\x81.", "subprocess.Popen"),
    "STACK_GLOBAL from the memo": (
        b"\x80\x04" + short("os") + b"\x94" + short("system") + b"\x94h\x00h\x01\x93" + short(COMMAND) + b"\x85R.",
        "os.system",
    ),
    "a dotted name": (b"\x80\x04" + short("toolkit") + short("os.system") + b"\x93" + short(COMMAND) + b"\x85R.",
                      "toolkit.os.system"),
    "a class of a builtin": (pickle.dumps(Bomb(eval, ("1",))), "builtins.eval"),
    "getattr": (pickle.dumps(Bomb(getattr, ("x", "y"))), "builtins.getattr"),
    "Python 2's names": (b"ccommands\ngetoutput\n(S'" + COMMAND.encode() + b"'\ntR.", "subprocess.getoutput"),
    "__builtin__": (b"c__builtin__\neval\n(S'1'\ntR.", "builtins.eval"),
    "a function of another package": (b"credis\nfrom_url\n(S'redis://x'\ntR.", "redis.from_url"),
    "importlib": (b"cimportlib\nimport_module\n(S'antigravity'\ntR.", "importlib.import_module"),
    "BUILD on a class": (b"csqlalchemy\nColumn\n}S'x'\nNsb.", "sqlalchemy.Column"),
    "a function as a default factory": (pickle.dumps(defaultdict(os.getcwd)), "posix.getcwd"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "named"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(
    raw: bytes, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Undecodable) as refused:
        decode(raw)
    assert refused.value.named == named
    assert named in str(refused.value)
    assert refused.value.opcode in {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "BUILD"}
    assert not (tmp_path / PROOF).exists()


def test_the_canary_would_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: pickle itself does run them."""
    monkeypatch.chdir(tmp_path)
    for name in ("os.system, protocol 4", "deep inside", "INST", "OBJ", "STACK_GLOBAL from the memo"):
        pickle.loads(HOSTILE[name][0])  # noqa: S301
        assert (tmp_path / PROOF).exists()
        (tmp_path / PROOF).unlink()


NO_PLACE = {
    "a persistent id": (b"Pos\n.", "PERSID"),
    "a binary persistent id": (b"NQ.", "BINPERSID"),
    "an extension code": (b"\x80\x02\x82\x01.", "EXT1"),
    "an extension code of 2": (b"\x80\x02\x83\x01\x00.", "EXT2"),
    "an extension code of 4": (b"\x80\x02\x84\x01\x00\x00\x00.", "EXT4"),
    "an out-of-band buffer": (b"\x80\x05\x97.", "NEXT_BUFFER"),
}


@pytest.mark.parametrize(("raw", "opcode"), NO_PLACE.values(), ids=NO_PLACE.keys())
def test_an_opcode_that_has_no_place_in_plain_data_is_refused_by_name(raw: bytes, opcode: str) -> None:
    with pytest.raises(Undecodable) as refused:
        decode(raw)
    assert refused.value.opcode == opcode


def doubling(times: int, opcode: bytes) -> bytes:
    """A value that holds itself twice, so many times over: 2 ** times values in a few bytes."""
    steps = (b"0(h" + bytes([n]) + b"h" + bytes([n]) + opcode + b"\x94" for n in range(times))
    return b"\x80\x04)\x94" + b"".join(steps) + b"."


recursive: list[Any] = []
recursive.append(recursive)
COSTLY = {
    "a memo bomb of tuples": (doubling(40, b"t"), "values"),
    "a memo bomb of lists": (doubling(40, b"l"), "values"),
    "a tuple that takes for ever to hash": (doubling(40, b"t")[:-1] + b"0}h\x28Ns.", "a key of too many parts"),
    "a list that holds itself": (pickle.dumps(recursive), "nested deeper"),
    "a thousand lists in each other": (b"(" * 1000 + b"l" * 1000 + b".", "nested deeper"),
    "a text told a million times": (b"\x80\x04X" + struct.pack("<I", 10**6) + b"x" * 10**6 + b"\x940(" + b"h\x00" * 1000 + b"l.",
                                    "characters"),
    "a number of a megabyte": (b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".", "bits"),
    "a number of many digits": (b"L" + b"9" * 100_000 + b"L\n.", "malformed"),
    "a length that is not there": (b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".", "malformed"),
    "a memo place far away": (b"\x80\x02Nr\xff\xff\xff\xff0j\x00\x00\x00\x00.", "malformed"),
    "operations without end": (b"N0" * 300_000 + b"N.", "operations"),
    "bytes without end": (b"\x80\x04B" + b"\0" * (17 * 2**20), "bytes"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "told"), COSTLY.values(), ids=COSTLY.keys())
def test_a_costly_pickle_is_refused_for_what_it_costs(raw: bytes, told: str) -> None:
    with pytest.raises(Undecodable, match=told):
        decode(raw)


def test_keys_that_collide_end_with_the_time_that_is_allowed() -> None:
    clock = itertools.count(0, 0.01)
    colliding = {n * (2**61 - 1): None for n in range(5000)}
    with pytest.raises(Undecodable, match="too long"):
        decode(pickle.dumps(colliding), Limits(seconds=0.1), clock=lambda: float(next(clock)))


@pytest.mark.parametrize(
    "raw",
    [b"", b".", b"N", b"NN.", b"(N.", b"t.", b"0.", b"a.", b"\xff.", b"R.", b"}Nb.",
        b"(NNNd.", b"NNs.", b"g5\n.", b"]]e.", b"\x90.",
             b"\x80\x04\x8c\x01xK\x01\x93.", b"]}]s.", b"cx\nY\n]R.",
        b"Vx\n}R.", b"cdatetime\ndate\n(S'x'\ntR.", b"cuuid\nUUID\n)\x81}S'int'\nI-1\nsb."],
    ids=repr,
)  # fmt: skip
def test_nonsense_is_refused_in_words(raw: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(raw)


RICH = pickle.dumps(
    {"a": [1, (2.5, "ü")], "d": PlainDraft("d1"), "t": dt.date(2025, 10, 11), "s": {1}, "b": b"x"}, 4
)


@pytest.mark.parametrize("end", range(1, len(RICH)))
def test_a_truncated_pickle_is_refused(end: int) -> None:
    with pytest.raises(Undecodable):
        decode(RICH[:end])


@FEW
@given(
    seed=st.sampled_from([RICH, *(raw for raw, _ in HOSTILE.values())]),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_a_damaged_pickle_is_read_or_refused_and_never_more(
    seed: bytes, changes: list[tuple[int, int]]
) -> None:
    raw = bytearray(seed)
    for place, byte in changes:
        raw[place % len(raw)] = byte
    before = threading.active_count()
    try:
        scalars_of = repr(decode(bytes(raw), Limits(seconds=2)))
    except Undecodable:
        return
    assert isinstance(scalars_of, str)
    assert threading.active_count() == before
    assert not Path(PROOF).exists()


@FEW
@given(raw=st.binary(max_size=200))
def test_noise_is_read_or_refused_and_never_more(raw: bytes) -> None:
    try:
        decode(raw)
    except Undecodable:
        return
