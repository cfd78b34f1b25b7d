"""The checked-in boards are what their source builds, and every panel tells a person what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

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
BOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))


def test_boards_are_built_from_their_source():
    """Building boards and rules anew gives the files that are checked in, and no others are there."""
    assert {str(path.relative_to(GRAFANA)): path.read_text() for path in (*BOARDS, RULES)} == built()


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_explain_themselves(path):
    """Each panel has a title, a description that is a sentence, a unit and at least one named series."""
    board = json.loads(path.read_text())
    assert board["panels"]
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
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


def test_rules_name_only_metrics_that_there_are():
    """Each metric in a rule is one that the gateway defines, or one that another rule records."""
    named = set(re.findall(r"(?<![\w:])gateway_[a-z0-9_]+", RULES.read_text()))

    assert named
    assert named <= {metric.name for metric in METRICS}


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_have_the_common_variables(path):
    """Each board can be narrowed to a data source, a route, a version and a variant; only the gateway's address is hidden."""
    variables = json.loads(path.read_text())["templating"]["list"]

    assert [one["name"] for one in variables if not one.get("hide")] == ["datasource", "route", "version", "variant"]
    assert [one["name"] for one in variables if one.get("hide")] == ["gateway"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_boards_lay_panels_beside_each_other(path):
    """No two panels of a board overlap, and none leaves the grid."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
