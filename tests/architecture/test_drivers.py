"""Each driver library is named in one file, so that replacing it touches one file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOMES: dict[str, tuple[str, ...]] = {
    "sqlite3": ("adapters/stores/sqlite.py",),
    "duckdb": (
        "adapters/archives/child.py",  # in a process of its own, which runs others' SQL
        "adapters/archives/duck.py",
        "adapters/archives/spreading.py",  # its writing half
        "adapters/validation/sample.py",  # in a process of its own, on one file
    ),
    "onnxruntime": ("adapters/runtimes/onnx.py",),
    "river": ("adapters/detectors/river.py",),
    "pickle": (
        "adapters/detectors/river.py",  # its own state, from its own checkpoint
        "adapters/runtimes/pickles/host.py",
        "adapters/runtimes/pickles/scan.py",  # runs nothing of what it reads
        "gateway/monitor/checkpoint.py",
    ),
    "joblib": ("adapters/runtimes/pickles/host.py",),
    "grpc": ("gateway/serving/grpc/server.py",),
    "yaml": ("gateway/commands/documents.py",),
    "opentelemetry": ("adapters/otlp.py",),
    "prometheus_client": ("gateway/exposition.py",),
}


def _importers(driver: str) -> list[str]:
    found = []
    for path in [*ROOT.glob("gateway/**/*.py"), *ROOT.glob("adapters/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] == driver for name in names):
                found.append(str(path.relative_to(ROOT)))
    return sorted(set(found))


@pytest.mark.parametrize(("driver", "homes"), HOMES.items())
def test_driver_is_named_in_one_file(driver, homes):
    """Only the adapter that owns a driver imports it."""
    assert _importers(driver) == list(homes)
