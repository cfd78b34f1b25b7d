"""The comparison with peers, as far as it is arithmetic: ratios, targets, answers, pins."""

from __future__ import annotations

import argparse
import json

import pytest

from loadtests import load
from loadtests.load import Burst
from loadtests.peers.__main__ import _keys
from loadtests.peers.catalogue import PEERS, nested_body
from loadtests.peers.environments import PINS, NotInstalled, interpreter
from loadtests.peers.rows import ROWS, Row
from loadtests.peers.running import holds
from loadtests.peers.subjects import Subject
from loadtests.peers.table import GATEWAY, lines

ROW = Row("small-64", "", Subject.SMALL, 64, targets={"slow": 4.0, "quick": 1.5})
TITLES = {GATEWAY: "gateway", "slow": "Slow", "quick": "Quick", "silent": "Silent", "absent": "Absent"}


def bursts(*requests, errors=0):
    """Return bursts of one second."""
    return [Burst(count, 1.0, 1_000.0, 2_000.0, errors) for count in requests]


def test_ratio_is_the_median_of_what_the_gateway_reached_in_the_same_round():
    """A slow second of the machine that hits a round's neighbours alike changes no ratio."""
    found = lines(ROW, TITLES, {GATEWAY: bursts(8_000, 800, 9_000), "slow": bursts(2_000, 200, 1_000)})
    slow = next(line for line in found if line.title == "Slow")
    assert (slow.ratio, slow.spread, slow.requests_per_s) == (4.0, (4.0, 9.0), 1_000.0)


def test_target_is_met_from_the_ratio_asked_for_on_and_only_where_one_was_asked():
    """Exactly the target is enough, less is not, and the gateway itself has none."""
    found = lines(ROW, TITLES, {GATEWAY: bursts(4_000), "slow": bursts(1_000), "quick": bursts(4_000), "silent": bursts(1_000)})
    assert {line.title: line.is_met for line in found} == {"gateway": None, "Slow": True, "Quick": False, "Silent": None}


def test_server_that_answered_nothing_has_no_ratio_and_its_failures_are_counted():
    """A server that broke down under load is shown with its failures, and divides nothing."""
    found = lines(ROW, TITLES, {GATEWAY: bursts(4_000, 4_000), "slow": bursts(10, 0, errors=7)})
    assert [(line.ratio, line.failed) for line in found if line.title == "Slow"] == [(None, 14)]


def test_servers_that_were_not_measured_have_no_line():
    """Only who was loaded is listed, in the order of the titles."""
    assert [line.title for line in lines(ROW, TITLES, {"quick": bursts(1), GATEWAY: bursts(1)})] == ["gateway", "Quick"]


@pytest.mark.parametrize("answer", [[[0.25]], {"outputs": [{"data": [0.2500001]}]}, {"a": "0.3", "b": [None, 1, 0.25]}])
def test_right_answer_is_found_wherever_it_stands(answer):
    """Every server may put its numbers where it likes."""
    assert holds(answer, 0.25)


@pytest.mark.parametrize("answer", [[[0.26]], {"error": "0.25"}, {}, None])
def test_wrong_answer_is_not_taken_for_right(answer):
    """A server that answers something else is not measured."""
    assert not holds(answer, 0.25)


def test_bodies_of_all_peers_hold_the_same_rows():
    """What callers send differs in form alone."""
    protocol, nested = json.loads(load.body(rows=3)), json.loads(nested_body(Subject.SMALL, 3))
    (tensor,) = protocol["inputs"]
    assert tensor["shape"] == [3, load.FEATURES]
    assert tensor["data"] == [value for row in nested["features"] for value in row]


def test_peers_named_by_rows_exist_and_their_pins_are_exact():
    """No target is lost to a misspelt name, and an environment is the same whenever it is made."""
    keys = {peer.key for peer in PEERS}
    assert all(row.targets.keys() | row.only <= keys for row in ROWS)
    for name in {peer.pins for peer in PEERS if peer.pins}:
        pins = [line for line in (PINS / f"{name}.txt").read_text().splitlines() if not line.startswith("#")]
        assert pins
        assert all("==" in line for line in pins)


def test_unknown_peer_is_refused_by_name():
    """A misspelt peer is not silently left out."""
    with pytest.raises(argparse.ArgumentTypeError, match="mlsever"):
        _keys("starlette,mlsever")


def test_environment_that_cannot_be_made_says_why(tmp_path):
    """A peer that cannot be installed has a reason, and the run goes on."""
    (tmp_path / "cache").write_text("a file where the directory should be")
    with pytest.raises(NotInstalled, match=r"\w"):
        interpreter("litserve", cache=tmp_path / "cache")
