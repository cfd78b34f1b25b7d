"""Strict reading of JSON objects that people write: each field is asked for once, by name, type and range.

A wrong or missing field raises `MalformedRequest` that names the field and what was expected; `done` refuses fields nobody
asked for, so that a misspelt option never passes silently.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from gateway.core.errors import MalformedRequest

Json = dict[str, object]
E = TypeVar("E", bound=enum.Enum)
NAME_LENGTH_MAX = 200  # bytes of UTF-8: fits a file name (255 bytes) with a suffix, and a Prometheus label without harm
_UNSAFE = frozenset('/\\\0%?#"<>|*:\n\r\t')


class Fields:
    """A reader over one object; `where` is its path in the body, for messages."""

    def __init__(self, body: object, where: str = "body") -> None:
        if not isinstance(body, Mapping):
            raise MalformedRequest(f"{where}: expected an object")
        self._body = cast("Mapping[str, object]", body)
        self._where = where
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        """Return whether the field is there and not null."""
        return self._body.get(name) is not None

    def value(self, name: str) -> object:
        """Return the raw value, or None when absent."""
        self._asked.add(name)
        return self._body.get(name)

    def text(self, name: str, default: str | None = None, *, length_max: int = 10_000) -> str:
        """Return a string of at most `length_max` characters."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or len(value) > length_max or not _is_encodable(value):
            raise self.wrong(name, f"a string of at most {length_max} characters")
        return value

    def reason(self) -> str:
        """Return why somebody does what the body asks for, which may not be blank."""
        reason = self.text("reason", "")
        if not reason.strip():
            raise self.wrong("reason", "why, in a sentence; it stands in the audit log")
        return reason

    def name(self, name: str, default: str | None = None) -> str:
        """Return a name that is safe in a URL path, a file name and a label."""
        return checked_name(self.text(name, default, length_max=NAME_LENGTH_MAX), f"{self._where}.{name}")

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer in [low, high]."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.wrong(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number in [low, high], which are finite."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # NaN fails the range too
            raise self.wrong(name, f"a number from {low} to {high}")
        return float(value)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """Return true or false."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def choice(self, name: str, of: type[E], default: E | None = None) -> E:
        """Return the member of an enum whose value was given."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        for member in of:
            if member.value == value:
                return member
        raise self.wrong(name, "one of " + ", ".join(str(member.value) for member in of))

    def items(self, name: str, count_max: int, default: Sequence[object] | None = None) -> Sequence[object]:
        """Return an array of at most `count_max` elements."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, list | tuple) or len(value) > count_max:
            raise self.wrong(name, f"an array of at most {count_max} elements")
        return value

    def mapping(self, name: str, default: Json | None = None) -> Json:
        """Return an object, a copy of its first level."""
        value = self.value(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return dict(value)

    def wrong(self, name: str, expected: str) -> MalformedRequest:
        """Return the error for a field that is not what was expected."""
        verb = "expected" if self.has(name) else "missing; expected"
        return MalformedRequest(f"{self._where}.{name}: {verb} {expected}")

    def done(self) -> None:
        """Refuse fields that nobody asked for."""
        unknown = sorted(set(self._body) - self._asked)
        if unknown:
            raise MalformedRequest(f"{self._where}: unknown field {unknown[0]!r}; known are {', '.join(sorted(self._asked))}")


def checked_name(name: str, where: str) -> str:
    """Return `name` if it is safe in a URL path, a file name and a label.

    Raises:
        MalformedRequest: it is blank, too long, padded, starts with a dot, or holds a separator or control character.
    """
    is_safe = (
        _is_encodable(name)
        and 0 < len(name.encode()) <= NAME_LENGTH_MAX
        and name == name.strip()
        and not name.startswith(".")
        and not _UNSAFE & set(name)
        and name.isprintable()
    )
    if not is_safe:
        raise MalformedRequest(
            f"{where}: a name has 1 to {NAME_LENGTH_MAX} bytes of printable text, no separator (/ or :), no leading dot or blank"
        )
    return name


def _is_encodable(text: str) -> bool:
    """Return whether text has no half of a surrogate pair, which JSON can spell and no file or database takes."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)
