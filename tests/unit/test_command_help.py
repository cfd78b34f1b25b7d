"""Every command explains itself, and the explanations are true."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from gateway.commands.app import app

SLOW_MODULES = (
    "httpx", "numpy", "yaml", "onnxruntime", "duckdb", "river", "starlette", "uvicorn", "gateway.client", "gateway.compose",
)  # fmt: skip


def commands(group: object, *before: str) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every command's words with the command, as the program itself has them."""
    for name, command in sorted(getattr(group, "commands", {}).items()):
        if hasattr(command, "commands"):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


COMMANDS = dict(commands(typer.main.get_command(app)))
EXAMPLES = [(words, line) for words, command in COMMANDS.items() for line in str(command.epilog or "").split("\n\n")[1:]]


def test_commands_are_the_documented_ones():
    """The groups and commands are those that the documents name."""
    assert {" ".join(words) for words in COMMANDS} == {
        "serve",
        "demo",
        *(f"models {verb}" for verb in ("list", "register", "show", "retire")),
        *(f"routes {verb}" for verb in ("list", "show", "set", "delete")),
        *(f"rollouts {verb}" for verb in ("start", "list", "show", "advance", "hold", "resume", "promote", "approve")),
        "rollouts rollback",
        "rollback",
        "predict",
        *(f"predictions {verb}" for verb in ("tail", "show", "query", "export")),
        "ground-truth",
        "drift",
        "health",
        "quality",
        "replay",
        "report",
        "backup",
        "restore",
        "monitor show",
        *(f"audit {verb}" for verb in ("list", "show", "verify")),
        *(f"notices {verb}" for verb in ("list", "test")),
        *(f"quarantine {verb}" for verb in ("list", "release")),
        *(f"automation {verb}" for verb in ("show", "on", "off")),
        *(f"keys {verb}" for verb in ("create", "list", "revoke")),
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_a_sentence_and_an_example(words):
    """The help of every command says what it does and shows how."""
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 0, result.output
    assert COMMANDS[words].help
    assert "Examples:" in result.stdout
    assert f"headgate {' '.join(words)}" in result.stdout


@pytest.mark.parametrize(("words", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_examples_are_of_their_command_and_parse(words, line, tmp_path, monkeypatch):
    """Every example in a help text is a valid call of that very command."""
    monkeypatch.chdir(tmp_path)
    parts = shlex.split(line.partition(" > ")[0])
    for name in (word for word in parts if word.endswith((".onnx", ".joblib", ".json", ".parquet", ".jsonl", ".yaml"))):
        (tmp_path / name).touch()
    assert parts[0] == "headgate"
    assert tuple(parts[1 : 1 + len(words)]) == words
    command = COMMANDS[words]
    command.make_context(" ".join(words), parts[1 + len(words) :])  # raises on wrong usage; runs nothing


def test_help_of_the_demo_says_what_it_needs():
    """The extra to install is shown with its brackets, and the directory is said to be an empty one."""
    shown = CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"}).stdout
    assert "pip install 'headgate[demo]'" in shown
    assert "HEADGATE_DATA_DIR" not in shown


def test_listings_and_shows_have_json():
    """Whatever shows something can show it to a program."""
    for words, command in COMMANDS.items():
        if words[-1] in {"list", "show", "query", "tail", "predict", "verify"}:
            assert "--json" in {option for one in command.params for option in one.opts}, words


def test_help_imports_nothing_slow():
    """`headgate --help` answers before anybody waits: what a single command needs is imported by that command."""
    program = f"import sys; import gateway.commands.app; print(sorted(set({SLOW_MODULES!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
