"""docs/operations.md and gateway/settings.py say the same."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.access import Scope
from gateway.settings import Settings, load_settings

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
ROW = re.compile(r"^\| `(?P<name>[a-z_.]+)` \| `(?P<default>[^`]*)` \| (?P<unit>[^|]*) \| (?P<reason>[^|]*) \|$", re.MULTILINE)
UNITS = {"_bytes_max": "bytes", "_bytes_min": "bytes", "_bytes": "bytes", ".bytes_max": "bytes", "_us_max": "µs", "_s": "s"}


def settings() -> Iterator[tuple[str, object]]:
    """Yield every setting's name and default."""
    for part in dataclasses.fields(Settings):
        value = getattr(Settings(), part.name)
        if not dataclasses.is_dataclass(value):
            yield part.name, value
            continue
        for inner in dataclasses.fields(value):
            yield f"{part.name}.{inner.name}", getattr(value, inner.name)


def written(value: object) -> str:
    """Return a default as the page writes it."""
    match value:
        case enum.Enum():
            return str(value.value)
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


def test_operations_page_lists_every_setting_once():
    """The page has exactly one row for each setting, and none for anything else."""
    assert sorted(row["name"] for row in ROW.finditer(PAGE)) == sorted(name for name, _ in settings())


@pytest.mark.parametrize(("name", "default"), list(settings()))
def test_operations_page_states_default_unit_and_reason(name, default):
    """A setting's row has its default as the program has it, the unit its name says, and a reason."""
    row = next(row for row in ROW.finditer(PAGE) if row["name"] == name)
    assert row["default"] == written(default)
    expected = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), None)
    if expected is not None:
        assert row["unit"].strip() == expected
    assert row["reason"].strip()


def test_operations_page_explains_every_scope():
    """Each scope of a token has its row."""
    for scope in Scope:
        assert f"| `{scope.value}` |" in PAGE


def test_settings_leave_the_command_lines_variables_alone():
    """A server starts with the variables that tell the command line where a gateway is."""
    environment = {"HEADGATE_TOKEN": "t", "HEADGATE_URL": "http://x", "HEADGATE_ADMIN_URL": "http://y", "HEADGATE_DATA_DIR": "d"}
    assert load_settings(None, environment, {}) == dataclasses.replace(Settings(), data_dir=Path("d"))
