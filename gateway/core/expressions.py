"""One's own measures: small expressions over a record, read by a small parser and never by Python's own.

    abs(answer - truth) > 15 and feature.carrier == "AA"

Numbers, text in quotes, names, `+ - * /`, comparisons, `and or not`, parentheses, and the functions `abs min max`. Names are
those in `NAMES`, and `feature.NAME`, or `feature."ANY NAME"`, for a column. A truth value counts 1 or 0. What has no value (a
missing feature, a division by zero, text where a number is needed) makes the whole expression say nothing. What it may come to at
all is known beforehand (`core/ranges.py`). Pure; compiled once.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core import ranges
from gateway.core.errors import MalformedRequest
from gateway.core.ranges import ANY, EITHER, Range

EXPRESSION_LENGTH_MAX: Final = 500  # characters: what a person can read at a glance
DEPTH_MAX: Final = 20  # of parentheses, functions and signs within each other
NAMES: Final = frozenset({"answer", "error", "latency_ms", "loss", "rows", "truth"})
LATE: Final = frozenset({"loss", "truth"})  # known with the ground truth only
FEATURE: Final = "feature."

Value = float | str | None
Values = Callable[[str], Value]  # by name; features as `feature.NAME`; None where there is no value
_Node = Callable[[Values], Value]
Kind = type[float] | type[str] | None  # None: known with the record only
NOTHING_KNOWN: Final[Mapping[str, Kind]] = {}
_TOKENS: Final = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)
    |(?P<quoted>feature\."[^"]*")|(?P<text>"[^"]*")
    |(?P<name>[A-Za-z_]\w*(?:\.\w+)?)
    |(?P<sign><=|>=|==|!=|[-+*/()<>,]))""",
    re.VERBOSE | re.ASCII,
)
_ORDERS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SUMS: Final[Mapping[str, Callable[[float, float], float]]] = {"+": operator.add, "-": operator.sub}
_FUNCTIONS: Final[Mapping[str, Callable[..., float]]] = {"abs": abs, "min": min, "max": max}
_RANGES: Final[Mapping[str, Callable[[list[Range]], Range]]] = {
    "abs": lambda of: ranges.magnitude(of[0]),
    "min": ranges.least,
    "max": ranges.most,
}
_WORDS: Final = frozenset({"and", "or", "not"})
_NUMBERS: Final = {  # names that never stand for text, and what they may be
    "error": EITHER,
    "latency_ms": Range(0.0, math.inf),
    "loss": EITHER,
    "rows": Range(0.0, math.inf),
}


@dataclass(frozen=True, slots=True)
class _Term:
    """A part of an expression, and what it comes to as far as that is known."""

    node: _Node
    kind: Kind = float
    range: Range = ANY


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression, ready to be evaluated.

    Attributes:
        names: What it asks for.
        range: What it may come to.
    """

    names: frozenset[str]
    range: Range
    _root: _Node

    @property
    def is_late(self) -> bool:
        """Whether it needs the ground truth."""
        return bool(self.names & LATE)

    def value(self, values: Values) -> float | None:
        """Return its value; None where it says nothing, which a number that is not finite does."""
        found = self._root(values)
        return found if isinstance(found, float) else None


def compiled(source: str, where: str, *, kinds: Mapping[str, Kind] = NOTHING_KNOWN) -> Expression:
    """Read an expression.

    Args:
        where: Its path in the plan, for messages.
        kinds: What is known of features, by name.

    Raises:
        MalformedRequest: it is too long, nested too deeply, has a name that nobody knows, or text where only a number has a
            meaning, divides by zero whatever comes, or is no expression.
    """
    if len(source) > EXPRESSION_LENGTH_MAX:
        raise MalformedRequest(f"{where}: expected at most {EXPRESSION_LENGTH_MAX} characters")
    parser = _Parser(source, where, kinds)
    root = parser.whole()
    return Expression(frozenset(parser.names), root.range, root.node)


class _Parser:
    """Recursive descent; each method reads what binds at least as tightly as its name says."""

    def __init__(self, source: str, where: str, kinds: Mapping[str, Kind]) -> None:
        self._where = where
        self._kinds = kinds
        self._tokens = self._read(source)
        self._at = 0
        self._depth = 0
        self.names: set[str] = set()

    def whole(self) -> _Term:
        root = self._either()
        if self._at < len(self._tokens):
            raise self._wrong(f"{self._next()!r} is not expected here")
        return root

    def _read(self, source: str) -> list[tuple[str, str]]:
        tokens, at = [], 0
        end = len(source.rstrip())
        while at < end:
            found = _TOKENS.match(source, at)
            if found is None:
                raise self._wrong(f"cannot read {source[at : at + 10].strip()!r}")
            tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            at = found.end()
        return tokens

    def _next(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _kind(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _took(self, *texts: str) -> str:
        """Step over one of these signs or words if it is next, and return it, else nothing."""
        if self._kind() in ("sign", "name") and self._next() in texts:
            self._at += 1
            return self._tokens[self._at - 1][1]
        return ""

    def _either(self) -> _Term:
        term = self._both()
        while self._took("or"):
            term = self._joined(term, self._both(), is_and=False)
        return term

    def _both(self) -> _Term:
        term = self._negated()
        while self._took("and"):
            term = self._joined(term, self._negated(), is_and=True)
        return term

    def _joined(self, left: _Term, right: _Term, *, is_and: bool) -> _Term:
        node = _logical(self._number(left), self._number(right), is_and=is_and)
        return _Term(node, range=ranges.joined(left.range, right.range, is_and=is_and))

    def _negated(self) -> _Term:
        if not self._took("not"):
            return self._compared()
        with self:
            term = self._negated()
            return _Term(_negation(self._number(term)), range=ranges.negated(term.range))

    def _compared(self) -> _Term:
        at = self._at
        left = self._sum()
        if not (sign := self._took("<=", ">=", "==", "!=", "<", ">")):
            return left
        right_at, right = self._at, self._sum()
        is_same = self._is_same(at, right_at)
        if sign in ("==", "!="):
            if {left.kind, right.kind} == {float, str}:
                raise self._wrong("it compares text with a number, which are never the same")
            nodes = left.node, right.node
        else:
            nodes = self._number(left), self._number(right)
        may_be = EITHER if str in (left.kind, right.kind) else ranges.compared(sign, left.range, right.range)
        return _Term(_comparison(sign, *nodes), range=ranges.said(sign in ("<=", ">=", "==")) if is_same else may_be)

    def _sum(self) -> _Term:
        at, term = self._at, self._product()
        while sign := self._took("+", "-"):
            right_at, right = self._at, self._product()
            may_be = (ranges.total if sign == "+" else ranges.difference)(term.range, right.range)
            if sign == "-" and self._is_same(at, right_at):
                may_be = ranges.exactly(0.0)
            term = _Term(_arithmetic(_SUMS[sign], self._number(term), self._number(right)), range=may_be)
        return term

    def _product(self) -> _Term:
        at, term = self._at, self._signed()
        while sign := self._took("*", "/"):
            right_at, right = self._at, self._signed()
            if sign == "*":
                node = _arithmetic(operator.mul, self._number(term), self._number(right))
                term = _Term(node, range=ranges.product(term.range, right.range))
                continue
            if right.range.truth is False:
                raise self._wrong("it divides by zero")
            may_be = ranges.exactly(1.0) if self._is_same(at, right_at) else ranges.quotient(term.range, right.range)
            term = _Term(_arithmetic(_quotient, self._number(term), self._number(right)), range=may_be)
        return term

    def _is_same(self, left_at: int, right_at: int) -> bool:
        """Return whether both sides of the sign before `right_at` read the same."""
        return self._tokens[left_at : right_at - 1] == self._tokens[right_at : self._at]

    def _signed(self) -> _Term:
        if not self._took("-"):
            return self._single()
        with self:
            term = self._signed()
            node = _arithmetic(operator.sub, lambda _: 0.0, self._number(term))
            return _Term(node, range=ranges.difference(ranges.exactly(0.0), term.range))

    def _number(self, term: _Term) -> _Node:
        """Return what a term evaluates to where only a number has a meaning."""
        if term.kind is str:
            raise self._wrong("text stands where a number is needed; text can only be compared, by == or !=")
        return term.node

    def _single(self) -> _Term:
        kind, text = self._kind(), self._next()
        if self._took("("):
            with self:
                term = self._either()
            self._close()
            return term
        if kind == "name" and text in _FUNCTIONS:
            return self._function()
        if kind not in ("number", "text", "name", "quoted") or text in _WORDS:
            raise self._wrong(f"{text!r} is not expected here" if text else "it ends too early")
        self._at += 1
        match kind:
            case "number":
                number = float(text)
                if not math.isfinite(number):
                    raise self._wrong(f"{text} is too large a number")
                return _Term(lambda _: number, range=ranges.exactly(number))
            case "text":
                quoted = text[1:-1]
                return _Term(lambda _: quoted, str)
            case _:
                return self._name(text)

    def _function(self) -> _Term:
        name = self._took(*_FUNCTIONS)
        if not self._took("("):
            raise self._wrong(f"{name} is a function; expected {name}(…)")
        with self:
            terms = [self._either()]
            while self._took(","):
                terms.append(self._either())
            arguments = [self._number(term) for term in terms]
        self._close()
        if (name == "abs") != (len(arguments) == 1):
            raise self._wrong(f"{name} takes {'one value' if name == 'abs' else 'two values or more'}")
        return _Term(_call(_FUNCTIONS[name], arguments), range=_RANGES[name]([term.range for term in terms]))

    def _name(self, text: str) -> _Term:
        name = text.replace('"', "") if text.startswith(FEATURE) else text
        if not name.startswith(FEATURE) and name not in NAMES:
            raise self._wrong(f"unknown name {name!r}; known are {', '.join(sorted(NAMES))} and {FEATURE}NAME")
        self.names.add(name)
        kind = float if name in _NUMBERS else self._kinds.get(name)
        return _Term(lambda values: _finite(values(name)), kind, _NUMBERS.get(name, ANY))

    def _close(self) -> None:
        if not self._took(")"):
            raise self._wrong("a parenthesis is not closed")

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._wrong(f"nested more than {DEPTH_MAX} deep")

    def __exit__(self, *_: object) -> None:
        self._depth -= 1

    def _wrong(self, what: str) -> MalformedRequest:
        return MalformedRequest(f"{self._where}: {what}")


def _finite(value: Value) -> Value:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _quotient(left: float, right: float) -> float:
    return left / right if right else math.nan


def _arithmetic(work: Callable[[float, float], float], left: _Node, right: _Node) -> _Node:
    def value(values: Values) -> Value:
        one, other = left(values), right(values)
        return _finite(work(one, other)) if isinstance(one, float) and isinstance(other, float) else None

    return value


def _call(work: Callable[..., float], arguments: list[_Node]) -> _Node:
    def value(values: Values) -> Value:
        found = [argument(values) for argument in arguments]
        numbers = [one for one in found if isinstance(one, float)]
        return work(*numbers) if len(numbers) == len(found) else None

    return value


def _comparison(sign: str, left: _Node, right: _Node) -> _Node:
    def value(values: Values) -> Value:
        one, other = left(values), right(values)
        if one is None or other is None:
            return None
        if sign in ("==", "!="):
            return float((one == other) == (sign == "=="))
        return float(_ORDERS[sign](one, other)) if isinstance(one, float) and isinstance(other, float) else None

    return value


def _logical(left: _Node, right: _Node, *, is_and: bool) -> _Node:
    def value(values: Values) -> Value:
        one, other = left(values), right(values)
        if not isinstance(one, float) or not isinstance(other, float):
            return None
        return float(bool(one) and bool(other)) if is_and else float(bool(one) or bool(other))

    return value


def _negation(node: _Node) -> _Node:
    def value(values: Values) -> Value:
        found = node(values)
        return float(not found) if isinstance(found, float) else None

    return value
