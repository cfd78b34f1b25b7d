"""Scripts that no check runs: what they import is there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for folder in ("loadtests", "grafana") for path in (ROOT / folder).rglob("*.py"))


def _imported(path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("gateway", "adapters"):
            yield from ((str(node.module), alias.name) for alias in node.names)


def _is_there(module: str, name: str) -> bool:
    found = importlib.import_module(module)
    return hasattr(found, name) or (hasattr(found, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_script_imports_what_there_is(path):
    """Every name that a script takes from the program is defined where it says."""
    assert [f"{module}.{name}" for module, name in _imported(path) if not _is_there(module, name)] == []
