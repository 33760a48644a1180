"""A pickle read as plain data: nothing is imported, called or built. A small stack machine over `pickletools.genops`.

Plain values come out as `pickle.loads` gives them (protocols 0 to 5); dates, Decimals and UUIDs as text. An object becomes
an inert record `{"__class__": "module.Name", "args": [...], "state": …, "items": [...]}`, without the empty parts, so that
one can look into an ORM instance or a dataclass. An object that comes a second time is told by its class and scalars only.

Refused, naming the opcode and the global: whatever of the standard library is not on the list below, calls of functions,
persistent ids, extension codes, out-of-band buffers, and what breaks a bound of `Limits`. Nothing of it runs either way:
the refusal is for the report.

Known weakness: of a frozen dataclass with slots only the values are known, since its pickle does not carry the names.
"""

from __future__ import annotations

import pickletools
import time
from collections.abc import Callable, Mapping
from decimal import InvalidOperation
from typing import Any, Final

from toolkit.broker.pickles.names import called, cheap, class_of, named, with_keywords
from toolkit.broker.pickles.plain import Plain
from toolkit.broker.pickles.words import Global, Inert, Limits, Refusal, Undecodable

USUAL: Final = Limits()
_INT_BITS: Final = 8192

_VALUES: Final = frozenset({
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "BYTEARRAY8",
})  # fmt: skip
_CONSTANTS: Final[Mapping[str, Callable[[], Any]]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": set,
}  # fmt: skip
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_NOTHING: Final = frozenset({"PROTO", "FRAME", "STOP"})
_MALFORMED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    InvalidOperation,
    LookupError,
    TypeError,
    ValueError,
)


def decode(
    raw: bytes,
    limits: Limits = USUAL,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    """The plain data in a pickle. Raises Undecodable for one that is hostile, malformed, truncated or too large."""
    if len(raw) > limits.bytes:
        raise Undecodable(f"a pickle of {len(raw):,} bytes; at most {limits.bytes:,} are read")
    machine = _Machine(clock, clock() + limits.seconds)
    opcode, position = "", 0
    try:
        for count, (info, arg, where) in enumerate(pickletools.genops(raw)):
            opcode, position = info.name, where or 0
            if count >= limits.operations:
                raise Refusal(f"more than {limits.operations:,} operations")
            machine.step(opcode, arg)
        return Plain(limits, machine.tick).of(machine.result(), 0)
    except Refusal as refusal:
        raise Undecodable(
            f"refused: {refusal}", opcode=opcode, position=position, named=refusal.named
        ) from None
    except _MALFORMED as error:
        raise Undecodable(f"malformed: {str(error)[:200]}", opcode=opcode, position=position) from None


class _Machine:
    """pickle's own machine, less everything that acts."""

    def __init__(self, clock: Callable[[], float], deadline: float) -> None:
        self._clock = clock
        self._deadline = deadline
        self._steps = 0
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def tick(self) -> None:
        """Counts work; refuses when time is up."""
        self._steps += 1
        if self._steps % 256 == 0 and self._clock() > self._deadline:
            raise Refusal("it takes too long to read")

    def result(self) -> Any:
        if len(self._stack) != 1 or self._below:
            raise ValueError("it does not come to one value")
        return self._stack[0]

    def step(self, opcode: str, arg: Any) -> None:
        self.tick()
        if opcode in _VALUES:
            if isinstance(arg, int) and arg.bit_length() > _INT_BITS:
                raise Refusal(f"a number of {arg.bit_length():,} bits")
            self._stack.append(arg)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode]())
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            if len(self._stack) < count:
                raise ValueError("the stack is empty")
            self._stack[-count:] = [tuple(self._stack[-count:])]
        elif opcode not in _NOTHING:
            handler = getattr(self, f"_op_{opcode.lower()}", None)
            if handler is None:
                raise Refusal(f"{opcode} has no place in plain data")
            handler(arg)

    # -- the stack and the memo --

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _op_mark(self, _arg: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _op_pop(self, _arg: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._marked()

    def _op_pop_mark(self, _arg: Any) -> None:
        self._marked()

    def _op_dup(self, _arg: Any) -> None:
        self._stack.append(self._stack[-1])

    def _op_memoize(self, _arg: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _op_put(self, arg: int) -> None:
        self._memo[arg] = self._stack[-1]

    def _op_get(self, arg: int) -> None:
        self._stack.append(self._memo[arg])

    _op_binput = _op_long_binput = _op_put
    _op_binget = _op_long_binget = _op_get

    # -- containers --

    def _op_list(self, _arg: Any) -> None:
        items = self._marked()
        self._stack.append(items)

    def _op_tuple(self, _arg: Any) -> None:
        items = self._marked()
        self._stack.append(tuple(items))

    def _op_dict(self, _arg: Any) -> None:
        items = self._marked()
        self._stack.append({})
        self._set_items(items)

    def _op_frozenset(self, _arg: Any) -> None:
        items = self._marked()
        self._stack.append(set())
        self._add(items)
        self._stack[-1] = frozenset(self._stack[-1])

    def _op_append(self, _arg: Any) -> None:
        self._extend([self._stack.pop()])

    def _op_appends(self, _arg: Any) -> None:
        self._extend(self._marked())

    def _op_setitem(self, _arg: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _op_setitems(self, _arg: Any) -> None:
        self._set_items(self._marked())

    def _op_additems(self, _arg: Any) -> None:
        self._add(self._marked())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list | Inert):
            raise TypeError("items for what is no list")
        (target.items if isinstance(target, Inert) else target).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.tick()
            if isinstance(target, Inert):
                target.entries.append((key, value))
            elif isinstance(target, dict):
                target[cheap(key)] = value
            else:
                raise TypeError("entries for what is no dict")

    def _add(self, items: list[Any]) -> None:
        target = self._stack[-1]
        for item in items:
            self.tick()
            if isinstance(target, set):
                target.add(cheap(item))
            elif isinstance(target, Inert):
                target.items.append(item)
            else:
                raise TypeError("members for what is no set")

    # -- objects --

    def _op_global(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        self._stack.append(named(module, name))

    def _op_stack_global(self, _arg: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(named(module, name))

    def _op_reduce(self, _arg: Any) -> None:
        args, callee = self._stack.pop(), self._stack.pop()
        self._stack.append(called(callee, args))

    def _op_inst(self, arg: str) -> None:
        module, _, name = arg.partition(" ")
        args = self._marked()
        self._stack.append(called(named(module, name), tuple(args)))

    def _op_obj(self, _arg: Any) -> None:
        callee, *args = self._marked()
        self._stack.append(called(callee, tuple(args)))

    def _op_newobj(self, _arg: Any) -> None:
        args, kind = self._stack.pop(), self._stack.pop()
        self._stack.append(Inert(class_of(kind), tuple(args)))

    def _op_newobj_ex(self, _arg: Any) -> None:
        keywords, args, kind = self._stack.pop(), self._stack.pop(), self._stack.pop()
        self._stack.append(with_keywords(Global(class_of(kind)), args, keywords))

    def _op_build(self, _arg: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Global):
            raise Refusal(f"sets the state of {target.name} itself", target.name)
        if not isinstance(target, Inert):
            raise TypeError("a state for what has none")
        target.state = state
