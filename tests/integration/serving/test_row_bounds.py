"""A version's own bound on the rows of a run is one on a request's."""

from __future__ import annotations

import pytest

from gateway.core.records import Kind

TWO, THREE = [[1, 2, 3, 4]] * 2, [[1, 2, 3, 4]] * 3
KEYS = [{"Gateway-Assignment-Key": f"key-{at}"} for at in range(20)]


@pytest.fixture
def bounded(worker, models, until):
    """Return a worker with version 1, which takes any number of rows, and version 2, which takes two."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.register("m", "2", models.linear(scale=2.0), rows_max=2)
    both = [{"name": "champion", "version": "1", "weight": 5_000}, {"name": "challenger", "version": "2", "weight": 5_000}]
    worker.route("split", {"model": "m", "variants": both, "fallback": "champion"})
    worker.route("sole", {"model": "m", "variants": [{"name": "only", "version": "2", "weight": 10_000}]})
    shadow = {"name": "shadow", "version": "2", "fraction": 1.0}
    worker.route(
        "shadowed", {"model": "m", "variants": [{"name": "only", "version": "1", "weight": 10_000}], "shadows": [shadow]}
    )
    worker.until_served(until)
    return worker


@pytest.mark.parametrize("where", [{"name": "sole"}, {"name": "split", "version": "2"}], ids=str)
def test_request_over_the_versions_bound_is_refused(bounded, where):
    """More rows than the version takes are a 400 that says how many it takes, and so many are answered [OIP-40]."""
    assert bounded.infer(data=TWO, **where).status_code == 200
    answer = bounded.infer(data=THREE, **where)
    assert (answer.status_code, "takes at most 2" in answer.json()["error"]) == (400, True), answer.text
    assert len(bounded.predictions()) == 1


def test_bound_is_the_configurations_batch_size(bounded):
    """`max_batch_size` is what the version takes [OIP-10]."""
    sizes = [bounded.client.get(f"/v2/models/m/versions/{version}/config").json()["max_batch_size"] for version in "12"]
    assert (sizes[0] > 1_000, sizes[1]) == (True, 2)


def test_split_does_not_decide_who_is_refused(bounded):
    """What is too large for one variant the fallback answers, whichever was chosen, and it counts for no comparison."""
    for data in (TWO, THREE):
        assert {bounded.infer("split", data, headers=key).status_code for key in KEYS} == {200}
    few, many = bounded.predictions()[: len(KEYS)], bounded.predictions()[len(KEYS) :]
    assert {(one.assigned, one.variant, one.resting) for one in few} == {
        ("champion", "champion", ()),
        ("challenger", "challenger", ()),
    }
    assert {(one.assigned, one.variant, one.resting) for one in many} == {
        ("champion", "champion", ("challenger",)),
        ("challenger", "champion", ("challenger",)),
    }


def test_shadow_gets_no_copy_over_its_bound(bounded, until):
    """A copy of too many rows is dropped and counted; the caller has the answer."""
    for data in (THREE, TWO):
        assert bounded.infer("shadowed", data).status_code == 200
    until(lambda: len(bounded.predictions()) == 3)
    assert bounded.metric("gateway_shadow_dropped_total", route="shadowed", variant="shadow") == 1
    [copy] = [one for one in bounded.predictions() if one.kind is Kind.SHADOW]
    assert copy.outputs[0].data.shape[0] == 2
