"""A real Prometheus scrapes a real gateway, and every expression of every board and rule has an answer that is true."""

from __future__ import annotations

import json
import math
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.services.board_traffic import MORTAL, Label, Traffic

pytestmark = pytest.mark.services

GRAFANA = Path(__file__).parents[2] / "grafana"
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))
SCRAPE_S = 0.5
STEP_S = 3.5  # between a graph's points
LOOKED_AT_S = 60.0  # of the past, by a graph
RATE_S = max(STEP_S + SCRAPE_S, 4 * SCRAPE_S)  # what Grafana makes of $__rate_interval
ALL = {"route": ".*", "version": ".*", "variant": ".*"}  # what the boards say that "All" stands for
SETTINGS = {
    "HEADGATE_MONITOR_DRILL_SHARE": "0.2",  # drills end within seconds
    "HEADGATE_SERVING_FAULT_WINDOW": "1000",  # a version that fails goes on to be asked…
    "HEADGATE_SERVING_FAULTS_MAX": "1000",  # …so that callers can tell what will fail
    "HEADGATE_SUPERVISOR_HANG_S": "120",  # a worker that is stopped is not taken for one that hangs
}
POINTS = tuple[float, ...]


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    client: httpx.Client

    def get(self, path: str, **parameters: object) -> object:
        """Return what a query finds."""
        answer = self.client.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, object]]:
        """Return the series of an instant query."""
        return self.get("query", query=expression)["result"]

    def series(self, expression: str, *, is_instant: bool) -> list[tuple[Mapping[str, str], POINTS]]:
        """Return the labels and values of each series, now or over the last minute."""
        if is_instant:
            return [(one["metric"], (float(one["value"][1]),)) for one in self.query(expression)]
        end_s = time.time()
        found = self.get("query_range", query=expression, start=end_s - LOOKED_AT_S, end=end_s, step=STEP_S)["result"]
        return [(one["metric"], tuple(float(value) for _, value in one["values"])) for one in found]

    def totals(self, metric: str, by: tuple[str, ...]) -> Counter[Label]:
        """Return a counter's sums that are not zero by the values of these labels."""
        series = self.query(f"sum by ({', '.join(by)}) ({metric}) > 0")
        return Counter({tuple(one["metric"][label] for label in by): int(float(one["value"][1])) for one in series})


@dataclass(frozen=True)
class Asked:
    """One expression of a board as it is written, and the labels that its series are named by."""

    place: str
    expression: str
    is_instant: bool
    labels: frozenset[str]

    def has_answer(self, prometheus: Prometheus, values: Mapping[str, str]) -> bool:
        """Return whether there is data: at least one series, each with numbers alone and with the labels that name it."""
        series = prometheus.series(filled_in(self.expression, values), is_instant=self.is_instant)
        is_named = all(self.labels <= set(labels) for labels, _ in series)
        return bool(series) and is_named and not any(math.isnan(point) for _, points in series for point in points)


def filled_in(expression: str, values: Mapping[str, str]) -> str:
    """Return an expression with Grafana's variables replaced; one that there is not is an error."""
    known = {"__rate_interval": f"{RATE_S:g}s", **values}
    return re.sub(r"\$(\w+)", lambda found: known[found[1]], expression)


def all_asked() -> Iterator[Asked]:
    """Yield every expression of every panel and annotation."""
    for path in BOARDS:
        board = json.loads(path.read_text())
        for note in board["annotations"]["list"]:
            labels = named(note["titleFormat"] + note["textFormat"]) | set(note["tagKeys"].split(","))
            yield Asked(f"{path.stem}: {note['name']}", note["expr"], False, frozenset(labels))
        for panel in board["panels"]:
            for target in panel["targets"]:
                labels = columns_of(panel) if panel["type"] == "table" else named(target["legendFormat"])
                yield Asked(f"{path.stem}: {panel['title']}", target["expr"], bool(target["instant"]), frozenset(labels))


def named(template: str) -> set[str]:
    """Return the labels that a name of series is made of."""
    return set(re.findall(r"\{\{(\w+)\}\}", template))


def columns_of(panel: Mapping[str, object]) -> set[str]:
    """Return the labels that a table shows."""
    return set(panel["transformations"][0]["options"]["includeByName"]) - {"Value"}


def variables(prometheus: Prometheus) -> dict[str, set[str]]:
    """Return what each board's variables can be, asked for as Grafana does; it is the same on all of them."""
    found: dict[str, set[str]] = {}
    for path in BOARDS:
        for one in json.loads(path.read_text())["templating"]["list"]:
            if one["type"] == "query":
                metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", one["query"]["query"]).groups()
                values = set(prometheus.get(f"label/{label}/values", **{"match[]": filled_in(metric, ALL)}))
                assert found.setdefault(one["name"], values) == values
                assert one.get("allValue", "") in ("", ALL.get(one["name"]))
    return found


@pytest.fixture
def start_prometheus(tmp_path) -> Iterator[Callable[..., Prometheus]]:
    """Start Prometheus with the shipped configuration, its target and interval replaced."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(target: str, until) -> Prometheus:
        config = (GRAFANA / "prometheus.yml").read_text().replace("127.0.0.1:8081", target).replace("5s", f"{1e3 * SCRAPE_S:g}ms")
        (tmp_path / "prometheus.yml").write_text(config)
        shutil.copytree(GRAFANA / "rules", tmp_path / "rules")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        processes.append(subprocess.Popen(command))
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

        def is_ready() -> bool:
            try:
                return client.get("/-/ready").status_code == 200
            except httpx.HTTPError:
                return False

        until(is_ready, within_s=60)
        return Prometheus(client)

    yield start
    for process in processes:
        process.terminate()
        process.wait(30)


@pytest.fixture
def traffic(start_gateway, write_linear_model, write_fragile_model, tmp_path) -> Traffic:
    """Return the callers of a gateway with two workers and one channel of notices, which is dead."""
    channels = tmp_path / "channels.toml"
    channels.write_text('[pager]\nurl = "http://127.0.0.1:9/"\nseverity = "info"\n')
    gateway = start_gateway("--workers", "2", environment={**SETTINGS, "HEADGATE_NOTICES_FILE": str(channels)})
    return Traffic(gateway, write_linear_model, write_fragile_model, tmp_path)


@pytest.mark.timeout(400)
def test_boards_have_data_for_every_expression(traffic, start_prometheus, until):
    """Every expression of every board and rule answers with numbers after a rollout, a rollback, drift, drills, late ground
    truth, failures of every kind and a worker's death, and the counters say what the callers counted.

    Across the death: what was answered is counted, as it was answered; beyond that the counters have at most the requests that
    the worker owed, and no caller but theirs goes without an answer.
    """
    prometheus = start_prometheus(traffic.gateway.admin_url.removeprefix("http://"), until)
    traffic.send("delays", 100)
    traffic.send_what_fails(20)
    agrees(prometheus, traffic, until)

    owed, unanswered = traffic.send_while_a_worker_dies(until)
    assert owed > 0
    assert unanswered <= owed
    check_answers(prometheus, traffic, until)
    check_rollback(prometheus, traffic.gateway)
    check_links(traffic.gateway)
    check_rules(prometheus, until)
    agrees(prometheus, traffic, until, but_for=unanswered)


def agrees(prometheus: Prometheus, traffic: Traffic, until, *, but_for: int = 0) -> None:
    """Wait until the gateway counted what the callers did; of the route whose worker died it may have some more."""
    expected = told(traffic)

    def differing() -> dict[str, tuple[Counter[Label], Counter[Label]]]:
        found = counted(prometheus)
        both = {name: (found[name] - expected[name], expected[name] - found[name]) for name in found}
        beyond, missing = both["predictions"]
        if not missing and beyond.total() <= but_for and {label[1] for label in beyond} <= {MORTAL}:
            del both["predictions"]
        return {name: counts for name, counts in both.items() if any(counts)}

    try:
        until(lambda: not differing(), within_s=60, every_s=0.5)
    except AssertionError:
        raise AssertionError(f"counted too many, and too few: {differing()}") from None


def told(traffic: Traffic) -> dict[str, Counter[Label]]:
    """Return what the callers counted, and so how many copies there were for the shadow that gets all of them."""
    copies = sum(count for (kind, route, *_), count in traffic.answers.items() if (kind, route) == ("live", "delays"))
    return {
        "predictions": traffic.answers,
        "refused": traffic.refused,
        "failovers": traffic.failovers,
        "copies": Counter({("delays", "candidate"): copies}),
    }


def counted(prometheus: Prometheus) -> dict[str, Counter[Label]]:
    """Return the same as the gateway counted it."""
    place = ("route", "variant", "version")
    copies = prometheus.totals('gateway_predictions_total{kind="shadow"}', place[:2])
    return {
        "predictions": prometheus.totals('gateway_predictions_total{kind!="shadow"}', ("kind", *place, "outcome")),
        "refused": prometheus.totals("gateway_rejected_requests_total", ("reason",)),
        "failovers": prometheus.totals("gateway_failovers_total", place),
        "copies": copies + prometheus.totals("gateway_shadow_dropped_total", place[:2]),
    }


def check_answers(prometheus: Prometheus, traffic: Traffic, until) -> None:
    """Check that every expression of every board comes to have an answer, for "All" and for every value chosen by its name."""
    wait_for_answers(prometheus, traffic, ALL, until)
    found = variables(prometheus)
    assert found["route"] == {"delays", "fares", "rides", "tolls", "ferries"}
    assert found["version"] == {"1", "2", "3"}
    assert found["variant"] == {"champion", "challenger", "candidate", "only", "pinned"}
    assert found["gateway"] == {traffic.gateway.admin_url.removeprefix("http://")}
    wait_for_answers(prometheus, traffic, {name: f"({'|'.join(sorted(found[name]))})" for name in ALL}, until)


def wait_for_answers(prometheus: Prometheus, traffic: Traffic, values: Mapping[str, str], until) -> None:
    """Send until every expression had an answer with these values of the variables, and the gateway rolled a route back."""
    unanswered = list(all_asked())
    assert len(unanswered) > len(BOARDS)

    def all_answered() -> bool:
        traffic.send("delays", 60, shift=3.0)  # which drifts
        traffic.send("fares", 30)
        traffic.send_what_fails(2)
        unanswered[:] = [one for one in unanswered if not one.has_answer(prometheus, values)]
        rollouts = traffic.gateway.admin.get("/routes/fares/rollouts").json()["rollouts"]
        return not unanswered and rollouts[0]["state"] == "QUARANTINED"

    try:
        until(all_answered, within_s=120)
    except AssertionError:
        raise AssertionError(f"without data, or the labels that name it: {unanswered}") from None


def check_rollback(prometheus: Prometheus, gateway) -> None:
    """Check that the mark of the rollback on the boards names the audit entry that has its evidence."""
    changes = prometheus.query('gateway_route_change_timestamp_seconds{route="fares", action="rollout.rollback", by="monitor"}')
    after = int(changes[0]["metric"]["audit_entry"]) - 1
    [entry] = gateway.admin.get("/audit", params={"order": "oldest", "after": after}).json()["entries"][:1]
    assert (entry["action"], entry["principal"]) == ("rollout.rollback", "monitor")
    assert float(changes[0]["value"][1]) == pytest.approx(entry["time_s"])


def check_links(gateway) -> None:
    """Check that what the boards lead to is there, for whoever has a token: the status page, and each route's."""
    urls = set(re.findall(r'"url": "(http://[^"]+)"', " ".join(path.read_text() for path in BOARDS)))
    assert len(urls) > 1
    for url in urls:
        filled = url.replace("${gateway:raw}", gateway.admin_url.removeprefix("http://"))
        address = re.sub(r"\$\{__(field\.labels\.route|data\.fields\.Route):percentencode\}", "fares", filled)
        page = gateway.admin.get(address)
        assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8"), address
        assert "fares" in page.text


def check_rules(prometheus: Prometheus, until) -> None:
    """Check that each rule can be worked out, and that without its bounds it comes to have an answer: it looks at what is there.

    Whether an alert fires at its bound is shown in test_alerts.py. Grafana's have no answer here, because Prometheus has them.
    """
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert rules
    for rule in rules:
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule
    asked = {rule["name"]: rule["query"] if rule["type"] == "alerting" else rule["name"] for rule in rules}
    managed = yaml.safe_load((GRAFANA / "provisioning" / "alerting" / "headgate.yml").read_text())
    for rule in (rule for group in managed["groups"] for rule in group["rules"]):
        as_written = rule["data"][0]["model"]["expr"]
        assert prometheus.query(as_written) == [], rule["title"]
        asked[f"Grafana's {rule['title']}"] = re.sub(r" unless on \(\) .*$", "", as_written)

    def blind() -> dict[str, str]:
        return {name: without_bounds(one) for name, one in asked.items() if not prometheus.query(without_bounds(one))}

    try:
        until(lambda: not blind(), within_s=60, every_s=0.5)
    except AssertionError:
        raise AssertionError(f"rules that look at nothing: {blind()}") from None


def without_bounds(expression: str) -> str:
    """Return an expression without its comparisons with numbers; of a number times something, the product is left."""
    return re.sub(r" (==|>|<) (bool )?[\d.]+(e[+\d]+)?( \* [\d.]+)?(?=[ )]|$)", "", expression)
