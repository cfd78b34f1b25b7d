"""Settings from a file, the environment and the command line."""

from __future__ import annotations

import dataclasses
import enum
import json
from pathlib import Path

import pytest

from gateway.core.errors import MalformedRequest
from gateway.settings import Durability, Settings, WhenFull, load_settings, settings_body, settings_from_body


def configured(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "headgate.toml"
    path.write_text(text)
    return path


def every_setting() -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for one in dataclasses.fields(Settings):
        value = getattr(Settings(), one.name)
        inner = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        found += [(f"{one.name}.{name.name}", getattr(value, name.name)) for name in inner] or [(one.name, value)]
    return found


def test_settings_have_defaults():
    """Nothing has to be configured."""
    assert load_settings(None, {}, {}) == Settings()


def test_settings_of_later_sources_win(tmp_path):
    """The file is overridden by the environment, and that by the command line, setting by setting."""
    config = configured(tmp_path, "data_dir = 'd'\n[serving]\nport = 1\nworkers = 2\ndrain_s = 5\n[log]\ndurability = 'disk'\n")
    environment = {"HEADGATE_SERVING_PORT": "3", "HEADGATE_SERVING_WORKERS": "4", "HEADGATE_LOG_WHEN_FULL": "continue"}
    settings = load_settings(config, environment, {"serving.port": 5, "data_dir": Path("e")})
    assert settings.serving.port == 5
    assert settings.serving.workers == 4
    assert settings.serving.drain_s == 5.0
    assert isinstance(settings.serving.drain_s, float)
    assert settings.log.durability is Durability.DISK
    assert settings.log.when_full is WhenFull.CONTINUE
    assert settings.data_dir == Path("e")


@pytest.mark.parametrize(("dotted", "default"), every_setting())
def test_settings_can_all_be_set_in_the_environment(dotted, default):
    """Every setting has a variable, and its default as text means the default."""
    text = default.value if isinstance(default, enum.Enum) else str(default)
    settings = load_settings(None, {"HEADGATE_" + dotted.replace(".", "_").upper(): text}, {})
    assert settings == Settings()


def test_settings_leave_variables_of_others_alone():
    """The client's own variables, and those an orchestrator sets for a service of that name, stop nothing."""
    environment = {
        "HEADGATE_TOKEN": "t",
        "HEADGATE_URL": "u",
        "HEADGATE_SERVICE_HOST": "10.0.0.1",
        "PATH": "/bin",
        "HEADGATE_": "",
    }
    assert load_settings(None, environment, {}) == Settings()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[serving]\nprot = 1", "serving.prot"),
        ("[srving]\nport = 1", "srving.port"),
        ("port = 1", "'port'"),
        ("serving = 1", "'serving'"),
        ("serving = 'x'", "'serving'"),
        ("[data_dir]\nx = 1", "data_dir.x"),
        ("[serving.port]\nx = 1", "serving.port"),
        ("data_dir = 3", "data_dir"),
        ("[serving]\nport = '8080x'", "serving.port"),
        ("[serving]\nport = 70000", "serving.port"),
        ("[serving]\nport = -1", "serving.port"),
        ("[serving]\nport = 1.5", "serving.port"),
        ("[serving]\nport = true", "serving.port"),
        ("[serving]\nworkers = 0", "serving.workers"),
        ("[serving]\nqueue_rows_max = 0", "serving.queue_rows_max"),
        ("[archive]\nniceness = 20", "archive.niceness"),
        ("[serving]\ndrain_s = -1", "serving.drain_s"),
        ("[serving]\ndrain_s = nan", "serving.drain_s"),
        ("[supervisor]\nhang_s = 0.01", "supervisor.hang_s"),
        ("[log]\ndurability = 'ram'", "log.durability"),
        ("[serving]\nhost = 3", "serving.host"),
        ("[serving", "headgate.toml"),
    ],
)
def test_settings_that_are_wrong_stop_the_start_by_name(tmp_path, text, named):
    """An unknown name or a value out of range is said by name."""
    with pytest.raises(MalformedRequest) as caught:
        load_settings(configured(tmp_path, text), {}, {})
    assert named in str(caught.value)


@pytest.mark.parametrize("dotted", [name for name, default in every_setting() if isinstance(default, float)])
def test_settings_of_nothing_are_for_what_may_be_left_out(dotted):
    """A float is zero only where that means to do without: no drain, no rest, nothing refused, kept or inline."""
    may_be_nothing = {
        "serving.inline_us_max",
        "serving.inline_turn_us_max",
        "serving.fault_rest_s",
        "serving.poison_s",
        "serving.drain_s",
        "archive.keep_segments_s",
        "archive.keep_s",
        "monitor.drill_s",
        "tracing.share",
    }
    if dotted in may_be_nothing:
        load_settings(None, {}, {dotted: 0.0})
    else:
        with pytest.raises(MalformedRequest, match=dotted):
            load_settings(None, {}, {dotted: 0.0})


def test_settings_file_that_is_missing_stops_the_start(tmp_path):
    """A file that was asked for and is not there is never passed over."""
    with pytest.raises(MalformedRequest, match=r"none\.toml"):
        load_settings(tmp_path / "none.toml", {}, {})


@pytest.mark.parametrize(("variable", "value"), [("HEADGATE_SERVING_PORT", "many"), ("HEADGATE_SERVING_PROT", "1")])
def test_settings_of_the_environment_name_their_variable(variable, value):
    """A mistake in the environment is told with the variable's name."""
    with pytest.raises(MalformedRequest, match=variable):
        load_settings(None, {variable: value}, {})


def test_settings_of_the_command_line_name_themselves():
    """A mistake on the command line is told as one."""
    with pytest.raises(MalformedRequest, match="command line"):
        load_settings(None, {}, {"serving.workers": 0})


def test_settings_reach_a_child_process_whole(tmp_path):
    """What a child reads back from JSON is what its parent had."""
    settings = load_settings(configured(tmp_path, "[log]\nwhen_full = 'continue'\n[serving]\nport = 7\n"), {}, {"data_dir": "x"})
    assert settings_from_body(json.loads(json.dumps(settings_body(settings)))) == settings
