"""Routes: their bodies, and the table."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import MalformedRequest, UnknownRoute
from gateway.core.routes import (
    Assignment,
    AssignmentSource,
    DriftAction,
    Revision,
    Route,
    RouteTable,
    Shadow,
    Variant,
    champion_route,
    route_body,
    route_from_body,
    stored_route,
    with_weights,
)
from gateway.core.split import SLOTS

SAFE = st.text("abcdefgäöü0123456789-_. ", min_size=1, max_size=12).filter(lambda text: text == text.strip() and text[0] != ".")
HEADERS = st.text("abcdef0123456789-_.", min_size=1, max_size=12)


@st.composite
def routes(draw):
    """Draw any route that could stand in a table."""
    names = draw(st.lists(SAFE, min_size=1, max_size=6, unique=True))
    count = draw(st.integers(1, len(names)))
    cuts = sorted(draw(st.lists(st.integers(0, SLOTS), min_size=count - 1, max_size=count - 1)))
    edges = [0, *cuts, SLOTS]
    variants = tuple(Variant(names[at], draw(SAFE), edges[at + 1] - edges[at]) for at in range(count))
    fractions = st.floats(1e-6, 1.0)
    source = draw(st.sampled_from(AssignmentSource))
    name = draw(HEADERS if source is AssignmentSource.HEADER else SAFE)
    return with_weights(
        Route(
            name=draw(SAFE),
            model=draw(SAFE),
            variants=(),
            shadows=tuple(Shadow(name, draw(SAFE), draw(fractions)) for name in names[count:][:5]),
            assignment=Assignment(source, name),
            fallback=draw(st.sampled_from(names[:count])),
            deadline_ms=draw(st.integers(1, 600_000)),
            drift_action=draw(st.sampled_from(DriftAction)),
            needs_approval=draw(st.booleans()),
            team=draw(st.just("") | SAFE),
            salt=draw(st.text(max_size=20).filter(str.isascii)),
            last_good=draw(st.just(()) | st.just(variants)),
            rollout=draw(st.sampled_from(["", "r1"])),
            revision=Revision(draw(st.integers(0, 1 << 40))),
        ),
        variants,
    )


@settings(max_examples=60, deadline=None)
@given(routes())
def test_route_comes_back_from_what_is_stored(route):
    """Body and owners together are the whole route, through JSON."""
    assert stored_route(json.loads(json.dumps(route_body(route))), route.owners) == route


@settings(max_examples=60, deadline=None)
@given(routes())
def test_route_that_is_shown_may_be_put_back(route):
    """What `GET` shows is what `PUT` accepts, and it means the same."""
    again = route_from_body(route.name, json.loads(json.dumps(route_body(route))))
    shown = {name: value for name, value in route_body(again).items() if name not in ("salt", "revision", "rollout", "last_good")}
    assert shown.items() <= route_body(route).items()


def test_route_has_defaults_that_need_no_thought():
    """A route is its variants; the rest has defaults: its own name as model, the first variant as fallback."""
    route = route_from_body("delays", {"variants": [{"name": "a", "version": "1", "weight": 10_000}]})
    assert route == Route("delays", "delays", (Variant("a", "1", 10_000),), fallback="a")
    assert route.assignment == Assignment(AssignmentSource.HEADER, "gateway-assignment-key")
    assert route.deadline_ms == 5_000


def test_route_reads_a_header_in_lower_case():
    """Header names are compared as the protocol compares them."""
    body = {"variants": [{"name": "a", "version": "1", "weight": 10_000}], "assignment": {"header": "X-Tail-Number"}}
    assert route_from_body("delays", body).assignment == Assignment(AssignmentSource.HEADER, "x-tail-number")


GOOD = {
    "model": "delays",
    "variants": [{"name": "a", "version": "1", "weight": 9_000}, {"name": "b", "version": "2", "weight": 1_000}],
    "shadows": [{"name": "s", "version": "3", "fraction": 0.5}],
    "assignment": {"header": "x-key"},
    "fallback": "a",
    "deadline_ms": 100,
    "drift_action": "rollback",
}


def variant(**fields):
    return {"variants": [{**GOOD["variants"][0], **fields}, GOOD["variants"][1]]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"variants": None}, "route.variants"),
        ({"variants": []}, "route.variants"),
        ({"variants": {}}, "route.variants"),
        ({"variants": ["a"]}, "route.variants[0]"),
        ({"variants": [GOOD["variants"][0]] * 2}, "route.variants"),
        ({"variants": [{"name": f"v{at}", "version": "1", "weight": 0} for at in range(21)]}, "route.variants"),
        (variant(weight=9_001), "route.variants"),
        (variant(weight=8_999), "route.variants"),
        (variant(weight=-1), "route.variants[0].weight"),
        (variant(weight=9_000.0), "route.variants[0].weight"),
        (variant(weight=True), "route.variants[0].weight"),
        (variant(weight="9000"), "route.variants[0].weight"),
        (variant(weight=None), "route.variants[0].weight"),
        (variant(version=1), "route.variants[0].version"),
        (variant(version="../1"), "route.variants[0].version"),
        (variant(name=""), "route.variants[0].name"),
        (variant(name="b"), "route.variants"),
        (variant(colour="red"), "colour"),
        ({"shadows": [{"name": "a", "version": "3"}]}, "route.shadows"),
        ({"shadows": [{"name": "s", "version": "3"}] * 2}, "route.shadows"),
        (
            {"shadows": [{"name": "s", "version": "3", "fraction": 0}]},
            "route.shadows[0].fraction",
        ),
        ({"shadows": [{"name": "s", "version": "3", "fraction": 1.5}]}, "route.shadows[0].fraction"),
        ({"shadows": [{"name": "s", "version": "3", "fraction": float("nan")}]}, "route.shadows[0].fraction"),
        ({"shadows": [{"name": f"s{at}", "version": "3"} for at in range(6)]}, "route.shadows"),
        ({"assignment": {}}, "route.assignment"),
        ({"assignment": {"header": "a", "input": "b"}}, "route.assignment"),
        ({"assignment": {"header": ""}}, "route.assignment.header"),
        ({"assignment": {"header": "a\r\nb: c"}}, "route.assignment.header"),
        ({"assignment": {"header": "ключ"}}, "route.assignment.header"),
        ({"assignment": {"header": "a b"}}, "route.assignment.header"),
        ({"assignment": {"input": 3}}, "route.assignment.input"),
        ({"assignment": "header"}, "route.assignment"),
        ({"assignment": {"header": "a", "cookie": "b"}}, "cookie"),
        ({"fallback": "nobody"}, "route.fallback"),
        ({"fallback": "s"}, "route.fallback"),
        ({"fallback": 1}, "route.fallback"),
        ({"deadline_ms": 0}, "route.deadline_ms"),
        ({"deadline_ms": 600_001}, "route.deadline_ms"),
        ({"deadline_ms": 10**400}, "route.deadline_ms"),
        ({"drift_action": "panic"}, "route.drift_action"),
        ({"model": "a/b"}, "route.model"),
        ({"team": "risk/eu"}, "route.team"),
        ({"model": ".."}, "route.model"),
        ({"name": "other"}, "route.name"),
        ({"weihgts": 1}, "weihgts"),
    ],
)
def test_route_body_that_is_wrong_is_refused_by_field(change, named):
    """Each mistake in a body is a malformed request whose message names the field."""
    assert route_from_body("delays", GOOD)
    with pytest.raises(MalformedRequest) as caught:
        route_from_body("delays", {**GOOD, **change})
    assert named in str(caught.value)


@pytest.mark.parametrize("body", [None, [], "route", 3, True])
def test_route_body_that_is_no_object_is_refused(body):
    """A body of another kind is a malformed request too."""
    with pytest.raises(MalformedRequest, match="route"):
        route_from_body("delays", body)


def test_route_table_prefers_a_route_to_a_champion():
    """A name is a route, else a model's champion, else unknown."""
    route = Route("delays", "other", (Variant("a", "1", 10_000),))
    table = RouteTable(routes={"delays": route}, champions={"delays": "7", "fares": "2"})
    assert table.route("delays") is route
    assert table.route("fares") == champion_route("fares", "2")
    with pytest.raises(UnknownRoute, match="nobody"):
        table.route("nobody")


def test_route_of_a_champion_is_a_route_like_any_other():
    """The route that a champion implies can be shown, put back and stored."""
    route = champion_route("fares", "2")
    assert Counter(route.owners) == {"champion": SLOTS}
    assert stored_route(route_body(route), route.owners) == route
    assert route_from_body("fares", route_body(route)).variants == route.variants


def test_route_needs_every_version_once():
    """A worker keeps warm what answers, what shadows and what a rollback restores."""
    route = Route(
        "r",
        "m",
        (Variant("a", "1", 5_000), Variant("b", "2", 5_000)),
        shadows=(Shadow("s", "3", 1.0), Shadow("t", "1", 1.0)),
        last_good=(Variant("a", "4", 10_000),),
    )
    assert sorted(route.needs()) == ["1", "2", "3", "4"]


@pytest.mark.parametrize("weights", [(), (9_999,), (5_000, 5_001)])
def test_route_weights_that_do_not_sum_are_refused(weights):
    """No route is ever made whose weights leave a slot without an owner."""
    variants = tuple(Variant(f"v{at}", "1", weight) for at, weight in enumerate(weights))
    with pytest.raises(MalformedRequest, match="10,000"):
        with_weights(Route("r", "m", ()), variants)
