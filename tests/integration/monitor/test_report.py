"""A report's numbers are those of the log, wherever the log's records lie by now."""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from contextlib import closing
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from monitor_world import ROUTE, SOUND, START_S, make_registry, records, segment_writer, version_of
from typer.testing import CliRunner

from adapters.archives.duck import DuckArchive
from adapters.clock import SystemClock
from adapters.logs.segments import SegmentDirectory
from adapters.stores.memory import MemoryRegistry
from adapters.stores.registry import SqliteRegistry
from gateway.commands.app import app
from gateway.compose.past import opened_past
from gateway.core.changes import Change, DropRoute, PutRoute
from gateway.core.plans import Plan, Step
from gateway.core.profiles import Apart
from gateway.core.records import GroundTruthRecord, PredictionRecord
from gateway.drawing.words import UNKNOWN
from gateway.report.build import build_report
from gateway.report.features import FeatureCounts
from gateway.report.page import page
from gateway.report.spans import spans_between
from tests.integration.control.browser import BROKEN, Browser

COUNT = 2_400
PER_S = 2.0
SPAN_S = 60.0
END_S = START_S + COUNT / PER_S
HOSTILE = "<script>document.title='taken'</script>"


@pytest.fixture
def data(tmp_path):
    """Return a data directory."""
    return filled(tmp_path / "data")


def filled(directory: Path, **changes: object) -> Path:
    """Make a data directory: two versions, a shift at half time, one ground truth in three corrected.

    Args:
        changes: Fields of every prediction.
    """
    directory.mkdir()
    registry = SqliteRegistry(directory / "registry.db", clock=SystemClock())
    make_registry(registry, plan=Plan(steps=(Step(3_000),)))
    world = replace(SOUND, errors={"1": 0.02, "2": 0.1}, losses={"1": 0.2, "2": 0.35}, per_s=PER_S)
    random = np.random.default_rng(5)
    writers = {stream: segment_writer(directory, stream) for stream in ("w0", "w1")}
    half = START_S + COUNT / PER_S / 2
    written = [
        *records(registry, world, COUNT // 2),
        *records(registry, replace(world, shift=1.5), COUNT // 2, seed=2, start_s=half),
    ]
    for stream, record in sorted(written, key=lambda one: one[1].time_s):
        if isinstance(record, PredictionRecord):
            record = replace(record, latency_us=int(random.lognormal(7.0, 0.7)), **changes)  # noqa: PLW2901
        writers[stream].append([record])
        if isinstance(record, GroundTruthRecord) and random.random() < 1 / 3:
            other = "no" if record.value == "yes" else "yes"
            writers[stream].append([replace(record, value=other, time_s=record.time_s + 1e-5)])
    for writer in writers.values():
        writer.close()
    registry.close()
    return directory


def archived(directory: Path) -> int:
    """Move the closed segments of the first stream from the log to the archive, and return how many those are."""
    archive, store = DuckArchive(directory / "archive", memory_bytes=2**28), SegmentDirectory(directory / "log")
    closed = store.closed("w0")
    for segment in closed:
        archive.take(segment)
        store.remove(segment)
    archive.close()
    return len(closed)


def lines_of(directory: Path) -> list[dict]:
    """Return every object of the log's files, in order of time."""
    files = sorted((directory / "log").glob("*/*.jsonl"))
    found = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]
    return sorted((one for one in found if "type" in one), key=lambda one: one["time"])


def recount(lines: list[dict]) -> dict[tuple[str, int], dict[str, float]]:
    """Count the log by (version, span) with nothing of the program's."""
    found: dict[tuple[str, int], dict] = defaultdict(lambda: defaultdict(float))
    latencies: dict[tuple[str, int], list[int]] = defaultdict(list)
    values = {(one["prediction_id"], one["row"]): one["value"] for one in lines if one["type"] == "ground_truth"}
    for one in lines:
        if one["type"] != "prediction":
            continue
        span = int((one["time"] - START_S // SPAN_S * SPAN_S) // SPAN_S)
        place = (one["version"], span)
        found[place]["predictions"] += 1
        latencies[place].append(one["latency_us"])
        for attempt in one["attempts"]:
            found[attempt["version"], span]["attempts"] += 1
            found[attempt["version"], span]["faults"] += attempt["outcome"] != "ok"
        if one["outcome"] == "ok" and (value := values.get((one["prediction_id"], 0))) is not None:
            said = "yes" if one["outputs"][0]["data"][0] >= 0.5 else "no"
            found[place]["truths"] += 1
            found[place]["losses"] += said != value
    for place, known in latencies.items():
        found[place]["p99"] = sorted(known)[math.ceil(0.99 * len(known)) - 1] / 1e3
    return {place: dict(one) for place, one in found.items()}


def built(directory: Path):
    """Return the report of the whole time."""
    with opened_past(directory) as past:
        return build_report(past, ROUTE, spans_between(START_S, END_S), made_at_s=END_S + 60.0)


def test_report_counts_what_the_log_holds(data):
    """Every count, loss and quantile by version and span is the log's, found by other means; archived records count too."""
    lines = lines_of(data)
    expected = recount(lines)
    assert archived(data) >= 1
    assert len(lines_of(data)) < len(lines)
    report = built(data)
    assert report.spans.step_s == SPAN_S
    for (version, span), numbers in expected.items():
        tally = report.tallies.versions[version][span]
        for name in ("predictions", "attempts", "faults", "truths", "losses"):
            assert getattr(tally, name) == numbers.get(name, 0), (version, span, name)
        if "p99" in numbers:
            assert tally.latency_ms(0.99) == pytest.approx(numbers["p99"], rel=0.006)
    total = sum(numbers.get("predictions", 0) for numbers in expected.values())
    assert sum(report.tallies.kinds.values()) == total == COUNT
    assert len(expected) > 30


def test_drift_of_report_is_the_formula(data):
    """A feature's index and out-of-range share come out of its reference's cells by the textbook's formula."""
    report = built(data)
    [first, *_] = version_of("1").profile["features"]
    values = np.asarray(
        [
            one["inputs"][0]["data"][0]
            for one in lines_of(data)
            if one["type"] == "prediction" and one["version"] == "1" and one["outcome"] == "ok"
        ]
    )
    low, high = first["quantiles"][0], first["quantiles"][-1]
    inside = values[(values >= low) & (values <= high)]
    counts = [*np.histogram(inside, [-np.inf, *first["edges"], np.inf])[0], 0, 0, (values < low).sum(), (values > high).sum(), 0]
    was = (np.asarray(first["rates"]) * 2_000 + 0.5) / (2_000 + 0.5 * len(counts))
    now = (np.asarray(counts) + 0.5) / (len(values) + 0.5 * len(counts))
    shape = report.tallies.features["1"].shapes()[0]
    assert (shape.name, shape.rows) == ("x0", len(values))
    assert shape.psi == pytest.approx(float(((now - was) * np.log(now / was)).sum()), rel=1e-6)
    assert shape.apart_share == pytest.approx(1.0 - len(inside) / len(values), abs=1e-12)
    assert shape.psi > 0.2
    counts, step = report.tallies.features["1"], report.tallies.features["1"].spans_together(report.spans.count)
    parts = [counts.shapes(at, at + step)[0] for at in range(0, report.spans.count, step)]
    assert sum(part.rows for part in parts) == len(values)
    assert step > 1
    assert all(part.rows >= 100 and part.psi is not None for part in parts[:-1])
    half = report.spans.at(START_S + COUNT / PER_S / 2)
    assert any("x0" in incident.subjects and report.spans.at(incident.opened_at_s) >= half for incident in report.incidents)


class Pictures(HTMLParser):
    """Notes each picture's description and what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        """Note one tag."""
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in {"src", "href", "action"}]


def test_page_stands_alone_and_says_what_it_shows(data):
    """The file loads nothing and has no script; each plot is sound XML with title, description and its numbers beneath."""
    report = built(data)
    html = page(replace(report, route=HOSTILE))
    seen = Pictures()
    seen.feed(html)
    assert not seen.loads
    assert "script" not in seen.tags
    assert "&lt;script&gt;" in html
    plots = [ElementTree.fromstring(one) for one in re.findall(r'<svg[^>]* role="img".*?</svg>', html, re.DOTALL)]
    assert len(plots) == 9, "usage, loss, failures, two of latency, and two of each version's features"
    space = "{http://www.w3.org/2000/svg}"
    for plot in plots:
        assert plot.find(f"{space}title").text
        assert len(plot.find(f"{space}desc").text) > 40
        assert plot.findall(f"{space}polyline")
    assert html.count("<details>") == len(plots)
    whole = report.tallies.whole("2")
    assert f"{whole.mean_loss:.4f}" in html
    assert f"{whole.predictions:,}" in html


def test_command_writes_files_and_days(data, tmp_path):
    """One file when asked for one, never over another; by day one for each whole day, and those that are there stay."""

    def headgate(*words: object):
        return CliRunner().invoke(app, ["report", ROUTE, *map(str, words), "--data-dir", str(data)])

    to, days = tmp_path / "one.html", tmp_path / "days"
    between = ("--since", START_S, "--until", END_S)
    first = headgate(*between, "--to", to)
    assert first.exit_code == 0, first.output
    assert f"{COUNT:,} predictions" in first.stdout
    again = headgate(*between, "--to", to)
    assert (again.exit_code, "--force" in again.stderr) == (1, True)
    assert headgate(*between[:2], "--until", START_S - 1, "--to", tmp_path / "x.html").exit_code == 2
    nowhere = headgate(*between, "--to", to / "below-a-file.html")
    assert (nowhere.exit_code, str(to) in nowhere.stderr) == (1, True)
    for _ in range(2):
        done = headgate("--since", START_S, "--until", START_S + 86_400, "--daily", days)
        assert done.exit_code == 0, done.output
        [file] = [one for one in days.rglob("*") if one.is_file()]
        assert file.relative_to(days) == Path(ROUTE) / "2023-11-14.html"
    assert "wrote" not in done.stdout


def put_as(registry: SqliteRegistry, name: str) -> None:
    """Write the route once more under another name."""
    write = PutRoute(replace(registry.table().route(ROUTE), name=name))
    registry.commit(Change("ana", "route.put", f"route:{name}", "", (write,), route=name))


@pytest.mark.parametrize("name", ["façade 'ж' 東京 🛫 &=+,;@[]{}$`~^()!.x", "é" * 100, "-rf", "x" * 200])
def test_report_of_any_route_has_its_name(data, tmp_path, monkeypatch, name):
    """The file is called as the route is, whatever that is, and the name in it is text."""
    monkeypatch.chdir(tmp_path)
    with closing(SqliteRegistry(data / "registry.db", clock=SystemClock())) as registry:
        put_as(registry, name)
    words = ["report", "--since", str(START_S), "--until", str(END_S), "--data-dir", str(data), "--", name]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert escape(name) in Path(f"report-{name}.html").read_text()


def test_report_of_a_route_that_never_was_is_refused_and_of_one_that_is_gone_is_not(data, tmp_path):
    """A name that is misspelt is no route without traffic; what a deleted route did can be told for good."""

    def headgate(route: str, *words: object):
        return CliRunner().invoke(app, ["report", route, "--since", str(START_S), *map(str, words), "--data-dir", str(data)])

    until = ("--until", END_S + 86_400)
    for words in ((*until, "--to", tmp_path / "x.html"), (*until, "--daily", tmp_path / "days")):
        refused = headgate("dellays", *words)
        assert (refused.exit_code, "dellays" in refused.stderr) == (1, True)
    assert not list(tmp_path.glob("*.html"))
    assert not (tmp_path / "days").exists()
    with closing(SqliteRegistry(data / "registry.db", clock=SystemClock())) as registry:
        put_as(registry, "gone")
        registry.commit(Change("ana", "route.delete", "route:gone", "", (DropRoute("gone"),), route="gone"))
    assert headgate("gone", *until, "--to", tmp_path / "x.html").exit_code == 0


def test_report_of_what_is_no_name_is_refused(data):
    """Nothing outside the directory is written for a route that is called like a path."""
    done = CliRunner().invoke(app, ["report", "../elsewhere", "--data-dir", str(data)])
    assert (done.exit_code, "separator" in done.stderr) == (1, True)


def test_values_that_the_log_does_not_have_are_no_drift(tmp_path):
    """Dropped and hashed columns are not counted as values, and the page says how many predictions that are; an output may go."""
    version = version_of("1")
    registry = MemoryRegistry(clock=SystemClock())
    make_registry(registry, plan=Plan())
    made = [one for _, one in records(registry, SOUND, 300) if isinstance(one, PredictionRecord)]
    counts = FeatureCounts(version)
    for number, record in enumerate(made):
        hidden = ({"hashed": ("x2",)}, {"dropped": ("features",)}, {"dropped": ("probability",)})[number % 3]
        counts.take(replace(record, **hidden), 0)
    assert counts.unreadable == 200
    assert {shape.rows for shape in counts.shapes()} == {100}
    assert all(shape.apart[Apart.MISSING] == 0.0 for shape in counts.shapes())

    hidden = filled(tmp_path / "hidden", hashed=("x2",))
    text = page(built(hidden))
    answered = sum(record["type"] == "prediction" and bool(record["outputs"]) for record in lines_of(hidden))
    told = re.findall(r"; ([\d,]+) predictions had other inputs, or not all of them are logged", text)
    assert sum(int(count.replace(",", "")) for count in told) == answered
    shares = re.findall(rf'data-label="(?:usual|{"|".join(reason.value for reason in Apart)})"[^>]*>([^<]*)<', text)
    assert set(shares) == {UNKNOWN}, "of no row a share is not known"


@pytest.mark.services
def test_browser_shows_report_at_every_width(data, tmp_path):
    """A browser finds no fault with the file, loads nothing beside it, and never has to scroll the page sideways."""
    pictures = Path(os.environ.get("REPORT_PICTURES", tmp_path))
    file = tmp_path / "report.html"
    file.write_text(page(built(data)))
    browser = Browser(tmp_path / "profile")
    try:
        for width, is_dark in ((1280, False), (1280, True), (390, False)):
            browser.resized(width, is_dark=is_dark)
            browser.visit(file.as_uri())
            (pictures / f"report-{width}{'-dark' if is_dark else ''}.png").write_bytes(browser.picture())
            assert browser.value("document.documentElement.scrollWidth <= window.innerWidth")
            assert browser.value(BROKEN) == []
            assert browser.value("getComputedStyle(document.body).margin") == "0px", "the style is not applied"
            assert not browser.methods("Log.entryAdded")
            assert {one["request"]["url"] for one in browser.methods("Network.requestWillBeSent")} == {file.as_uri()}
    finally:
        browser.close()
