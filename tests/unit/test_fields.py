"""The strict reader of JSON objects."""

from __future__ import annotations

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, checked_name


class Colour(enum.Enum):
    """A choice of one."""

    RED = "red"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
READERS = {
    "text": (lambda fields: fields.text("x", length_max=3), str),
    "name": (lambda fields: fields.name("x"), str),
    "integer": (lambda fields: fields.integer("x", -3, 3), int),
    "number": (lambda fields: fields.number("x", -3.0, 3.0), float),
    "boolean": (lambda fields: fields.boolean("x"), bool),
    "choice": (lambda fields: fields.choice("x", Colour), Colour),
    "items": (lambda fields: fields.items("x", 2), list),
    "mapping": (lambda fields: fields.mapping("x"), dict),
}


@pytest.mark.parametrize("kind", READERS)
@given(value=JSON)
def test_fields_give_the_type_or_name_the_field(kind, value):
    """Whatever JSON holds, a reader returns its type within its range, or says which field is wrong."""
    read, type_ = READERS[kind]
    try:
        found = read(Fields({"x": value}, "body"))
    except MalformedRequest as error:
        found, message = None, str(error)
    if found is None:
        assert message.startswith("body.x: ")
        return
    assert type(found) is type_
    if kind in ("integer", "number"):
        assert -3 <= found <= 3
    if kind in ("text", "items"):
        assert len(found) <= 3


@pytest.mark.parametrize("kind", READERS)
def test_fields_say_that_one_is_missing(kind):
    """An absent field and null are both missing."""
    for body in ({}, {"x": None}):
        with pytest.raises(MalformedRequest, match=r"body\.x: missing; expected"):
            READERS[kind][0](Fields(body, "body"))


def test_fields_take_a_default_for_what_is_absent():
    """With a default, absent and null are the default; a wrong value is still wrong."""
    for body in ({}, {"x": None}):
        fields = Fields(body)
        assert fields.text("x", "") == ""
        assert fields.integer("x", 1, 2, 0) == 0
        assert fields.number("x", 1.0, 2.0, 0.5) == 0.5
        assert fields.boolean("x", False) is False
        assert fields.choice("x", Colour, Colour.RED) is Colour.RED
        assert fields.items("x", 1, ()) == ()
        assert fields.mapping("x", {}) == {}
    with pytest.raises(MalformedRequest):
        Fields({"x": 0}).boolean("x", False)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), float("-inf"), 3.0000001])
def test_fields_refuse_numbers_out_of_any_range(value):
    """Huge integers, NaN and infinities are out of range, not a crash."""
    with pytest.raises(MalformedRequest):
        Fields({"x": value}).number("x", -3.0, 3.0)


def test_fields_refuse_what_nobody_asked_for():
    """A misspelt option never passes silently, and the message lists the known ones."""
    fields = Fields({"a": 1, "bb": 2}, "route")
    fields.integer("a", 0, 9)
    fields.text("c", "")
    with pytest.raises(MalformedRequest, match="route: unknown field 'bb'; known are a, c"):
        fields.done()


def test_fields_refuse_half_a_surrogate_pair():
    """JSON can spell what no file and no database takes."""
    with pytest.raises(MalformedRequest):
        Fields({"x": "a\ud800"}).text("x")


@pytest.mark.parametrize("name", ["a", "delays-2", "Flüge nach Süden", "v1.2_x", "a" * 200, "ü" * 100, "日本"])
def test_name_that_is_safe_is_kept(name):
    """Names may be in any script, up to 200 bytes."""
    assert checked_name(name, "route") == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        " a",
        "a ",
        ".",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "a:b",
        "a?b",
        "a%2fb",
        "a#b",
        "a\0",
        "a\nb",
        "a\u202eb",
        "\u2028",
        "a" * 201,
        "ü" * 101,
        "\ud800",
        '"',
        "<b>",
        "a|b",
        "a*",
    ],
)
def test_name_that_is_unsafe_is_refused(name):
    """A name that means something to a path, a URL or a terminal is refused."""
    with pytest.raises(MalformedRequest, match="route"):
        checked_name(name, "route")
