"""The checked-in boards are what their source builds, and every panel tells a person what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from gateway.core.attribution import Attribution
from gateway.core.guardrails import Verdict
from gateway.core.rollouts import RolloutState
from gateway.metrics.catalogue import METRICS
from grafana import bounds
from grafana.boards import BOARDS as SOURCES
from grafana.build import built
from grafana.panels import Panel, Query, Unbounded

GRAFANA = Path(__file__).parents[2] / "grafana"
RULES = GRAFANA / "rules" / "headgate.yml"
MANAGED = GRAFANA / "provisioning" / "alerting" / "headgate.yml"
MANAGED_FIELDS = {  # of a rule, that Grafana's provisioning reads and these have
    "uid",
    "title",
    "condition",
    "data",
    "noDataState",
    "execErrState",
    "for",
    "keepFiringFor",
    "annotations",
    "labels",
}
SHIPPED = ("timeseries", "stat", "state-timeline", "table")
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def test_boards_are_built_from_their_source():
    """Building boards and rules anew gives the files that are checked in, and no others are there."""
    assert {str(path.relative_to(GRAFANA)): path.read_text() for path in (*BOARDS, RULES, MANAGED)} == built()


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_explain_themselves(path):
    """Each panel has a title, a description that is a sentence, a unit and at least one named series; all come with Grafana."""
    board = json.loads(path.read_text())
    assert board["panels"]
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["type"] in SHIPPED, panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_say_what_is_too_much(path):
    """Each panel has coloured levels, which its description names, or says what its values mean, or draws its bound as a dashed
    line; the others are those of which the source says why nothing bounds them.
    """
    unbounded = {panel.title for panel in SOURCES[path.stem].panels if panel.unbounded}
    for panel in json.loads(path.read_text())["panels"]:
        defaults, overrides = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["overrides"]
        below, *levels = defaults["thresholds"]["steps"]
        dashed = [one for override in overrides for one in override["properties"] if one["id"] == "custom.lineStyle"]
        is_bounded = bool(levels or defaults.get("mappings") or dashed)
        assert is_bounded is (panel["title"] not in unbounded), panel["title"]
        for level in levels:
            assert level["color"] == "green" or f"{level['color']} from " in panel["description"].lower(), panel["title"]
        assert not levels or below["color"] == "green" or " below " in panel["description"], panel["title"]


@pytest.mark.parametrize(
    "bound",
    [{}, {"levels": bounds.SELDOM, "unbounded": Unbounded.AMOUNT}, {"levels": bounds.ANY, "meanings": ((1, "on", "green"),)}],
)
def test_panels_need_one_bound_or_a_reason(bound):
    """A panel without bound and reason is not built, nor one with two of them."""
    with pytest.raises(ValueError, match="Lag: a panel has one kind of bound"):
        Panel("Lag", "How late it is.", "s", (Query("max(gateway_monitor_lag_seconds)", "lag"),), **bound)


def test_rollout_board_knows_every_state():
    """Each state of a rollout, each verdict and each place where a change comes from has its number and its word."""
    expressions = (GRAFANA / "dashboards" / "rollout.json").read_text()
    for label, kind in (("state", RolloutState), ("verdict", Verdict), ("attribution", Attribution)):
        assert set(re.findall(rf'[{{ ]{label}=\\"([A-Z_]+)\\"', expressions)) == {member.value for member in kind}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_lead_to_the_status_page(path):
    """Each board leads to the gateway's status page, and each panel that names a route to that route's."""
    board = json.loads(path.read_text())
    assert "http://${gateway:raw}/status" in [link["url"] for link in board["links"]]
    for panel in board["panels"]:
        links = [link["url"] for link in panel["fieldConfig"]["defaults"].get("links", ())]
        names = panel["targets"][0]["legendFormat"] if panel["type"] != "table" else str(panel["transformations"])
        assert bool(links) is ("{{route}}" in names or "'route'" in names), panel["title"]
        assert all(re.fullmatch(r"http://\$\{gateway:raw\}/status/routes/\$\{__.*oute:percentencode\}", url) for url in links)


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_name_only_metrics_that_there_are(path):
    """Each metric in an expression of a board is one that the gateway defines."""
    named = set(re.findall(r"gateway_[a-z0-9_]+", " ".join(re.findall(r'"(?:expr|query)": "(.*)"', path.read_text()))))

    assert named
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} <= {metric.name for metric in METRICS}


@pytest.mark.parametrize("path", [RULES, MANAGED], ids=lambda path: path.parent.name)
def test_rules_name_only_metrics_that_there_are(path):
    """Each metric in a rule is one that the gateway defines, or one that another rule records; of those Grafana's need none."""
    named = set(re.findall(r"(?<![\w:])gateway_[a-z0-9_]+", path.read_text()))

    assert named
    assert named <= {metric.name for metric in METRICS}
    assert path is RULES or "route:gateway" not in path.read_text()


def provisioned(what: str) -> dict[str, object]:
    """Return one of Grafana's provisioning files."""
    [path] = (GRAFANA / "provisioning" / what).glob("*.yml")
    return yaml.safe_load(path.read_text())


def test_grafana_has_every_alert():
    """Each alert of Prometheus has one in Grafana that waits, stays and is labelled alike, and tells the same."""
    own = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"] if "alert" in rule]
    grafanas = [rule for group in provisioned("alerting")["groups"] for rule in group["rules"]]

    assert [rule["title"].split()[0] for rule in grafanas] == [rule["alert"] for rule in own]
    for rule, one in zip(grafanas, own, strict=True):
        timing = {"for": one.get("for", "0s"), "keepFiringFor": one["keep_firing_for"]}
        assert {name: rule[name] for name in timing} == timing
        assert rule["labels"] == one["labels"]
        told = str(rule["annotations"]).replace(".Values.A.Value", "$value").replace(".Labels.", "$labels.")
        assert told == str(one["annotations"])


def test_grafana_can_read_its_alerts():
    """Grafana's rules have the fields that its provisioning knows, names of their own, a data source that is provisioned, and the
    boards' folder; nothing in them is taken for a variable of its environment.
    """
    groups = provisioned("alerting")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    sources = {source["uid"]: source["type"] for source in provisioned("datasources")["datasources"]}

    assert {group["folder"] for group in groups} == {provider["folder"] for provider in provisioned("dashboards")["providers"]}
    assert len({rule["title"] for rule in rules}) == len({rule["uid"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) == MANAGED_FIELDS
        assert re.fullmatch("[a-z0-9-]{1,40}", rule["uid"])
        asked, holds = rule["data"]
        assert sources[asked["datasourceUid"]] == "prometheus"
        assert (asked["refId"], asked["model"]["instant"]) == ("A", True)
        assert (holds["datasourceUid"], holds["model"]["type"], holds["refId"]) == ("__expr__", "math", rule["condition"])
        assert holds["model"]["expression"] == f"is_number(${asked['refId']})"
        assert all(query["relativeTimeRange"]["from"] > query["relativeTimeRange"]["to"] for query in rule["data"])
        assert "$" not in str({name: value for name, value in rule.items() if name != "data"})


def test_grafana_alone_says_that_prometheus_is_away():
    """When Prometheus does not answer, one alert fires, not all; what no series speaks of is no trouble."""
    rules = [rule for group in provisioned("alerting")["groups"] for rule in group["rules"]]

    assert [rule["title"] for rule in rules if rule["execErrState"] != "OK"] == ["GatewayDown"]
    assert {rule["noDataState"] for rule in rules} == {"OK"}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_have_the_common_variables(path):
    """Each board can be narrowed to a data source, a route, a version and a variant; only the gateway's address is hidden."""
    variables = json.loads(path.read_text())["templating"]["list"]

    assert [one["name"] for one in variables if not one.get("hide")] == ["datasource", "route", "version", "variant"]
    assert [one["name"] for one in variables if one.get("hide")] == ["gateway"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_lay_panels_beside_each_other(path):
    """No two panels of a board overlap, none leaves the grid, and there are gaps in the last row alone."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    last = max(panel["gridPos"]["y"] for panel in json.loads(path.read_text())["panels"])
    assert {(x, y) for x in range(24) for y in range(last)} <= taken
