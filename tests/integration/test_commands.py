"""The command line against a real control plane over a real registry: what people read, what programs read, how it fails."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import time as time_of
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from adapters.archives.duck import DuckArchive
from adapters.clock import SystemClock
from adapters.detectors.river import AdwinDetector
from adapters.logs.reading import SegmentReader
from adapters.metrics_file import MetricsDirectory
from adapters.readings_file import ReadingsFile
from adapters.senders.opened import opened_sender
from adapters.stores.artifacts import DirectoryArtifacts
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.registry import SqliteRegistry
from adapters.validation.process import ProcessValidator
from gateway.client import AdminClient, RequestFailed
from gateway.commands.app import app
from gateway.commands.replay import lines, watched
from gateway.control.run import run_control
from gateway.core.changes import Change, Quarantine
from gateway.core.models import Column
from gateway.core.notices import Channel
from gateway.core.outcomes import OutcomeWatch
from gateway.core.profiles import build_profile
from gateway.monitor.columns import Budget, ColumnsWatch
from gateway.settings import Settings

Run = Callable[..., Result]
RISK = Channel(  # whom nothing here is told
    "risk",
    "https://127.0.0.1:9/?secret=s3cret",
    routes=("fraud-*", "aml"),
    teams=("risk",),
    kinds=("x",),
    quiet=(time_of(22), time_of(6, 30)),
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Iterator[Path]:
    """Run a control plane that waits for no workers, as long as this module's tests."""
    directory = tmp_path_factory.mktemp("data")
    listener = socket.create_server(("127.0.0.1", 0))
    stop, clock = threading.Event(), SystemClock()
    plane = threading.Thread(
        target=run_control,
        kwargs={
            "listener": listener,
            "settings": replace(Settings(), data_dir=directory),
            "registry": SqliteRegistry(directory / "registry.db", clock=clock),
            "artifacts": DirectoryArtifacts(directory / "artifacts"),
            "validator": ProcessValidator(timeout_s=60.0, memory_bytes=4 * 2**30),
            "archive": DuckArchive(directory / "archive", memory_bytes=2**28),
            "log": SegmentReader(directory / "log"),
            "readings": ReadingsFile(directory / "run" / "readings.json"),
            "snapshots": MetricsDirectory(directory / "run" / "metrics"),
            "workers": (),
            "checkpoints": SqliteCheckpoints(directory / "checkpoints.db"),
            "channels": {"risk": (RISK, opened_sender(RISK))},
            "clock": clock,
            "stop": stop,
        },
    )
    plane.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    (directory / "run").mkdir(exist_ok=True)
    (directory / "run" / "addresses.json").write_text(json.dumps({"url": "http://127.0.0.1:9", "admin_url": address}))
    _wait_for(address)
    yield directory
    stop.set()
    plane.join(30)


@pytest.fixture(scope="module")
def run(data_dir) -> Run:
    """Return the command line in this process, on that control plane."""
    return lambda *words, **more: CliRunner().invoke(app, [*map(str, words), "--data-dir", str(data_dir)], **more)


@pytest.fixture(scope="module")
def models(run, write_linear_model, tmp_path_factory) -> list[dict[str, object]]:
    """Register three versions of `delays`, with the command line."""
    directory = tmp_path_factory.mktemp("models")
    registered = []
    for number in (1, 2, 3):
        artifact = write_linear_model(directory / f"{number}.onnx", scale=1.0 / number)
        target = ("--task", "binary", "--output", "probability", "--label", "no", "--label", "yes", "--positive", "yes")
        result = run("models", "register", "delays", artifact, *target, "--description", f"number {number}", "--json")
        assert result.exit_code == 0, result.output
        registered.append(json.loads(result.stdout))
    return registered


@pytest.fixture
def route(run, models) -> Iterator[str]:
    """Create a route of its own for a test: 90/10 and a shadow."""
    name = f"route-{time.monotonic_ns()}"
    split = ("--variant", "champion=1:9000", "--variant", "challenger=2:1000", "--shadow", "copy=3:0.5")
    result = run("routes", "set", name, "--model", "delays", *split, "--assign-header", "X", "--deadline-ms", 500)
    assert result.exit_code == 0, result.output
    yield name
    run("rollouts", "rollback", name, "--reason", "over")
    run("routes", "delete", name, "--reason", "over")


def parsed(result: Result) -> object:
    """Return the JSON that a command printed, and nothing else on standard output."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_register_sends_what_the_options_say(models):
    """Each option of `models register` stands in the version, and versions count 1, 2, 3."""
    assert [version["version"] for version in models] == ["1", "2", "3"]
    assert models[0]["description"] == "number 1"
    assert models[0]["target"] == {
        "task": "binary",
        "output": "probability",
        "labels": ["no", "yes"],
        "positive": "yes",
        "threshold": 0.5,
        "loss_max": 1.0,
    }


def test_register_takes_metadata_and_reference(run, write_linear_model, tmp_path):
    """A metadata file and a training sample are sent; an option wins over the file, or stands beside it."""
    metadata = {"version": "file", "description": "from the file", "columns": ["a", {"name": "b", "kind": "categorical"}]}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    (tmp_path / "sample.csv").write_text("a,b\n" + "\n".join(f"{number / 7},{number % 3}" for number in range(200)))
    artifact = write_linear_model(tmp_path / "two.onnx", features=2)
    files = ("--metadata", tmp_path / "metadata.json", "--reference", tmp_path / "sample.csv")
    version = parsed(run("models", "register", "pairs", artifact, *files, "--version", "option", "--provider", "cpu", "--json"))
    assert version["providers"] == ["cpu"]
    assert version["version"] == "option"
    assert version["description"] == "from the file"
    assert [column["kind"] for column in version["columns"]] == ["numeric", "categorical"]
    assert version["profile"]


def test_refused_artifact_says_why(run, tmp_path):
    """A broken file ends with 1, the gateway's reason on standard error and nothing on standard output."""
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    result = run("models", "register", "broken", tmp_path / "broken.onnx", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("headgate: ")


def test_models_are_listed_and_shown(run, models):
    """People see names, champions and states; programs see every field."""
    assert {"name": "delays", "champion": "1"} in parsed(run("models", "list", "--json"))
    assert [one["version"] for one in parsed(run("models", "list", "delays", "--json"))] == ["1", "2", "3"]
    assert parsed(run("models", "show", "delays", "2", "--json"))["digest"] == models[1]["digest"]
    assert len(parsed(run("models", "show", "delays", "--json"))["versions"]) == 3
    for words in (("models", "list"), ("models", "list", "delays"), ("models", "show", "delays", "1")):
        result = run(*words)
        assert result.exit_code == 0
        assert "delays" in result.stdout or "number 1" in result.stdout
    assert "probability FP32[-1, 1]" in run("models", "show", "delays", "1").stdout


def test_version_in_use_is_not_retired(run, route):
    """Retiring what a route needs is refused; what nothing needs is retired."""
    refused = run("models", "retire", "delays", "2", "--reason", "old")
    assert refused.exit_code == 1
    assert route in refused.stderr


def test_names_that_look_like_markup_are_shown_as_they_are(run, models):
    """A reason or a name in brackets stands in a table as it was given."""
    run("automation", "on", "--reason", "[red]alert[/red] [nobody]")
    assert "[red]alert[/red] [nobody]" in run("audit", "list").stdout


def test_tables_have_no_trailing_blanks(run, route):
    """What a table prints can be compared and copied."""
    for words in (("routes", "list"), ("routes", "show", route), ("audit", "list")):
        lines = run(*words).stdout.splitlines()
        assert lines == [line.rstrip() for line in lines]


def test_routes_set_writes_what_the_options_say(run, route):
    """Each option of `routes set` stands in the route's body."""
    body = parsed(run("routes", "show", route, "--json"))
    assert body["variants"] == [
        {"name": "champion", "version": "1", "weight": 9000},
        {"name": "challenger", "version": "2", "weight": 1000},
    ]
    assert body["shadows"] == [{"name": "copy", "version": "3", "fraction": 0.5}]
    assert body["assignment"] == {"header": "x"}
    assert body["deadline_ms"] == 500


def test_routes_set_leaves_the_rest_as_it_is(run, route):
    """A second `routes set` changes what is named, at the present revision, and nothing else."""
    before = parsed(run("routes", "show", route, "--json"))
    result = run("routes", "set", route, "--variant", "champion=1:5000", "--variant", "challenger=2:5000", "--json")
    changed = parsed(result)
    assert changed["revision"] == before["revision"] + 1
    after = parsed(run("routes", "show", route, "--json"))
    moved = {name for name in after if after[name] != before[name]}
    assert moved == {"variants", "revision"}
    assert parsed(run("routes", "set", route, "--no-shadows", "--json"))["route"]["shadows"] == []


def test_routes_set_refuses_a_stale_revision(run, route):
    """A revision that somebody overtook ends with 1, says so, and changes nothing."""
    before = parsed(run("routes", "show", route, "--json"))
    result = run("routes", "set", route, "--deadline-ms", 700, "--revision", before["revision"] - 1)
    assert result.exit_code == 1
    assert f"revision {before['revision']}" in result.stderr
    assert "hint: " in result.stderr
    assert parsed(run("routes", "show", route, "--json")) == before


def test_routes_set_reads_a_file_that_show_wrote(run, route, tmp_path):
    """What `routes show --json` prints can be edited and set; its revision guards against others' changes."""
    file = tmp_path / "route.json"
    file.write_text(run("routes", "show", route, "--json").stdout)
    assert run("routes", "set", route, "--file", file, "--deadline-ms", 900).exit_code == 0
    assert parsed(run("routes", "show", route, "--json"))["deadline_ms"] == 900
    assert run("routes", "set", route, "--file", file).exit_code == 1


def test_routes_set_without_the_old_fallback_takes_the_first_variant(run, route):
    """New variants whose names leave the old fallback out need no --fallback."""
    changed = parsed(run("routes", "set", route, "--variant", "new=1:10000", "--json"))
    assert changed["route"]["fallback"] == "new"


@pytest.mark.parametrize(
    "words",
    [
        ("--variant", "champion"),
        ("--variant", "champion=1"),
        ("--variant", "champion=1:lots"),
        ("--variant", "=1:10000"),
        ("--shadow", "copy=3:half"),
        ("--assign-header", "A", "--assign-input", "b"),
        ("--deadline-ms", "0"),
        ("--unknown",),
    ],
)
def test_wrong_usage_ends_with_2(run, route, words):
    """An option that is not of its form never reaches the gateway."""
    before = parsed(run("routes", "show", route, "--json"))
    result = run("routes", "set", route, *words)
    assert result.exit_code == 2
    assert parsed(run("routes", "show", route, "--json")) == before


def test_routes_are_listed(run, route):
    """The table has the split in per cent; JSON has the bodies."""
    table = run("routes", "list").stdout
    assert "champion=1 90 %" in table
    assert "copy=3 50 % copied" in table
    assert route in {one["name"] for one in parsed(run("routes", "list", "--json"))}


def test_rollback_restores_the_last_good_table(run, route):
    """`rollback` puts everything back to the champion; without a reason it is refused with the gateway's words."""
    refused = run("rollback", route)
    assert refused.exit_code == 1
    assert "reason" in refused.stderr
    result = run("rollback", route, "--reason", "complaints")
    assert result.exit_code == 0, result.output
    assert "champion=1 100 %" in result.stdout


def test_rollout_goes_through_its_life(run, route, tmp_path):
    """start, hold, resume, advance and promote reach the gateway, by the newest rollout of the route."""
    run("routes", "set", route, "--variant", "champion=1:10000", "--no-shadows")
    plan = tmp_path / "plan.yaml"
    plan.write_text("steps: [500, {weight: 2500, dwell_s: 60}]\nfalse_rollbacks_per_year: 1  # at most\ndwell_s: 5\n")
    begun = parsed(run("rollouts", "start", route, "--version", 2, "--plan", plan, "--by-hand", "--json"))
    assert [(step["weight"], step["dwell_s"]) for step in begun["plan"]["steps"]] == [(500, 5.0), (2_500, 60.0)]
    assert (begun["plan"]["advances_itself"], begun["plan"]["false_rollbacks_per_year"]) == (False, 1.0)
    for words, state, step in (
        (("hold", route), "HELD", 0),
        (("resume", route, begun["id"]), "CANARY", 0),
        (("advance", route), "CANARY", 1),
    ):
        moved = parsed(run("rollouts", *words, "--json"))
        assert (moved["state"], moved["step"]) == (state, step)
    assert "2 of 2 (25 %)" in run("rollouts", "show", route).stdout
    assert begun["id"] in run("rollouts", "list", route).stdout
    assert parsed(run("rollouts", "promote", route, "--reason", "good", "--json"))["state"] == "LIVE"
    assert parsed(run("rollouts", "list", route, "--json"))[0]["state"] == "LIVE"
    illegal = run("rollouts", "hold", route)
    assert illegal.exit_code == 1
    assert "LIVE" in illegal.stderr


def test_rollout_of_a_route_that_had_none(run, route):
    """Asking for the newest rollout where there is none says so."""
    result = run("rollouts", "show", route)
    assert result.exit_code == 1
    assert "no rollout" in result.stderr


def test_drift_shows_both_views_and_what_carries_them(run, route, data_dir):
    """What moved, by how much of the departure, what has no place in training, and each incident's sentence."""
    random = np.random.default_rng(1)
    columns = (Column("size"), Column("weight"))
    profile = build_profile(columns, {column.name: random.normal(size=2_000) for column in columns})
    watch = ColumnsWatch(profile, AdwinDetector, Budget(1e5, 1e-4))
    fed = [watch.feed((random.normal(size=32) + (at > 20), np.full(32, np.nan))) for at in range(60)]
    why = next(moved[0].why for moved in fed if moved)
    incident = {"attribution": "DATA", "subjects": ["weight"], "opened_at_s": 1e9, "last_at_s": 1e9, "alarms": 1, "why": why}
    drift = {
        "version": "1",
        "frozen_by": "DATA",
        "incidents": [incident],
        "against_training": {"inputs": watch.against_training(), "errors": OutcomeWatch(alarm_rows=1e5).body(), "answer": None},
        "features": [reading.body() for reading in watch.readings()],
    }
    ReadingsFile(data_dir / "run" / "readings.json").publish({"routes": {route: {"drift": drift}}})

    shown = run("drift", route).stdout

    assert "unlike the reference" in shown
    assert "learning from the first ones" in shown
    assert "missing 100.0%" in shown
    assert "2001-09-09" in shown
    assert "by weight" in why
    assert " ".join(why.split()[:4]) in shown
    assert parsed(run("drift", route, "--json"))["drift"] == drift


def test_health_shows_the_worst_part_first(run, route, data_dir):
    """What fails stands at the top with its numbers, and what is not known says so."""
    version = {"variant": "champion", "version": "1", "kind": "live", "predictions": 1_000, "error_rate": 0.5}
    readings = {"monitor": {"time_s": time.time()}, "routes": {route: {"versions": [{**version, "latency_ms_mean": 4_000.0}]}}}
    ReadingsFile(data_dir / "run" / "readings.json").publish(readings)
    parts = parsed(run("health", route, "--json"))["parts"]
    assert [(one["part"], one["level"]) for one in parts[:2]] == [("errors", "critical"), ("latency", "warning")]
    assert "500 of 1,000" in run("health", route).stdout
    assert "unknown" in run("health", route).stdout


def test_drift_before_any_answer_says_so(run, route):
    """A route of which nothing was seen is no error."""
    assert "no answer" in run("drift", route).stdout


def test_keys_are_created_listed_and_revoked(run, data_dir):
    """A new key's token works within its scopes, and no longer once it is revoked."""
    created = parsed(run("keys", "create", "desk", "--scope", "read", "--json"))
    assert run("models", "list", "--token", created["token"]).exit_code == 0
    denied = run("automation", "off", "--token", created["token"])
    assert denied.exit_code == 1
    assert "operate" in denied.stderr
    assert created["token"] not in run("keys", "list", "--json").stdout
    assert "desk" in run("keys", "list").stdout
    assert run("keys", "revoke", created["id"]).exit_code == 0
    with admin_client(data_dir, created["token"]) as admin, pytest.raises(RequestFailed) as refused:
        list(admin.models())
    assert refused.value.status == 401


def test_unknown_scope_is_wrong_usage(run):
    """A scope that does not exist ends with 2 and names those that do."""
    result = run("keys", "create", "desk", "--scope", "everything")
    assert result.exit_code == 2
    assert "ground_truth" in result.stderr


def test_automation_is_shown_and_switched(run):
    """The switch is off after `off` and on after `on`, each with its reason."""
    assert parsed(run("automation", "off", "--reason", "delayed truth", "--json")) == {"is_on": False}
    assert "off" in run("automation", "show").stdout
    assert run("automation", "on").exit_code == 1
    assert parsed(run("automation", "show", "--json"))["is_on"] is False
    assert run("automation", "on", "--reason", "truth is back").exit_code == 0
    assert parsed(run("automation", "show", "--json"))["is_on"] is True


def test_notices_say_who_is_told_of_what(run):
    """A channel is listed with its routes, teams, kinds and quiet hours, for people and for programs, and without its secret."""
    for words in ((), ("--json",)):
        listed = run("notices", "list", *words)
        assert listed.exit_code == 0, listed.output
        assert [one for one in ("risk", "https", "fraud-*", "aml", "22:00", "06:30", "warning") if one not in listed.stdout] == []
        assert "s3cret" not in listed.stdout
    lasting = run("notices", "list").stdout
    assert (
        "nothing lasts" in lasting or "nobody" in lasting.partition("what lasts")[2]
    )  # where no monitor shows anything for long
    [channel] = parsed(run("notices", "list", "--json"))["channels"]
    told = {name: channel[name] for name in ("routes", "teams", "kinds", "quiet")}
    assert told == {"routes": ["fraud-*", "aml"], "teams": ["risk"], "kinds": ["x"], "quiet": ["22:00", "06:30"]}


def test_quarantine_is_listed_and_released(run, models, data_dir):
    """A digest in quarantine is listed with its reason, released once, and over afterwards."""
    digest = str(models[2]["digest"])
    held = Quarantine(digest, "delays", "3", 1, time.time() + 3_600, "worse than 1")
    registry = SqliteRegistry(data_dir / "registry.db", clock=SystemClock())
    registry.commit(Change("monitor", "rollout.convict", f"quarantine:{digest}", "worse than 1", (held,)))
    registry.close()
    assert "worse than 1" in run("quarantine", "list").stdout
    assert run("quarantine", "release", digest).exit_code == 1, "nobody said why"
    assert run("quarantine", "release", digest, "--reason", "the feed was at fault").exit_code == 0
    assert parsed(run("quarantine", "list", "--json"))[0]["is_active"] is False
    assert run("quarantine", "release", digest, "--reason", "again").exit_code == 1


def test_audit_names_who_did_what(run, models):
    """The newest entries come first, and as many as asked for."""
    entries = parsed(run("audit", "list", "--limit", 2, "--json"))
    assert len(entries) == 2
    assert entries[0]["seq"] == entries[1]["seq"] + 1
    assert "version.register" in run("audit", "list", "--limit", 200).stdout


def test_audit_shows_one_entry(run, models):
    """An entry is found by its number, with what the list leaves out; another number ends with 1 and says so."""
    [newest] = parsed(run("audit", "list", "--limit", 1, "--json"))
    shown = parsed(run("audit", "show", newest["seq"] - 1, "--json"))
    assert (shown["seq"], newest["previous"]) == (newest["seq"] - 1, shown["hash"])
    assert shown["hash"] in run("audit", "show", newest["seq"] - 1).stdout
    missing = run("audit", "show", newest["seq"] + 1)
    assert (missing.exit_code, f"no audit entry {newest['seq'] + 1}" in missing.stderr) == (1, True)


def test_audit_verify_holds_over_many_pages(run, models, data_dir):
    """An untouched chain verifies, also when it takes several pages, and its head is found again later."""
    with admin_client(data_dir) as admin:
        for number in range(120):
            admin.set_automation(is_on=True, reason=str(number))
    verified = parsed(run("audit", "verify", "--json"))
    assert verified["holds"] is True
    assert verified["entries"] > 120
    head = f"{verified['entries']}:{verified['head']}"
    run("automation", "on", "--reason", "one more")
    assert run("audit", "verify", "--head", head).exit_code == 0


def test_audit_verify_finds_a_shortened_log(run, models):
    """An entry noted earlier that is not there any more ends with 1."""
    result = run("audit", "verify", "--head", "99999:" + "0" * 64)
    assert result.exit_code == 1
    assert "99999" in result.stderr


@pytest.mark.parametrize("head", ["1:…", "1:", ":0123456789", "1:0123", "1:not a hash"])
def test_audit_verify_asks_for_a_hash(run, head):
    """A number alone would be found in any log."""
    result = run("audit", "verify", "--head", head)
    assert (result.exit_code, "SEQ:HASH" in result.stderr) == (2, True)


def test_no_reply_ends_with_3(run):
    """A gateway that is not there is told apart from one that refuses."""
    for words in (("models", "list", "--admin-url", "http://127.0.0.1:9"), ("predict", "delays", "[[1]]")):
        result = run(*words)
        assert (result.exit_code, result.stdout) == (3, "")
        assert "not reachable" in result.stderr
        assert "hint: " in result.stderr


def test_missing_token_is_explained(tmp_path):
    """Without a token the command says where it looked, and sends nothing."""
    result = CliRunner().invoke(app, ["models", "list", "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "admin.token" in result.stderr


def test_wrong_token_is_refused_with_the_gateways_words(run):
    """A token nobody knows ends with 1 and the gateway's hint."""
    result = run("models", "list", "--token", "hg_wrong")
    assert result.exit_code == 1
    assert "token is not known" in result.stderr


def test_refused_upload_is_a_refusal_however_large(data_dir, tmp_path):
    """A gateway that refuses an upload before reading it is understood, though the upload breaks off."""
    artifact = tmp_path / "large.onnx"
    with artifact.open("wb") as file:
        file.truncate(200 * 2**20)
    with admin_client(data_dir, "hg_wrong") as admin, pytest.raises(RequestFailed) as refused:
        admin.register("delays", artifact)
    assert refused.value.status == 401


def test_connection_comes_from_before_the_command_and_from_the_environment(data_dir, models):
    """Global options stand before a command as well as after it; the environment is the last resort but one."""
    assert CliRunner().invoke(app, ["--data-dir", str(data_dir), "models", "list"]).exit_code == 0
    environment = {
        "HEADGATE_TOKEN": (data_dir / "admin.token").read_text().strip(),
        "HEADGATE_ADMIN_URL": json.loads((data_dir / "run" / "addresses.json").read_text())["admin_url"],
    }
    assert CliRunner().invoke(app, ["models", "list"], env=environment).exit_code == 0
    assert CliRunner().invoke(app, ["models", "list"], env={"HEADGATE_DATA_DIR": str(data_dir)}).exit_code == 0


def test_edited_audit_log_is_found(run, models, data_dir):
    """An entry that somebody edited in the database is named by `audit verify`, which computes the hashes itself."""
    with contextlib.closing(sqlite3.connect(data_dir / "registry.db", isolation_level=None)) as database:
        (body,) = database.execute("SELECT body FROM audit WHERE seq = 2").fetchone()
        database.execute("UPDATE audit SET body = ? WHERE seq = 2", (json.dumps({**json.loads(body), "principal": "nobody"}),))
        try:
            result = run("audit", "verify")
        finally:
            database.execute("UPDATE audit SET body = ? WHERE seq = 2", (body,))
    assert result.exit_code == 1
    assert "entry 2" in result.stderr
    assert "headgate audit show 2" in result.stderr
    assert run("audit", "verify").exit_code == 0


def admin_client(data_dir: Path, token: str = "") -> AdminClient:
    """Return a client of the control plane, with the admin token or another."""
    address = json.loads((data_dir / "run" / "addresses.json").read_text())["admin_url"]
    return AdminClient(address, token or (data_dir / "admin.token").read_text().strip())


def _wait_for(address: str) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        try:
            if httpx.get(address + "/health/live").is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.02)
    raise AssertionError("the control plane did not answer")


def test_query_answers_sql(run):
    """`predictions query --sql` prints a table, or JSON Lines for programs, and says that an answer goes on."""
    sql = "SELECT range AS number, 'x' AS same, 'y' AS same FROM range(3) ORDER BY number"
    assert run("predictions", "query", "--sql", sql).stdout.split() == ["number", "same", "same:3", *"0xy1xy2xy"]
    cut = run("predictions", "query", "--sql", "-", "--limit", 2, "--json", input=sql)
    assert [json.loads(line)["number"] for line in cut.stdout.splitlines()] == [0, 1]
    assert "there are more rows" in cut.stderr
    assert run("predictions", "query", "--sql", "SELECT version FROM predictions").stdout == "no rows\n"


def test_query_says_what_is_wrong_with_sql(run):
    """SQL that the gateway refuses, and options that say the same otherwise, end with a sentence."""
    refused = run("predictions", "query", "--sql", "SELECT nothing FROM predictions")
    assert refused.exit_code == 1
    assert "nothing" in refused.stderr
    assert run("predictions", "query", "--sql", "SELECT 1", "--route", "delays").exit_code == 2
    assert run("predictions", "query", "--archived").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "delays", "[[NaN, 1, 2]]"),
        ("predict", "delays", "[[1e999, 1, 2]]"),
        ("ground-truth", "018bcfe5-6800-7000-8000-000000000001", "NaN"),
        ("ground-truth", "018bcfe5-6800-7000-8000-000000000001", "1", "--observed-at", "inf"),
        ("predictions", "query", "--since", "nan"),
        ("predictions", "query", "--since", "5m", "--until", "10m"),
        ("predictions", "export", "never.parquet", "--since", "1e400"),
        ("report", "delays", "--since", "5m", "--until", "10m"),
        ("replay", "--route", "delays", "--version", "1", "--since", "nan"),
        ("replay", "--route", "delays", "--version", "1", "--since", "1e400"),
        ("replay", "--route", "delays", "--version", "1", "--since", "5m", "--until", "10m"),
        ("replay", "--route", "delays", "--version", "1", "--tolerance", "inf"),
    ],
)
def test_number_that_is_none_is_refused_with_a_sentence(run, words):
    """What JSON or a span of time cannot hold ends a command with 2, before anything is sent or read."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert "Invalid value" in result.output
    assert isinstance(result.exception, SystemExit)


def test_ground_truth_file_with_a_number_that_is_none_is_refused(run, tmp_path):
    """A line with NaN is not JSON, and says so."""
    file = tmp_path / "truth.jsonl"
    file.write_text('{"prediction_id": "018bcfe5-6800-7000-8000-000000000001", "value": NaN}\n')
    result = run("ground-truth", "--file", file)
    assert result.exit_code == 2
    assert "NaN is no number" in " ".join(result.output.split())


def test_progress_is_told_in_lines_where_nobody_watches(capsys):
    """Into a file go lines, no more often than asked, each with how far the records have come."""
    tell = lines("replaying", every_s=0.0)
    tell(2_000, 1_700_000_000.0)
    tell(3_000, 1_700_000_060.0)
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" records")[0] for line in told] == ["replaying: 2,000", "replaying: 3,000"]
    with watched("replaying", {}) as progress:
        progress(1, 1_700_000_000.0)
    assert capsys.readouterr().err == ""
