"""What commands print: tables and facts for people, JSON for programs. Standard output holds nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import typer

from gateway.core.fields import Json
from gateway.drawing.words import moment as moment  # noqa: PLC0414  # for every command

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_PIPED_COLUMNS: Final = 160  # wide enough that a row of any table stays one line when nobody watches
_CELL_CHARACTERS_MAX: Final = 60  # of a value nobody shaped for reading
Cell = Callable[[Json], object]


def show_json(value: object) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show_lines(items: Iterable[object]) -> None:
    """Print one JSON value a line."""
    for item in items:
        typer.echo(json.dumps(item, ensure_ascii=False))


def show_table(items: Iterable[Json], columns: Mapping[str, Cell], *, empty: str) -> None:
    """Print one row per item, or the sentence `empty` when there are none; a column is its heading and how to read its cell."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in columns:
        table.add_column(heading, overflow="fold")
    for item in items:
        table.add_row(*(_literal(shown(read(item))) for read in columns.values()))
    if table.row_count:
        _show(table)
    elif empty:
        typer.echo(empty)


def show_facts(facts: Mapping[str, object]) -> None:
    """Print names and values below each other; values that are None or empty are left out."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value not in (None, "", [], {}, ()):
            table.add_row(_literal(name), _literal(shown(value)))
    _show(table)


def shown(value: object) -> str:
    """Return a value as a person reads it."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case str():
            return value
        case list() | tuple() if all(isinstance(item, str | int) for item in value):
            return ", ".join(str(item) for item in value)
        case list() | tuple() | dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)


def shortened(value: object) -> str:
    """Return a value in one short line."""
    text = shown(value)
    return text if len(text) <= _CELL_CHARACTERS_MAX else text[: _CELL_CHARACTERS_MAX - 1] + "…"


def mapping(value: object) -> Json:
    """Return a field that is an object, or an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: object) -> Sequence[Json]:
    """Return a field that is an array of objects, or an empty one."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _literal(text: str) -> Text:
    """Return text that stands as it is: what looks like markup in a name or a reason is none."""
    from rich.text import Text

    return Text(text)


def _show(table: Table) -> None:
    """Print a table without the blanks that fill its last column."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPED_COLUMNS
    with console.capture() as drawn:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in drawn.get().splitlines()))
