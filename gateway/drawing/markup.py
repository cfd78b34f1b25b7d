"""HTML and SVG as values: text is escaped wherever it comes from, and only this module makes markup out of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final, TypeVar

Item = TypeVar("Item")
_VOID: Final = frozenset({"br", "input", "link", "meta", "rect", "line", "polyline", "circle"})


class Markup(str):
    """Text that is markup already and stands as it is."""

    __slots__ = ()


Child = Markup | str | None
Value = str | float | bool | None
Cell = Callable[[Item], Child]


def tag(name: str, /, *children: Child, **attributes: Value) -> Markup:
    """Return an element.

    Args:
        children: Text, which is escaped, and markup, which is not; None is left out.
        attributes: A trailing `_` is dropped and others become `-`; True stands alone, False and None are left out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    content = joined(*children)
    if name in _VOID and not content:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{content}</{name}>")


def joined(*children: Child) -> Markup:
    """Return children one after the other, text escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children if child is not None))


def table(
    items: Sequence[Item],
    columns: Mapping[str, Cell[Item]],
    *,
    empty: str,
    caption: str = "",
    numbers: frozenset[str] = frozenset(),
) -> Markup:
    """Return one row an item, or the sentence `empty`; each cell names its column, for a screen with room for one alone.

    Args:
        numbers: Columns that are set to the right.
    """
    if not items:
        return tag("p", empty, class_="quiet")
    kinds = {name: "number" if name in numbers else None for name in columns}
    head = tag("tr", *(tag("th", name, scope="col", class_=kinds[name]) for name in columns))
    rows = [
        tag("tr", *(tag("td", read(item), data_label=name, class_=kinds[name]) for name, read in columns.items()))
        for item in items
    ]
    title = tag("caption", caption) if caption else None
    return tag("table", title, tag("thead", head), tag("tbody", *rows))


def document(title: str, *body: Child, style: str, more: Sequence[Markup] = ()) -> str:
    """Return a whole HTML document with its style inside; `more` stands in its head."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        *more,
        tag("style", Markup(style)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", *body), lang="en") + "\n"


def _attribute(key: str, value: Value) -> str:
    name = key.removesuffix("_").replace("_", "-")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    return f' {name}="{escape(f"{value:g}" if isinstance(value, float) else str(value))}"'
