"""The checked-in boards are what their source builds, and every panel tells a person what it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gateway.metrics.catalogue import METRICS
from grafana.build import built

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
    """Each board can be narrowed to a data source, a route, a version and a variant."""
    variables = [variable["name"] for variable in json.loads(path.read_text())["templating"]["list"]]

    assert variables == ["datasource", "route", "version", "variant"]


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
